//! Proves that a tap sees a port as it is, in both directions, and that nobody feels it.

use std::time::Duration;

use uring_dispatch::protocol::tapped::{TapEvent, Tapped};

use crate::harness::{Addr, Connection, Daemon, Datagrams, Device, Frame, Metrics, Setup, Transport, Wire};
use crate::harness::{BASES, Opcode, UPGRADE, eventually, free_port, pattern, write};

scenarios! {
    a_tap_sees_both_directions_of_a_device_in_order,
    a_tap_sees_datagrams_in_both_directions,
    what_came_with_a_balancers_header_is_tapped,
    a_message_for_two_drivers_is_tapped_once,
    a_tap_may_be_for_one_device,
    a_tap_may_be_for_one_driver,
    a_write_that_is_dropped_is_not_tapped,
    a_large_write_is_tapped_whole_in_parts,
    a_tap_that_does_not_read_slows_nobody_and_is_told_what_it_missed,
    a_tap_of_a_closed_port_waits_for_it_and_goes_on_when_it_opens_again,
    a_tap_that_leaves_leaves_the_port_as_it_is,
    a_tap_cannot_write,
    a_tap_is_no_driver_and_is_counted_for_itself,
    a_device_that_the_operator_disconnects_is_tapped_to_its_end,
    a_tap_ends_with_the_daemon,
    a_tap_that_does_not_read_does_not_hold_a_drain_up,
    taps_are_so_many_at_most,
    a_tap_reserves_memory_and_is_refused_where_there_is_none,
    a_broadcast_is_tapped_and_so_is_every_write_of_a_burst,
    a_bad_request_is_refused_and_says_why,
}

const AUTH: &str = "Authorization: Bearer testing\r\n";

/// Long enough that a tap which does not read is not let go in a test.
const STALL_MS: usize = 600_000;

/// A tap, spoken to in frames.
struct Tap(Wire);

impl Tap {
    /// A tap that has not been told whether its port is open.
    fn begin(daemon: &Daemon, transport: &str, port: u16, more: &str) -> Self {
        let target = format!("{}/tap?transport={transport}&port={port}{more}", BASES[1]);
        let connection = daemon.upgrade(&target, "").unwrap_or_else(|response| panic!("refused: {response:?}"));
        let (stream, pending) = connection.into_parts();
        Self(Wire::new(stream, pending))
    }

    /// A tap of a port that is open.
    fn open(daemon: &Daemon, transport: &str, port: u16, more: &str) -> Self {
        let mut tap = Self::begin(daemon, transport, port, more);
        tap.sees(&["port open"]);
        tap
    }

    /// The next message in words.
    fn next(&mut self) -> String {
        words(&self.0.data_frame())
    }

    /// Fails unless the next messages are these.
    fn sees(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next(), *expected);
        }
    }
}

/// A message in words.
fn words(frame: &Frame) -> String {
    assert_eq!(frame.first, 0x82, "no message: {frame:?}");
    let Tapped { time_us, event } = Tapped::decode(&frame.payload).unwrap();
    assert!(time_us > 1_700_000_000_000_000, "{time_us}");
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    match event {
        TapEvent::Opened { device } => format!("opened {:?} {}", device.ip, device.id_or_port),
        TapEvent::Closed { device } => format!("closed {:?} {}", device.ip, device.id_or_port),
        TapEvent::Received { device, data } => {
            format!("received {:?} {} {}", device.ip, device.id_or_port, text(data))
        }
        TapEvent::Write { device, module, data } => {
            format!("write {:?} {} by {module} {}", device.ip, device.id_or_port, text(data))
        }
        TapEvent::Close { device, module } => format!("close {:?} {} by {module}", device.ip, device.id_or_port),
        TapEvent::Dropped { count } => format!("dropped {count}"),
        TapEvent::PortOpen => "port open".to_owned(),
        TapEvent::PortClosed => "port closed".to_owned(),
    }
}

/// Waits until a metric has this value.
fn until_sample(daemon: &Daemon, series: &str, value: f64) {
    eventually(&format!("{series} is {value}"), || {
        let metrics = Metrics::parse(daemon.fetch("/metrics").text());
        (metrics.value(series) == value).then_some(())
    });
}

fn a_tap_sees_both_directions_of_a_device_in_order(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for _ in 0..3 {
            device.send(b"ask");
            driver.received(&addr, b"ask");
            driver.write(&addr, b"answer");
            device.expect(b"answer");
        }
        driver.close(&addr);
        device.ends();
        driver.closed(&addr);
        tap.sees(&["opened 127.0.0.1 0"]);
        for _ in 0..3 {
            tap.sees(&["received 127.0.0.1 0 ask", "write 127.0.0.1 0 by mod-1 answer"]);
        }
        tap.sees(&["close 127.0.0.1 0 by mod-1", "closed 127.0.0.1 0"]);
    });
}

fn a_tap_sees_datagrams_in_both_directions(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Udp, port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "udp", port, "");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        let largest = pattern(1, 0, 65_507);
        for data in [b"hi".as_slice(), b"", &largest] {
            device.send(port, data);
            driver.datagram(&addr, data);
            driver.write(&addr, data);
            let text = String::from_utf8_lossy(data);
            assert!(tap.next() == format!("received 127.0.0.1 {} {text}", device.port()));
            assert!(tap.next() == format!("write 127.0.0.1 {} by mod-1 {text}", device.port()));
        }
    });
}

