//! Proves what a driver is told of a TCP device and what it can do to it: order, ids, bytes.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Addr, Device, Event, Setup, Transport, close, free_port, pattern, request, write};

scenarios! {
    a_device_is_opened_received_and_closed,
    messages_are_the_bytes_of_the_contract,
    ids_count_up_from_0_and_are_not_used_twice,
    ids_start_again_when_the_port_is_opened_afresh,
    ids_of_ports_are_independent,
    a_refused_device_uses_no_id_and_is_counted,
    a_write_reaches_its_device_only,
    an_empty_write_is_harmless,
    a_write_to_a_device_that_is_gone_is_dropped_and_counted,
    a_write_or_close_that_does_not_match_is_dropped,
    close_disconnects_the_device_and_is_answered_once,
    what_close_says_of_its_data_is_ignored,
    a_reset_device_is_closed_once,
    what_a_device_sent_before_it_ended_arrives_before_closed,
    an_ipv4_device_is_canonical_on_a_port_of_both_families,
    a_localhost_device_finds_the_family_that_is_accepted,
    a_family_is_listened_on_while_a_driver_accepts_it,
    devices_are_probed_after_10_seconds,
}

fn a_device_is_opened_received_and_closed(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        assert_eq!(addr, Addr::new("127.0.0.1", 0));
        for data in [b"one".as_slice(), b"two", b"three"] {
            device.send(data);
            driver.received(&addr, data);
        }
        drop(device);
        driver.closed(&addr);
    });
}

fn messages_are_the_bytes_of_the_contract(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut devices = Vec::new();
        for id in 0..8 {
            devices.push(Device::connect("127.0.0.1", port));
            assert_eq!(wire.event(), Event::Opened(Addr::new("127.0.0.1", id)));
        }
        devices[7].send(b"hi");
        let frame = wire.data_frame();
        assert_eq!(frame.first, 0x82);
        let received = b"\x02127.0.0.1\0\0\0\0\0\0\0\0\x07\0\0\0\x02hi";
        assert_eq!(frame.payload, received);
        // WRITE "ok" to device 7, in one masked frame with a mask of zeros.
        wire.send(b"\x82\x99\0\0\0\0\x03127.0.0.1\0\0\0\0\0\0\0\0\x07\0\0\0\x02ok");
        devices[7].expect(b"ok");
        // CLOSE of device 7.
        wire.send(b"\x82\x97\0\0\0\0\x04127.0.0.1\0\0\0\0\0\0\0\0\x07\0\0\0\0");
        devices[7].ends();
        assert_eq!(wire.data_frame().payload, b"\x01127.0.0.1\0\0\0\0\0\0\0\0\x07\0\0\0\0");
        devices.push(Device::connect("127.0.0.1", port));
        assert_eq!(wire.data_frame().payload, b"\x00127.0.0.1\0\0\0\0\0\0\0\0\x08\0\0\0\0");
    });
}

fn ids_count_up_from_0_and_are_not_used_twice(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
        for id in 0..20 {
            let source = ["127.0.0.1", "127.0.0.2"][id as usize % 2];
            let device = Device::connect(source, port);
            let addr = driver.opened();
            assert_eq!(addr, Addr::new(source, id));
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn ids_start_again_when_the_port_is_opened_afresh(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        for _ in 0..3 {
            let mut driver = daemon.join_tcp(port, "127.0.0.1");
            let devices: Vec<_> = (0..3)
                .map(|id| {
                    let device = Device::connect("127.0.0.1", port);
                    assert_eq!(driver.opened(), Addr::new("127.0.0.1", id));
                    device
                })
                .collect();
            driver.leave();
            daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
            for mut device in devices {
                device.is_disconnected();
            }
        }
    });
}

fn ids_of_ports_are_independent(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut joined: Vec<_> = (0..4)
            .map(|_| {
                let port = free_port();
                (port, daemon.join_tcp(port, "127.0.0.1"))
            })
            .collect();
        let mut devices = Vec::new();
        for id in 0..3 {
            for (port, driver) in &mut joined {
                devices.push(Device::connect("127.0.0.1", *port));
                assert_eq!(driver.opened(), Addr::new("127.0.0.1", id));
            }
        }
    });
}

fn a_refused_device_uses_no_id_and_is_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        for id in 0..5 {
            Device::connect("127.0.0.9", port).is_disconnected();
            let device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            assert_eq!(addr.id, id);
            drop(device);
            driver.closed(&addr);
        }
        assert_eq!(daemon.count("devices_refused_source"), 5);
        daemon.until_statistics(
            &json!({"udp_listeners": {}, "tcp_listeners": {port.to_string(): 1}, "tcp_clients": {port.to_string(): 0}}),
        );
    });
}

fn a_write_reaches_its_device_only(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        let mut devices: Vec<_> = (1..=8)
            .map(|number| {
                let device = Device::connect(&format!("127.0.0.{number}"), port);
                (driver.opened(), device)
            })
            .collect();
        for round in 0..20 {
            for (addr, _) in &devices {
                driver.write(addr, format!("{round} for {};", addr.id).as_bytes());
            }
        }
        for (addr, device) in &mut devices {
            let all: String = (0..20).map(|round| format!("{round} for {};", addr.id)).collect();
            device.expect(all.as_bytes());
        }
    });
}

