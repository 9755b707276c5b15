//! Proves that a slow driver slows its devices down and nobody else, without loss and without growth.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Addr, Daemon, Datagrams, Device, Event, Opcode, Setup, Transport, Wire, eventually, free_port, pattern,
    resident_bytes, write,
};

scenarios! {
    a_driver_that_stops_reading_stops_its_device_and_loses_nothing,
    a_driver_that_stops_reading_can_still_write,
    a_driver_that_stops_reading_slows_no_other_port,
    a_driver_that_takes_nothing_is_let_go_and_the_others_go_on,
    a_driver_that_takes_nothing_has_twice_the_time_while_its_own_writes_wait,
    a_driver_that_takes_a_little_now_and_then_is_not_let_go,
    devices_that_flood_a_slow_driver_do_not_corrupt_its_stream,
    datagrams_for_a_slow_driver_are_dropped_and_counted,
    datagrams_for_a_slow_driver_still_reach_the_others,
    the_greatest_datagram_fits_into_the_smallest_outbox,
    pings_that_nobody_reads_the_answers_of_cost_nothing,
    a_driver_that_dies_with_much_unread_is_noticed_at_once,
    few_receive_buffers_serve_many_devices,
    a_small_ring_serves_many_devices,
}

/// More than the buffers of the kernel hold between a device and a driver that does not read.
const ENDLESS: usize = 128 << 20;
/// What a daemon may grow by while it holds a stream back: its buffers are there from the start or bounded.
const GROWTH_MAX: u64 = 16 << 20;

fn joined(daemon: &Daemon, source: &str) -> (Wire, Device, Addr) {
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, source);
    let device = Device::connect(source, port);
    let Event::Opened(addr) = wire.event() else { panic!("no OPENED") };
    (wire, device, addr)
}

/// Fails unless the next `size` bytes of a device's stream arrive, alone and in order.
fn expect_stream(wire: &mut Wire, addr: &Addr, seed: u64, range: std::ops::Range<usize>) {
    let mut taken = range.start;
    while taken < range.end {
        match wire.event() {
            Event::Received(from, data) if from == *addr => {
                assert!(data == pattern(seed, taken, data.len()), "the stream differs at {taken}");
                taken += data.len();
            }
            other => panic!("{other:?} after {taken} bytes"),
        }
    }
    assert_eq!(taken, range.end, "more than was sent");
}

fn a_driver_that_stops_reading_stops_its_device_and_loses_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon, "127.0.0.1");
        let before = resident_bytes(daemon.pid());
        let sent = device.send_until_blocked(1, ENDLESS, Duration::from_millis(700));
        assert!(sent < ENDLESS, "the device never had to wait");
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes more");
        expect_stream(&mut wire, &addr, 1, 0..sent);
        // And it goes on from there.
        device.send(&pattern(1, sent, 500_000));
        drop(device);
        expect_stream(&mut wire, &addr, 1, sent..sent + 500_000);
        assert_eq!(wire.event(), Event::Closed(addr));
    });
}

fn a_driver_that_stops_reading_can_still_write(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon, "127.0.0.1");
        let sent = device.send_until_blocked(2, ENDLESS, Duration::from_millis(500));
        for size in [1, 1_000, 300_000] {
            let data = pattern(3, 0, size);
            wire.send_frame(Opcode::Binary, &write(&addr, &data));
            device.expect(&data);
        }
        expect_stream(&mut wire, &addr, 2, 0..sent);
    });
}

fn a_driver_that_stops_reading_slows_no_other_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (_stopped, mut flooding, _) = joined(daemon, "127.0.0.1");
        let sent = flooding.send_until_blocked(2, ENDLESS, Duration::from_millis(500));
        assert!(sent < ENDLESS);
        for _ in 0..4 {
            let (mut wire, mut device, addr) = joined(daemon, "127.0.0.1");
            for round in 0..50_u8 {
                device.send(&[round]);
                assert_eq!(wire.event(), Event::Received(addr.clone(), vec![round]));
                wire.send_frame(Opcode::Binary, &write(&addr, &[round]));
                device.expect(&[round]);
            }
        }
    });
}

