//! Proves which ports, sources and destinations drivers may have.

use crate::harness::{Addr, BASES, Daemon, Datagrams, Device, Setup, Transport, UPGRADE, free_port, join_target};

scenarios! {
    a_port_outside_the_allowed_ranges_is_403_and_one_inside_is_open,
    the_apis_own_port_is_never_opened_for_tcp,
    a_source_outside_the_allowed_ones_is_403_and_one_inside_is_accepted,
    a_join_that_is_not_allowed_leaves_nothing_behind,
    what_is_allowed_is_decided_after_the_request_is_checked,
    datagrams_go_to_accepted_addresses_alone_where_egress_says_so,
    each_drivers_own_list_counts_for_its_datagrams,
}

const EMPTY: &str = r#"{"udp_listeners":{},"tcp_listeners":{},"tcp_clients":{}}"#;

fn assert_nothing_is_open(daemon: &Daemon) {
    assert_eq!(daemon.statistics(), serde_json::from_str::<serde_json::Value>(EMPTY).unwrap());
}

/// Fails unless the join is refused with 403 for a reason with this text.
fn assert_forbidden(daemon: &Daemon, transport: Transport, port: u16, accept: &str, text: &str) {
    let response = daemon.refusal(transport, &port.to_string(), accept);
    assert_eq!(response.status, 403, "{transport:?} {port} {accept}: {response:?}");
    let reason = response.member("error");
    assert!(reason.contains(text), "{reason:?} says nothing of {text:?}");
    assert_eq!(response.json().as_object().unwrap().len(), 1, "{response:?}");
}

fn a_port_outside_the_allowed_ranges_is_403_and_one_inside_is_open(shards: usize) {
    let (low, high, single) = (free_port(), free_port(), free_port());
    let (low, high) = (low.min(high), low.max(high));
    let ranges = format!("{low}-{high}, {single}");
    Setup::new(shards).variable("DISPATCH_ALLOW_PORTS", &ranges).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for port in [low, high, single] {
                daemon.join(transport, port, "127.0.0.1").leave();
            }
            for port in [1, low - 1, 65_535] {
                assert_forbidden(daemon, transport, port, "127.0.0.1", "--allow-ports");
            }
        }
        assert_eq!(daemon.count("joins_refused"), 6);
    });
}

fn the_apis_own_port_is_never_opened_for_tcp(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = daemon.api().port();
        for accept in ["127.0.0.1", "::1", "0.0.0.0/0,::/0"] {
            assert_forbidden(daemon, Transport::Tcp, port, accept, "API");
        }
        // UDP has nothing to do with it.
        daemon.join_udp(port, "127.0.0.1").leave();
    });
}

fn a_source_outside_the_allowed_ones_is_403_and_one_inside_is_accepted(shards: usize) {
    let allowed = "127.0.0.0/28, 10.0.0.0/8, 192.168.0.7, ::1, 2001:db8::/32";
    Setup::new(shards).variable("DISPATCH_ALLOW_SOURCES", allowed).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for accept in [
                "127.0.0.1",
                "127.0.0.0/28",
                "127.0.0.8/29,10.0.0.0/8,10.1.0.0/16,10.2.3.4",
                "192.168.0.7,192.168.0.7/32",
                "::1,::ffff:127.0.0.1",
                "127.0.0.1,2001:db8:1::/48,2001:db8::5",
            ] {
                daemon.join(transport, free_port(), accept).leave();
            }
            for (accept, outside) in [
                ("127.0.0.16", "127.0.0.16 "),
                ("127.0.0.1,127.0.0.0/27", "127.0.0.0/27 "),
                ("10.0.0.0/7", "10.0.0.0/7 "),
                ("192.168.0.6/31", "192.168.0.6/31 "),
                ("0.0.0.0/0", "0.0.0.0/0 "),
                ("::1,::2", "::2 "),
                ("::/0", "::/0 "),
                ("2001:db8::/31", "2001:db8::/31 "),
                ("::ffff:11.0.0.1", "11.0.0.1 "),
                ("::ffff:0:0/96", "0.0.0.0/0 "),
            ] {
                assert_forbidden(daemon, transport, free_port(), accept, outside);
                assert_forbidden(daemon, transport, free_port(), accept, "--allow-sources");
            }
        }
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.9");
        let device = Device::connect("127.0.0.9", port);
        assert_eq!(driver.opened(), Addr::new("127.0.0.9", 0));
        drop(device);
    });
}

