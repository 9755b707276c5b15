//! Proves that a TCP device's end loses nothing that was written before it, and that a port can be reopened at once.

use std::time::{Duration, Instant};

use crate::harness::{
    Addr, BASES, Daemon, Device, Driver, Event, Opcode, Setup, Transport, Wire, close, eventually, fds, frame,
    free_port, pattern, write,
};

scenarios! {
    a_half_closed_device_still_gets_what_was_written_and_then_closed_leaves,
    a_half_closed_device_that_reads_late_still_gets_everything,
    a_reply_followed_by_close_arrives_whole,
    a_reply_followed_by_close_arrives_whole_though_nobody_read_what_the_device_sent,
    a_reply_followed_by_close_arrives_whole_though_the_device_goes_on_sending,
    what_was_written_arrives_whole_though_the_operator_disconnects_a_device_that_goes_on_sending,
    a_reply_followed_by_goodbye_arrives_whole,
    writes_that_wait_for_credit_when_the_driver_says_goodbye_are_not_lost,
    a_close_waits_for_a_slow_reader_that_makes_progress,
    a_close_waits_in_vain_only_as_long_as_the_flush_limit,
    a_goodbye_waits_in_vain_only_as_long_as_the_flush_limit,
    a_device_that_takes_nothing_for_the_user_timeout_is_ended,
    without_a_user_timeout_and_a_size_of_sockets_devices_are_served,
    a_device_that_never_closes_is_waited_for_as_long_as_the_linger_lasts,
    reopening_at_once_works_a_hundred_times,
    reopening_at_once_with_devices_works,
}

/// More than the buffers of the kernel on both sides hold, so that some of it waits in the daemon.
const BEYOND_THE_KERNEL: usize = 12_000_000;
/// A window that takes all of it, so that what the driver sends next is read as well.
const WINDOW: usize = 16 << 20;

fn joined(daemon: &Daemon) -> (Driver, Device, Addr) {
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    (driver, device, addr)
}

fn with_small_receive_buffer(daemon: &Daemon) -> (Driver, Device, Addr) {
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
    let addr = driver.opened();
    (driver, device, addr)
}

/// Writes a pattern in messages of 60,000 bytes.
fn write_pattern(driver: &mut Driver, addr: &Addr, size: usize) {
    for part in pattern(1, 0, size).chunks(60_000) {
        driver.write(addr, part);
    }
}

/// Fails unless everything that the driver sent before has been decided on: its order holds towards a port.
fn settle(driver: &mut Driver, other: &mut Device, addr: &Addr) {
    driver.write(addr, b"in turn");
    other.expect(b"in turn");
}

fn a_half_closed_device_still_gets_what_was_written_and_then_closed_leaves(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
        let mut other = Device::connect("127.0.0.2", port);
        let other_addr = driver.opened();
        for _ in 0..10 {
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            device.send(b"request");
            driver.received(&addr, b"request");
            driver.write(&addr, b"answer");
            settle(&mut driver, &mut other, &other_addr);
            device.half_close();
            device.expect(b"answer");
            device.ends();
            driver.closed(&addr);
        }
    });
}

fn a_half_closed_device_that_reads_late_still_gets_everything(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).limit("write-window-bytes-max", WINDOW).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,127.0.0.2");
        let mut other = Device::connect("127.0.0.2", port);
        let other_addr = driver.opened();
        let mut device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
        let addr = driver.opened();
        write_pattern(&mut driver, &addr, BEYOND_THE_KERNEL);
        settle(&mut driver, &mut other, &other_addr);
        device.half_close();
        device.expect(&pattern(1, 0, BEYOND_THE_KERNEL));
        device.ends();
        driver.closed(&addr);
    });
}