fn what_came_with_a_balancers_header_is_tapped(shards: usize) {
    Setup::new(shards).variable("DISPATCH_DEVICE_PROXY_FROM", "127.0.0.9").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "192.0.2.7");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.9", port);
        device.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\nfirst");
        let addr = driver.opened();
        driver.received(&addr, b"first");
        tap.sees(&["opened 192.0.2.7 0", "received 192.0.2.7 0 first"]);
        drop(device);
        tap.sees(&["closed 192.0.2.7 0"]);
    });
}

fn a_message_for_two_drivers_is_tapped_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut drivers = [daemon.join_tcp(port, "127.0.0.1"), daemon.join_tcp(port, "127.0.0.0/8")];
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        device.send(b"once");
        for driver in &mut drivers {
            let addr = driver.opened();
            driver.received(&addr, b"once");
        }
        drivers[1].write(&Addr::new("127.0.0.1", 0), b"back");
        tap.sees(&["opened 127.0.0.1 0", "received 127.0.0.1 0 once", "write 127.0.0.1 0 by  back"]);
    });
}

fn a_tap_may_be_for_one_device(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.0/8");
        let mut of_address = Tap::open(daemon, "tcp", port, "&device=127.0.0.2");
        let mut of_device = Tap::open(daemon, "tcp", port, "&device=127.0.0.1%3A2");
        let mut devices: Vec<_> = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
            .into_iter()
            .map(|source| {
                let device = Device::connect(source, port);
                (driver.opened(), device)
            })
            .collect();
        for (addr, device) in &mut devices {
            device.send(b"x");
            driver.received(addr, b"x");
            driver.write(addr, b"y");
            device.expect(b"y");
        }
        of_address.sees(&["opened 127.0.0.2 1", "received 127.0.0.2 1 x", "write 127.0.0.2 1 by mod-1 y"]);
        of_device.sees(&["opened 127.0.0.1 2", "received 127.0.0.1 2 x", "write 127.0.0.1 2 by mod-1 y"]);
        drop(devices);
        of_address.sees(&["closed 127.0.0.2 1"]);
        of_device.sees(&["closed 127.0.0.1 2"]);
    });
}

fn a_tap_may_be_for_one_driver(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.0/16");
        let mut second = daemon.join_as("mod-2", Transport::Tcp, port, "127.0.0.2,127.1.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "&module=mod-2");
        let mut others = Device::connect("127.0.0.1", port);
        let addr = first.opened();
        others.send(b"to the first alone");
        first.received(&addr, b"to the first alone");
        let mut shared = Device::connect("127.0.0.2", port);
        let addr = first.opened();
        assert_eq!(second.opened(), addr);
        shared.send(b"to both");
        first.received(&addr, b"to both");
        second.received(&addr, b"to both");
        first.write(&addr, b"of the first");
        shared.expect(b"of the first");
        second.write(&addr, b"of the second");
        shared.expect(b"of the second");
        tap.sees(&["opened 127.0.0.2 1", "received 127.0.0.2 1 to both", "write 127.0.0.2 1 by mod-2 of the second"]);
        // Disconnected as its driver leaves.
        let mut own = Device::connect("127.1.0.1", port);
        second.opened();
        second.leave();
        own.ends();
        tap.sees(&["opened 127.1.0.1 2", "closed 127.1.0.1 2"]);
    });
}

fn a_write_that_is_dropped_is_not_tapped(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&Addr::new("127.0.0.1", 7), b"to nobody");
        driver.write(&addr, b"to it");
        device.expect(b"to it");
        tap.sees(&["opened 127.0.0.1 0", "write 127.0.0.1 0 by  to it"]);
    });
}

fn a_large_write_is_tapped_whole_in_parts(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        // Three parts, the last a short one.
        let data = pattern(3, 0, 140_000);
        driver.write(&addr, &data);
        device.expect(&data);
        tap.sees(&["opened 127.0.0.1 0"]);
        let mut seen = Vec::new();
        while seen.len() < data.len() {
            let frame = tap.0.data_frame();
            match Tapped::decode(&frame.payload).unwrap().event {
                TapEvent::Write { data, .. } => seen.extend_from_slice(data),
                other => panic!("{other:?}"),
            }
        }
        assert!(seen == data);
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

fn a_device_that_the_operator_disconnects_is_tapped_to_its_end(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        assert_eq!(daemon.ask("DELETE", &format!("{}/devices/tcp/{port}/0", BASES[1])).status, 200);
        driver.closed(&addr);
        device.ends();
        tap.sees(&["opened 127.0.0.1 0", "closed 127.0.0.1 0"]);
    });
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
    assert!(daemon.exit_within(Duration::from_secs(5)).success());
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
    assert!(daemon.exit_within(Duration::from_secs(5)).success());
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

fn a_broadcast_is_tapped_and_so_is_every_write_of_a_burst(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "udp", port, "");
        let device = Datagrams::bind("0.0.0.0");
        driver.write(&Addr::new("127.255.255.255", device.port()), b"who is there");
        device.expect(b"who is there");
        assert_eq!(tap.next(), format!("write 127.255.255.255 {} by  who is there", device.port()));
        // Read together, carried out together, and sent to the device in few sends.
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        tap.sees(&["opened 127.0.0.1 0"]);
        for number in 0..500 {
            driver.write(&addr, format!("{number:03}").as_bytes());
        }
        for number in 0..500 {
            device.expect(format!("{number:03}").as_bytes());
            assert_eq!(tap.next(), format!("write 127.0.0.1 0 by  {number:03}"));
        }
    });
}
