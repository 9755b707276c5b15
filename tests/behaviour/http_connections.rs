//! Proves how the API treats a connection: kept alive, pipelined, bounded in size and time.

use std::time::{Duration, Instant};

use crate::harness::{
    BASES, Device, Opcode, Setup, Transport, UPGRADE, Wire, free_port, join_target, request, resident_bytes,
};

scenarios! {
    head_is_get_without_the_body,
    a_connection_serves_one_request_after_another,
    pipelined_requests_are_answered_in_turn,
    a_request_may_arrive_byte_by_byte,
    a_request_with_a_body_is_413_and_ends_the_connection,
    a_head_up_to_the_limit_is_read,
    a_head_over_the_limit_is_431_and_ends_the_connection,
    the_head_limit_is_a_setting,
    a_head_that_does_not_arrive_in_time_is_408,
    something_that_is_no_http_is_400_and_ends_the_connection,
    values_in_a_query_are_decoded,
    frames_that_arrive_with_the_upgrade_are_not_lost,
    a_join_may_follow_other_requests_on_its_connection,
    an_upgrade_may_pass_through_a_proxy,
    a_request_of_http_1_0_is_answered_and_ends_the_connection,
    answers_that_nobody_reads_cost_nothing,
}

const AUTH: &str = "Authorization: Bearer testing\r\n";
const HEALTH: &str = "/api/server/healthz";

fn head_is_get_without_the_body(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (target, headers, status) in [
            (HEALTH, "", 200),
            ("/api/server/version", "", 200),
            ("/api/dispatch/v1", AUTH, 200),
            ("/api/dispatch/v1", "", 401),
            ("/nope", "", 404),
        ] {
            let mut connection = daemon.connection();
            let get = connection.request("GET", target, headers);
            let head = connection.request("HEAD", target, headers);
            assert_eq!((get.status, head.status), (status, status), "{target}");
            assert_eq!(head.header("content-length"), get.header("content-length"), "{target}");
            // A body would be taken for the start of this answer.
            assert_eq!(connection.request("GET", HEALTH, "").status, 200, "after HEAD {target}");
        }
    });
}

fn a_connection_serves_one_request_after_another(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = daemon.connection();
        for _ in 0..20 {
            assert_eq!(connection.request("GET", HEALTH, "").status, 200);
            assert_eq!(connection.request("GET", BASES[0], "").status, 401);
            assert_eq!(connection.request("GET", BASES[0], AUTH).status, 200);
            assert_eq!(connection.request("GET", "/nope", "").status, 404);
            assert_eq!(connection.request("PUT", HEALTH, "").status, 405);
            assert_eq!(connection.request("GET", "/api/server/tcp_dispatch", AUTH).status, 422);
        }
        assert_eq!(connection.request("GET", HEALTH, "Connection: close\r\n").status, 200);
        connection.ends();
    });
}

fn pipelined_requests_are_answered_in_turn(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = daemon.connection();
        let mut requests = String::new();
        for _ in 0..100 {
            for target in [HEALTH, "/nope", BASES[0]] {
                requests += &format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
            }
        }
        connection.send(requests);
        connection.half_close();
        for _ in 0..100 {
            for status in [200, 404, 401] {
                assert_eq!(connection.response().status, status);
            }
        }
        connection.ends();
    });
}

fn a_request_may_arrive_byte_by_byte(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = daemon.connection();
        for byte in format!("GET {} HTTP/1.1\r\nHost: test\r\n{AUTH}\r\n", BASES[0]).bytes() {
            connection.send([byte]);
        }
        assert_eq!(connection.response().status, 200);
    });
}

fn a_request_with_a_body_is_413_and_ends_the_connection(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
            let mut connection = daemon.connection();
            connection.send(format!("GET {HEALTH} HTTP/1.1\r\nHost: test\r\n{body}"));
            assert_eq!(connection.response().status, 413, "{body:?}");
            connection.ends();
        }
        let mut connection = daemon.connection();
        assert_eq!(connection.request("GET", HEALTH, "Content-Length: 0\r\n").status, 200, "no body");
    });
}

/// A head of exactly this size.
fn head_of(size: usize) -> String {
    let start = format!("GET {HEALTH}?key=");
    let end = " HTTP/1.1\r\nHost: test\r\n\r\n";
    let filler = "k".repeat(size - start.len() - end.len());
    format!("{start}{filler}{end}")
}

fn a_head_up_to_the_limit_is_read(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for size in [1_000, 16 * 1024, 60 * 1024, 64 * 1024] {
            let mut connection = daemon.connection();
            connection.send(head_of(size));
            assert_eq!(connection.response().status, 200, "{size} bytes");
        }
    });
}

fn a_head_over_the_limit_is_431_and_ends_the_connection(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for size in [64 * 1024 + 1, 70 * 1024] {
            let mut connection = daemon.connection();
            connection.send(head_of(size));
            assert_eq!(connection.response().status, 431, "{size} bytes");
            connection.ends();
        }
        let mut endless = daemon.connection();
        endless.send(&head_of(80 * 1024)[..66 * 1024]);
        assert_eq!(endless.response().status, 431, "a head without an end");
    });
}