fn a_driver_that_takes_nothing_is_let_go_and_the_others_go_on(shards: usize) {
    const SIZE: usize = 64 << 20;
    // Longer than a busy machine keeps the driver that reads from doing so.
    Setup::new(shards).limit("stall-ms-max", 4_000).run(|daemon| {
        let port = free_port();
        let mut reading = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut stopped = daemon.wire(Transport::Tcp, port, "127.0.0.0/8");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = reading.event().addr().clone();
        let mut sender = device.another_handle();
        std::thread::scope(|scope| {
            scope.spawn(move || sender.send(&pattern(4, 0, SIZE)));
            expect_stream(&mut reading, &addr, 4, 0..SIZE);
        });
        daemon.until_count("sessions_stalled", 1);
        daemon.until_logged("close_code=1013");
        daemon.until_statistics(&json!({
            "udp_listeners": {}, "tcp_listeners": {port.to_string(): 1}, "tcp_clients": {port.to_string(): 1}
        }));
        // The device lives, in both directions.
        reading.send_frame(Opcode::Binary, &write(&addr, b"still here?"));
        device.expect(b"still here?");
        device.send(b"yes");
        assert_eq!(reading.event(), Event::Received(addr.clone(), b"yes".to_vec()));
        // What the other had got until then is whole; the end is a close frame, if that fitted, or a reset.
        let mut taken = 0;
        assert_eq!(stopped.event(), Event::Opened(addr.clone()));
        let end = loop {
            match stopped.try_frame() {
                Ok(frame) if frame.first == 0x82 => {
                    let Event::Received(_, data) = Event::decode(&frame.payload) else { panic!("{frame:?}") };
                    assert!(data == pattern(4, taken, data.len()), "the stream differs at {taken}");
                    taken += data.len();
                }
                other => break other,
            }
        };
        match end {
            Ok(frame) => assert_eq!(frame.close_reason().0, 1013),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert!(taken < SIZE, "it took everything, so it was not slow");
    });
}

fn a_driver_that_takes_nothing_has_twice_the_time_while_its_own_writes_wait(shards: usize) {
    const STALL: Duration = Duration::from_millis(1_500);
    let stall_ms = STALL.as_millis() as usize;
    Setup::new(shards).limit("stall-ms-max", stall_ms).limit("credit-wait-ms-max", 60_000).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon, "127.0.0.1");
        let full = Device::with_receive_buffer("127.0.0.1", device.peer_port(), Some(4 * 1024)).unwrap();
        let full_addr = wire.event().addr().clone();
        // More than its kernel and the window hold, and one more, so that the daemon leaves the driver's socket unread.
        wire.send_frame(Opcode::Binary, &write(&full_addr, &pattern(8, 0, 900_000)));
        wire.send_frame(Opcode::Binary, &write(&addr, b"behind it"));
        daemon.until_count("credit_waits", 1);
        let start = Instant::now();
        std::thread::scope(|scope| {
            // Until it is disconnected, as its driver is gone.
            scope.spawn(|| device.flood(&[7; 10_000]));
            daemon.until_count("sessions_stalled", 1);
        });
        let took = start.elapsed();
        assert!(took > STALL * 7 / 4, "let go after {took:?}");
        drop((wire, device, full));
    });
}

fn a_driver_that_takes_a_little_now_and_then_is_not_let_go(shards: usize) {
    const SIZE: usize = 40 << 20;
    Setup::new(shards).limit("stall-ms-max", 2_000).run(|daemon| {
        let port = free_port();
        let mut fast = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut slow = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = fast.event().addr().clone();
        assert_eq!(slow.event(), Event::Opened(addr.clone()));
        let other = addr.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || device.send(&pattern(5, 0, SIZE)));
            scope.spawn(move || expect_stream(&mut fast, &other, 5, 0..SIZE));
            let start = Instant::now();
            let mut taken = 0;
            while taken < SIZE {
                let Event::Received(_, data) = slow.event() else { panic!("no RECEIVED after {taken} bytes") };
                assert!(data == pattern(5, taken, data.len()), "the stream differs at {taken}");
                // A pause after each mebibyte, for twice the limit in all.
                if (taken >> 20) != ((taken + data.len()) >> 20) && start.elapsed() < Duration::from_secs(4) {
                    std::thread::sleep(Duration::from_millis(150));
                }
                taken += data.len();
            }
            let took = start.elapsed();
            assert!(took > Duration::from_secs(3), "it was not slow: {took:?}");
        });
        assert_eq!(daemon.count("sessions_stalled"), 0);
    });
}

