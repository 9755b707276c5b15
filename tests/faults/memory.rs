//! Proves that a daemon with little memory refuses drivers instead of dying, whatever drivers and devices do.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::control_group::ControlGroup;
use crate::harness::{
    Addr, BASES, Daemon, Device, Metrics, Opcode, Transport, Wire, eventually, frame, free_port, join_target,
    raise_descriptor_limit, request, write,
};
use crate::service::{alone, served_during, setup};

const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 250 * MIB;
const DRIVERS: usize = 300;

/// A driver that never reads, with a device that floods it and one that never reads what is written to it.
struct Slow {
    _driver: Wire,
    flooding: TcpStream,
    _deaf: Device,
}

/// Joins as many slow drivers as there is room for, each with so many writes of 60 kB, or as many as are taken; says how many were refused for want of it.
fn join_slow(daemon: &Daemon, writes: usize) -> (Vec<Slow>, usize) {
    let message = frame(0x80 | Opcode::Binary as u8, &write(&Addr::new("127.0.0.1", 1), &[7; 60_000]));
    let mut refused = 0;
    let mut slow = Vec::new();
    for _ in 0..DRIVERS {
        let port = free_port();
        let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
        match daemon.upgrade(&target, "") {
            Ok(connection) => {
                // Nobody reads it from here on.
                let (stream, pending) = connection.into_parts();
                let mut driver = Wire::new(stream, pending);
                driver.set_write_patience(Duration::from_millis(10));
                let flooding = TcpStream::connect(("127.0.0.1", port)).unwrap();
                flooding.set_nonblocking(true).unwrap();
                eventually("it has the first id", || (daemon.held("devices") as usize > 2 * slow.len()).then_some(()));
                let deaf = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
                let _ = (0..writes).try_for_each(|_| driver.try_send(&message));
                slow.push(Slow { _driver: driver, flooding, _deaf: deaf });
            }
            Err(response) => {
                assert_eq!(response.status, 503, "{response:?}");
                refused += 1;
            }
        }
    }
    (slow, refused)
}

/// Attacks with slow drivers and floods; says how many were refused.
fn attack(daemon: &Daemon, writes: usize) -> usize {
    let (mut slow, refused) = join_slow(daemon, writes);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        for slow in &mut slow {
            // Each as much as its driver gets, so that the kernel's memory for all of this host is left in peace.
            let _ = (0..writes).try_for_each(|_| slow.flooding.write_all(&[7; 8 * 1024]));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    refused
}

/// Lets 300 slow drivers at a daemon in this group, and sees to the others.
fn overload(group: &ControlGroup, writes: usize) {
    raise_descriptor_limit();
    let _alone = alone();
    let wrapper = group.wrapper();
    let words: Vec<_> = wrapper.iter().map(String::as_str).collect();
    setup(3).under(&words).limit("stall-ms-max", 60_000).limit("credit-wait-ms-max", 60_000).run(|daemon| {
        let refused = std::cell::Cell::new(0);
        let toll = served_during(daemon, || refused.set(attack(daemon, writes)));
        eprintln!("{} of {DRIVERS} refused: {toll:?}", refused.get());
        assert!(refused.get() > 0, "all had room, and the limit was not met");
        assert!(refused.get() < DRIVERS - 50, "only {} had room", DRIVERS - refused.get());
    });
    assert_eq!(group.killed(), 0);
}

#[test]
fn three_hundred_slow_drivers_fit_into_the_memory_of_a_container() {
    let Some(group) = ControlGroup::new(LIMIT_BYTES) else { return };
    // Some more than the window.
    overload(&group, 12);
    let peak = group.peak_bytes();
    assert!(peak < LIMIT_BYTES * 9 / 10, "a peak of {} MiB, close to the limit", peak / MIB);
}

#[test]
fn three_hundred_slow_drivers_fit_into_the_memory_of_a_container_with_their_sockets() {
    let Some(group) = ControlGroup::new(LIMIT_BYTES) else { return };
    group.count_sockets(4 << 30);
    overload(&group, usize::MAX);
    let (peak, sockets) = (group.peak_bytes(), group.peak_socket_bytes());
    let all = peak + sockets;
    assert!(all < LIMIT_BYTES, "a peak of {} MiB, and {} MiB of sockets", peak / MIB, sockets / MIB);
}

/// What is reserved for sessions and their messages.
fn reserved_bytes(daemon: &Daemon) -> f64 {
    Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_session_memory_bytes")
}

#[test]
fn a_large_message_of_each_driver_waits_for_memory_and_does_not_take_it() {
    raise_descriptor_limit();
    let Some(group) = ControlGroup::new(LIMIT_BYTES) else { return };
    let _alone = alone();
    let wrapper = group.wrapper();
    let words: Vec<_> = wrapper.iter().map(String::as_str).collect();
    setup(1).under(&words).limit("credit-wait-ms-max", 1_000).run(|daemon| {
        let toll = served_during(daemon, || {
            let mut drivers: Vec<_> = (0..120).map(|_| daemon.wire(Transport::Tcp, free_port(), "127.0.0.1")).collect();
            let (before, mut taken) = (reserved_bytes(daemon), 0_f64);
            let whole = frame(0x82, &request(3, "127.0.0.1", 0, 1_000_000, &[7; 1_000_000]));
            for driver in &mut drivers {
                driver.set_write_patience(Duration::from_millis(10));
                // All but its end.
                let _ = driver.try_send(&whole[..whole.len() - 10]);
                taken = taken.max(reserved_bytes(daemon) - before);
            }
            // A busy machine sends less of each in its time.
            assert!(taken > 8.0 * MIB as f64, "messages never had more than {taken} bytes");
        });
        let peak = group.peak_bytes();
        eprintln!("a peak of {} MiB: {toll:?}", peak / MIB);
        assert!(peak < LIMIT_BYTES * 9 / 10, "a peak of {peak} bytes, close to the limit");
        assert_eq!(group.killed(), 0);
    });
}

/// What a limit on the process's data does, which the control group does not say.
fn under_data_limit(scenario: impl FnOnce(&Daemon)) {
    raise_descriptor_limit();
    let _alone = alone();
    let wrapper = ["prlimit", "--data=120000000:120000000"];
    setup(1).under(&wrapper).limit("stall-ms-max", 60_000).limit("credit-wait-ms-max", 60_000).run(scenario);
}

#[test]
fn slow_drivers_beyond_the_data_limit_are_refused() {
    under_data_limit(|daemon| {
        let refused = attack(daemon, 12);
        assert!(refused > 0, "all had room, and the limit was not met");
        eventually("the daemon answers", || (daemon.fetch("/api/server").status == 200).then_some(()));
    });
}
