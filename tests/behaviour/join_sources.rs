//! Proves which accept lists a join takes, and which devices each then lets in.

use std::net::{SocketAddrV6, TcpStream};

use serde_json::json;

use crate::harness::{Addr, Datagrams, Device, Driver, Setup, Transport, free_port, say_skipped};

scenarios! {
    blanks_and_empty_entries_in_a_list_are_skipped,
    a_source_that_stands_twice_counts_once,
    a_block_lets_in_all_of_its_addresses,
    a_block_may_have_host_bits_set,
    a_mapped_address_is_its_ipv4_address,
    ipv6_sources_are_let_in_however_they_are_written,
    ipv6_blocks_are_let_in,
    a_bad_entry_is_400_and_named,
    a_list_without_an_entry_is_400,
    a_port_may_have_leading_zeros,
    a_port_that_is_none_is_400,
    a_missing_parameter_is_422_and_named,
    sources_of_a_udp_port_are_read_alike,
    a_list_may_be_long,
    a_link_local_device_is_named_without_its_zone,
}

/// Connects from a source and fails unless the driver is told; the device is gone again afterwards.
fn assert_let_in(driver: &mut Driver, source: &str, port: u16) {
    let device = Device::connect(source, port);
    let addr = driver.opened();
    assert_eq!(addr.ip, source);
    drop(device);
    driver.closed(&addr);
}

/// Connects from a source and fails unless it is disconnected.
fn assert_kept_out(source: &str, port: u16) {
    Device::connect(source, port).is_disconnected();
}

fn blanks_and_empty_entries_in_a_list_are_skipped(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for list in [" 127.0.0.1 , 127.0.0.2 ", "127.0.0.1,127.0.0.2,", ",,127.0.0.2,\t,127.0.0.1, ,"] {
            let port = free_port();
            let mut driver = daemon.join_tcp(port, list);
            assert_let_in(&mut driver, "127.0.0.1", port);
            assert_let_in(&mut driver, "127.0.0.2", port);
            assert_kept_out("127.0.0.3", port);
            assert_let_in(&mut driver, "127.0.0.1", port);
        }
    });
}

fn a_source_that_stands_twice_counts_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.1,::ffff:127.0.0.1,127.0.0.0/8,127.0.0.1/32");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        device.send(b"once");
        driver.received(&addr, b"once");
        drop(device);
        driver.closed(&addr);
        assert_let_in(&mut driver, "127.0.0.1", port);
        let statistics = daemon.statistics();
        assert_eq!(statistics["tcp_listeners"], json!({port.to_string(): 1}));
    });
}

fn a_block_lets_in_all_of_its_addresses(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.4.0/23,127.1.0.0/16");
        for source in ["127.0.4.0", "127.0.4.1", "127.0.5.254", "127.1.2.3"] {
            assert_let_in(&mut driver, source, port);
        }
        for source in ["127.0.0.1", "127.0.3.255", "127.0.6.0", "127.2.0.1"] {
            assert_kept_out(source, port);
        }
        let everyone = free_port();
        let mut driver = daemon.join_tcp(everyone, "0.0.0.0/0");
        assert_let_in(&mut driver, "127.200.3.4", everyone);
    });
}

fn a_block_may_have_host_bits_set(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.4.77/24");
        assert_let_in(&mut driver, "127.0.4.1", port);
        assert_kept_out("127.0.5.1", port);
        assert_let_in(&mut driver, "127.0.4.255", port);
    });
}

fn a_mapped_address_is_its_ipv4_address(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "::ffff:127.0.0.5,::FFFF:7f00:6");
        assert_let_in(&mut driver, "127.0.0.5", port);
        assert_let_in(&mut driver, "127.0.0.6", port);
        assert_kept_out("127.0.0.1", port);
    });
}

fn ipv6_sources_are_let_in_however_they_are_written(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for list in ["::1", "0:0:0:0:0:0:0:1", "::0001", "127.0.0.1,::1"] {
            let port = free_port();
            let mut driver = daemon.join_tcp(port, list);
            assert_let_in(&mut driver, "::1", port);
        }
        let port = free_port();
        let _driver = daemon.join_tcp(port, "::2");
        assert_kept_out("::1", port);
    });
}

fn ipv6_blocks_are_let_in(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for list in ["::/64", "::1/128", "::ff/120", "::/0"] {
            let port = free_port();
            let mut driver = daemon.join_tcp(port, list);
            assert_let_in(&mut driver, "::1", port);
        }
        let port = free_port();
        let _driver = daemon.join_tcp(port, "fe80::/10");
        assert_kept_out("::1", port);
    });
}