fn an_empty_write_is_harmless(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&addr, b"");
        driver.write(&addr, b"after nothing");
        device.expect(b"after nothing");
        // Each costs credit that has to come back: many more than a window of 256 KiB holds at once.
        for _ in 0..10_000 {
            driver.write(&addr, b"");
        }
        driver.write(&addr, b"after much of it");
        device.expect(b"after much of it");
    });
}

fn a_write_to_a_device_that_is_gone_is_dropped_and_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let device = Device::connect("127.0.0.1", port);
        let gone = driver.opened();
        drop(device);
        driver.closed(&gone);
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&gone, b"too late");
        driver.close(&gone);
        driver.write(&addr, b"in time");
        device.expect(b"in time");
        device.send(b"alive");
        driver.received(&addr, b"alive");
        assert_eq!(daemon.count("writes_dropped"), 2);
    });
}

fn a_write_or_close_that_does_not_match_is_dropped(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for ip in ["127.0.0.2", "127.0.0.9", "::1", "nonsense", "", "127.0.0.1 ", "127.0.0.1:80", "\u{fc}"] {
            driver.send(write(&Addr::new(ip, addr.id), b"to nobody"));
            driver.send(close(&Addr::new(ip, addr.id)));
        }
        for id in [1, 7, u64::MAX] {
            driver.send(write(&Addr::new("127.0.0.1", id), b"to nobody"));
            driver.send(close(&Addr::new("127.0.0.1", id)));
        }
        driver.write(&addr, b"to somebody");
        device.expect(b"to somebody");
        device.send(b"alive");
        driver.received(&addr, b"alive");
        assert_eq!(daemon.count("writes_dropped"), 22);
    });
}

fn close_disconnects_the_device_and_is_answered_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.close(&addr);
        driver.close(&addr);
        device.ends();
        drop(device);
        driver.closed(&addr);
        let key = port.to_string();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 0}}));
        driver.close(&addr);
        let _next = Device::connect("127.0.0.1", port);
        assert_eq!(driver.opened(), Addr::new("127.0.0.1", 1));
    });
}

fn what_close_says_of_its_data_is_ignored(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        for (size, data) in [(5, b"hello".as_slice()), (999, b""), (0, b"more"), (u32::MAX, b"x")] {
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            driver.send(request(4, &addr.ip, addr.id, size, data));
            device.ends();
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn a_reset_device_is_closed_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        for id in 0..5 {
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            assert_eq!(addr.id, id);
            device.send(b"hello");
            driver.received(&addr, b"hello");
            device.reset();
            driver.closed(&addr);
        }
    });
}

fn what_a_device_sent_before_it_ended_arrives_before_closed(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        for size in [1, 4_096, 4_097, 300_000] {
            let mut device = Device::connect("127.0.0.1", port);
            let data = pattern(size as u64, 0, size);
            device.send(&data);
            drop(device);
            let addr = driver.opened();
            driver.received(&addr, &data);
            driver.closed(&addr);
        }
    });
}

fn an_ipv4_device_is_canonical_on_a_port_of_both_families(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "::1,127.0.0.1,127.0.0.7");
        for (id, source) in ["127.0.0.1", "::1", "127.0.0.7"].into_iter().enumerate() {
            let mut device = Device::connect(source, port);
            let addr = driver.opened();
            assert_eq!(addr, Addr::new(source, id as u64));
            driver.write(&addr, b"to its address as it was told");
            device.expect(b"to its address as it was told");
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn a_localhost_device_finds_the_family_that_is_accepted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (accept, refused) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
            let port = free_port();
            let mut driver = daemon.join_tcp(port, accept);
            // A device that resolves localhost tries one address after the other until one takes the connection.
            let error = Device::try_connect(refused, port).err().expect("nothing listens in the other family");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            let device = Device::connect(accept, port);
            assert_eq!(driver.opened(), Addr::new(accept, 0));
            drop(device);
            driver.closed(&Addr::new(accept, 0));
        }
    });
}

fn a_family_is_listened_on_while_a_driver_accepts_it(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut ipv4 = daemon.join_tcp(port, "127.0.0.1");
        assert!(Device::try_connect("::1", port).is_err());
        let mut ipv6 = daemon.join_tcp(port, "::1");
        let device = Device::connect("::1", port);
        assert_eq!(ipv6.opened(), Addr::new("::1", 0));
        ipv6.leave();
        drop(device);
        crate::harness::eventually("IPv6 is closed", || Device::try_connect("::1", port).err());
        let device = Device::connect("127.0.0.1", port);
        let addr = ipv4.opened();
        assert_eq!(addr.ip, "127.0.0.1");
        drop(device);
        ipv4.closed(&addr);
    });
}

fn devices_are_probed_after_10_seconds(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let start = Instant::now();
        let device = Device::connect("127.0.0.1", port);
        driver.opened();
        let hundredths = device.probed_in_hundredths();
        // As much less as has passed since, with something for the kernel's clock.
        let least = 990_u64.saturating_sub(start.elapsed().as_millis() as u64 / 10);
        assert!((least..=1_010).contains(&hundredths), "the first probe in {hundredths} hundredths of a second");
    });
}
