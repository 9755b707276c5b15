//! Proves what several drivers on one TCP port share, and what is each one's own.

use serde_json::json;

use crate::harness::{Addr, Device, Event, Setup, Transport, eventually, free_port};

scenarios! {
    a_devices_events_go_to_every_driver_that_accepts_it,
    drivers_on_a_port_see_only_the_devices_they_accept,
    every_driver_that_accepts_a_device_may_write_to_it,
    a_driver_cannot_write_to_a_device_it_does_not_accept,
    a_driver_cannot_close_a_device_it_does_not_accept,
    a_close_by_one_driver_is_told_to_all,
    a_late_driver_is_told_of_the_devices_before_anything_else,
    a_late_driver_is_not_told_of_devices_it_does_not_accept,
    a_device_lives_while_one_driver_that_accepts_it_is_left,
    a_device_is_disconnected_when_the_last_driver_that_accepts_it_leaves,
    a_port_is_closed_when_its_last_driver_leaves,
    overlapping_blocks_deliver_each_event_once,
    a_driver_that_resets_leaves_like_one_that_says_goodbye,
    one_number_may_be_a_tcp_and_a_udp_port,
}

fn a_devices_events_go_to_every_driver_that_accepts_it(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut drivers: Vec<_> = (0..5).map(|_| daemon.join_tcp(port, "127.0.0.1")).collect();
        let mut device = Device::connect("127.0.0.1", port);
        let addr = Addr::new("127.0.0.1", 0);
        for driver in &mut drivers {
            assert_eq!(driver.opened(), addr);
        }
        for round in 0..10 {
            let data = format!("message {round}");
            device.send(data.as_bytes());
            for driver in &mut drivers {
                driver.received(&addr, data.as_bytes());
            }
        }
        drop(device);
        for driver in &mut drivers {
            driver.closed(&addr);
        }
    });
}

fn drivers_on_a_port_see_only_the_devices_they_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_tcp(port, "127.0.0.1");
        let mut second = daemon.join_tcp(port, "127.0.0.2");
        for round in 0..10 {
            let mut one = Device::connect("127.0.0.1", port);
            let addr = first.opened();
            assert_eq!(addr, Addr::new("127.0.0.1", 2 * round));
            one.send(b"for the first");
            first.received(&addr, b"for the first");
            drop(one);
            first.closed(&addr);
            let other = Device::connect("127.0.0.2", port);
            let addr = second.opened();
            assert_eq!(addr, Addr::new("127.0.0.2", 2 * round + 1));
            drop(other);
            second.closed(&addr);
        }
    });
}

fn every_driver_that_accepts_a_device_may_write_to_it(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut drivers: Vec<_> = (0..4).map(|_| daemon.join_tcp(port, "127.0.0.0/8")).collect();
        let mut device = Device::connect("127.0.0.3", port);
        for (number, driver) in drivers.iter_mut().enumerate() {
            let addr = driver.opened();
            let data = format!("from {number}");
            driver.write(&addr, data.as_bytes());
            device.expect(data.as_bytes());
        }
    });
}

fn a_driver_cannot_write_to_a_device_it_does_not_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_tcp(port, "127.0.0.1");
        let mut other = daemon.join_tcp(port, "127.0.0.2");
        let mut owned = Device::connect("127.0.0.1", port);
        let owned_addr = owner.opened();
        let mut own = Device::connect("127.0.0.2", port);
        let own_addr = other.opened();
        other.write(&owned_addr, b"intruder");
        // Writes of a driver keep their order, so this one's arrival says that the first has been decided on.
        other.write(&own_addr, b"mine");
        own.expect(b"mine");
        owner.write(&owned_addr, b"owner");
        owned.expect(b"owner");
        assert_eq!(daemon.count("writes_dropped"), 1);
    });
}

fn a_driver_cannot_close_a_device_it_does_not_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_tcp(port, "127.0.0.1");
        let mut other = daemon.join_tcp(port, "127.0.0.2");
        let mut owned = Device::connect("127.0.0.1", port);
        let owned_addr = owner.opened();
        let mut own = Device::connect("127.0.0.2", port);
        let own_addr = other.opened();
        other.close(&owned_addr);
        other.close(&own_addr);
        own.ends();
        other.closed(&own_addr);
        owned.send(b"still connected");
        owner.received(&owned_addr, b"still connected");
    });
}

fn a_close_by_one_driver_is_told_to_all(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_tcp(port, "127.0.0.1");
        let mut second = daemon.join_tcp(port, "127.0.0.0/8");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = first.opened();
        assert_eq!(second.opened(), addr);
        second.close(&addr);
        device.ends();
        drop(device);
        first.closed(&addr);
        second.closed(&addr);
    });
}