fn a_reply_followed_by_close_arrives_whole(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).run(|daemon| {
        for size in [1, 4_096, 65_536, 1_000_000] {
            let (mut driver, mut device, addr) = joined(daemon);
            write_pattern(&mut driver, &addr, size);
            driver.close(&addr);
            device.expect(&pattern(1, 0, size));
            device.ends();
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn a_reply_followed_by_close_arrives_whole_though_nobody_read_what_the_device_sent(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).run(|daemon| {
        let (mut driver, mut device, addr) = joined(daemon);
        // The driver reads nothing, so that in the end the daemon cannot either.
        let sent = device.send_until_blocked(7, 64 << 20, Duration::from_millis(500));
        assert!(sent < 64 << 20, "the device never had to wait");
        write_pattern(&mut driver, &addr, 200_000);
        driver.close(&addr);
        device.expect(&pattern(1, 0, 200_000));
        device.ends();
        drop(device);
        // What was delivered is a whole beginning of what was sent, and CLOSED comes last.
        let mut taken = 0;
        loop {
            match driver.event() {
                Event::Received(from, data) if from == addr => {
                    assert!(data == pattern(7, taken, data.len()), "at {taken}");
                    taken += data.len();
                }
                Event::Closed(from) if from == addr => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(taken <= sent);
    });
}

/// Writes to a device that goes on sending, ends it, and sees that all that was written arrives.
fn arrives_whole_though_the_device_goes_on_sending(daemon: &Daemon, end: impl Fn(&mut Wire, &Addr, u16) + Sync) {
    const SIZE: usize = 300_000;
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let mut device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
    let addr = wire.event().addr().clone();
    std::thread::scope(|scope| {
        let (mut sender, mut writer) = (device.another_handle(), wire.writer());
        scope.spawn(move || sender.flood(&[7; 3_000]));
        scope.spawn(|| while matches!(wire.event(), Event::Received(..)) {});
        for part in pattern(1, 0, SIZE).chunks(60_000) {
            writer.send_frame(Opcode::Binary, &write(&addr, part));
        }
        end(&mut writer, &addr, port);
        device.expect(&pattern(1, 0, SIZE));
        device.ends();
        device.hang_up();
    });
}

fn a_reply_followed_by_close_arrives_whole_though_the_device_goes_on_sending(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).run(|daemon| {
        for _ in 0..10 {
            arrives_whole_though_the_device_goes_on_sending(daemon, |writer, addr, _| {
                writer.send_frame(Opcode::Binary, &close(addr));
            });
        }
    });
}

fn what_was_written_arrives_whole_though_the_operator_disconnects_a_device_that_goes_on_sending(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).limit("write-window-bytes-max", WINDOW).run(|daemon| {
        for _ in 0..10 {
            arrives_whole_though_the_device_goes_on_sending(daemon, |_, addr, port| {
                // All of it has come to the device's queue.
                let device = format!("{}/devices/tcp/{port}/{}", BASES[0], addr.id);
                eventually("the writes", || {
                    let row = daemon.fetch(&device).json();
                    let bytes = row["bytes_written"].as_u64()? + row["backlog_bytes"].as_u64()?;
                    (bytes >= 300_000).then_some(())
                });
                assert_eq!(daemon.ask("DELETE", &device).status, 200);
            });
        }
    });
}

fn a_reply_followed_by_goodbye_arrives_whole(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 2_000).run(|daemon| {
        for size in [1, 65_536, 1_000_000] {
            let (mut driver, mut device, addr) = joined(daemon);
            device.send(b"unread by the driver");
            write_pattern(&mut driver, &addr, size);
            // The driver is read to its end while the device reads.
            std::thread::scope(|scope| {
                scope.spawn(|| driver.leave());
                device.expect(&pattern(1, 0, size));
                device.ends();
            });
        }
    });
}

fn writes_that_wait_for_credit_when_the_driver_says_goodbye_are_not_lost(shards: usize) {
    // One write is larger than the window and than what the kernel holds, so that the next has to wait.
    let setup = Setup::new(shards).limit("write-window-bytes-max", 4_096).limit("message-bytes-max", WINDOW);
    setup.limit("flush-ms-max", 2_000).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
        let addr = wire.event().addr().clone();
        let large = pattern(1, 0, BEYOND_THE_KERNEL);
        wire.send_frame(Opcode::Binary, &write(&addr, &large));
        // In one segment, so that the goodbye is read before the write is paid for.
        wire.send(&[frame(0x82, &write(&addr, b"last words")), frame(0x88, &1000_u16.to_be_bytes())].concat());
        daemon.until_count("credit_waits", 1);
        device.expect(&large);
        device.expect(b"last words");
        device.ends();
        device.hang_up();
        assert_eq!(wire.close_reason().0, 1000);
    });
}

fn a_close_waits_for_a_slow_reader_that_makes_progress(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 1_000).limit("write-window-bytes-max", WINDOW).run(|daemon| {
        let (mut driver, mut device, addr) = with_small_receive_buffer(daemon);
        write_pattern(&mut driver, &addr, BEYOND_THE_KERNEL);
        driver.close(&addr);
        // Reading takes longer than the limit in all, but never longer in one go.
        let part = BEYOND_THE_KERNEL / 12;
        for turn in 0..12 {
            std::thread::sleep(Duration::from_millis(150));
            device.expect(&pattern(1, turn * part, part));
        }
        device.ends();
        drop(device);
        driver.closed(&addr);
    });
}

/// Fails unless this was a flush limit of 1 s, and not the default of 8 s.
fn assert_is_that_limit(took: Duration) {
    assert!((Duration::from_millis(800)..Duration::from_secs(7)).contains(&took), "the end after {took:?}");
}

