//! Proves that heads that are slow, endless, large or many cost little and disturb nobody.

use std::time::Duration;

use super::{AUTHORISED, connect, connect_from, ends, pour, status};
use crate::harness::{Connection, Opcode, UPGRADE, Wire, free_port, raise_descriptor_limit};
use crate::service::{alone, served_during, setup};

scenarios! {
    heads_of_one_byte_a_second_are_given_up,
    five_hundred_heads_of_64_kib_have_their_bound,
    a_flood_of_wrong_tokens_is_refused,
}

const HEALTH: &str = "GET /api/server/healthz HTTP/1.1\r\nHost: test\r\n\r\n";

fn heads_of_one_byte_a_second_are_given_up(shards: usize) {
    let _alone = alone();
    setup(shards).limit("request-head-ms-max", 2_000).run(|daemon| {
        let toll = served_during(daemon, || {
            let mut slow: Vec<_> = (0..300).map(|_| connect(daemon)).collect();
            for byte in HEALTH.as_bytes().chunks(1).take(3) {
                for stream in &mut slow {
                    pour(stream, byte);
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            for stream in &mut slow {
                assert_eq!(status(stream), Some(408));
                ends(stream);
            }
        });
        toll.assert_at_most(8, 310);
        assert!(toll.cpu_a_second < Duration::from_millis(300), "{toll:?}");
    });
}

#[test]
fn endless_header_lines_are_refused() {
    let _alone = alone();
    setup(3).run(|daemon| {
        let toll = served_during(daemon, || {
            for _ in 0..20 {
                let mut stream = connect(daemon);
                pour(&mut stream, b"GET / HTTP/1.1\r\n");
                pour(&mut stream, &b"a: b\r\n".repeat(200_000));
                assert!(matches!(status(&mut stream), Some(431) | None));
            }
        });
        toll.assert_at_most(8, 50);
    });
}

#[test]
fn one_endless_header_line_is_refused() {
    let _alone = alone();
    setup(3).run(|daemon| {
        let toll = served_during(daemon, || {
            for _ in 0..20 {
                let mut stream = connect(daemon);
                pour(&mut stream, b"GET / HTTP/1.1\r\na: ");
                pour(&mut stream, &vec![b'a'; 4 << 20]);
                assert!(matches!(status(&mut stream), Some(431) | None));
            }
        });
        toll.assert_at_most(8, 50);
    });
}

fn five_hundred_heads_of_64_kib_have_their_bound(shards: usize) {
    let _alone = alone();
    raise_descriptor_limit();
    setup(shards).limit("request-head-ms-max", 4_000).run(|daemon| {
        let head = format!("GET /api/server/healthz HTTP/1.1\r\nHost: test\r\na: {}", "a".repeat(65_000));
        let toll = served_during(daemon, || {
            let mut streams: Vec<_> = (0..500).map(|_| connect(daemon)).collect();
            for stream in &mut streams {
                pour(stream, head.as_bytes());
            }
            // Those that are whole are answered; the daemon may have let go those that waited longest for others.
            let answers = streams.iter_mut().map(|stream| {
                pour(stream, b"\r\n\r\n");
                status(stream)
            });
            let answers: Vec<_> = answers.collect();
            assert!(answers.iter().all(|answer| matches!(answer, Some(200 | 408 | 503) | None)), "{answers:?}");
            assert!(answers.iter().filter(|answer| **answer == Some(200)).count() > 250, "{answers:?}");
        });
        // 64 KiB each, in memory that grows by doubling.
        toll.assert_at_most(80, 510);
    });
}

#[test]
fn a_head_of_64_kib_that_comes_line_by_line_costs_little() {
    let _alone = alone();
    setup(3).run(|daemon| {
        let line = format!("a: {}\r\n", "a".repeat(1_020));
        let toll = served_during(daemon, || {
            let mut streams: Vec<_> = (0..100).map(|_| connect(daemon)).collect();
            let lines = std::iter::once("GET /nowhere HTTP/1.1\r\n").chain(std::iter::repeat_n(line.as_str(), 62));
            for line in lines {
                for stream in &mut streams {
                    pour(stream, line.as_bytes());
                }
            }
            for stream in &mut streams {
                pour(stream, b"\r\n");
                assert_eq!(status(stream), Some(404));
            }
        });
        toll.assert_at_most(30, 110);
    });
}

#[test]
fn a_huge_declared_body_is_refused() {
    let _alone = alone();
    setup(3).run(|daemon| {
        let toll = served_during(daemon, || {
            for length in ["1", "9223372036854775807", "18446744073709551615", "99999999999999999999999", "-1"] {
                for method in ["GET", "POST"] {
                    let head = format!("{method} /api/server HTTP/1.1\r\n{AUTHORISED}Content-Length: {length}\r\n\r\n");
                    let mut stream = connect(daemon);
                    pour(&mut stream, head.as_bytes());
                    let answer = status(&mut stream);
                    assert!(matches!(answer, Some(400 | 413)), "{method} {length}: {answer:?}");
                    ends(&mut stream);
                }
            }
        });
        toll.assert_at_most(4, 20);
    });
}

#[test]
fn a_compressing_driver_is_declined_and_joins() {
    let _alone = alone();
    setup(3).run(|daemon| {
        let mut connection = Connection::over(connect(daemon));
        let target = format!("/api/server/tcp_dispatch?port={}&accept=127.0.0.1", free_port());
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let headers = format!("Authorization: Bearer testing\r\n{UPGRADE}{offer}");
        let response = connection.request("GET", &target, &headers);
        assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, None));
        let (stream, pending) = connection.into_parts();
        let mut wire = Wire::new(stream, pending);
        wire.send_frame(Opcode::Ping, b"plain");
        assert_eq!(wire.frame().payload, b"plain");
        // Whoever compresses all the same, say a bomb of zeroes, breaks the protocol.
        wire.send(&crate::harness::frame(0xc2, &[0; 100]));
        assert_eq!(wire.close_reason().0, 1002);
    });
}

#[test]
fn requests_whose_answers_are_not_read_end_the_connection() {
    let _alone = alone();
    setup(3).limit("request-head-ms-max", 2_000).run(|daemon| {
        let toll = served_during(daemon, || {
            let mut stream = connect(daemon);
            let sent = pour(&mut stream, HEALTH.repeat(100_000).as_bytes());
            assert!(sent < HEALTH.len() * 100_000, "all were taken");
            // What was answered can still be read, and then it is over.
            std::thread::sleep(Duration::from_secs(2));
            ends(&mut stream);
        });
        toll.assert_at_most(4, 10);
    });
}

fn a_flood_of_wrong_tokens_is_refused(shards: usize) {
    let _alone = alone();
    setup(shards).run(|daemon| {
        let target = format!("/api/server/tcp_dispatch?port={}&accept=127.0.0.1", free_port());
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer guess\r\n{UPGRADE}\r\n");
        let toll = served_during(daemon, || {
            std::thread::scope(|scope| {
                for number in 0..4 {
                    let (request, api) = (&request, daemon.api());
                    scope.spawn(move || {
                        for _ in 0..300 {
                            let mut stream = connect_from(&format!("127.0.0.6{number}"), api).unwrap();
                            pour(&mut stream, request.as_bytes());
                            let answer = status(&mut stream);
                            assert!(matches!(answer, Some(401 | 429)), "{answer:?}");
                        }
                    });
                }
            });
        });
        toll.assert_at_most(8, 1_300);
        daemon.join_tcp(free_port(), "127.0.0.1").leave();
    });
}
