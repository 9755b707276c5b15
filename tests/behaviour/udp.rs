//! Proves that a datagram is a message and a message a datagram, whole and of any size, whoever else sends what.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use serde_json::json;

use crate::harness::{Addr, Datagrams, Event, Setup, Transport, eventually, free_port, pattern, request};

scenarios! {
    a_datagram_is_one_message_of_the_contracts_bytes,
    datagrams_of_every_size_arrive_whole,
    writes_of_every_size_arrive_whole,
    datagrams_of_a_device_keep_their_order,
    a_write_comes_from_the_open_port_itself,
    a_write_reaches_a_broadcast_address,
    an_address_that_is_not_accepted_is_writable,
    a_bad_write_is_dropped_and_counted_and_the_session_lives,
    a_write_to_a_closed_udp_port_harms_nobody,
    close_means_nothing_for_udp,
    an_empty_datagram_from_anyone_does_no_harm,
    a_source_that_nobody_accepts_is_ignored_and_counted,
    ipv6_datagrams_cross_in_both_directions,
    a_udp_port_serves_both_families,
    drivers_share_a_udp_port_by_their_sources,
    a_udp_port_is_closed_when_its_last_driver_leaves,
    a_udp_port_reopens_at_once_a_hundred_times,
    many_udp_ports_do_not_disturb_each_other,
    an_ipv6_datagram_over_the_greatest_size_is_whole_or_nothing,
}

const SIZES: [usize; 9] = [0, 1, 1_472, 2_047, 2_048, 2_049, 9_000, 65_506, 65_507];

fn a_datagram_is_one_message_of_the_contracts_bytes(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Udp, port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        device.send(port, b"hi");
        let frame = wire.data_frame();
        let mut expected = b"\x02127.0.0.1\0\0\0\0\0\0\0".to_vec();
        expected.extend_from_slice(&u16::try_from(device.port()).unwrap().to_be_bytes());
        expected.extend_from_slice(b"\0\0\0\x02hi");
        assert_eq!((frame.first, frame.payload), (0x82, expected));
    });
}

fn datagrams_of_every_size_arrive_whole(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for size in SIZES {
            let data = pattern(size as u64, 0, size);
            device.send(port, &data);
            driver.datagram(&addr, &data);
        }
    });
}

fn writes_of_every_size_arrive_whole(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for size in SIZES {
            let data = pattern(size as u64, 0, size);
            driver.write(&addr, &data);
            device.expect(&data);
        }
    });
}

fn datagrams_of_a_device_keep_their_order(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for round in 0..20 {
            // As many as the kernel holds for certain.
            for number in 0..50 {
                device.send(port, format!("{round}:{number}").as_bytes());
            }
            for number in 0..50 {
                driver.datagram(&addr, format!("{round}:{number}").as_bytes());
            }
            for number in 0..50 {
                driver.write(&addr, format!("{round}:{number}").as_bytes());
            }
            for number in 0..50 {
                device.expect(format!("{round}:{number}").as_bytes());
            }
        }
    });
}

fn a_write_comes_from_the_open_port_itself(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,::1");
        for source in ["127.0.0.1", "::1"] {
            let device = Datagrams::bind(source);
            driver.write(&Addr::new(source, device.port()), b"where from?");
            let (data, from) = device.receive();
            assert_eq!(
                (data.as_slice(), from),
                (b"where from?".as_slice(), SocketAddr::new(source.parse().unwrap(), port))
            );
        }
    });
}

fn a_write_reaches_a_broadcast_address(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        listener.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
        let to = u64::from(listener.local_addr().unwrap().port());
        driver.write(&Addr::new("127.255.255.255", to), b"who is there?");
        let mut buffer = [0; 64];
        let (size, from) = listener.recv_from(&mut buffer).expect("the broadcast");
        assert_eq!((&buffer[..size], from.port()), (b"who is there?".as_slice(), port));
    });
}

