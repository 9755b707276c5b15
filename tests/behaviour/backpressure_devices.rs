//! Proves that a slow device slows down only those who write to it, and never keeps a driver unread for long.

use std::time::{Duration, Instant};

use crate::harness::{
    Addr, Daemon, Device, Event, Opcode, Setup, Transport, Wire, eventually, free_port, pattern, write,
};

scenarios! {
    a_device_that_reads_late_stops_only_the_drivers_that_write_to_it,
    a_driver_is_read_again_within_the_credit_wait_and_the_device_is_let_go,
    a_device_that_is_too_slow_is_let_go_though_it_makes_progress,
    the_device_that_holds_most_of_the_credit_is_the_one_let_go,
    a_driver_that_waits_now_and_then_keeps_its_devices,
    a_write_larger_than_the_window_arrives_whole,
    a_close_is_answered_when_the_writes_before_it_are_on_their_way,
    small_windows_carry_long_streams,
    a_device_that_dies_gives_its_drivers_credit_back,
    a_driver_that_dies_while_it_waits_for_credit_is_noticed,
}

/// More than the buffers of the kernel hold between a driver and a device that does not read.
const BEYOND_THE_KERNEL: usize = 24 << 20;
const PART: usize = 60_000;
/// How long a driver waits for credit unless set, with something left for the clocks.
const CREDIT_WAIT_DEFAULT: Duration = Duration::from_secs(7);

/// Writes a pattern to a device; waits wherever the daemon lets it wait.
fn write_pattern(wire: &mut Wire, addr: &Addr, size: usize) {
    for part in pattern(1, 0, size).chunks(PART) {
        wire.send_frame(Opcode::Binary, &write(addr, part));
    }
}

fn open(wire: &mut Wire, source: &str, port: u16) -> (Device, Addr) {
    let device = Device::with_receive_buffer(source, port, Some(16 * 1024)).unwrap();
    let Event::Opened(addr) = wire.event() else { panic!("no OPENED") };
    (device, addr)
}

fn a_device_that_reads_late_stops_only_the_drivers_that_write_to_it(shards: usize) {
    Setup::new(shards).limit("credit-wait-ms-max", 60_000).run(|daemon| {
        let port = free_port();
        let mut blocked = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let (mut late, late_addr) = open(&mut blocked, "127.0.0.1", port);
        let mut free = daemon.wire(Transport::Tcp, port, "127.0.0.2");
        let (mut prompt, prompt_addr) = open(&mut free, "127.0.0.2", port);
        std::thread::scope(|scope| {
            let mut writer = blocked.writer();
            scope.spawn(move || write_pattern(&mut writer, &late_addr, BEYOND_THE_KERNEL));
            daemon.until_count("credit_waits", 1);
            let start = Instant::now();
            for round in 0..100_u8 {
                free.send_frame(Opcode::Binary, &write(&prompt_addr, &[round; 100]));
                prompt.expect(&[round; 100]);
                prompt.send(&[round]);
                assert_eq!(free.event(), Event::Received(prompt_addr.clone(), vec![round]));
            }
            let took = start.elapsed();
            assert!(took < Duration::from_secs(25), "100 exchanges in {took:?}");
            // It had stopped its writer, so nothing is lost.
            late.expect(&pattern(1, 0, BEYOND_THE_KERNEL));
        });
        late.send(b"all of it");
        assert!(matches!(blocked.event(), Event::Received(_, data) if data == b"all of it"));
        assert_eq!(daemon.count("devices_stalled"), 0);
    });
}

fn a_driver_is_read_again_within_the_credit_wait_and_the_device_is_let_go(shards: usize) {
    Setup::new(shards).limit("credit-wait-ms-max", 1_000).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1,127.0.0.2");
        let (deaf, deaf_addr) = open(&mut wire, "127.0.0.1", port);
        let (mut prompt, prompt_addr) = open(&mut wire, "127.0.0.2", port);
        std::thread::scope(|scope| {
            let (mut writer, deaf_addr) = (wire.writer(), &deaf_addr);
            // Before any wait can begin.
            let start = Instant::now();
            scope.spawn(move || {
                write_pattern(&mut writer, deaf_addr, BEYOND_THE_KERNEL);
                writer.send_frame(Opcode::Binary, &write(&prompt_addr, b"through"));
            });
            daemon.until_count("credit_waits", 1);
            assert_eq!(wire.event(), Event::Closed(deaf_addr.clone()));
            assert_is_that_limit(start.elapsed());
            prompt.expect(b"through");
        });
        assert_eq!(daemon.count("devices_stalled"), 1);
        assert!(daemon.count("writes_dropped") > 0, "what was written to it afterwards");
        drop(deaf);
    });
}

