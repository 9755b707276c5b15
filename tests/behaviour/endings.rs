//! Proves how the daemon ends: it delivers, says goodbye and exits in time, and starts again at once on the same ports.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    Addr, BASES, Daemon, Datagrams, Device, Driver, Event, Setup, Story, Transport, eventually, free_port, pattern,
};

scenarios! {
    sigterm_closes_each_device_then_each_driver_and_exits_with_0,
    sigint_is_sigterm,
    what_was_read_before_the_drain_is_delivered,
    what_was_written_before_the_drain_is_delivered,
    a_write_that_waits_for_credit_when_the_drain_begins_is_delivered,
    a_driver_that_does_not_answer_the_goodbye_does_not_hold_the_exit_up,
    nobody_is_let_in_while_the_daemon_drains,
    a_daemon_that_drains_is_not_ready,
    a_flooded_daemon_drains,
    a_drain_that_cannot_finish_exits_with_0_at_its_deadline,
    a_second_signal_exits_at_once,
    ten_restarts_in_a_row_find_their_ports_free,
    a_killed_daemon_starts_again_on_its_ports,
    whoever_is_let_in_while_the_daemon_starts_is_answered,
}

/// More than the buffers of the kernel on both sides hold, so that some of it waits in the daemon.
const BEYOND_THE_KERNEL: usize = 12_000_000;
/// A window that takes all of it.
const WINDOW: usize = 16 << 20;

/// Fails unless each of these devices is closed, in any order, and then the daemon says goodbye.
fn expect_goodbye(driver: &mut Driver, devices: &[Addr]) {
    let mut closed: Vec<_> = devices
        .iter()
        .map(|_| match driver.event() {
            Event::Closed(addr) => addr,
            other => panic!("{other:?} instead of CLOSED"),
        })
        .collect();
    closed.sort();
    assert_eq!(closed, devices);
    assert_eq!(driver.close_reason().0, 1001);
    driver.ends();
}

fn drains_on(signal: Signal, shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let (tcp, other, udp) = (free_port(), free_port(), free_port());
    let mut one = daemon.join_tcp(tcp, "127.0.0.1");
    let mut both = daemon.join_tcp(tcp, "127.0.0.0/8");
    let mut elsewhere = daemon.join_tcp(other, "::1");
    let mut datagrams = daemon.join_udp(udp, "127.0.0.1");
    let mut devices = Vec::new();
    for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        devices.push(Device::connect(source, tcp));
        both.opened();
    }
    one.opened();
    devices.push(Device::connect("::1", other));
    elsewhere.opened();
    daemon.signal(signal);
    std::thread::scope(|scope| {
        let addr = |source: &str, id| Addr::new(source, id);
        scope.spawn(move || expect_goodbye(&mut one, &[addr("127.0.0.1", 0)]));
        scope.spawn(move || {
            let all = [addr("127.0.0.1", 0), addr("127.0.0.2", 1), addr("127.0.0.3", 2)];
            expect_goodbye(&mut both, &all);
        });
        scope.spawn(move || expect_goodbye(&mut elsewhere, &[addr("::1", 0)]));
        scope.spawn(move || expect_goodbye(&mut datagrams, &[]));
        for mut device in devices {
            scope.spawn(move || device.ends());
        }
    });
    let status = daemon.exits();
    assert_eq!(status.code(), Some(0));
}

fn sigterm_closes_each_device_then_each_driver_and_exits_with_0(shards: usize) {
    drains_on(Signal::TERM, shards);
}

fn sigint_is_sigterm(shards: usize) {
    drains_on(Signal::INT, shards);
}

fn what_was_read_before_the_drain_is_delivered(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    // The driver does not read it yet, and there is room for all of it.
    let data = pattern(1, 0, 200_000);
    device.send(&data);
    daemon.until_count("device_bytes_received", 200_000);
    daemon.signal(Signal::TERM);
    device.ends();
    drop(device);
    driver.received(&addr, &data);
    expect_goodbye(&mut driver, &[addr]);
    assert_eq!(daemon.exits().code(), Some(0));
}