fn a_bad_entry_is_400_and_named(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port().to_string();
        for entry in [
            "localhost",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.1.2",
            "10.0.0.1:80",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/8/8",
            "fe80::1%lo",
            "fe80::1%1",
            "[::1]",
            "::1/129",
            "*",
            "1 27.0.0.1",
        ] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let response = daemon.refusal(transport, &port, &format!("127.0.0.1,{entry},127.0.0.2"));
                assert_eq!(response.status, 400, "{entry}");
                assert_eq!(response.member("parameter"), "accept");
                let body = response.json();
                let named = ["error", "restriction"].iter().any(|key| body[key].as_str().unwrap().contains(entry));
                assert!(named, "{entry:?} is not named in {body}");
                assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
            }
        }
        assert_eq!(daemon.statistics()["tcp_listeners"], json!({}));
    });
}

fn a_list_without_an_entry_is_400(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for list in ["", ",", " ", " , ,", ",,,"] {
            let response = daemon.refusal(Transport::Tcp, &free_port().to_string(), list);
            assert_eq!((response.status, response.member("parameter").as_str()), (400, "accept"), "{list:?}");
        }
    });
}

fn a_port_may_have_leading_zeros(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.try_join(Transport::Tcp, &format!("000{port}"), "127.0.0.1").unwrap();
        assert_let_in(&mut driver, "127.0.0.1", port);
        assert_eq!(daemon.statistics()["tcp_listeners"], json!({port.to_string(): 1}));
    });
}

fn a_port_that_is_none_is_400(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for port in ["", "0", "000", "65536", "70000", "-1", "abc", "80a", "0x50", "8.0", "99999999999999999999"] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let response = daemon.refusal(transport, port, "127.0.0.1");
                assert_eq!(response.status, 400, "{port}");
                assert_eq!(response.member("parameter"), "port");
                let body = response.json();
                assert!(body["error"].is_string() && body["restriction"].is_string(), "{body}");
                assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
            }
        }
        let none = json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}});
        assert_eq!(daemon.statistics(), none);
    });
}

fn a_missing_parameter_is_422_and_named(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (query, parameter) in [("?accept=127.0.0.1", "port"), ("?port=7000", "accept")] {
            for route in ["tcp_dispatch", "udp_dispatch"] {
                let response = daemon.upgrade(&format!("/api/server/{route}{query}"), "").err().unwrap();
                assert_eq!(response.status, 422, "{query}");
                assert!(response.header("content-type").unwrap().starts_with("application/json"));
                assert_eq!(response.member("parameter"), parameter);
                let body = response.json();
                assert!(body["error"].is_string() && body["restriction"].is_string(), "{body}");
                assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
            }
        }
        for target in ["/api/server/tcp_dispatch", "/api/dispatch/v1/udp_dispatch?", "/api/server/tcp_dispatch?x=1"] {
            assert_eq!(daemon.upgrade(target, "").err().unwrap().status, 422, "{target}");
        }
    });
}

fn sources_of_a_udp_port_are_read_alike(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, " 127.0.4.9/24 ,, 127.0.0.1, 127.0.0.1, ::1,");
        for source in ["127.0.4.1", "127.0.0.1", "::1"] {
            Datagrams::bind("127.0.9.1").send(port, b"kept out");
            let device = Datagrams::bind(source);
            device.send(port, source.as_bytes());
            driver.datagram(&Addr::new(source, device.port()), source.as_bytes());
        }
    });
}

fn a_list_may_be_long(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut list: Vec<_> = (0..2_500).map(|number| format!("10.9.{}.{}", number / 250, number % 250)).collect();
        list.push("127.0.0.1".to_owned());
        let mut driver = daemon.join_tcp(port, &list.join(","));
        assert_let_in(&mut driver, "127.0.0.1", port);
        assert_kept_out("127.0.0.2", port);
        assert_let_in(&mut driver, "127.0.0.1", port);
    });
}

/// An address of this host that is only good with the number of its interface.
fn link_local() -> Option<SocketAddrV6> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let line = table.lines().find(|line| line.starts_with("fe80"))?;
    let mut words = line.split_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    let interface = u32::from_str_radix(words.next()?, 16).ok()?;
    Some(SocketAddrV6::new(address.into(), 0, 0, interface))
}

fn a_link_local_device_is_named_without_its_zone(shards: usize) {
    let Some(mut addr) = link_local() else {
        say_skipped("no interface has a link-local address");
        return;
    };
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "fe80::/10");
        addr.set_port(port);
        let device = TcpStream::connect(addr).unwrap();
        assert_eq!(driver.opened(), Addr::new(&addr.ip().to_string(), 0));
        drop(device);
        driver.closed(&Addr::new(&addr.ip().to_string(), 0));
    });
}
