//! Proves that a join which cannot be served is refused before the upgrade and leaves nothing behind.

use std::net::SocketAddr;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Addr, Daemon, Datagrams, Device, Driver, Setup, Transport, eventually, free_port, is_root, say_skipped,
};

scenarios! {
    a_tcp_port_that_another_program_holds_is_409,
    a_udp_port_that_another_program_holds_is_409,
    a_port_in_time_wait_is_not_in_use,
    a_port_that_another_program_holds_in_both_families_at_once_is_409,
    a_second_family_that_is_in_use_is_409_and_the_port_lives_on,
    a_port_that_only_root_may_bind_is_403,
    a_session_over_the_limit_is_503_until_one_leaves,
    a_port_over_the_limit_is_503_until_one_closes,
    a_session_without_memory_for_it_is_503_until_one_leaves,
    refused_joins_leave_nothing_behind,
    the_daemons_own_port_is_403_for_tcp_and_free_for_udp,
}

/// How another program has bound its socket.
#[derive(Debug, Clone, Copy)]
enum Hold {
    Plain,
    ReusePort,
    ReuseAddr,
}

/// The families that an IPv6 socket of another program takes its port in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    Own,
    Both,
}

/// Binds a port as another program would; TCP listens as well.
fn hold(transport: Transport, addr: &str, port: u16, how: Hold) -> Socket {
    hold_in(Families::Own, transport, addr, port, how)
}

fn hold_in(families: Families, transport: Transport, addr: &str, port: u16, how: Hold) -> Socket {
    let addr = SocketAddr::new(addr.parse().unwrap(), port);
    let kind = match transport {
        Transport::Tcp => Type::STREAM,
        Transport::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(addr), kind, None).unwrap();
    match how {
        Hold::Plain => {}
        Hold::ReusePort => socket.set_reuse_port(true).unwrap(),
        Hold::ReuseAddr => socket.set_reuse_address(true).unwrap(),
    }
    if addr.is_ipv6() {
        socket.set_only_v6(families == Families::Own).unwrap();
    }
    socket.bind(&addr.into()).unwrap();
    if transport == Transport::Tcp {
        socket.listen(8).unwrap();
    }
    socket
}

/// Joins once the holder is gone. A program that a test beside this one is about to start may hold a copy of its socket
/// until it has started.
fn join_when_free(daemon: &Daemon, transport: Transport, port: u16, accept: &str) -> Driver {
    eventually("the port is free", || daemon.try_join(transport, &port.to_string(), accept).ok())
}

/// Refused with 409 while it is held, by each kind of socket in each family; taken as soon as it is free.
fn assert_in_use(daemon: &Daemon, transport: Transport, holds: &[Hold]) {
    for &how in holds {
        for (addr, accept) in [
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("::", "::1"),
            ("::1", "::1"),
            ("0.0.0.0", "::1,127.0.0.1"),
            ("::", "127.0.0.1,::1"),
        ] {
            let port = free_port();
            let holder = hold(transport, addr, port, how);
            let response = daemon.refusal(transport, &port.to_string(), accept);
            assert_eq!(response.status, 409, "{transport:?} {how:?} on {addr} for {accept}: {response:?}");
            assert!(!response.member("error").is_empty());
            assert_eq!(daemon.held("ports"), 0);
            drop(holder);
            join_when_free(daemon, transport, port, accept).leave();
            daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
        }
    }
}

fn a_tcp_port_that_another_program_holds_is_409(shards: usize) {
    Setup::new(shards).run(|daemon| {
        // A listener keeps its port from others whether or not it set SO_REUSEADDR.
        assert_in_use(daemon, Transport::Tcp, &[Hold::Plain, Hold::ReusePort, Hold::ReuseAddr]);
    });
}

fn a_udp_port_that_another_program_holds_is_409(shards: usize) {
    Setup::new(shards).run(|daemon| {
        assert_in_use(daemon, Transport::Udp, &[Hold::Plain, Hold::ReusePort, Hold::ReuseAddr]);
    });
}

fn a_port_that_another_program_holds_in_both_families_at_once_is_409(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for how in [Hold::Plain, Hold::ReusePort, Hold::ReuseAddr] {
                let port = free_port();
                let holder = hold_in(Families::Both, transport, "::", port, how);
                for accept in ["127.0.0.1", "::1", "127.0.0.1,::1"] {
                    let response = daemon.refusal(transport, &port.to_string(), accept);
                    assert_eq!(response.status, 409, "{transport:?} {how:?} for {accept}: {response:?}");
                    assert_eq!(daemon.held("ports"), 0);
                }
                drop(holder);
                join_when_free(daemon, transport, port, "127.0.0.1").leave();
            }
        }
    });
}

fn a_port_in_time_wait_is_not_in_use(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        for _ in 0..5 {
            let mut driver = daemon.join_tcp(port, "127.0.0.1");
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            // The daemon's end closes first, so TIME_WAIT is on its side.
            driver.close(&addr);
            device.ends();
            drop(device);
            driver.closed(&addr);
            driver.leave();
            daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
        }
    });
}