fn an_address_that_is_not_accepted_is_writable(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let stranger = Datagrams::bind("127.0.0.77");
        driver.write(&Addr::new("127.0.0.77", stranger.port()), b"hello, stranger");
        stranger.expect(b"hello, stranger");
    });
}

fn a_bad_write_is_dropped_and_counted_and_the_session_lives(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        let bad = [
            ("nonsense", device.port()),
            ("", device.port()),
            ("127.0.0.1.", device.port()),
            ("127.0.0.256", device.port()),
            ("localhost", device.port()),
            ("127.0.0.1", 0),
            ("127.0.0.1", 65_536),
            ("127.0.0.1", device.port() + 65_536),
            ("127.0.0.1", u64::MAX),
            ("::1", device.port()),
        ];
        for (number, (ip, id)) in bad.into_iter().enumerate() {
            driver.write(&Addr::new(ip, id), b"to nowhere");
            driver.write(&addr, ip.as_bytes());
            device.expect(ip.as_bytes());
            assert_eq!(daemon.count("datagrams_dropped_write"), number as u64 + 1, "{ip:?} {id}");
        }
        driver.write(&addr, &pattern(0, 0, 65_508));
        driver.write(&addr, &pattern(0, 0, 100_000));
        driver.write(&addr, b"alive");
        device.expect(b"alive");
        assert_eq!(daemon.count("datagrams_dropped_write"), 12);
        device.send(port, b"both ways");
        driver.datagram(&addr, b"both ways");
    });
}

fn a_write_to_a_closed_udp_port_harms_nobody(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for round in 0..20 {
            // The kernel answers with an ICMP error, which the next call on the socket may report.
            driver.write(&Addr::new("127.0.0.1", u64::from(free_port())), b"nobody listens");
            device.send(port, &[round]);
            driver.datagram(&addr, &[round]);
            driver.write(&addr, &[round]);
            device.expect(&[round]);
        }
    });
}

fn close_means_nothing_for_udp(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        device.send(port, b"before");
        driver.datagram(&addr, b"before");
        driver.close(&addr);
        driver.send(request(4, "nonsense", u64::MAX, 7, b""));
        driver.write(&addr, b"after");
        device.expect(b"after");
        device.send(port, b"after");
        driver.datagram(&addr, b"after");
    });
}

fn an_empty_datagram_from_anyone_does_no_harm(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for _ in 0..10 {
            Datagrams::bind("127.0.0.66").send(port, b"");
            device.send(port, b"");
            driver.datagram(&addr, b"");
            device.send(port, b"not deaf");
            driver.datagram(&addr, b"not deaf");
        }
    });
}

fn a_source_that_nobody_accepts_is_ignored_and_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,127.0.1.0/24");
        let stranger = Datagrams::bind("127.0.0.2");
        for source in ["127.0.0.1", "127.0.1.7"] {
            stranger.send(port, b"let me in");
            let device = Datagrams::bind(source);
            device.send(port, b"accepted");
            driver.datagram(&Addr::new(source, device.port()), b"accepted");
        }
        assert_eq!(daemon.count("datagrams_ignored_source"), 2);
    });
}

fn ipv6_datagrams_cross_in_both_directions(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "::1");
        let device = Datagrams::bind("::1");
        let addr = Addr::new("::1", device.port());
        for size in SIZES {
            let data = pattern(size as u64, 0, size);
            device.send(port, &data);
            driver.datagram(&addr, &data);
            driver.write(&addr, &data);
            device.expect(&data);
        }
        // An address may be written in any of its forms.
        driver.write(&Addr::new("0:0:0:0:0:0:0:1", addr.id), b"long form");
        device.expect(b"long form");
    });
}

