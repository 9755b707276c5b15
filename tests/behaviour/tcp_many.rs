//! Proves that many devices, long streams and quick exchanges work: none is lost, mixed up or late.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, Daemon, Device, Event, Opcode, Setup, Story, Transport, Until, Wire, free_port, pattern, say_skipped,
};
use crate::harness::{raise_descriptor_limit, write};

scenarios! {
    a_hundred_devices_that_connect_at_once_all_live,
    three_hundred_devices_that_connect_at_once_all_live,
    a_late_driver_is_told_of_5000_devices_before_their_data,
    a_long_stream_arrives_whole_in_both_directions,
    streams_of_many_devices_stay_apart,
    messages_of_any_size_cross_whole,
    small_messages_to_a_driver_do_not_wait_for_each_other,
    small_messages_to_a_device_do_not_wait_for_each_other,
}

/// Connects many devices in the same moment, each of which has to get its own name back.
fn connect_at_once(daemon: &Daemon, count: u64) {
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
    let start = Barrier::new(usize::try_from(count).unwrap());
    let connected: Vec<_> = std::thread::scope(|scope| {
        let mut devices = Vec::new();
        for number in 0..count {
            let start = &start;
            let device = move || {
                let source = format!("127.0.{}.{}", number / 200, 1 + number % 200);
                start.wait();
                let mut device = Device::connect(&source, port);
                let name = format!("I am {source}");
                device.send(name.as_bytes());
                device.expect(name.as_bytes());
                device
            };
            devices.push(std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, device).unwrap());
        }
        let (mut names, mut opened) = (HashMap::new(), Vec::new());
        while names.len() < usize::try_from(count).unwrap() {
            match driver.event() {
                Event::Opened(addr) => opened.push(addr),
                Event::Received(addr, data) => {
                    assert!(opened.contains(&addr), "RECEIVED before OPENED");
                    assert_eq!(data, format!("I am {}", addr.ip).as_bytes());
                    driver.write(&addr, &data);
                    assert_eq!(names.insert(addr, data), None, "a name twice");
                }
                Event::Closed(addr) => panic!("{addr:?} was disconnected"),
            }
        }
        let mut ids: Vec<_> = opened.iter().map(|addr| addr.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..count).collect::<Vec<_>>());
        devices.into_iter().map(|device| device.join().unwrap()).collect()
    });
    drop(connected);
    for _ in 0..count {
        assert!(matches!(driver.event(), Event::Closed(_)));
    }
}

fn a_hundred_devices_that_connect_at_once_all_live(shards: usize) {
    Setup::new(shards).run(|daemon| connect_at_once(daemon, 100));
}

fn three_hundred_devices_that_connect_at_once_all_live(shards: usize) {
    Setup::new(shards).run(|daemon| connect_at_once(daemon, 300));
}

fn a_late_driver_is_told_of_5000_devices_before_their_data(shards: usize) {
    const COUNT: usize = 5_000;
    if raise_descriptor_limit() < 12_000 {
        say_skipped("5,000 devices need a descriptor limit of 12,000");
        return;
    }
    Setup::new(shards).variable("LOG_LEVEL", "info").run(|daemon| {
        let port = free_port();
        let mut early = daemon.wire(Transport::Tcp, port, "127.0.0.1,127.0.0.2");
        let mut devices = Vec::new();
        while devices.len() < COUNT {
            devices.push(Device::connect(["127.0.0.1", "127.0.0.2"][devices.len() % 2], port));
            assert!(matches!(early.event(), Event::Opened(_)));
        }
        // Who listens ends first: it waits for those who talk.
        let (done, early_is_done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // Those who are told of last send without a pause, so that some do while a driver is being told.
            let until = Until(&done);
            let talking = &mut devices[COUNT - 50..];
            scope.spawn(|| {
                while !early_is_done.load(Ordering::Relaxed) {
                    talking.iter_mut().for_each(|device| device.send(b"!"));
                }
            });
            scope.spawn(|| {
                let _until = Until(&early_is_done);
                while !done.load(Ordering::Relaxed) {
                    assert!(matches!(early.event(), Event::Received(..)));
                }
            });
            for _ in 0..6 {
                let mut late = daemon.wire(Transport::Tcp, port, "127.0.0.0/8");
                let (mut story, mut heard) = (Story::default(), 0);
                while story.told() < COUNT || heard < 100 {
                    let event = late.event();
                    story.take(&event);
                    heard += usize::from(matches!(event, Event::Received(..)));
                }
                assert_eq!((story.told(), story.closed()), (COUNT, 0));
            }
            drop(until);
        });
    });
}

