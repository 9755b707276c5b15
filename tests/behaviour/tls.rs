//! Proves that drivers with TLS have what those without have: requests, messages whole and in order, backpressure, ends.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::json;

use crate::harness::tls::{Authority, Client};
use crate::harness::{
    Addr, BASES, Daemon, Device, Driver, Event, Metrics, Transport, eventually, free_port, pattern, resident_bytes,
};

scenarios! {
    requests_are_answered_with_either_version_beside_the_plain_port,
    messages_cross_whole_both_ways_with_either_version,
    a_driver_with_tls_and_one_without_share_a_port,
    a_driver_that_stops_reading_stops_its_device_and_loses_nothing,
    a_driver_that_takes_nothing_is_let_go,
    a_driver_that_only_ends_its_tls_has_left,
    a_driver_that_breaks_the_tls_is_let_go,
    a_drain_says_goodbye_inside_the_tls,
    a_session_with_tls_reserves_what_tls_takes,
    drivers_may_not_join_the_tls_port,
}

/// More than the buffers of the kernel hold between a device and a driver that does not read.
const ENDLESS: usize = 128 << 20;
/// What a daemon may grow by while it holds a stream back.
const GROWTH_MAX: u64 = 16 << 20;
const BULK: usize = 8 << 20;
const PART: usize = 64 << 10;

fn versions(authority: &Authority) -> [Client; 2] {
    [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| Client::new(authority, &[version], None))
}

fn joined(client: &Client, tls_port: u16) -> (Driver, Device, Addr) {
    let port = free_port();
    let mut driver = client.join(tls_port, port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    (driver, device, addr)
}

fn metrics(daemon: &Daemon) -> Metrics {
    Metrics::parse(daemon.fetch("/metrics").text())
}

fn requests_are_answered_with_either_version_beside_the_plain_port(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        for client in versions(&authority) {
            let mut stream = client.offering(&["http/1.1"]).connect(port);
            assert_eq!(stream.conn.alpn_protocol(), Some(b"http/1.1".as_slice()));
            for connection in ["keep-alive", "close"] {
                let request = format!("GET {}/healthz HTTP/1.1\r\nConnection: {connection}\r\n\r\n", BASES[1]);
                stream.write_all(request.as_bytes()).unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    answer.extend(byte);
                }
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            }
            // Without close_notify this would be an error: an end that anyone on the way can make.
            stream.read_to_end(&mut Vec::new()).unwrap();
            assert_eq!(daemon.fetch(BASES[0]).status, 200);
        }
        let metrics = metrics(daemon);
        assert_eq!(metrics.value("dispatch_tls_handshakes_total{result=\"full\"}"), 2.0);
        assert_eq!(metrics.sum("dispatch_tls_handshakes_total"), 2.0);
    });
}

fn messages_cross_whole_both_ways_with_either_version(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|_| {
        for client in versions(&authority) {
            let (mut driver, mut device, addr) = joined(&client, tls_port);
            for size in [1, 1_000, 16 << 10, 300_000] {
                device.send(&pattern(1, 0, size));
                driver.received(&addr, &pattern(1, 0, size));
                driver.write(&addr, &pattern(2, 0, size));
                device.expect(&pattern(2, 0, size));
            }
            let mut reader = device.another_handle();
            std::thread::scope(|scope| {
                scope.spawn(|| device.send(&pattern(3, 0, BULK)));
                scope.spawn(move || reader.expect(&pattern(4, 0, BULK)));
                let (mut written, mut received) = (0, 0);
                while written < BULK || received < BULK {
                    if written < BULK {
                        driver.write(&addr, &pattern(4, written, PART));
                        written += PART;
                    }
                    while received < written {
                        let Event::Received(_, data) = driver.event() else { panic!("no RECEIVED") };
                        assert!(data == pattern(3, received, data.len()), "the stream differs at {received}");
                        received += data.len();
                    }
                }
            });
            drop(device);
            driver.closed(&addr);
            driver.leave();
        }
    });
}

