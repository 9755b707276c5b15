//! Proves that nobody feels a tap, what it may not do, how many there may be, and how it goes on and ends.

use uring_dispatch::protocol::tapped::{TapEvent, Tapped};

use crate::harness::{
    BASES, Connection, Daemon, Device, Metrics, Opcode, Setup, UPGRADE, eventually, free_port, pattern, write,
};
use crate::tap::Tap;

scenarios! {
    a_tap_of_a_closed_port_waits_for_it_and_goes_on_when_it_opens_again,
    a_tap_that_leaves_leaves_the_port_as_it_is,
    a_tap_cannot_write,
    a_tap_is_no_driver_and_is_counted_for_itself,
    a_tap_that_does_not_read_slows_nobody_and_is_told_what_it_missed,
    a_tap_that_does_not_read_does_not_hold_a_drain_up,
    a_tap_ends_with_the_daemon,
    taps_are_so_many_at_most,
    a_tap_reserves_memory_and_is_refused_where_there_is_none,
    a_bad_request_is_refused_and_says_why,
}

const AUTH: &str = "Authorization: Bearer testing\r\n";

/// Long enough that a tap which does not read is not let go in a test.
const STALL_MS: usize = 600_000;

/// Waits until a metric has this value.
fn until_sample(daemon: &Daemon, series: &str, value: f64) {
    eventually(&format!("{series} is {value}"), || {
        let metrics = Metrics::parse(daemon.fetch("/metrics").text());
        (metrics.value(series) == value).then_some(())
    });
}

fn a_tap_of_a_closed_port_waits_for_it_and_goes_on_when_it_opens_again(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut tap = Tap::begin(daemon, "tcp", port, "");
        tap.sees(&["port closed"]);
        // It opens none, and one of the other transport is another port.
        let none = serde_json::json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}});
        daemon.until_statistics(&none);
        let _other = daemon.join_udp(port, "127.0.0.1");
        for _ in 0..2 {
            let mut driver = daemon.join_tcp(port, "127.0.0.1");
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            device.send(b"hello");
            driver.received(&addr, b"hello");
            tap.sees(&["port open", "opened 127.0.0.1 0", "received 127.0.0.1 0 hello"]);
            driver.leave();
            device.ends();
            let mut ends = [tap.next(), tap.next()];
            ends.sort();
            assert_eq!(ends, ["closed 127.0.0.1 0", "port closed"]);
        }
    });
}

fn a_tap_that_leaves_leaves_the_port_as_it_is(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        drop(Tap::open(daemon, "tcp", port, ""));
        until_sample(daemon, "dispatch_tap_slots", 0.0);
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&addr, b"still here");
        device.expect(b"still here");
    });
}

fn a_tap_cannot_write(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        tap.0.send_frame(Opcode::Binary, &write(&addr, b"of the tap"));
        tap.0.send_frame(Opcode::Binary, b"no message at all");
        tap.0.send_frame(Opcode::Text, b"text");
        daemon.until_count("driver_messages_ignored", 3);
        driver.write(&addr, b"of the driver");
        device.expect(b"of the driver");
        assert_eq!(daemon.count("writes_dropped"), 0);
        tap.sees(&["opened 127.0.0.1 0", "write 127.0.0.1 0 by  of the driver"]);
    });
}

fn a_tap_is_no_driver_and_is_counted_for_itself(shards: usize) {
    Setup::new(shards).limit("taps-max", 3).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let _device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let written = daemon.count("driver_bytes_written");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        driver.write(&addr, b"for both to see");
        tap.sees(&["write 127.0.0.1 0 by  for both to see"]);
        until_sample(daemon, "dispatch_tap_slots", 1.0);
        until_sample(daemon, "dispatch_tap_slots_limit", 3.0);
        assert_eq!(daemon.count("sessions_joined"), 1);
        assert_eq!(daemon.count("driver_bytes_written"), written);
        let drivers = daemon.fetch(&format!("{}/drivers", BASES[1])).json();
        assert_eq!(drivers["total"], 1, "{drivers}");
    });
}