fn a_second_family_that_is_in_use_is_409_and_the_port_lives_on(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let holder = hold(Transport::Tcp, "::", port, Hold::Plain);
        assert_eq!(daemon.refusal(Transport::Tcp, &port.to_string(), "::1,127.0.0.1").status, 409);
        assert_eq!(daemon.statistics()["tcp_listeners"], json!({port.to_string(): 1}));
        device.send(b"still here");
        driver.received(&addr, b"still here");
        drop(holder);
        let mut second = join_when_free(daemon, Transport::Tcp, port, "::1");
        let other = Device::connect("::1", port);
        assert_eq!(second.opened(), Addr::new("::1", 1));
        drop(other);
    });
}

fn a_port_that_only_root_may_bind_is_403(shards: usize) {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim() == "0" || !is_root() {
        say_skipped("every port is open to everyone here, or the test cannot become another user");
        return;
    }
    Setup::new(shards).with_no_privilege().run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            let response = daemon.refusal(transport, "1", "127.0.0.1,::1");
            assert_eq!(response.status, 403, "{response:?}");
            assert!(!response.member("error").is_empty());
        }
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

/// Fails unless a join is 503 now and works once `leaving` has left.
fn assert_full_until(daemon: &Daemon, leaving: impl FnOnce()) {
    let port = free_port();
    let response = daemon.refusal(Transport::Udp, &port.to_string(), "127.0.0.1");
    assert_eq!(response.status, 503, "{response:?}");
    assert!(!response.member("error").is_empty());
    assert!(daemon.statistics()["udp_listeners"].get(port.to_string()).is_none());
    leaving();
    let mut driver = eventually("there is room again", || {
        daemon.try_join(Transport::Udp, &port.to_string(), "127.0.0.1").map_err(|r| assert_eq!(r.status, 503)).ok()
    });
    let device = Datagrams::bind("127.0.0.1");
    device.send(port, b"joined");
    driver.datagram(&Addr::new("127.0.0.1", device.port()), b"joined");
}

fn a_session_over_the_limit_is_503_until_one_leaves(shards: usize) {
    Setup::new(shards).limit("sessions-max", 3).run(|daemon| {
        let port = free_port();
        let first = daemon.join_tcp(port, "127.0.0.1");
        let second = daemon.join_tcp(port, "127.0.0.1");
        let third = daemon.join_udp(free_port(), "127.0.0.1");
        assert_full_until(daemon, || first.reset());
        drop((second, third));
    });
}

fn a_port_over_the_limit_is_503_until_one_closes(shards: usize) {
    Setup::new(shards).limit("ports-max", 2).run(|daemon| {
        let port = free_port();
        let first = daemon.join_tcp(port, "127.0.0.1");
        let second = daemon.join_udp(free_port(), "127.0.0.1");
        // Another driver on an open port opens none.
        let third = daemon.join_tcp(port, "127.0.0.2");
        assert_full_until(daemon, || second.leave());
        drop((first, third));
    });
}

fn a_session_without_memory_for_it_is_503_until_one_leaves(shards: usize) {
    // Each session reserves its outbox, its window and a little for itself: two fit.
    let setup = Setup::new(shards).limit("outbox-bytes-max", 1 << 20).limit("write-window-bytes-max", 1 << 20);
    setup.limit("session-memory-bytes-max", 5 << 20).run(|daemon| {
        let first = daemon.join_tcp(free_port(), "127.0.0.1");
        let second = daemon.join_tcp(free_port(), "127.0.0.1");
        assert_full_until(daemon, || first.leave());
        drop(second);
    });
}

fn refused_joins_leave_nothing_behind(shards: usize) {
    Setup::new(shards).limit("sessions-max", 2).run(|daemon| {
        let port = free_port();
        let holder = hold(Transport::Tcp, "0.0.0.0", port, Hold::ReusePort);
        let driver = daemon.join_tcp(free_port(), "127.0.0.1");
        for _ in 0..50 {
            assert_eq!(daemon.refusal(Transport::Tcp, &port.to_string(), "127.0.0.1").status, 409);
            assert_eq!(daemon.refusal(Transport::Tcp, &port.to_string(), "nonsense").status, 400);
            assert_eq!(daemon.refusal(Transport::Tcp, "0", "127.0.0.1").status, 400);
        }
        // A session that a refusal had kept would be the third.
        let last = daemon.join_udp(free_port(), "127.0.0.1");
        eventually("two sessions on two ports", || {
            (daemon.held("sessions") == 2 && daemon.held("ports") == 2).then_some(())
        });
        drop((holder, driver, last));
    });
}

fn the_daemons_own_port_is_403_for_tcp_and_free_for_udp(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let own = daemon.api().port();
        assert_eq!(daemon.refusal(Transport::Tcp, &own.to_string(), "127.0.0.1").status, 403);
        // As a UDP port it is free.
        let mut driver = daemon.join_udp(own, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        device.send(own, b"free");
        driver.datagram(&Addr::new("127.0.0.1", device.port()), b"free");
    });
}
