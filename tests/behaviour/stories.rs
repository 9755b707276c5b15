//! Proves that each driver is told a lawful story of each device while drivers and devices come, go and fail at will.

use std::io::ErrorKind;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, Device, Event, Opcode, Setup, Story, Transport, close, free_port, write};

scenarios! {
    whatever_comes_and_goes_each_driver_is_told_a_lawful_story,
    however_a_device_ends_at_once_by_several_causes_it_is_closed_once,
    a_late_driver_that_reads_late_is_told_a_lawful_story,
}

/// A daemon that logs no device, and gives up soon what makes no progress.
fn setup(shards: usize) -> Setup {
    Setup::new(shards).variable("LOG_LEVEL", "info").limit("flush-ms-max", 2_000)
}

/// Numbers that differ from call to call and not from run to run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A device that comes again and again: it sends numbers one by one, reads now and then, and ends in one of its ways.
fn come_and_go(port: u16, seed: u64, done: &AtomicBool) {
    let mut numbers = Numbers(seed);
    while !done.load(Ordering::Relaxed) {
        let source = format!("127.0.0.{}", 1 + numbers.below(3));
        // Refused while no driver is joined, and disconnected while none accepts it.
        let Ok(mut device) = Device::try_connect(&source, port) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        for number in 0..numbers.below(60) {
            if device.try_send(&number.to_be_bytes()).is_err() {
                break;
            }
        }
        match numbers.below(4) {
            0 => device.reset(),
            1 => {
                device.half_close();
                device.drain();
            }
            2 => std::thread::sleep(Duration::from_millis(numbers.below(20))),
            _ => {}
        }
    }
}

/// Checks the numbers in a device's bytes: from wherever it joined, each follows the one before.
fn check_numbers(last: &mut Option<u64>, data: &[u8]) {
    assert_eq!(data.len() % 8, 0, "a number is cut");
    for number in data.chunks(8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap())) {
        assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
        *last = Some(number);
    }
}

/// A driver that joins again and again, listens a while, writes and closes at random, and leaves in one of its ways.
fn join_and_leave(daemon: &Daemon, port: u16, seed: u64, done: &AtomicBool) -> usize {
    let (mut numbers, mut told) = (Numbers(seed), 0);
    while !done.load(Ordering::Relaxed) {
        let accept = ["127.0.0.1", "127.0.0.2,127.0.0.3", "127.0.0.0/8"][usize::try_from(seed % 3).unwrap()];
        let mut wire = daemon.wire(Transport::Tcp, port, accept);
        let (mut story, mut last) = (Story::default(), std::collections::HashMap::new());
        let until = Instant::now() + Duration::from_millis(50 + numbers.below(400));
        wire.set_patience(Duration::from_millis(20));
        while Instant::now() < until {
            let frame = match wire.try_frame() {
                Ok(frame) => frame,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => panic!("the session ended: {error}"),
            };
            assert_eq!(frame.first, 0x82);
            let event = Event::decode(&frame.payload);
            let ip = &event.addr().ip;
            assert!(accept.contains('/') || accept.contains(ip.as_str()), "{event:?} for {accept}");
            story.take(&event);
            if let Event::Received(addr, data) = &event {
                check_numbers(last.entry(addr.id).or_insert(None), data);
                match numbers.below(20) {
                    0 => wire.send_frame(Opcode::Binary, &close(addr)),
                    1..10 => wire.send_frame(Opcode::Binary, &write(addr, b"an answer")),
                    _ => {}
                }
            }
        }
        told += story.told();
        if numbers.below(2) == 0 {
            wire.send_frame(Opcode::Close, &1000_u16.to_be_bytes());
        }
    }
    told
}

fn whatever_comes_and_goes_each_driver_is_told_a_lawful_story(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let done = &done;
            for seed in 0..6 {
                scope.spawn(move || come_and_go(port, seed, done));
            }
            let drivers: Vec<_> =
                (0..5).map(|seed| scope.spawn(move || join_and_leave(daemon, port, seed, done))).collect();
            std::thread::sleep(Duration::from_secs(3));
            done.store(true, Ordering::Relaxed);
            for driver in drivers {
                assert!(driver.join().unwrap() > 20, "a driver was told of hardly any device");
            }
        });
        assert_eq!(daemon.count("tasks_failed"), 0);
    });
}

fn however_a_device_ends_at_once_by_several_causes_it_is_closed_once(shards: usize) {
    const COUNT: usize = 150;
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut drivers: Vec<_> = (0..3).map(|_| daemon.wire(Transport::Tcp, port, "127.0.0.1")).collect();
        for id in 0..COUNT {
            let device = Device::connect("127.0.0.1", port);
            let mut addr = None;
            for driver in &mut drivers {
                let Event::Opened(opened) = driver.event() else { panic!("no OPENED of {id}") };
                addr = Some(opened);
            }
            let (addr, start) = (addr.unwrap(), Barrier::new(3));
            std::thread::scope(|scope| {
                let (one, other) = drivers.split_at_mut(1);
                for driver in [&mut one[0], &mut other[0]] {
                    let (addr, start) = (&addr, &start);
                    scope.spawn(move || {
                        start.wait();
                        driver.send_frame(Opcode::Binary, &write(addr, b"goodbye"));
                        driver.send_frame(Opcode::Binary, &close(addr));
                    });
                }
                start.wait();
                if id % 2 == 0 { device.reset() } else { drop(device) }
            });
            for driver in &mut drivers {
                assert_eq!(driver.event(), Event::Closed(addr.clone()));
            }
        }
        // Had one been closed twice, this would come after it.
        let device = Device::connect("127.0.0.1", port);
        for driver in &mut drivers {
            assert_eq!(driver.event().addr().id, COUNT as u64);
        }
        drop(device);
    });
}

fn a_late_driver_that_reads_late_is_told_a_lawful_story(shards: usize) {
    const COUNT: usize = 600;
    setup(shards).limit("outbox-bytes-max", 204_800).run(|daemon| {
        let port = free_port();
        let mut early = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let devices: Vec<_> = (0..COUNT)
            .map(|_| {
                let device = Device::connect("127.0.0.1", port);
                assert!(matches!(early.event(), Event::Opened(_)));
                device
            })
            .collect();
        let mut late = daemon.wire(Transport::Tcp, port, "127.0.0.0/8");
        std::thread::scope(|scope| {
            let mut devices = devices.into_iter();
            for _ in 0..6 {
                let part: Vec<_> = devices.by_ref().take(COUNT / 6).collect();
                scope.spawn(move || part.into_iter().for_each(|mut device| device.send(&[7; 8_000])));
            }
            let last = scope.spawn(move || {
                let mut closed = 0;
                while closed < COUNT {
                    closed += usize::from(matches!(early.event(), Event::Closed(_)));
                }
                Device::connect("127.0.0.9", port)
            });
            // Much more comes than the late one has room for, so that most devices wait for it. One that ends before it
            // was told of is none of its business.
            std::thread::sleep(Duration::from_millis(500));
            let (mut story, mut bytes, mut all_ended) = (Story::default(), 0, false);
            while !all_ended || story.told() > story.closed() + 1 {
                let event = late.event();
                story.take(&event);
                match &event {
                    Event::Received(_, data) => bytes += data.len(),
                    Event::Opened(addr) => all_ended |= addr.ip == "127.0.0.9",
                    Event::Closed(_) => {}
                }
            }
            assert_eq!(bytes, 8_000 * story.closed(), "a device it was told of is not heard whole");
            drop(last.join().unwrap());
        });
    });
}