/// Fails unless this was a credit wait of 1 s, and not the default.
fn assert_is_that_limit(took: Duration) {
    assert!((Duration::from_millis(900)..CREDIT_WAIT_DEFAULT).contains(&took), "let go after {took:?}");
}

fn a_device_that_is_too_slow_is_let_go_though_it_makes_progress(shards: usize) {
    Setup::new(shards).limit("credit-wait-ms-max", 1_000).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1,127.0.0.2");
        let (mut slow, slow_addr) = open(&mut wire, "127.0.0.1", port);
        let (mut prompt, prompt_addr) = open(&mut wire, "127.0.0.2", port);
        std::thread::scope(|scope| {
            let (mut writer, slow_addr) = (wire.writer(), &slow_addr);
            scope.spawn(move || {
                // Each is larger than the window, so the next waits until all of it has been taken.
                for _ in 0..12 {
                    writer.send_frame(Opcode::Binary, &write(slow_addr, &pattern(1, 0, 1_000_000)));
                }
                writer.send_frame(Opcode::Binary, &write(&prompt_addr, b"through"));
            });
            // 200,000 bytes a second: 5 s for one of them.
            let ending = slow.another_handle();
            scope.spawn(move || slow.read_slowly(20_000, Duration::from_millis(100), 100));
            daemon.until_count("credit_waits", 1);
            let start = Instant::now();
            assert_eq!(wire.event(), Event::Closed(slow_addr.clone()));
            let took = start.elapsed();
            assert!(took < CREDIT_WAIT_DEFAULT, "let go after {took:?}");
            ending.hang_up();
            prompt.expect(b"through");
        });
        assert_eq!(daemon.count("devices_stalled"), 1);
    });
}

fn the_device_that_holds_most_of_the_credit_is_the_one_let_go(shards: usize) {
    Setup::new(shards).limit("credit-wait-ms-max", 1_000).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.0/8");
        let (deaf, deaf_addr) = open(&mut wire, "127.0.0.1", port);
        let mut others: Vec<_> = (2..6).map(|number| open(&mut wire, &format!("127.0.0.{number}"), port)).collect();
        std::thread::scope(|scope| {
            let (mut writer, deaf_addr) = (wire.writer(), &deaf_addr);
            let other_addrs: Vec<_> = others.iter().map(|(_, addr)| addr.clone()).collect();
            let start = Instant::now();
            scope.spawn(move || {
                // A little for each of the others after each part for the one that reads nothing.
                for part in pattern(1, 0, BEYOND_THE_KERNEL).chunks(PART) {
                    writer.send_frame(Opcode::Binary, &write(deaf_addr, part));
                    for addr in &other_addrs {
                        writer.send_frame(Opcode::Binary, &write(addr, b"a little"));
                    }
                }
            });
            assert_eq!(wire.event(), Event::Closed(deaf_addr.clone()));
            assert_is_that_limit(start.elapsed());
            let all = b"a little".repeat(BEYOND_THE_KERNEL.div_ceil(PART));
            for (device, _) in &mut others {
                device.expect(&all);
            }
        });
        assert_eq!(daemon.count("devices_stalled"), 1);
        drop(deaf);
    });
}