fn a_udp_port_serves_both_families(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut ipv4 = daemon.join_udp(port, "127.0.0.1");
        let mut ipv6 = daemon.join_udp(port, "::1");
        for _ in 0..5 {
            for (driver, source) in [(&mut ipv4, "127.0.0.1"), (&mut ipv6, "::1")] {
                let device = Datagrams::bind(source);
                let addr = Addr::new(source, device.port());
                device.send(port, source.as_bytes());
                driver.datagram(&addr, source.as_bytes());
                driver.write(&addr, b"back");
                device.expect(b"back");
            }
        }
        ipv6.leave();
        // IPv6 is closed with the last driver that accepts it, and IPv4 stays.
        eventually("IPv6 is free", || UdpSocket::bind(("::1", port)).ok());
        let device = Datagrams::bind("127.0.0.1");
        device.send(port, b"still open");
        ipv4.datagram(&Addr::new("127.0.0.1", device.port()), b"still open");
    });
}

fn drivers_share_a_udp_port_by_their_sources(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_udp(port, "127.0.0.1");
        let mut second = daemon.join_udp(port, "127.0.0.2");
        let mut both = daemon.join_udp(port, "127.0.0.0/8");
        let key = port.to_string();
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {&key: 3}, "tcp_listeners": {}, "tcp_clients": {}}));
        let (one, two) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        let (one_addr, two_addr) = (Addr::new("127.0.0.1", one.port()), Addr::new("127.0.0.2", two.port()));
        for _ in 0..10 {
            one.send(port, b"one");
            two.send(port, b"two");
            first.datagram(&one_addr, b"one");
            second.datagram(&two_addr, b"two");
            both.datagram(&one_addr, b"one");
            both.datagram(&two_addr, b"two");
        }
        // A device's datagrams of a driver that left are nobody's, and the others' go on.
        first.leave();
        daemon.until_statistics(&json!({"udp_listeners": {&key: 2}, "tcp_listeners": {}, "tcp_clients": {}}));
        one.send(port, b"for both only");
        two.send(port, b"two");
        both.datagram(&one_addr, b"for both only");
        both.datagram(&two_addr, b"two");
        second.datagram(&two_addr, b"two");
    });
}

fn a_udp_port_is_closed_when_its_last_driver_leaves(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let first = daemon.join_udp(port, "127.0.0.1");
        let second = daemon.join_udp(port, "127.0.0.1");
        assert!(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_err(), "the port is open");
        first.leave();
        second.leave();
        eventually("the port is free", || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).ok());
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

fn a_udp_port_reopens_at_once_a_hundred_times(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for round in 0..100 {
            let mut driver = daemon.join_udp(port, "127.0.0.1");
            device.send(port, &[round]);
            assert_eq!(driver.event(), Event::Received(addr.clone(), vec![round]));
            if round % 2 == 0 {
                driver.leave();
            }
        }
    });
}

fn many_udp_ports_do_not_disturb_each_other(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        let mut joined: Vec<_> = (0..30)
            .map(|_| {
                let port = free_port();
                (port, daemon.join_udp(port, "127.0.0.1"))
            })
            .collect();
        for (port, _) in &joined {
            device.send(*port, format!("to {port}").as_bytes());
        }
        for (port, driver) in &mut joined {
            driver.datagram(&addr, format!("to {port}").as_bytes());
            driver.write(&addr, b"answer");
            let (_, from) = device.receive();
            assert_eq!(from.port(), *port);
        }
    });
}

fn an_ipv6_datagram_over_the_greatest_size_is_whole_or_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "::1");
        let device = Datagrams::bind("::1");
        let addr = Addr::new("::1", device.port());
        // IPv6 has a smaller header, so its datagrams may be 20 bytes larger.
        let large = pattern(1, 0, 65_527);
        device.send(port, &large);
        device.send(port, b"next");
        let next = Event::Received(addr.clone(), b"next".to_vec());
        let event = driver.event();
        if event != next {
            assert!(event == Event::Received(addr, large), "{event:?}");
            assert_eq!(driver.event(), next);
        }
    });
}