fn a_close_waits_in_vain_only_as_long_as_the_flush_limit(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 1_000).limit("write-window-bytes-max", WINDOW).run(|daemon| {
        let (mut driver, deaf, addr) = with_small_receive_buffer(daemon);
        write_pattern(&mut driver, &addr, BEYOND_THE_KERNEL);
        let start = Instant::now();
        driver.close(&addr);
        driver.closed(&addr);
        assert_is_that_limit(start.elapsed());
        drop(deaf);
    });
}

fn a_goodbye_waits_in_vain_only_as_long_as_the_flush_limit(shards: usize) {
    Setup::new(shards).limit("flush-ms-max", 1_000).limit("write-window-bytes-max", WINDOW).run(|daemon| {
        let (mut driver, deaf, addr) = with_small_receive_buffer(daemon);
        write_pattern(&mut driver, &addr, BEYOND_THE_KERNEL);
        let start = Instant::now();
        driver.leave();
        // Gone from the daemon while the device still holds its end open.
        eventually("the device is let go", || (daemon.held("devices") == 0).then_some(()));
        assert_is_that_limit(start.elapsed());
        drop(deaf);
    });
}

fn a_device_that_takes_nothing_for_the_user_timeout_is_ended(shards: usize) {
    let setup = Setup::new(shards).limit("device-user-timeout-ms", 1_000).limit("credit-wait-ms-max", 60_000);
    setup.run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let deaf = Device::with_receive_buffer("127.0.0.1", port, Some(4 * 1024)).unwrap();
        let addr = driver.opened();
        write_pattern(&mut driver, &addr, 200_000);
        driver.closed(&addr);
        drop(deaf);
    });
}

fn without_a_user_timeout_and_a_size_of_sockets_devices_are_served(shards: usize) {
    const SIZE: usize = 4 << 20;
    for names in [&["device-user-timeout-ms"][..], &["socket-bytes"], &["device-user-timeout-ms", "socket-bytes"]] {
        let setup = names.iter().fold(Setup::new(shards), |setup, name| setup.limit(name, 0));
        setup.run(|daemon| {
            let (mut driver, mut device, addr) = joined(daemon);
            std::thread::scope(|scope| {
                let mut sender = device.another_handle();
                scope.spawn(move || sender.send(&pattern(2, 0, SIZE)));
                driver.received(&addr, &pattern(2, 0, SIZE));
                scope.spawn(|| device.expect(&pattern(1, 0, SIZE)));
                write_pattern(&mut driver, &addr, SIZE);
            });
            driver.close(&addr);
            device.ends();
            driver.closed(&addr);
        });
    }
}

fn a_device_that_never_closes_is_waited_for_as_long_as_the_linger_lasts(shards: usize) {
    /// Longer than by default.
    const LINGER: Duration = Duration::from_secs(4);
    Setup::new(shards).limit("linger-ms-max", LINGER.as_millis() as usize).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let before = fds(daemon.pid());
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let mut now = fds(daemon.pid()).into_iter();
        let socket = now.find(|target| target.starts_with("socket:") && !before.contains(target)).unwrap();
        let start = Instant::now();
        driver.write(&addr, b"goodbye");
        driver.close(&addr);
        device.expect(b"goodbye");
        device.ends();
        eventually("its socket is closed", || (!fds(daemon.pid()).contains(&socket)).then_some(()));
        let took = start.elapsed();
        assert!(took >= LINGER, "closed after {took:?}");
        driver.closed(&addr);
        // What it sends finds nobody.
        eventually("it is turned away", || device.try_send(b"still here").err());
    });
}

fn reopening_at_once_works_a_hundred_times(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        for round in 0..100 {
            let driver = daemon.join_tcp(port, "127.0.0.1");
            match round % 3 {
                0 => driver.leave(),
                1 => driver.reset(),
                _ => drop(driver),
            }
        }
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        device.send(b"open");
        driver.received(&addr, b"open");
    });
}

fn reopening_at_once_with_devices_works(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        for round in 0..50 {
            let mut driver = daemon.join_tcp(port, "127.0.0.1,::1");
            let mut device = Device::connect(["127.0.0.1", "::1"][round % 2], port);
            let name = format!("device {round}");
            device.send(name.as_bytes());
            // The device of the round before may still be there, to be told of first.
            let heard = (0..10).any(|_| match driver.event() {
                Event::Received(_, data) => data == name.as_bytes(),
                Event::Opened(_) | Event::Closed(_) => false,
            });
            assert!(heard, "{name} is not heard");
        }
    });
}
