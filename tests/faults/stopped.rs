//! Proves that a daemon that does not run for a while, as on a host that is paused, loses nothing and lets nobody go for it.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    Addr, Daemon, Datagrams, Device, Event, Opcode, Setup, Transport, eventually, free_port, pattern, write,
};

scenarios! {
    a_pause_loses_nothing_and_lets_nobody_go,
    a_pause_longer_than_the_limits_lets_nobody_go_who_is_alive,
    a_pause_longer_than_the_credit_wait_lets_no_device_go_that_reads,
    a_pause_during_transfers_both_ways_loses_nothing,
}

/// Limits of this many milliseconds; pings a quarter of it apart.
fn scaled(shards: usize, limit_ms: usize) -> Setup {
    Setup::new(shards)
        .limit("ping-interval-ms", limit_ms / 4)
        .limit("driver-silence-ms-max", limit_ms)
        .limit("stall-ms-max", limit_ms)
        .limit("credit-wait-ms-max", limit_ms)
}

fn pause(daemon: &Daemon, time: Duration) {
    daemon.signal(Signal::STOP);
    std::thread::sleep(time);
    daemon.signal(Signal::CONT);
}

fn a_pause_loses_nothing_and_lets_nobody_go(shards: usize) {
    // The pause stands for ten seconds among limits of twenty.
    scaled(shards, 6_000).run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", tcp);
        let addr = driver.opened();
        let mut datagrams = daemon.join_udp(udp, "127.0.0.1");
        let udp_device = Datagrams::bind("127.0.0.1");
        let udp_addr = Addr::new("127.0.0.1", udp_device.port());
        daemon.signal(Signal::STOP);
        let (up, down) = (pattern(1, 0, 60_000), pattern(2, 0, 60_000));
        device.send(&up);
        driver.write(&addr, &down);
        for number in 0..20 {
            udp_device.send(udp, &[number; 100]);
        }
        std::thread::sleep(Duration::from_secs(3));
        daemon.signal(Signal::CONT);
        driver.received(&addr, &up);
        device.expect(&down);
        for number in 0..20 {
            datagrams.datagram(&udp_addr, &[number; 100]);
        }
        assert_eq!((daemon.held("sessions"), daemon.held("devices")), (2, 1));
    });
}

/// A host that is paused for minutes must not cost every driver its session.
fn a_pause_longer_than_the_limits_lets_nobody_go_who_is_alive(shards: usize) {
    scaled(shards, 4_000).run(|daemon| {
        let port = free_port();
        let mut drivers: Vec<_> = (0..10).map(|_| daemon.wire(Transport::Tcp, port, "127.0.0.1")).collect();
        let mut device = Device::connect("127.0.0.1", port);
        let opened: Vec<_> = drivers.iter_mut().map(|driver| driver.event()).collect();
        daemon.signal(Signal::STOP);
        // All are alive and say so, and the device, too.
        for _ in 0..5 {
            for driver in &mut drivers {
                driver.send_frame(Opcode::Pong, b"alive");
            }
            device.send(b"alive");
            std::thread::sleep(Duration::from_millis(1_000));
        }
        daemon.signal(Signal::CONT);
        for driver in &mut drivers {
            driver.send_frame(Opcode::Pong, b"alive");
        }
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(daemon.count("sessions_silent"), 0, "let go for the daemon's own pause");
        assert_eq!(daemon.held("sessions"), 10);
        let addr = opened[0].addr().clone();
        for driver in &mut drivers {
            let mut data = Vec::new();
            while data.len() < 25 {
                let Event::Received(from, part) = driver.event() else { panic!("no RECEIVED") };
                assert_eq!(from, addr);
                data.extend(part);
            }
            assert_eq!(data, b"alive".repeat(5));
        }
    });
}

fn a_pause_longer_than_the_credit_wait_lets_no_device_go_that_reads(shards: usize) {
    const SIZE: usize = 12_000_000;
    Setup::new(shards).limit("credit-wait-ms-max", 6_000).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        std::thread::scope(|scope| {
            let driver = &mut driver;
            let to = addr.clone();
            scope.spawn(move || {
                for at in (0..SIZE).step_by(60_000) {
                    driver.write(&to, &pattern(2, at, 60_000));
                }
            });
            daemon.until_count("credit_waits", 1);
            daemon.until_count("device_bytes_written", 100_000);
            daemon.signal(Signal::STOP);
            // It takes all that the kernel has for it, and would take more.
            device.expect(&pattern(2, 0, 100_000));
            std::thread::sleep(Duration::from_millis(7_500));
            daemon.signal(Signal::CONT);
            device.expect(&pattern(2, 100_000, SIZE - 100_000));
        });
    });
}

fn a_pause_during_transfers_both_ways_loses_nothing(shards: usize) {
    const SIZE: usize = 16 << 20;
    // The pause stands for ten seconds among limits of twenty.
    scaled(shards, 6_000).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.event().addr().clone();
        std::thread::scope(|scope| {
            let mut sender = device.another_handle();
            scope.spawn(move || {
                for at in (0..SIZE).step_by(1 << 20) {
                    sender.send(&pattern(1, at, 1 << 20));
                }
            });
            scope.spawn(move || {
                for at in (0..SIZE).step_by(1 << 16) {
                    device.expect(&pattern(2, at, 1 << 16));
                }
            });
            let mut writer = driver.writer();
            let to = addr.clone();
            scope.spawn(move || {
                for at in (0..SIZE).step_by(1 << 16) {
                    let message = write(&to, &pattern(2, at, 1 << 16));
                    writer.send_frame(Opcode::Binary, &message);
                }
            });
            scope.spawn(|| pause(daemon, Duration::from_secs(3)));
            let mut taken = 0;
            while taken < SIZE {
                let Event::Received(from, part) = driver.event() else { panic!("no RECEIVED") };
                assert_eq!(from, addr);
                assert!(part == pattern(1, taken, part.len()), "after {taken} bytes");
                taken += part.len();
            }
        });
        eventually_idle(daemon);
    });
}

fn eventually_idle(daemon: &Daemon) {
    eventually("the device is gone", || (daemon.held("devices") == 0).then_some(()));
}
