//! Proves that with next to no buffers, entries or descriptors the daemon is slow and not wrong, and that it recovers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, Daemon, Device, Event, Opcode, Setup, Story, Transport, Until, Wire, cpu_time, eventually, frame, free_port,
    pattern, raise_descriptor_limit, write,
};
use crate::service::alone;

scenarios! {
    one_receive_buffer_and_eight_ring_entries_carry_every_byte,
    devices_that_come_and_go_without_descriptors_leave_a_daemon_that_recovers,
}

const DRIVERS: usize = 20;
const DEVICES_EACH: usize = 10;
const SIZE: usize = 8_000;

fn one_receive_buffer_and_eight_ring_entries_carry_every_byte(shards: usize) {
    let _alone = alone();
    raise_descriptor_limit();
    let setup = Setup::new(shards).variable("LOG_LEVEL", "info").limit("receive-buffers", 1).limit("ring-entries", 8);
    setup.run(|daemon| {
        let all: Vec<_> = (0..DRIVERS)
            .map(|_| {
                let port = free_port();
                (port, daemon.wire(Transport::Tcp, port, "127.0.0.1"))
            })
            .collect();
        std::thread::scope(|scope| {
            for (seed, (port, driver)) in all.into_iter().enumerate() {
                scope.spawn(move || talk(seed, port, driver));
            }
        });
        assert_eq!(daemon.count("device_bytes_received"), (DRIVERS * DEVICES_EACH * SIZE) as u64);
        assert_eq!(daemon.count("device_bytes_written"), (DRIVERS * DEVICES_EACH * SIZE) as u64);
        assert_eq!(daemon.count("tasks_failed"), 0);
    });
}

/// One driver and its devices: all send at once, and each byte is looked at.
fn talk(seed: usize, port: u16, mut driver: Wire) {
    let devices: Vec<_> = (0..DEVICES_EACH).map(|_| Device::connect("127.0.0.1", port)).collect();
    let addrs: Vec<Addr> = devices.iter().map(|_| driver.event().addr().clone()).collect();
    let seed_of = move |id: u64| (seed * DEVICES_EACH) as u64 + id;
    std::thread::scope(|scope| {
        let mut writer = driver.writer();
        writer.set_write_patience(Duration::from_secs(20));
        scope.spawn(move || {
            for at in (0..SIZE).step_by(1_000) {
                for addr in &addrs {
                    let message = write(addr, &pattern(1_000 + seed_of(addr.id), at, 1_000));
                    writer.send_frame(Opcode::Binary, &message);
                }
            }
        });
        // Ids are in the order of accepting, which is that of connecting.
        for (id, device) in devices.into_iter().enumerate() {
            scope.spawn(move || device_talks(seed_of(id as u64), device));
        }
        let mut story = Story::default();
        let mut closed = 0;
        let mut taken = [0; DEVICES_EACH];
        while closed < DEVICES_EACH {
            let event = driver.event();
            match &event {
                Event::Received(addr, data) => {
                    let before = &mut taken[addr.id as usize];
                    assert!(*data == pattern(seed_of(addr.id), *before, data.len()), "{addr:?} after {before} bytes");
                    *before += data.len();
                }
                Event::Closed(_) => closed += 1,
                Event::Opened(_) => drop(story.take(&event)),
            }
        }
        assert_eq!(taken, [SIZE; DEVICES_EACH]);
    });
}

fn device_talks(seed: u64, mut device: Device) {
    let mut sender = device.another_handle();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(&pattern(seed, 0, SIZE)));
        device.expect(&pattern(1_000 + seed, 0, SIZE));
    });
    device.half_close();
    device.ends();
}