fn devices_that_flood_a_slow_driver_do_not_corrupt_its_stream(shards: usize) {
    const SIZE: usize = 6 << 20;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut devices = Vec::new();
        for id in 0..3 {
            devices.push(Device::connect("127.0.0.1", port));
            assert_eq!(wire.event(), Event::Opened(Addr::new("127.0.0.1", id)));
        }
        std::thread::scope(|scope| {
            for (seed, mut device) in (0..).zip(devices) {
                scope.spawn(move || device.send(&pattern(seed, 0, SIZE)));
            }
            let (mut taken, mut closed, mut events) = ([0; 3], 0, 0);
            while closed < 3 {
                events += 1;
                if events % 40 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let event = wire.event();
                let id = usize::try_from(event.addr().id).unwrap();
                match event {
                    Event::Received(addr, data) => {
                        assert!(data == pattern(addr.id, taken[id], data.len()), "{addr:?} differs at {}", taken[id]);
                        taken[id] += data.len();
                    }
                    Event::Closed(_) => {
                        assert_eq!(taken[id], SIZE, "CLOSED before everything");
                        closed += 1;
                    }
                    Event::Opened(addr) => panic!("{addr:?} opened twice"),
                }
            }
        });
    });
}

/// Sends numbered datagrams until the daemon has dropped one for want of room in the driver's outbox.
fn flood_until_dropped(daemon: &Daemon, device: &Datagrams, port: u16) -> u64 {
    let mut number = 0_u64;
    eventually("a datagram is dropped", || {
        for _ in 0..200 {
            let mut data = vec![0; 8_000];
            data[..8].copy_from_slice(&number.to_be_bytes());
            device.send(port, &data);
            number += 1;
        }
        (daemon.count("datagrams_dropped_outbox") > 0).then_some(())
    });
    number
}

fn datagrams_for_a_slow_driver_are_dropped_and_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Udp, port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        device.send(port, &[0xff; 8_000]);
        assert!(matches!(wire.event(), Event::Received(..)));
        let before = resident_bytes(daemon.pid());
        let sent = flood_until_dropped(daemon, &device, port);
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes more");
        let kept = kept_datagrams(&mut wire, &device, port);
        // What was kept is whole and in order, and it is not all of it.
        assert!(kept.iter().zip(&kept[1..]).all(|(one, next)| one < next), "{kept:?}");
        assert!(kept.len() > 10 && (kept.len() as u64) < sent, "{} of {sent}", kept.len());
    });
}

/// The numbers of the datagrams that were kept for a driver; a last one, sent until it finds room, says where they end.
fn kept_datagrams(wire: &mut Wire, device: &Datagrams, port: u16) -> Vec<u64> {
    const LAST: &[u8] = b"the last one";
    let (mut kept, found) = (Vec::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                if found.load(Ordering::Relaxed) {
                    break;
                }
                device.send(port, LAST);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        loop {
            let Event::Received(_, data) = wire.event() else { panic!("no RECEIVED") };
            if data == LAST {
                break;
            }
            assert_eq!(data.len(), 8_000);
            kept.push(u64::from_be_bytes(data[..8].try_into().unwrap()));
        }
        found.store(true, Ordering::Relaxed);
    });
    kept
}