fn a_driver_with_tls_and_one_without_share_a_port(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let (mut secure, mut device, addr) = joined(&authority.client(), tls_port);
        let mut plain = daemon.join_tcp(device.peer_port(), "127.0.0.0/8");
        assert_eq!(plain.opened(), addr);
        device.send(b"for both");
        secure.received(&addr, b"for both");
        plain.received(&addr, b"for both");
        let statistics = json!({"udp_listeners": {}, "tcp_listeners": {device.peer_port().to_string(): 2},
                                "tcp_clients": {device.peer_port().to_string(): 1}});
        daemon.until_statistics(&statistics);
        secure.leave();
        plain.write(&addr, b"still here");
        device.expect(b"still here");
    });
}

fn a_driver_that_stops_reading_stops_its_device_and_loses_nothing(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let (mut driver, mut device, addr) = joined(&authority.client(), tls_port);
        let before = resident_bytes(daemon.pid());
        let sent = device.send_until_blocked(1, ENDLESS, Duration::from_millis(700));
        assert!(sent < ENDLESS, "the device never had to wait");
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes more");
        driver.write(&addr, b"it can still write");
        device.expect(b"it can still write");
        driver.received(&addr, &pattern(1, 0, sent));
        // And it goes on from there.
        device.send(&pattern(1, sent, 500_000));
        drop(device);
        driver.received(&addr, &pattern(1, sent, 500_000));
        driver.closed(&addr);
    });
}

fn a_driver_that_takes_nothing_is_let_go(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.limit("stall-ms-max", 500).run(|daemon| {
        let (mut driver, mut device, _) = joined(&authority.client(), tls_port);
        // Until the daemon disconnects it, as no driver is left.
        device.flood(&pattern(1, 0, 64 << 10));
        daemon.until_count("sessions_stalled", 1);
        // Nothing can follow a record that was cut: the driver sees a reset behind what had arrived.
        driver.is_cut_off();
    });
}

fn a_driver_that_only_ends_its_tls_has_left(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let (mut driver, mut device, _) = joined(&authority.client(), tls_port);
        driver.end_tls();
        device.ends();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

fn a_driver_that_breaks_the_tls_is_let_go(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let (mut driver, mut device, addr) = joined(&authority.client(), tls_port);
        driver.write(&addr, b"before");
        device.expect(b"before");
        // A record of application data that no key has sealed.
        (&mut driver.tcp()).write_all(&[0x17, 3, 3, 0, 32]).unwrap();
        (&mut driver.tcp()).write_all(&[0; 32]).unwrap();
        device.ends();
        driver.is_cut_off();
        assert_eq!(metrics(daemon).value("dispatch_sessions_ended_total{ending=\"io\"}"), 1.0);
    });
}

fn a_drain_says_goodbye_inside_the_tls(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    let mut daemon = setup.start();
    let (mut driver, mut device, addr) = joined(&authority.client(), tls_port);
    device.send(&pattern(1, 0, 100_000));
    driver.received(&addr, &pattern(1, 0, 100_000));
    daemon.signal(Signal::TERM);
    driver.closed(&addr);
    assert_eq!(driver.close_reason().0, 1001);
    driver.ends();
    assert!(daemon.exits().success());
}

fn a_session_with_tls_reserves_what_tls_takes(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let reserved = || metrics(daemon).value("dispatch_session_memory_bytes");
        let plain = daemon.join_tcp(free_port(), "127.0.0.1");
        let one = reserved();
        let secure = authority.client().join(tls_port, free_port(), "127.0.0.1");
        let both = reserved();
        // A sealed chunk of the outbox, which is a third of it, and the records on their way in.
        assert!(both - 2.0 * one > f64::from(262_144 / 3 + (16 << 10)), "{one} and {both}");
        plain.leave();
        secure.leave();
        eventually("the memory is given back", || (reserved() == 0.0).then_some(()));
    });
}

fn drivers_may_not_join_the_tls_port(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let refused = daemon.refusal(Transport::Tcp, &tls_port.to_string(), "127.0.0.1");
        assert_eq!(refused.status, 403);
        let stream = authority.client().connect(tls_port);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
    });
}