fn a_tap_that_does_not_read_slows_nobody_and_is_told_what_it_missed(shards: usize) {
    const MESSAGE_BYTES: usize = 1_000;
    const MESSAGES: usize = 12_000;
    Setup::new(shards).limit("stall-ms-max", STALL_MS).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for number in 0..MESSAGES {
            let data = pattern(1, number * MESSAGE_BYTES, MESSAGE_BYTES);
            device.send(&data);
            driver.received(&addr, &data);
        }
        let missed = daemon.count("tap_messages_dropped");
        assert!(missed > 0, "the tap missed nothing of 12 MB that it did not read");
        // What it has got is in order and without a gap up to where the number stands.
        assert_eq!(tap.next(), "opened 127.0.0.1 0");
        let (mut at, mut told) = (0, 0);
        while told < missed {
            match Tapped::decode(&tap.0.data_frame().payload).unwrap().event {
                TapEvent::Received { data, .. } if told == 0 => {
                    assert!(data == pattern(1, at, data.len()), "byte {at}");
                    at += data.len();
                }
                TapEvent::Received { .. } => {}
                TapEvent::Dropped { count } => told += count,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, missed);
        device.send(b"and on");
        driver.received(&addr, b"and on");
        let last = eventually("the tap goes on", || Some(tap.next()).filter(|message| message.ends_with("and on")));
        assert_eq!(last, "received 127.0.0.1 0 and on");
    });
}

fn a_tap_that_does_not_read_does_not_hold_a_drain_up(shards: usize) {
    let mut daemon = Setup::new(shards).limit("stall-ms-max", STALL_MS).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let _tap = Tap::open(&daemon, "tcp", port, "");
    let mut device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    let data = pattern(1, 0, 64 << 10);
    while daemon.count("tap_messages_dropped") == 0 {
        device.send(&data);
        driver.received(&addr, &data);
    }
    daemon.signal(rustix::process::Signal::TERM);
    driver.closed(&addr);
    assert_eq!(driver.close_reason().0, 1001);
    drop((driver, device));
    assert!(daemon.exits().success());
}

fn a_tap_ends_with_the_daemon(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let mut tap = Tap::open(&daemon, "tcp", port, "");
    let _device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    daemon.signal(rustix::process::Signal::TERM);
    driver.closed(&addr);
    assert_eq!(driver.close_reason().0, 1001);
    tap.sees(&["opened 127.0.0.1 0", "closed 127.0.0.1 0", "port closed"]);
    assert_eq!(tap.0.close_reason(), (1001, "the daemon stops".to_owned()));
    drop((driver, tap));
    assert!(daemon.exits().success());
}

fn taps_are_so_many_at_most(shards: usize) {
    Setup::new(shards).limit("taps-max", 3).run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.1");
        let mut taps: Vec<_> = (0..3).map(|_| Tap::open(daemon, "tcp", port, "")).collect();
        let target = format!("{}/tap?transport=tcp&port={port}", BASES[0]);
        let refused = daemon.upgrade(&target, "").err().expect("no room");
        assert_eq!((refused.status, refused.member("error").as_str()), (503, "no room for another tap"));
        assert!(daemon.fetch("/metrics").text().contains("dispatch_joins_refused_total{reason=\"too_many_taps\"} 1\n"));
        taps.pop();
        eventually("the place is given back", || daemon.upgrade(&target, "").ok());
    });
}

fn a_tap_reserves_memory_and_is_refused_where_there_is_none(shards: usize) {
    // Room for a driver, and not for a tap beside it.
    Setup::new(shards).limit("session-memory-bytes-max", 2 << 20).run(|daemon| {
        let port = free_port();
        let tap = Tap::begin(daemon, "tcp", port, "");
        assert!(Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_session_memory_bytes") > 1.5e6);
        drop(tap);
        until_sample(daemon, "dispatch_tap_slots", 0.0);
        let _driver = daemon.join_tcp(port, "127.0.0.1");
        let target = format!("{}/tap?transport=tcp&port={port}", BASES[0]);
        let refused = daemon.upgrade(&target, "").err().expect("no room");
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert!(refused.text().contains("memory for sessions"), "{}", refused.text());
    });
}

fn a_bad_request_is_refused_and_says_why(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.1");
        let target = |query: &str| format!("{}/tap?{query}", BASES[1]);
        let whole = format!("transport=tcp&port={port}");
        for (query, status, parameter) in [
            (format!("port={port}"), 422, "transport"),
            ("transport=tcp".to_owned(), 422, "port"),
            (format!("transport=sctp&port={port}"), 400, "transport"),
            ("transport=tcp&port=0".to_owned(), 400, "port"),
            (format!("{whole}&device=host"), 400, "device"),
            (format!("{whole}&module={}", "m".repeat(129)), 400, "module"),
        ] {
            let refused = daemon.upgrade(&target(&query), "").err().expect("a bad request");
            assert_eq!((refused.status, refused.member("parameter").as_str()), (status, parameter), "{query}");
        }
        let mut connection = Connection::open(daemon.api());
        assert_eq!(connection.request("GET", &target(&whole), UPGRADE).status, 401);
        assert_eq!(connection.request("GET", &target(&whole), AUTH).status, 426);
        assert_eq!(connection.request("POST", &target(&whole), AUTH).status, 405);
    });
}