fn datagrams_for_a_slow_driver_still_reach_the_others(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let _stopped = daemon.wire(Transport::Udp, port, "127.0.0.0/8");
        let mut reading = daemon.join_udp(port, "127.0.0.2");
        let flooding = Datagrams::bind("127.0.0.1");
        flood_until_dropped(daemon, &flooding, port);
        let device = Datagrams::bind("127.0.0.2");
        let addr = Addr::new("127.0.0.2", device.port());
        for round in 0..50_u8 {
            device.send(port, &[round; 1_000]);
            reading.datagram(&addr, &[round; 1_000]);
            reading.write(&addr, &[round]);
            device.expect(&[round]);
        }
    });
}

fn the_greatest_datagram_fits_into_the_smallest_outbox(shards: usize) {
    Setup::new(shards).limit("outbox-bytes-max", 204_800).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        for round in 0..20 {
            let data = pattern(round, 0, 65_507);
            device.send(port, &data);
            driver.datagram(&addr, &data);
        }
        assert_eq!(daemon.count("datagrams_dropped_outbox"), 0);
    });
}

fn pings_that_nobody_reads_the_answers_of_cost_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, _device, _) = joined(daemon, "127.0.0.1");
        let before = resident_bytes(daemon.pid());
        let ping = crate::harness::frame(0x89, &[7; 125]);
        let many = ping.repeat(500);
        wire.set_write_patience(Duration::from_millis(700));
        // Answers that nobody reads fill the buffers of the kernel; then the daemon stops reading, or ends the session.
        let taken = (0..1_000).take_while(|_| wire.try_send(&many).is_ok()).count();
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{grown} bytes more after {} pings", taken * 500);
        let (mut other, mut device, addr) = joined(daemon, "127.0.0.1");
        device.send(b"served");
        assert_eq!(other.event(), Event::Received(addr, b"served".to_vec()));
    });
}

fn a_driver_that_dies_with_much_unread_is_noticed_at_once(shards: usize) {
    Setup::new(shards).limit("linger-ms-max", 500).run(|daemon| {
        for how in 0..3 {
            let (mut wire, mut device, _) = joined(daemon, "127.0.0.1");
            assert!(device.send_until_blocked(1, ENDLESS, Duration::from_millis(300)) < ENDLESS);
            match how {
                0 => wire.reset(),
                1 => drop(wire),
                _ => {
                    wire.send_frame(Opcode::Close, &1000_u16.to_be_bytes());
                    drop(wire);
                }
            }
            let start = Instant::now();
            eventually("it has left", || (daemon.held("sessions") + daemon.held("devices") == 0).then_some(()));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(15), "noticed after {took:?} ({how})");
        }
    });
}

/// Lets many devices send at once, and fails unless all of it arrives.
fn assert_serves_many(daemon: &Daemon, count: usize) {
    const SIZE: usize = 100_000;
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let mut devices = Vec::new();
    for _ in 0..count {
        devices.push(Device::connect("127.0.0.1", port));
        assert!(matches!(wire.event(), Event::Opened(_)));
    }
    std::thread::scope(|scope| {
        for (seed, mut device) in (0..).zip(devices) {
            scope.spawn(move || device.send(&pattern(seed, 0, SIZE)));
        }
        let (mut taken, mut closed) = (vec![0; count], 0);
        while closed < count {
            match wire.event() {
                Event::Received(addr, data) => {
                    let offset = &mut taken[usize::try_from(addr.id).unwrap()];
                    assert!(data == pattern(addr.id, *offset, data.len()), "{addr:?} differs at {offset}");
                    *offset += data.len();
                }
                Event::Closed(addr) => {
                    assert_eq!(taken[usize::try_from(addr.id).unwrap()], SIZE, "{addr:?} closed early");
                    closed += 1;
                }
                Event::Opened(addr) => panic!("{addr:?} opened twice"),
            }
        }
    });
}

fn few_receive_buffers_serve_many_devices(shards: usize) {
    Setup::new(shards).limit("receive-buffers", 4).run(|daemon| assert_serves_many(daemon, 50));
    Setup::new(shards).limit("receive-buffers", 1).run(|daemon| assert_serves_many(daemon, 10));
}

fn a_small_ring_serves_many_devices(shards: usize) {
    Setup::new(shards).limit("ring-entries", 16).run(|daemon| assert_serves_many(daemon, 80));
}
