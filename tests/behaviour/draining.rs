//! Proves that a drain ends in good order though a driver reads nothing, devices flood or take nothing, and others ask to join.

use std::net::TcpStream;

use rustix::process::Signal;

use crate::harness::{
    Addr, BASES, Daemon, Device, Driver, Event, Setup, Story, Transport, UPGRADE, Wire, eventually, free_port,
    join_target, pattern,
};

scenarios! {
    a_driver_that_reads_late_hears_closed_of_each_device_that_floods_and_goodbye,
    a_driver_that_never_reads_does_not_hold_the_exit_up,
    the_driver_of_a_device_that_takes_nothing_hears_closed_and_goodbye_at_the_deadline,
    a_join_over_a_connection_that_was_kept_is_503_while_the_daemon_drains,
}

/// Devices that flood a driver.
const FLOODING: usize = 5;

/// Runs the rest of a scenario with a driver that has read nothing but OPENED, while devices send until nobody takes it.
fn with_flood(setup: Setup, rest: impl FnOnce(Daemon, Wire, Story)) {
    let daemon = setup.variable("LOG_LEVEL", "info").start();
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let devices: Vec<_> = (0..FLOODING).map(|_| Device::connect("127.0.0.1", port)).collect();
    let mut story = Story::default();
    while story.told() < FLOODING {
        story.take(&wire.event());
    }
    let handles: Vec<_> = devices.iter().map(Device::another_handle).collect();
    std::thread::scope(|scope| {
        for mut device in devices {
            scope.spawn(move || while device.try_send(&[7; 10_000]).is_ok() {});
        }
        daemon.until_count("outbox_waits", 1);
        rest(daemon, wire, story);
        handles.iter().for_each(Device::hang_up);
    });
}

fn a_driver_that_reads_late_hears_closed_of_each_device_that_floods_and_goodbye(shards: usize) {
    let setup = Setup::new(shards).limit("drain-ms-max", 120_000).limit("stall-ms-max", 120_000);
    with_flood(setup, |mut daemon, mut wire, mut story| {
        daemon.signal(Signal::TERM);
        eventually("the API is closed", || TcpStream::connect(daemon.api()).err());
        story.take_to_goodbye(&mut wire);
        assert_eq!((story.told(), story.closed()), (FLOODING, FLOODING), "the goodbye came before CLOSED");
        drop(wire);
        assert_eq!(daemon.exits().code(), Some(0));
    });
}

fn a_driver_that_never_reads_does_not_hold_the_exit_up(shards: usize) {
    with_flood(Setup::new(shards).limit("drain-ms-max", 1_500), |mut daemon, mut wire, mut story| {
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.exits().code(), Some(0));
        // What is in its socket is as it should be, as far as it goes.
        while let Ok(frame) = wire.try_frame() {
            match frame.first {
                0x82 => drop(story.take(&Event::decode(&frame.payload))),
                0x88 => assert_eq!(frame.close_reason().0, 1001),
                _ => {}
            }
        }
    });
}

/// A daemon with a device that reads nothing of what was written to it, more than the kernel holds.
fn with_deaf_device(setup: Setup) -> (Daemon, Driver, Device, Addr) {
    let daemon = setup.limit("flush-ms-max", 120_000).start();
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
    let addr = driver.opened();
    driver.write(&addr, &pattern(1, 0, 900_000));
    daemon.until_count("messages_from_drivers", 1);
    (daemon, driver, device, addr)
}

fn the_driver_of_a_device_that_takes_nothing_hears_closed_and_goodbye_at_the_deadline(shards: usize) {
    let (mut daemon, mut driver, device, addr) = with_deaf_device(Setup::new(shards).limit("drain-ms-max", 15_000));
    daemon.signal(Signal::TERM);
    driver.closed(&addr);
    assert_eq!(driver.close_reason().0, 1001);
    driver.ends();
    assert_eq!(daemon.exits().code(), Some(0));
    drop(device);
}

fn a_join_over_a_connection_that_was_kept_is_503_while_the_daemon_drains(shards: usize) {
    let setup = Setup::new(shards).limit("drain-ms-max", 120_000).limit("request-head-ms-max", 120_000);
    let (mut daemon, driver, device, _) = with_deaf_device(setup);
    let mut kept: Vec<_> = (0..20).map(|_| daemon.connection()).collect();
    kept.iter_mut().for_each(|connection| assert_eq!(connection.request("GET", "/", "").status, 200));
    daemon.signal(Signal::TERM);
    eventually("the port is closed", || Device::try_connect("127.0.0.1", device.peer_port()).err());
    for (transport, base) in [(Transport::Tcp, BASES[0]), (Transport::Udp, BASES[1])] {
        let target = join_target(base, transport, &free_port().to_string(), "127.0.0.1");
        // A shard that has not heard of it yet lets one in, and ends it with the others.
        let (answer, connection) = eventually("no driver is let in any more", || {
            let mut connection = kept.pop().unwrap();
            let answer = connection.request("GET", &target, &format!("Authorization: Bearer testing\r\n{UPGRADE}"));
            (answer.status != 101).then_some((answer, connection))
        });
        assert_eq!((answer.status, answer.member("error").as_str()), (503, "the daemon is stopping"));
        assert_eq!(answer.header("connection"), Some("close"));
        connection.ends();
    }
    daemon.signal(Signal::TERM);
    daemon.exits();
    drop((driver, device));
}