fn a_driver_that_waits_now_and_then_keeps_its_devices(shards: usize) {
    const SIZE: usize = 12 << 20;
    Setup::new(shards).limit("credit-wait-ms-max", 1_500).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let (mut device, addr) = open(&mut wire, "127.0.0.1", port);
        std::thread::scope(|scope| {
            let mut writer = wire.writer();
            scope.spawn(move || write_pattern(&mut writer, &addr, SIZE));
            daemon.until_count("credit_waits", 1);
            // Longer than the limit in all, but never in one go.
            let part = SIZE / 24;
            for turn in 0..24 {
                device.expect(&pattern(1, turn * part, part));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        assert_eq!(daemon.count("devices_stalled"), 0);
    });
}

fn carries(daemon: &Daemon, parts: &[usize]) {
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let (mut device, addr) = open(&mut wire, "127.0.0.1", port);
    let mut offset = 0;
    for &part in parts {
        let data = pattern(6, offset, part);
        let mut writer = wire.writer();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.send_frame(Opcode::Binary, &write(&addr, &data)));
            device.expect(&data);
        });
        offset += part;
    }
}

fn a_write_larger_than_the_window_arrives_whole(shards: usize) {
    Setup::new(shards).limit("write-window-bytes-max", 65_536).run(|daemon| {
        carries(daemon, &[1, 65_472, 65_473, 65_536, 65_537, 1_000_000, 5, 1_000_000, 1_000_000]);
    });
}

fn a_close_is_answered_when_the_writes_before_it_are_on_their_way(shards: usize) {
    const READS_AFTER: Duration = Duration::from_millis(600);
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut full = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
        let full_addr = wire.event().addr().clone();
        let mut other = Device::connect("127.0.0.1", port);
        let other_addr = wire.event().addr().clone();
        // It takes the window whole, so that the write behind it waits.
        let large = pattern(1, 0, 900_000);
        wire.send_frame(Opcode::Binary, &write(&full_addr, &large));
        wire.send_frame(Opcode::Binary, &write(&other_addr, b"before the close"));
        wire.send_frame(Opcode::Close, &1000_u16.to_be_bytes());
        daemon.until_count("credit_waits", 1);
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(READS_AFTER);
                full.expect(&large);
            });
            assert_eq!(wire.close_reason().0, 1000);
            assert!(start.elapsed() >= READS_AFTER, "answered after {:?}", start.elapsed());
            other.expect(b"before the close");
        });
    });
}

fn small_windows_carry_long_streams(shards: usize) {
    Setup::new(shards).limit("write-window-bytes-max", 4_096).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let (mut device, addr) = open(&mut wire, "127.0.0.1", port);
        let mut writer = wire.writer();
        std::thread::scope(|scope| {
            scope.spawn(move || write_pattern(&mut writer, &addr, 4_000_000));
            device.expect(&pattern(1, 0, 4_000_000));
        });
    });
}

fn a_device_that_dies_gives_its_drivers_credit_back(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1,127.0.0.2");
        let (deaf, deaf_addr) = open(&mut wire, "127.0.0.1", port);
        let (mut prompt, prompt_addr) = open(&mut wire, "127.0.0.2", port);
        std::thread::scope(|scope| {
            let (mut writer, deaf_addr) = (wire.writer(), &deaf_addr);
            scope.spawn(move || {
                write_pattern(&mut writer, deaf_addr, BEYOND_THE_KERNEL);
                writer.send_frame(Opcode::Binary, &write(&prompt_addr, b"through"));
            });
            daemon.until_count("credit_waits", 1);
            deaf.reset();
            assert_eq!(wire.event(), Event::Closed(deaf_addr.clone()));
            prompt.expect(b"through");
        });
        assert_eq!(daemon.count("devices_stalled"), 0);
    });
}

fn a_driver_that_dies_while_it_waits_for_credit_is_noticed(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 1_000).limit("credit-wait-ms-max", 2_000).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let (deaf, deaf_addr) = open(&mut wire, "127.0.0.1", port);
        wire.set_write_patience(Duration::from_millis(500));
        let message = crate::harness::frame(0x82, &write(&deaf_addr, &[7; PART]));
        assert!((0..1_000).any(|_| wire.try_send(&message).is_err()), "it never had to wait");
        daemon.until_count("credit_waits", 1);
        wire.reset();
        // Its end is noticed once its socket is read again, and what nobody takes is given up.
        eventually("nothing is left", || (daemon.held("devices") + daemon.held("sessions") == 0).then_some(()));
        drop(deaf);
    });
}
