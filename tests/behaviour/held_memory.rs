//! Proves that what a remote has the daemon hold is reserved, or is refused.

use std::io::Write;
use std::net::TcpStream;

use socket2::{Domain, Socket, Type};

use crate::harness::{
    BASES, Connection, Daemon, Device, Metrics, Setup, Transport, eventually, free_port, resident_bytes,
};

scenarios! {
    a_control_frame_that_claims_too_much_ends_the_session_at_its_head,
    a_long_head_is_not_held_once_it_is_answered,
    a_long_answer_that_nobody_takes_is_reserved_and_the_next_is_refused,
    a_page_that_nobody_takes_costs_little,
}

const HEAD: &str = "Host: test\r\nAuthorization: Bearer testing\r\n\r\n";

fn gauge(daemon: &Daemon, name: &str) -> f64 {
    Metrics::parse(daemon.fetch("/metrics").text()).series[name]
}

fn a_control_frame_that_claims_too_much_ends_the_session_at_its_head(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for first in [0x88, 0x89, 0x8a, 0x8f] {
            let mut driver = daemon.wire(Transport::Tcp, free_port(), "127.0.0.1");
            // Nothing of what it claims to bring has to come.
            driver.send(&[first, 0xff, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 1, 2, 3, 4]);
            assert_eq!(driver.close_reason(), (1002, "WebSocket protocol error".to_owned()));
            driver.ends();
        }
    });
}

fn a_long_head_is_not_held_once_it_is_answered(shards: usize) {
    const CONNECTIONS: usize = 120;
    // Receive buffers that are used for the first time count as well, so there are few.
    Setup::new(shards).limit("receive-buffers", 16).run(|daemon| {
        let target = format!("/none?x={}", "a".repeat(60_000));
        let before = resident_bytes(daemon.pid());
        let held: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let mut connection = daemon.connection();
                assert_eq!(connection.request("GET", &target, "").status, 404);
                connection
            })
            .collect();
        assert!(gauge(daemon, "dispatch_session_memory_bytes") < 1.0);
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < CONNECTIONS as u64 * 30_000, "{grown} bytes more");
        drop(held);
    });
}

/// Asks over a connection of a small receive buffer, and takes nothing of the answer.
fn ask_and_leave_be(daemon: &Daemon, target: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2 << 10).unwrap();
    socket.connect(&daemon.api().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(format!("GET {target} HTTP/1.1\r\n{HEAD}").as_bytes()).unwrap();
    stream
}

fn a_long_answer_that_nobody_takes_is_reserved_and_the_next_is_refused(shards: usize) {
    // About 200 bytes a row.
    const DEVICES: usize = 500;
    const ANSWERS_MAX: usize = 300_000;
    let limited = Setup::new(shards).limit("answer-bytes-max", ANSWERS_MAX).limit("socket-bytes", 4_096);
    limited.run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let devices: Vec<_> = (0..DEVICES).map(|_| Device::connect("127.0.0.1", port)).collect();
        (0..DEVICES).for_each(|_| drop(driver.opened()));
        let target = format!("{}/devices?limit={DEVICES}", BASES[1]);
        let mut unread = Vec::new();
        let refused = eventually("there is no room for another", || {
            unread.push(ask_and_leave_be(daemon, &target));
            let answer = daemon.fetch(&target);
            (answer.status == 503).then_some(answer)
        });
        assert_eq!(refused.member("error"), "no room for a long answer");
        // Who goes gives it back.
        drop(unread);
        eventually("there is room again", || (daemon.fetch(&target).status == 200).then_some(()));
        let held = gauge(daemon, "dispatch_answer_bytes");
        assert!(held < ANSWERS_MAX as f64 / 2.0, "{held} bytes with nobody else there");
        drop(devices);
    });
}

fn a_page_that_nobody_takes_costs_little(shards: usize) {
    const CONNECTIONS: usize = 120;
    Setup::new(shards).limit("socket-bytes", 4_096).run(|daemon| {
        let page_bytes = Connection::open(daemon.api()).request("GET", "/", "").body.len() as u64;
        let before = resident_bytes(daemon.pid());
        let held: Vec<_> = (0..CONNECTIONS).map(|_| ask_and_leave_be(daemon, "/")).collect();
        eventually("all were answered", || (gauge(daemon, "dispatch_handshakes") >= CONNECTIONS as f64).then_some(()));
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < CONNECTIONS as u64 * page_bytes / 2, "{grown} bytes more");
        drop(held);
    });
}