/// A daemon whose drain lasts for as long as a device does not read.
fn held_up(shards: usize) -> Setup {
    Setup::new(shards).limit("drain-ms-max", 120_000).limit("flush-ms-max", 120_000)
}

/// A daemon with a device that has not read what was written to it, more of it than the kernel holds.
fn with_much_written(setup: Setup) -> (Daemon, Driver, Device, Addr) {
    let daemon = setup.limit("write-window-bytes-max", WINDOW).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
    let device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
    let addr = driver.opened();
    let mut other = Device::connect("127.0.0.2", port);
    let other_addr = driver.opened();
    for part in pattern(2, 0, BEYOND_THE_KERNEL).chunks(60_000) {
        driver.write(&addr, part);
    }
    // Its arrival says that all before it has been decided on.
    driver.write(&other_addr, b"in turn");
    other.expect(b"in turn");
    drop(other);
    driver.closed(&other_addr);
    (daemon, driver, device, addr)
}

fn what_was_written_before_the_drain_is_delivered(shards: usize) {
    let (mut daemon, mut driver, mut device, addr) = with_much_written(held_up(shards));
    daemon.signal(Signal::TERM);
    device.expect(&pattern(2, 0, BEYOND_THE_KERNEL));
    device.ends();
    drop(device);
    expect_goodbye(&mut driver, &[addr]);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_write_that_waits_for_credit_when_the_drain_begins_is_delivered(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let mut device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
    let addr = driver.opened();
    // Takes the whole window, and more than the kernel holds.
    let large = pattern(3, 0, 900_000);
    driver.write(&addr, &large);
    driver.write(&addr, b"after it");
    daemon.until_count("credit_waits", 1);
    daemon.signal(Signal::TERM);
    // Longer than the drain leaves writes on their way to arrive by themselves.
    std::thread::sleep(Duration::from_millis(400));
    device.expect(&large);
    device.expect(b"after it");
    device.ends();
    drop(device);
    expect_goodbye(&mut driver, &[addr]);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_driver_that_does_not_answer_the_goodbye_does_not_hold_the_exit_up(shards: usize) {
    let mut daemon = held_up(shards).start();
    let mut wire = daemon.wire(Transport::Tcp, free_port(), "127.0.0.1");
    daemon.signal(Signal::TERM);
    assert_eq!(wire.close_reason().0, 1001);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn nobody_is_let_in_while_the_daemon_drains(shards: usize) {
    let (mut daemon, driver, device, _) = with_much_written(held_up(shards));
    let port = device.peer_port();
    daemon.signal(Signal::TERM);
    eventually("the port is closed", || Device::try_connect("127.0.0.1", port).err());
    eventually("the API is closed", || TcpStream::connect(daemon.api()).err());
    assert!(daemon.is_running(), "nothing held the drain up");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(130));
    drop((driver, device));
}

fn a_daemon_that_drains_is_not_ready(shards: usize) {
    let (mut daemon, driver, device, _) = with_much_written(held_up(shards));
    let mut connection = daemon.connection();
    let mut ready = || connection.request("GET", &format!("{}/readyz", BASES[0]), "");
    assert_eq!(ready().status, 200);
    daemon.signal(Signal::TERM);
    let response = eventually("it says that it is not ready", || Some(ready()).filter(|said| said.status != 200));
    assert_eq!((response.status, &*response.member("error")), (503, "the daemon is stopping"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(130));
    drop((driver, device));
}

fn a_flooded_daemon_drains(shards: usize) {
    const COUNT: usize = 60;
    let mut daemon = Setup::new(shards).variable("LOG_LEVEL", "info").start();
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let devices: Vec<_> = (0..COUNT).map(|_| Device::connect("127.0.0.1", port)).collect();
    std::thread::scope(|scope| {
        for mut device in devices {
            // One that meets a full window as the process ends hears of that late.
            scope.spawn(move || while device.try_send(&[7; 1_000]).is_ok() {});
        }
        let mut story = Story::default();
        while story.told() < COUNT {
            story.take(&wire.event());
        }
        daemon.signal(Signal::TERM);
        story.take_to_goodbye(&mut wire);
        assert_eq!((story.told(), story.closed()), (COUNT, COUNT), "the goodbye came before CLOSED");
        drop(wire);
    });
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_drain_that_cannot_finish_exits_with_0_at_its_deadline(shards: usize) {
    let (mut daemon, driver, device, _) =
        with_much_written(Setup::new(shards).limit("drain-ms-max", 1_500).limit("flush-ms-max", 120_000));
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    let status = daemon.exits();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0));
    // It did not end before it, and the default is 10 s.
    assert!((Duration::from_millis(1_300)..Duration::from_secs(10)).contains(&took), "{took:?}");
    drop((driver, device));
}

fn a_second_signal_exits_at_once(shards: usize) {
    for [first, second] in [[Signal::TERM, Signal::TERM], [Signal::INT, Signal::INT], [Signal::TERM, Signal::INT]] {
        let (mut daemon, driver, device, _) = with_much_written(held_up(shards));
        let port = device.peer_port();
        daemon.signal(first);
        eventually("the drain has begun", || Device::try_connect("127.0.0.1", port).err());
        assert!(daemon.is_running(), "nothing held the drain up");
        daemon.signal(second);
        assert_eq!(daemon.exits().code(), Some(130), "{first:?}, then {second:?}");
        drop((driver, device));
    }
}

/// Joins the same two ports each time, with a device on one, and fails unless both work.
fn join_and_exchange(daemon: &Daemon, tcp: u16, udp: u16) -> (Driver, Driver, Device) {
    let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", tcp);
    let addr = driver.opened();
    assert_eq!(addr.id, 0);
    device.send(b"hello");
    driver.received(&addr, b"hello");
    let mut other = daemon.join_udp(udp, "127.0.0.1");
    let datagrams = Datagrams::bind("127.0.0.1");
    datagrams.send(udp, b"hello");
    other.datagram(&Addr::new("127.0.0.1", datagrams.port()), b"hello");
    (driver, other, device)
}

fn ten_restarts_in_a_row_find_their_ports_free(shards: usize) {
    let (api, tcp, udp) = (free_port(), free_port(), free_port());
    for _ in 0..10 {
        let mut daemon = Setup::new(shards).api_port(api).start();
        let (mut driver, mut other, mut device) = join_and_exchange(&daemon, tcp, udp);
        daemon.signal(Signal::TERM);
        // The daemon closes first, so its ends stay in TIME_WAIT: of the device and of the drivers.
        device.ends();
        drop(device);
        expect_goodbye(&mut driver, &[Addr::new("127.0.0.1", 0)]);
        expect_goodbye(&mut other, &[]);
        drop((driver, other));
        assert_eq!(daemon.exits().code(), Some(0));
    }
}

fn a_killed_daemon_starts_again_on_its_ports(shards: usize) {
    let (api, tcp, udp) = (free_port(), free_port(), free_port());
    for _ in 0..3 {
        let mut daemon = Setup::new(shards).api_port(api).start();
        // The kernel takes a killed ring apart after the process has gone, and holds its ports until then.
        for (transport, port) in [(Transport::Tcp, tcp), (Transport::Udp, udp)] {
            let free = || daemon.try_join(transport, &port.to_string(), "127.0.0.1").ok();
            eventually("the port is given back", free).leave();
        }
        let joined = join_and_exchange(&daemon, tcp, udp);
        daemon.signal(Signal::KILL);
        daemon.exits();
        drop(joined);
    }
    let daemon = Setup::new(shards).api_port(api).start();
    assert_eq!(daemon.fetch(&format!("{}/healthz", BASES[0])).status, 200);
    daemon.assert_drains();
}

fn whoever_is_let_in_while_the_daemon_starts_is_answered(shards: usize) {
    for _ in 0..30 {
        let api = free_port();
        let daemon = Setup::new(shards).api_port(api).spawn();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut first = loop {
            // Again at once: what listens for a moment only is met, too.
            match TcpStream::connect(("127.0.0.1", api)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        first.write_all(format!("GET {}/healthz HTTP/1.1\r\nHost: h\r\n\r\n", BASES[0]).as_bytes()).unwrap();
        let mut answer = [0; 12];
        first.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        drop(first);
        daemon.assert_drains();
    }
}