fn devices_that_come_and_go_without_descriptors_leave_a_daemon_that_recovers(shards: usize) {
    raise_descriptor_limit();
    let limited = ["sh", "-c", "ulimit -n 160; exec \"$0\" \"$@\""];
    Setup::new(shards).variable("LOG_LEVEL", "info").under(&limited).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let done = AtomicBool::new(false);
        let (cpu, logged, start) = (cpu_time(daemon.pid()), daemon.log_bytes(), Instant::now());
        let mut story = Story::default();
        std::thread::scope(|scope| {
            let until = Until(&done);
            for _ in 0..4 {
                scope.spawn(|| come_and_go(port, &done));
            }
            while start.elapsed() < Duration::from_secs(5) {
                story.take(&driver.event());
            }
            drop(until);
        });
        let (spent, elapsed) = (cpu_time(daemon.pid()) - cpu, start.elapsed());
        assert!(spent < elapsed * 2, "{spent:?} of processor time in {elapsed:?}");
        assert!(daemon.log_bytes() - logged < 1_000_000, "{} bytes of log", daemon.log_bytes() - logged);
        eventually("the last has gone", || {
            while story.closed() < story.told() {
                story.take(&driver.event());
            }
            (daemon.held("devices") == 0).then_some(())
        });
        // What waited in the kernel may still be accepted until all of it is through.
        let mut device = Device::connect("127.0.0.1", port);
        device.send(b"the last");
        loop {
            let event = driver.event();
            story.take(&event);
            if matches!(&event, Event::Received(_, data) if data == b"the last") {
                break;
            }
        }
        drop(device);
        assert!(story.told() > 200, "{} devices came", story.told());
    });
}

/// Holds fifty devices at a time, which say nothing, and replaces them for as long as it is not done.
fn come_and_go(port: u16, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let devices: Vec<_> = (0..50).filter_map(|_| Device::try_connect("127.0.0.1", port).ok()).collect();
        std::thread::sleep(Duration::from_millis(100));
        drop(devices);
    }
}

#[test]
fn a_driver_at_another_shard_that_floods_leaves_timers_and_io_of_the_home_alone() {
    Setup::new(3).variable("LOG_LEVEL", "info").limit("ping-interval-ms", 500).run(|daemon| {
        let port = free_port();
        let (mut flooder, home) = join_away_from_home(daemon, port);
        // Someone whose socket is served by the home shard, on a port of its own.
        let mut bystander = join_at(daemon, home);
        let nobody = Addr::new("127.0.0.1", 77);
        let many = frame(0x82, &write(&nobody, b"")).repeat(500);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let until = Until(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    flooder.send(&many);
                }
            });
            let start = Instant::now();
            let mut pings = 0;
            while pings < 4 {
                assert_eq!(bystander.frame().opcode(), Opcode::Ping as u8);
                // Unanswered, it is asked again at the next interval.
                pings += 1;
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(5), "four pings, due every 500 ms, took {took:?}");
            for _ in 0..20 {
                let asked = Instant::now();
                bystander.send_frame(Opcode::Ping, b"quick?");
                while bystander.frame().payload != b"quick?" {}
                assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            }
            drop(until);
        });
        assert!(daemon.count("writes_dropped") > 20_000, "that was no flood: {}", daemon.count("writes_dropped"));
    });
}

/// How many of something each shard holds.
fn per_shard(daemon: &Daemon, name: &str) -> Vec<u64> {
    let shards = daemon.shards();
    shards["shards"].as_array().unwrap().iter().map(|shard| shard[name].as_u64().unwrap()).collect()
}

/// Joins until one is served where it is to be: the kernel spreads connections evenly over three shards.
const JOINS_MAX: usize = 200;

/// The shard at which something has grown.
fn grown(before: &[u64], after: &[u64]) -> usize {
    (0..before.len()).find(|&shard| after[shard] > before[shard]).expect("a shard with one more")
}

/// Joins a port that nobody has joined, by connections until one is served by a shard that is not the port's home.
fn join_away_from_home(daemon: &Daemon, port: u16) -> (Wire, usize) {
    for _ in 0..JOINS_MAX {
        let (ports, sessions) = (per_shard(daemon, "ports"), per_shard(daemon, "sessions"));
        let wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let home = grown(&ports, &per_shard(daemon, "ports"));
        if grown(&sessions, &per_shard(daemon, "sessions")) != home {
            return (wire, home);
        }
        wire.reset();
        eventually("the port is closed", || (per_shard(daemon, "ports") == ports).then_some(()));
        eventually("the session is over", || (per_shard(daemon, "sessions") == sessions).then_some(()));
    }
    panic!("the port's home took all of {JOINS_MAX} sessions");
}

/// Joins some port by a connection that this shard serves.
fn join_at(daemon: &Daemon, shard: usize) -> Wire {
    for _ in 0..JOINS_MAX {
        let before = per_shard(daemon, "sessions");
        let wire = daemon.wire(Transport::Tcp, free_port(), "127.0.0.1");
        if grown(&before, &per_shard(daemon, "sessions")) == shard {
            return wire;
        }
        wire.reset();
        eventually("the session is over", || (per_shard(daemon, "sessions") == before).then_some(()));
    }
    panic!("shard {shard} took none of {JOINS_MAX} sessions");
}