fn the_head_limit_is_a_setting(shards: usize) {
    Setup::new(shards).limit("request-head-bytes-max", 8 * 1024).run(|daemon| {
        let mut connection = daemon.connection();
        connection.send(head_of(8 * 1024));
        assert_eq!(connection.response().status, 200);
        connection.send(head_of(9 * 1024));
        assert_eq!(connection.response().status, 431);
        connection.ends();
    });
}

fn a_head_that_does_not_arrive_in_time_is_408(shards: usize) {
    Setup::new(shards).limit("request-head-ms-max", 500).run(|daemon| {
        // Before the connection, which is what the time begins with.
        let start = Instant::now();
        let mut connection = daemon.connection();
        connection.send(format!("GET {HEALTH} HTTP/1.1\r\nHost:"));
        assert_eq!(connection.response().status, 408);
        let took = start.elapsed();
        // The default is 10 s.
        assert!((Duration::from_millis(450)..Duration::from_secs(9)).contains(&took), "408 after {took:?}");
        connection.ends();

        // A byte now and then does not buy time.
        let mut slow = daemon.connection();
        let answered = (0..50).any(|_| {
            slow.send(b"x");
            std::thread::sleep(Duration::from_millis(100));
            slow.has_answer()
        });
        assert!(answered, "no 408 in 5 s");
        assert_eq!(slow.response().status, 408);
    });
}

fn something_that_is_no_http_is_400_and_ends_the_connection(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for garbage in ["\u{1}\u{2}\u{3}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
            let mut connection = daemon.connection();
            connection.send(garbage);
            assert_eq!(connection.response().status, 400, "{garbage:?}");
            connection.ends();
        }
        assert_eq!(daemon.fetch(HEALTH).status, 200);
    });
}

fn values_in_a_query_are_decoded(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let sources = "127.0.0.1%2C%20127%2e0.0.2+%2c";
        let target = format!("{}/tcp_dispatch?x=%zz&accept={sources}&port=%3{}", BASES[0], port);
        // "%3" followed by the port's first digit is that digit, as all ports here start with one of 2 and 3.
        let (stream, pending) = daemon.upgrade(&target, "").unwrap().into_parts();
        let mut wire = Wire::new(stream, pending);
        for source in ["127.0.0.1", "127.0.0.2"] {
            let device = Device::connect(source, port);
            assert_eq!(wire.event().addr().ip, source);
            drop(device);
            wire.event();
        }
    });
}

fn frames_that_arrive_with_the_upgrade_are_not_lost(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let target = join_target(BASES[0], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
        let mut connection = daemon.connection();
        let mut bytes = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{AUTH}{UPGRADE}\r\n").into_bytes();
        bytes.extend_from_slice(&[0x89, 0x84, 0, 0, 0, 0]);
        bytes.extend_from_slice(b"ping");
        connection.send(bytes);
        assert_eq!(connection.head_only().status, 101);
        let (stream, pending) = connection.into_parts();
        let mut wire = Wire::new(stream, pending);
        let pong = wire.frame();
        assert_eq!((pong.first, pong.payload.as_slice()), (0x8a, b"ping".as_slice()));
    });
}

fn a_join_may_follow_other_requests_on_its_connection(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut connection = daemon.connection();
        assert_eq!(connection.request("GET", HEALTH, "").status, 200);
        let refused = join_target(BASES[0], Transport::Tcp, "0", "127.0.0.1");
        let upgrade = format!("{AUTH}{UPGRADE}");
        assert_eq!(connection.request("GET", &refused, &upgrade).status, 400);
        let joined = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
        assert_eq!(connection.request("GET", &joined, &upgrade).status, 101);
        let (stream, pending) = connection.into_parts();
        let mut wire = Wire::new(stream, pending);
        let device = Device::connect("127.0.0.1", port);
        assert_eq!(wire.event().addr().id, 0);
        drop(device);
        wire.send_frame(Opcode::Binary, &request(9, "", 0, 0, &[]));
        assert_eq!(wire.close_reason().0, 1002);
    });
}

fn an_upgrade_may_pass_through_a_proxy(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut headers = format!("{AUTH}Connection: keep-alive, Upgrade\r\nUPGRADE: WebSocket\r\n");
        headers += "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        headers += "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        for number in 0..40 {
            headers += &format!("X-Forwarded-{number}: value\r\n");
        }
        let target = join_target(BASES[0], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
        let response = daemon.connection().request("GET", &target, &headers);
        assert_eq!(response.status, 101);
        assert_eq!(response.header("sec-websocket-extensions"), None, "nothing was agreed that is not done");
    });
}

fn a_request_of_http_1_0_is_answered_and_ends_the_connection(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = daemon.connection();
        connection.send(format!("GET {HEALTH} HTTP/1.0\r\n\r\n"));
        assert_eq!(connection.response().status, 200);
        connection.ends();
    });
}

fn answers_that_nobody_reads_cost_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let before = resident_bytes(daemon.pid());
        let mut connection = daemon.connection();
        connection.set_write_patience(Duration::from_millis(700));
        let many = format!("GET {HEALTH} HTTP/1.1\r\nHost: test\r\n\r\n").repeat(1_000);
        // 60 MB of requests, unless the daemon stops reading first.
        let taken = (0..1_000).take_while(|_| connection.try_send(&many).is_ok()).count();
        assert!(taken < 1_000, "all requests were read though no answer was");
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more");
        assert_eq!(daemon.fetch(HEALTH).status, 200);
    });
}