/// Sends and receives a stream on one device at the same time.
fn exchange(driver: &mut Wire, device: &mut Device, addr: &Addr, size: usize) {
    let mut writer = driver.writer();
    let mut sender = device.another_handle();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in pattern(1, 0, size).chunks(50_021) {
                writer.send_frame(Opcode::Binary, &write(addr, part));
            }
        });
        scope.spawn(move || sender.send(&pattern(2, 0, size)));
        scope.spawn(|| device.expect(&pattern(1, 0, size)));
        let mut taken = 0;
        while taken < size {
            match driver.event() {
                Event::Received(from, data) if from == *addr => {
                    assert!(data == pattern(2, taken, data.len()), "the driver's stream differs at {taken}");
                    taken += data.len();
                }
                other => panic!("{other:?} after {taken} bytes"),
            }
        }
        assert_eq!(taken, size);
    });
}

fn a_long_stream_arrives_whole_in_both_directions(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.event().addr().clone();
        exchange(&mut driver, &mut device, &addr, 16 << 20);
    });
}

fn streams_of_many_devices_stay_apart(shards: usize) {
    const SIZE: usize = 400_000;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut devices: Vec<_> = (0..20)
            .map(|_| {
                let device = Device::connect("127.0.0.1", port);
                driver.event();
                device
            })
            .collect();
        std::thread::scope(|scope| {
            for (id, device) in devices.iter_mut().enumerate() {
                let mut sender = device.another_handle();
                scope.spawn(move || sender.send(&pattern(id as u64, 0, SIZE)));
                scope.spawn(move || device.expect(&pattern(id as u64, 0, SIZE)));
            }
            // Everything goes back to where it came from.
            let mut taken = [0; 20];
            let mut writer = driver.writer();
            while taken.iter().sum::<usize>() < 20 * SIZE {
                let Event::Received(addr, data) = driver.event() else { panic!("a device ended") };
                let offset = &mut taken[usize::try_from(addr.id).unwrap()];
                assert!(data == pattern(addr.id, *offset, data.len()), "device {} differs at {offset}", addr.id);
                *offset += data.len();
                writer.send_frame(Opcode::Binary, &write(&addr, &data));
            }
        });
    });
}

fn messages_of_any_size_cross_whole(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for size in
            [1, 102, 103, 125, 126, 127, 4_073, 4_095, 4_096, 4_097, 65_512, 65_513, 65_535, 65_536, 262_145, 1_000_000]
        {
            let data = pattern(size as u64, 0, size);
            driver.write(&addr, &data);
            device.expect(&data);
            device.send(&data);
            driver.received(&addr, &data);
        }
    });
}

/// The median of how long the second of two messages takes, where whoever gets them has just answered something: its
/// kernel then acknowledges the first late, 40 ms or more, and a sender without TCP_NODELAY waits for that.
fn median_of_second(mut exchange: impl FnMut(), mut message: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..60)
        .map(|_| {
            exchange();
            message();
            let start = Instant::now();
            message();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn small_messages_to_a_driver_do_not_wait_for_each_other(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let driver = RefCell::new(daemon.join_tcp(port, "127.0.0.1"));
        let device = RefCell::new(Device::connect("127.0.0.1", port));
        let addr = driver.borrow_mut().opened();
        let message = || {
            device.borrow_mut().send(b"tick");
            driver.borrow_mut().received(&addr, b"tick");
        };
        let exchange = || {
            message();
            driver.borrow_mut().write(&addr, b"tock");
            device.borrow_mut().expect(b"tock");
        };
        let took = median_of_second(exchange, message);
        assert!(took < Duration::from_millis(20), "{took:?} for the second message");
    });
}

fn small_messages_to_a_device_do_not_wait_for_each_other(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let driver = RefCell::new(daemon.join_tcp(port, "127.0.0.1"));
        let device = RefCell::new(Device::connect("127.0.0.1", port));
        let addr = driver.borrow_mut().opened();
        let message = || {
            driver.borrow_mut().write(&addr, b"tick");
            device.borrow_mut().expect(b"tick");
        };
        let exchange = || {
            message();
            device.borrow_mut().send(b"tock");
            driver.borrow_mut().received(&addr, b"tock");
        };
        let took = median_of_second(exchange, message);
        assert!(took < Duration::from_millis(20), "{took:?} for the second message");
    });
}
