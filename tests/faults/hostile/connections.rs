//! Proves that connections that say nothing, break off or talk nonsense cost little and disturb nobody.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use socket2::Socket;

use super::{connect, connect_from, ends, noise, pour, status};
use crate::harness::{
    Datagrams, Device, Driver, Event, Story, Transport, UPGRADE, free_port, raise_descriptor_limit, say_skipped,
};
use crate::service::{alone, served_during, setup};

scenarios! {
    ten_thousand_connections_that_say_nothing_cost_little,
    resets_in_the_middle_of_upgrades_leave_nothing,
    random_bytes_of_devices_are_data,
    random_bytes_of_drivers_end_their_sessions_alone,
}

fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn ten_thousand_connections_that_say_nothing_cost_little(shards: usize) {
    const COUNT: usize = 10_000;
    let _alone = alone();
    if raise_descriptor_limit() < COUNT as u64 + 2_000 {
        say_skipped("10,000 connections need a descriptor limit of 12,000");
        return;
    }
    setup(shards).run(|daemon| {
        let toll = served_during(daemon, || {
            let mut silent = Vec::with_capacity(COUNT);
            for batch in 0..COUNT / 500 {
                let source = format!("127.0.1.{}", 1 + batch % 20);
                silent.extend((0..500).map(|_| connect_from(&source, daemon.api()).unwrap()));
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_secs(1));
        });
        // 512 at a time, and what has just been accepted.
        toll.assert_at_most(16, 700);
    });
}

fn resets_in_the_middle_of_upgrades_leave_nothing(shards: usize) {
    let _alone = alone();
    setup(shards).run(|daemon| {
        let ports: Vec<_> = (0..10).map(|_| free_port()).collect();
        let toll = served_during(daemon, || {
            for turn in 0..2_000 {
                let target = format!("/api/server/tcp_dispatch?port={}&accept=127.0.0.1", ports[turn % 10]);
                let head =
                    format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer testing\r\n{UPGRADE}\r\n");
                let mut stream = connect(daemon);
                // From nothing up to the whole head.
                let size = if turn % 2 == 0 { head.len() } else { head.len() * (turn % 100) / 100 };
                pour(&mut stream, &head.as_bytes()[..size]);
                reset(stream);
            }
        });
        toll.assert_at_most(16, 600);
        daemon.until_statistics(&serde_json::json!(
            { "tcp_listeners": {}, "tcp_clients": {}, "udp_listeners": {} }
        ));
        for port in ports {
            daemon.join_tcp(port, "127.0.0.1").leave();
        }
    });
}

#[test]
fn random_bytes_on_the_api_are_refused() {
    let _alone = alone();
    setup(3).limit("request-head-ms-max", 1_000).run(|daemon| {
        let toll = served_during(daemon, || {
            let answers = (0..300).map(|turn| {
                let mut stream = connect(daemon);
                pour(&mut stream, &noise(turn, 1 + (turn as usize * 997) % 70_000));
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let answer = status(&mut stream);
                ends(&mut stream);
                answer
            });
            let answers: Vec<_> = answers.collect();
            // Too little to be told from the start of a request is not answered, and what goes on may miss its answer.
            assert!(answers.iter().all(|answer| matches!(answer, Some(400) | None)), "{answers:?}");
            assert!(answers.iter().flatten().count() > 200, "{answers:?}");
        });
        toll.assert_at_most(8, 100);
    });
}

fn random_bytes_of_devices_are_data(shards: usize) {
    let _alone = alone();
    setup(shards).run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let mut datagrams = daemon.join_udp(udp, "127.0.0.1");
        let size = |turn: u64| 1 + (turn as usize * 997) % 20_000;
        let toll = served_during(daemon, || {
            let sender = Datagrams::bind("127.0.0.1");
            let addr = crate::harness::Addr::new("127.0.0.1", sender.port());
            for turn in 0..200 {
                sender.send(udp, &noise(turn, size(turn)));
                datagrams.datagram(&addr, &noise(turn, size(turn)));
            }
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    (0..200).for_each(|turn| Device::connect("127.0.0.1", tcp).send(&noise(turn, size(turn))))
                });
                assert_noise(&mut driver, size);
            });
        });
        toll.assert_at_most(8, 300);
    });
}

/// Fails unless 200 devices send the noise of their ids.
fn assert_noise(driver: &mut Driver, size: impl Fn(u64) -> usize) {
    let mut story = Story::default();
    while story.closed() < 200 {
        let event = driver.event();
        let before = story.take(&event);
        if let Event::Received(addr, data) = &event {
            assert!(*data == noise(addr.id, size(addr.id))[before..before + data.len()], "{event:?} after {before}");
        }
    }
}

fn random_bytes_of_drivers_end_their_sessions_alone(shards: usize) {
    let _alone = alone();
    setup(shards).limit("driver-silence-ms-max", 2_000).limit("ping-interval-ms", 1_000).run(|daemon| {
        let port = free_port();
        let mut neighbour = daemon.join_tcp(port, "127.0.0.1");
        let toll = served_during(daemon, || {
            for turn in 0..200 {
                let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
                // Some is taken for frames that go on; those end with the connection.
                let _ = wire.try_send(&noise(turn, 4_000));
                wire.half_close();
                let end = loop {
                    match wire.try_frame() {
                        Ok(_) => {}
                        Err(error) => break error.kind(),
                    }
                };
                assert!(matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{turn}: {end}");
            }
        });
        toll.assert_at_most(16, 300);
        let _device = Device::connect("127.0.0.1", port);
        assert_eq!(neighbour.opened().id, 0, "the neighbour is still there");
    });
}