fn a_late_driver_is_told_of_the_devices_before_anything_else(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut early = daemon.join_tcp(port, "127.0.0.1");
        let mut devices: Vec<_> = (0..10)
            .map(|_| {
                let device = Device::connect("127.0.0.1", port);
                early.opened();
                device
            })
            .collect();
        drop(devices.remove(4));
        early.closed(&Addr::new("127.0.0.1", 4));
        let mut late = daemon.join_tcp(port, "127.0.0.1");
        let mut told: Vec<_> = (0..9).map(|_| late.opened().id).collect();
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        devices[0].send(b"to both");
        late.received(&Addr::new("127.0.0.1", 0), b"to both");
        early.received(&Addr::new("127.0.0.1", 0), b"to both");
        let _new = Device::connect("127.0.0.1", port);
        assert_eq!((late.opened().id, early.opened().id), (10, 10));
    });
}

fn a_late_driver_is_not_told_of_devices_it_does_not_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut early = daemon.join_tcp(port, "127.0.0.0/8");
        let mut devices = Vec::new();
        for source in ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3"] {
            devices.push(Device::connect(source, port));
            early.opened();
        }
        let mut late = daemon.join_tcp(port, "127.0.0.2,127.0.0.3");
        let mut told = [late.opened(), late.opened()];
        told.sort();
        assert_eq!(told, [Addr::new("127.0.0.2", 1), Addr::new("127.0.0.3", 3)]);
        devices[0].send(b"not for the late one");
        devices[1].send(b"for both");
        late.received(&told[0], b"for both");
    });
}

fn a_device_lives_while_one_driver_that_accepts_it_is_left(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut stays = daemon.join_tcp(port, "127.0.0.0/8");
        let mut leaves = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = stays.opened();
        assert_eq!(leaves.opened(), addr);
        leaves.leave();
        let key = port.to_string();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 1}}));
        device.send(b"still here");
        stays.received(&addr, b"still here");
        stays.write(&addr, b"me too");
        device.expect(b"me too");
        drop(device);
        stays.closed(&addr);
    });
}

fn a_device_is_disconnected_when_the_last_driver_that_accepts_it_leaves(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut stays = daemon.join_tcp(port, "127.0.0.2");
        let mut leaves = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
        let mut orphan = Device::connect("127.0.0.1", port);
        assert_eq!(leaves.opened().id, 0);
        let mut shared = Device::connect("127.0.0.2", port);
        let addr = leaves.opened();
        assert_eq!(stays.opened(), addr);
        leaves.leave();
        orphan.is_disconnected();
        drop(orphan);
        let key = port.to_string();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 1}}));
        shared.send(b"not an orphan");
        stays.received(&addr, b"not an orphan");
        Device::connect("127.0.0.1", port).is_disconnected();
    });
}

fn a_port_is_closed_when_its_last_driver_leaves(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let first = daemon.join_tcp(port, "127.0.0.1");
        let mut second = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        second.opened();
        first.leave();
        let key = port.to_string();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 1}}));
        drop(Device::connect("127.0.0.1", port));
        second.leave();
        device.is_disconnected();
        // One that came in that moment may have been reset.
        let is_refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        eventually("the port is closed", || Device::try_connect("127.0.0.1", port).err().filter(is_refused));
        // Another program may have it.
        let _listener = std::net::TcpListener::bind(("127.0.0.1", port)).or_else(|_| {
            // The device's connection is in TIME_WAIT on it, which SO_REUSEADDR is for.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.listen(1).map(|()| socket.into())
        });
        assert!(_listener.is_ok(), "{_listener:?}");
    });
}

fn overlapping_blocks_deliver_each_event_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8,127.0.0.0/16,127.0.0.1");
        let mut other = daemon.join_tcp(port, "127.0.0.0/30,127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        assert_eq!(other.opened(), addr);
        device.send(b"once");
        driver.received(&addr, b"once");
        other.received(&addr, b"once");
        drop(device);
        driver.closed(&addr);
        other.closed(&addr);
        let _next = Device::connect("127.0.0.1", port);
        assert_eq!((driver.opened().id, other.opened().id), (1, 1));
    });
}

fn a_driver_that_resets_leaves_like_one_that_says_goodbye(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        driver.opened();
        driver.reset();
        device.is_disconnected();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

fn one_number_may_be_a_tcp_and_a_udp_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut tcp = daemon.join(Transport::Tcp, port, "127.0.0.1");
        let mut udp = daemon.join(Transport::Udp, port, "127.0.0.1");
        let device = Device::connect("127.0.0.1", port);
        assert_eq!(tcp.event(), Event::Opened(Addr::new("127.0.0.1", 0)));
        let datagrams = crate::harness::Datagrams::bind("127.0.0.1");
        datagrams.send(port, b"over udp");
        udp.datagram(&Addr::new("127.0.0.1", datagrams.port()), b"over udp");
        tcp.leave();
        drop(device);
        datagrams.send(port, b"still over udp");
        udp.datagram(&Addr::new("127.0.0.1", datagrams.port()), b"still over udp");
    });
}
