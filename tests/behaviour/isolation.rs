//! Proves that a driver has no way to a device that only others accept.

use serde_json::json;

use crate::harness::{Addr, Datagrams, Device, Event, Setup, free_port, request};

scenarios! {
    a_driver_has_no_way_to_a_tcp_device_that_only_others_accept,
    a_driver_has_no_way_to_a_device_of_another_port,
    a_driver_has_no_way_to_datagrams_that_only_others_accept,
}

const WRITE: u8 = 3;
const CLOSE: u8 = 4;

/// Every text that may stand for an IPv4 address, or for none.
fn texts_of(ip: &str) -> [String; 6] {
    [
        ip.to_owned(),
        format!("::ffff:{ip}"),
        "::ffff:7f00:1".to_owned(),
        format!("{ip} "),
        String::new(),
        "localhost".to_owned(),
    ]
}

fn a_driver_has_no_way_to_a_tcp_device_that_only_others_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_tcp(port, "127.0.0.1");
        let mut owned = Device::connect("127.0.0.1", port);
        let owned_addr = owner.opened();
        // It comes late, so that an introduction could betray the device as well.
        let mut other = daemon.join_tcp(port, "127.0.0.2,::1");
        let mut own = Device::connect("127.0.0.2", port);
        let own_addr = other.opened();
        assert_eq!((owned_addr.id, own_addr.clone()), (0, Addr::new("127.0.0.2", 1)));
        owned.send(b"secret");
        owner.received(&owned_addr, b"secret");
        let mut sent = 0;
        for ip in texts_of("127.0.0.1").iter().chain(&texts_of("127.0.0.2")).map(String::as_str) {
            for id in [owned_addr.id, 2, u64::MAX, 1 << 32, u64::from(owned.local().port())] {
                other.send(request(WRITE, ip, id, 8, b"intruder"));
                other.send(request(CLOSE, ip, id, 0, b""));
                sent += 2;
            }
        }
        // Its own device by the other's address is none of its own either.
        other.send(request(WRITE, "127.0.0.1", own_addr.id, 8, b"intruder"));
        other.send(request(CLOSE, "127.0.0.1", own_addr.id, 0, b""));
        // Commands of a driver keep their order, so this one's arrival says that those before have been decided on.
        other.write(&own_addr, b"mine");
        own.expect(b"mine");
        assert_eq!(daemon.count("writes_dropped"), sent + 2);
        owner.write(&owned_addr, b"owner");
        owned.expect(b"owner");
        owned.send(b"still here");
        owner.received(&owned_addr, b"still here");
        drop(owned);
        owner.closed(&owned_addr);
        // The next that it hears of, after all of this, is its own device.
        own.send(b"own");
        assert_eq!(other.event(), Event::Received(own_addr, b"own".to_vec()));
    });
}

fn a_driver_has_no_way_to_a_device_of_another_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let mut owners: Vec<_> = ports.iter().map(|port| daemon.join_tcp(*port, "127.0.0.1")).collect();
        let mut devices: Vec<_> = ports.iter().map(|port| Device::connect("127.0.0.1", *port)).collect();
        let addrs: Vec<_> = owners.iter_mut().map(|owner| owner.opened()).collect();
        // They are called alike, each on its own port.
        assert!(addrs.iter().all(|addr| *addr == Addr::new("127.0.0.1", 0)));
        owners[0].close(&addrs[0]);
        devices[0].ends();
        owners[0].closed(&addrs[0]);
        owners[0].close(&addrs[0]);
        owners[0].write(&addrs[0], b"intruder");
        daemon.until_count("writes_dropped", 2);
        for ((owner, device), addr) in owners.iter_mut().zip(&mut devices).zip(&addrs).skip(1) {
            owner.write(addr, b"mine");
            device.expect(b"mine");
        }
    });
}

fn a_driver_has_no_way_to_datagrams_that_only_others_accept(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_udp(port, "127.0.0.1");
        let mut other = daemon.join_udp(port, "127.0.0.2");
        let (owned, own) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        let (owned_addr, own_addr) = (Addr::new("127.0.0.1", owned.port()), Addr::new("127.0.0.2", own.port()));
        owned.send(port, b"secret");
        owner.datagram(&owned_addr, b"secret");
        let mut sent = 0;
        // The address that stands for this host is another way to the owner's device.
        for ip in texts_of("127.0.0.1").iter().map(String::as_str).chain(["0.0.0.0", "::", "127.255.255.255"]) {
            other.send(request(WRITE, ip, owned_addr.id, 8, b"intruder"));
            other.send(request(CLOSE, ip, owned_addr.id, 0, b""));
            sent += 2;
        }
        other.write(&own_addr, b"mine");
        own.expect(b"mine");
        assert_eq!(daemon.count("datagrams_dropped_write"), sent);
        owner.write(&owned_addr, b"owner");
        owned.expect(b"owner");
        own.send(port, b"own");
        other.datagram(&own_addr, b"own");
        assert_eq!(daemon.statistics()["udp_listeners"], json!({port.to_string(): 2}));
    });
}