fn a_join_that_is_not_allowed_leaves_nothing_behind(shards: usize) {
    let setup = Setup::new(shards).limit("sessions-max", 1).variable("DISPATCH_ALLOW_SOURCES", "127.0.0.0/8");
    setup.variable("DISPATCH_ALLOW_PORTS", "20000-65535").run(|daemon| {
        for _ in 0..25 {
            assert_forbidden(daemon, Transport::Tcp, free_port(), "10.0.0.1", "10.0.0.1");
            assert_forbidden(daemon, Transport::Udp, 19_999, "127.0.0.1", "udp/19999");
        }
        assert_nothing_is_open(daemon);
        assert_eq!((daemon.held("sessions"), daemon.held("ports"), daemon.count("joins_refused")), (0, 0, 50));
        // A session that a refusal had kept would be the second.
        daemon.join_tcp(free_port(), "127.0.0.1").leave();
    });
}

fn what_is_allowed_is_decided_after_the_request_is_checked(shards: usize) {
    Setup::new(shards).variable("DISPATCH_ALLOW_PORTS", "2000").run(|daemon| {
        let status = |target: &str, headers: &str| daemon.connection().request("GET", target, headers).status;
        let right = "Authorization: Bearer testing\r\n";
        let target = |port, accept| join_target(BASES[0], Transport::Tcp, port, accept);
        assert_eq!(status(&target("2001", "127.0.0.1"), UPGRADE), 401);
        assert_eq!(status(&target("2001", "x"), &format!("{right}{UPGRADE}")), 400);
        assert_eq!(status(&target("2001", "127.0.0.1"), right), 426);
        assert_eq!(status(&target("2001", "127.0.0.1"), &format!("{right}{UPGRADE}")), 403);
    });
}

fn datagrams_go_to_accepted_addresses_alone_where_egress_says_so(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,127.0.1.0/24,::1");
        let stranger = Datagrams::bind("127.0.0.77");
        for (source, text) in [("127.0.0.1", "127.0.0.1"), ("127.0.1.9", "::ffff:127.0.1.9"), ("::1", "::1")] {
            let device = Datagrams::bind(source);
            driver.write(&Addr::new("127.0.0.77", stranger.port()), b"dropped");
            driver.write(&Addr::new("::ffff:127.0.0.77", stranger.port()), b"dropped");
            driver.write(&Addr::new("127.255.255.255", stranger.port()), b"dropped");
            driver.write(&Addr::new(text, device.port()), b"sent");
            device.expect(b"sent");
        }
        assert_eq!((daemon.count("datagrams_dropped_write"), daemon.count("datagrams_written")), (9, 3));
        // Nothing came before this.
        let own = Datagrams::bind("127.0.0.1");
        own.send(port, b"the session lives");
        driver.datagram(&Addr::new("127.0.0.1", own.port()), b"the session lives");
        daemon.join_udp(port, "127.0.0.77").write(&Addr::new("127.0.0.77", stranger.port()), b"accepted");
        stranger.expect(b"accepted");
    });
}

fn each_drivers_own_list_counts_for_its_datagrams(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_udp(port, "127.0.0.1");
        let mut second = daemon.join_udp(port, "127.0.0.2");
        let (one, other) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        let (one_addr, other_addr) = (Addr::new("127.0.0.1", one.port()), Addr::new("127.0.0.2", other.port()));
        first.write(&other_addr, b"intruder");
        first.write(&one_addr, b"mine");
        one.expect(b"mine");
        second.write(&one_addr, b"intruder");
        second.write(&other_addr, b"mine");
        other.expect(b"mine");
        assert_eq!(daemon.count("datagrams_dropped_write"), 2);
    });
}
