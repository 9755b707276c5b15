//! Proves that whoever is loud does not drown out the others: floods on one port leave the rest quick.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, BASES, Daemon, Device, Event, Opcode, Setup, Transport, Until, frame, free_port, pattern, write,
};

scenarios! {
    a_flood_of_writes_leaves_the_others_quick,
    a_flooding_device_leaves_the_others_quick,
    a_flood_of_tiny_writes_to_one_device_leaves_the_others_quick,
    connections_that_say_nothing_keep_nobody_out,
    drivers_that_join_and_leave_disturb_nobody,
}

/// Far above what a quiet daemon needs, and far below what a starved one takes.
const QUICK: Duration = Duration::from_millis(500);

/// Fails unless health checks, pings and exchanges of a bystander stay quick while `flood` runs until it is told to end.
fn assert_others_quick(daemon: &Daemon, flood: impl FnOnce(&AtomicBool) + Send) {
    let port = free_port();
    let mut bystander = daemon.wire(Transport::Tcp, port, "127.0.0.9");
    let mut device = Device::connect("127.0.0.9", port);
    let addr = bystander.event().addr().clone();
    let done = AtomicBool::new(false);
    let (mut health, mut pings, mut exchanges) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let until = Until(&done);
        scope.spawn(|| flood(&done));
        let deadline = Instant::now() + Duration::from_millis(2_500);
        while Instant::now() < deadline {
            let time = |times: &mut Vec<Duration>, turn: &mut dyn FnMut()| {
                let start = Instant::now();
                turn();
                times.push(start.elapsed());
            };
            time(&mut health, &mut || {
                assert_eq!(daemon.fetch(&format!("{}/healthz", BASES[0])).status, 200);
            });
            time(&mut pings, &mut || {
                bystander.send_frame(Opcode::Ping, b"quick?");
                assert_eq!(bystander.frame().payload, b"quick?");
            });
            time(&mut exchanges, &mut || {
                device.send(b"there");
                assert_eq!(bystander.event(), Event::Received(addr.clone(), b"there".to_vec()));
                bystander.send_frame(Opcode::Binary, &write(&addr, b"and back"));
                device.expect(b"and back");
            });
        }
        drop(until);
    });
    for (name, mut times) in [("health checks", health), ("pings", pings), ("exchanges", exchanges)] {
        times.sort_unstable();
        assert!(times.len() >= 3, "{} {name} in 2.5 s", times.len());
        let median = times[times.len() / 2];
        assert!(median < QUICK, "{name}: a median of {median:?} in {}", times.len());
    }
}

fn a_flood_of_writes_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let sink = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let to = Addr::new("127.0.0.1", u64::from(sink.local_addr().unwrap().port()));
        let mut wire = daemon.wire(Transport::Udp, free_port(), "127.0.0.1");
        let many = frame(0x82, &write(&to, &[7; 100])).repeat(200);
        assert_others_quick(daemon, move |done| {
            while !done.load(Ordering::Relaxed) {
                wire.send(&many);
            }
        });
        assert!(daemon.count("datagrams_written") > 10_000, "that was no flood");
    });
}

fn a_flooding_device_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        driver.event();
        assert_others_quick(daemon, move |done| {
            let part = pattern(1, 0, 1 << 20);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        device.send(&part);
                    }
                });
                while matches!(driver.event(), Event::Received(..)) {}
            });
        });
        assert!(daemon.count("device_bytes_received") > 16 << 20, "that was no flood");
    });
}

fn a_flood_of_tiny_writes_to_one_device_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = wire.event().addr().clone();
        let many = frame(0x82, &write(&addr, b"x")).repeat(500);
        assert_others_quick(daemon, move |done| {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        wire.send(&many);
                    }
                    wire.half_close();
                });
                device.drain();
            });
        });
        assert!(daemon.count("messages_from_drivers") > 10_000, "that was no flood");
    });
}

fn connections_that_say_nothing_keep_nobody_out(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let silent: Vec<_> = (0..300).map(|_| daemon.connection()).collect();
        assert_others_quick(daemon, |_| ());
        drop(silent);
    });
}

fn drivers_that_join_and_leave_disturb_nobody(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports: Vec<_> = (0..8).map(|_| free_port()).collect();
        assert_others_quick(daemon, |done| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                let port = ports[turn % ports.len()];
                let driver = daemon.join([Transport::Tcp, Transport::Udp][turn % 2], port, "127.0.0.1,::1");
                if turn % 3 == 0 {
                    driver.reset()
                } else {
                    driver.leave()
                }
                turn += 1;
            }
            assert!(turn > 20, "{turn} joins");
        });
    });
}
