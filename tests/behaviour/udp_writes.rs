//! Proves what becomes of a datagram that a driver writes to where it cannot go: it is dropped and counted, or sent, and the
//! session lives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::harness::{Addr, Daemon, Datagrams, Driver, Setup, free_port, pattern};

scenarios! {
    a_write_larger_than_the_contracts_greatest_is_dropped_on_ipv6_too,
    a_write_to_ipv4_is_dropped_where_the_port_listens_on_ipv6_alone,
    a_write_to_where_no_way_leads_is_dropped_and_else_sent,
    a_write_to_a_mapped_address_reaches_its_ipv4_address,
}

/// Fails unless the port lives: what is written next arrives, and an answer to it. Says how many writes were dropped so far.
fn dropped_before(daemon: &Daemon, driver: &mut Driver, port: u16, device: &Datagrams, source: &str) -> u64 {
    let addr = Addr::new(source, device.port());
    driver.write(&addr, b"alive?");
    device.expect(b"alive?");
    device.send(port, b"yes");
    driver.datagram(&addr, b"yes");
    daemon.count("datagrams_dropped_write")
}

fn a_write_larger_than_the_contracts_greatest_is_dropped_on_ipv6_too(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "::1");
        let device = Datagrams::bind("::1");
        let addr = Addr::new("::1", device.port());
        // IPv6 could carry 20 bytes more.
        for (number, size) in (1..).zip([65_508, 65_527, 65_528, 100_000]) {
            driver.write(&addr, &pattern(1, 0, size));
            assert_eq!(dropped_before(daemon, &mut driver, port, &device, "::1"), number, "{size} bytes");
        }
        let greatest = pattern(2, 0, 65_507);
        driver.write(&addr, &greatest);
        device.expect(&greatest);
        assert_eq!(daemon.count("datagrams_dropped_write"), 4);
    });
}

fn a_write_to_ipv4_is_dropped_where_the_port_listens_on_ipv6_alone(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "::1");
        let (device, elsewhere) = (Datagrams::bind("::1"), Datagrams::bind("127.0.0.1"));
        for (number, ip) in (1..).zip(["127.0.0.1", "::ffff:127.0.0.1", "127.255.255.255"]) {
            driver.write(&Addr::new(ip, elsewhere.port()), b"to nowhere");
            assert_eq!(dropped_before(daemon, &mut driver, port, &device, "::1"), number, "{ip}");
        }
        // As soon as somebody accepts an IPv4 source there is a socket for it.
        let other = daemon.join_udp(port, "127.0.0.1");
        driver.write(&Addr::new("127.0.0.1", elsewhere.port()), b"here it goes");
        elsewhere.expect(b"here it goes");
        other.leave();
    });
}

/// Whether this host sends a datagram there.
fn has_way_to(target: SocketAddr) -> bool {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).unwrap().send_to(b"to nobody", target).is_ok()
}

fn a_write_to_where_no_way_leads_is_dropped_and_else_sent(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,::1");
        let device = Datagrams::bind("127.0.0.1");
        let (mut dropped, mut written) = (0, 0);
        // For documentation, reserved, and on a link that nobody names: what leads there differs with the host.
        for ip in ["203.0.113.1", "2001:db8::1", "240.0.0.1", "fe80::1"] {
            let has_way = has_way_to(SocketAddr::new(ip.parse().unwrap(), 9));
            driver.write(&Addr::new(ip, 9), b"to nobody");
            dropped += u64::from(!has_way);
            assert_eq!(dropped_before(daemon, &mut driver, port, &device, "127.0.0.1"), dropped, "{ip}: {has_way}");
            // And the one that arrived.
            written += u64::from(has_way) + 1;
            assert_eq!(daemon.count("datagrams_written"), written, "{ip}: {has_way}");
        }
    });
}

fn a_write_to_a_mapped_address_reaches_its_ipv4_address(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,::1");
        let device = Datagrams::bind("127.0.0.1");
        for ip in ["::ffff:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:127.0.0.1"] {
            driver.write(&Addr::new(ip, device.port()), ip.as_bytes());
            let (data, from) = device.receive();
            assert_eq!((data.as_slice(), from), (ip.as_bytes(), (Ipv4Addr::LOCALHOST, port).into()));
        }
        assert_eq!(dropped_before(daemon, &mut driver, port, &device, "127.0.0.1"), 0);
    });
}
