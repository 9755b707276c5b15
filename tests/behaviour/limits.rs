//! Proves that at its limits the daemon refuses, waits or lets go, goes on serving, and recovers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{
    Addr, BASES, Daemon, Device, Driver, Event, Setup, Transport, Wire, cpu_time, eventually, fds, frame, free_port,
    is_root, join_target, pattern, raise_descriptor_limit, resident_bytes, say_skipped, write,
};

scenarios! {
    out_of_descriptors_it_serves_on_without_spinning_and_recovers,
    devices_over_a_ports_limit_are_disconnected_at_once,
    devices_over_the_limit_of_all_wait_until_there_is_room,
    devices_of_one_port_make_room_for_those_of_another,
    idle_devices_cost_little_memory,
    idle_drivers_cost_little_memory,
    memory_that_sessions_took_comes_back,
    silent_connections_leave_descriptors_to_drivers_and_devices,
    an_ordinary_user_is_enough_and_no_file_is_written,
    the_descriptor_limit_is_raised_as_far_as_it_goes,
    a_large_message_without_memory_ends_its_session_with_1013_and_leaves_room,
}

/// Takes what a driver is told next: so many devices opened.
fn opened(driver: &mut Driver, count: usize) -> Vec<Addr> {
    (0..count).map(|_| driver.opened()).collect()
}

fn out_of_descriptors_it_serves_on_without_spinning_and_recovers(shards: usize) {
    const COUNT: usize = 500;
    raise_descriptor_limit();
    let limited = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];
    Setup::new(shards).under(&limited).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        // They all connect: the kernel does that, until the daemon accepts them.
        let devices: Vec<_> = (0..COUNT).map(|_| Device::connect("127.0.0.1", port)).collect();
        let accepted = eventually("devices are accepted until there is no room", || {
            let before = daemon.held("devices");
            std::thread::sleep(Duration::from_millis(200));
            (before > 0 && before == daemon.held("devices")).then_some(before)
        });
        assert!((64..256).contains(&accepted), "{accepted} devices with 256 descriptors");
        assert_serves_on(daemon);
        assert_waits_quietly(daemon);
        // As devices go, others come, until each has been there once.
        let (mut ids, mut ended) = (BTreeSet::new(), 0);
        while ended < COUNT {
            match driver.event() {
                Event::Opened(addr) => {
                    assert!(ids.insert(addr.id));
                    driver.close(&addr);
                }
                Event::Closed(_) => ended += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids, (0..COUNT as u64).collect());
        drop(devices);
    });
}

/// Fails unless the daemon waits without spending processor time or log lines on it.
fn assert_waits_quietly(daemon: &Daemon) {
    let (time, logged) = (cpu_time(daemon.pid()), daemon.log_bytes());
    std::thread::sleep(Duration::from_secs(1));
    let (spent, written) = (cpu_time(daemon.pid()) - time, daemon.log_bytes() - logged);
    assert!(spent < Duration::from_millis(300), "{spent:?} of processor time in a second of nothing");
    assert!(written < 100_000, "{written} bytes of log in a second of nothing");
}

/// Fails unless the API answers and another driver is served with what devices it can have.
fn assert_serves_on(daemon: &Daemon) {
    for base in BASES {
        assert_eq!(daemon.fetch(&format!("{base}/healthz")).status, 200);
    }
    for _ in 0..10 {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let device = crate::harness::Datagrams::bind("127.0.0.1");
        device.send(port, b"served");
        driver.datagram(&Addr::new("127.0.0.1", device.port()), b"served");
        driver.leave();
    }
}

fn devices_over_a_ports_limit_are_disconnected_at_once(shards: usize) {
    Setup::new(shards).limit("devices-per-port-max", 2).run(|daemon| {
        let (port, other) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        let mut elsewhere = daemon.join_tcp(other, "127.0.0.1");
        let mut devices: Vec<_> = (0..2).map(|_| Device::connect("127.0.0.1", port)).collect();
        opened(&mut driver, 2);
        for source in ["127.0.0.1", "127.0.0.2"] {
            Device::connect(source, port).is_disconnected();
        }
        assert_eq!(daemon.count("devices_refused_limit"), 2);
        // Each port has its own limit.
        let _other = Device::connect("127.0.0.1", other);
        assert_eq!(elsewhere.opened().id, 0);
        drop(devices.pop());
        driver.closed(&Addr::new("127.0.0.1", 1));
        devices.push(Device::connect("127.0.0.1", port));
        // Those that were refused used no id.
        assert_eq!(driver.opened(), Addr::new("127.0.0.1", 2));
    });
}

fn devices_over_the_limit_of_all_wait_until_there_is_room(shards: usize) {
    Setup::new(shards).limit("devices-max", 10).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut devices: Vec<_> = (0..15).map(|_| Device::connect("127.0.0.1", port)).collect();
        let mut there = opened(&mut driver, 10);
        assert_serves_on(daemon);
        assert_eq!(daemon.held("devices"), 10);
        for _ in 0..5 {
            let leaving = there.remove(0);
            driver.close(&leaving);
            let (mut closed, mut arrived) = (0, 0);
            while (closed, arrived) != (1, 1) {
                match driver.event() {
                    Event::Closed(addr) => {
                        assert_eq!(addr, leaving);
                        closed += 1;
                        // It goes for good once the daemon's end has seen that of the device.
                        drop(devices.remove(0));
                    }
                    Event::Opened(addr) => {
                        there.push(addr);
                        arrived += 1;
                    }
                    other => panic!("{other:?}"),
                }
                assert!(daemon.held("devices") <= 10, "more than the limit");
            }
        }
        let ids: Vec<_> = there.iter().map(|addr| addr.id).collect();
        assert_eq!(ids, (5..15).collect::<Vec<_>>());
    });
}

fn devices_of_one_port_make_room_for_those_of_another(shards: usize) {
    Setup::new(shards).limit("devices-max", 4).run(|daemon| {
        // Enough ports that some are at home on the same shard and some are not.
        let mut joined: Vec<_> = (0..6)
            .map(|_| {
                let port = free_port();
                (port, daemon.join_tcp(port, "127.0.0.1"))
            })
            .collect();
        let (port, first) = &mut joined[0];
        let mut devices: Vec<_> = (0..4).map(|_| Device::connect("127.0.0.1", *port)).collect();
        opened(first, 4);
        for (port, driver) in &mut joined[1..] {
            let waiting = Device::connect("127.0.0.1", *port);
            drop(devices.remove(0));
            assert_eq!(driver.opened().id, 0, "the device on port {port}");
            devices.push(waiting);
        }
    });
}

fn idle_devices_cost_little_memory(shards: usize) {
    const COUNT: usize = 2_000;
    if raise_descriptor_limit() < 8_000 {
        say_skipped("2,000 devices need a descriptor limit of 8,000");
        return;
    }
    Setup::new(shards).variable("LOG_LEVEL", "info").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let warm = Device::connect("127.0.0.1", port);
        driver.opened();
        let before = resident_bytes(daemon.pid());
        let devices: Vec<_> = (0..COUNT)
            .map(|_| {
                let device = Device::connect("127.0.0.1", port);
                driver.opened();
                device
            })
            .collect();
        let each = resident_bytes(daemon.pid()).saturating_sub(before) / COUNT as u64;
        // The original takes 22,800.
        assert!(each < 6_000, "{each} bytes a device");
        drop((warm, devices));
    });
}

fn idle_drivers_cost_little_memory(shards: usize) {
    const COUNT: usize = 200;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let warm = daemon.join_udp(port, "127.0.0.1");
        let before = resident_bytes(daemon.pid());
        let drivers: Vec<_> = (0..COUNT).map(|_| daemon.join_udp(port, "127.0.0.1")).collect();
        let each = resident_bytes(daemon.pid()).saturating_sub(before) / COUNT as u64;
        // The original takes 40,000 to 46,000.
        assert!(each < 30_000, "{each} bytes a driver");
        drop((warm, drivers));
    });
}

fn memory_that_sessions_took_comes_back(shards: usize) {
    const LARGE: usize = 900_000;
    // Room for two sessions, one of them with a large message; what one kept would keep the next out.
    let setup = Setup::new(shards).limit("outbox-bytes-max", 1 << 20).limit("write-window-bytes-max", 1 << 19);
    setup.limit("session-memory-bytes-max", 9 << 19).limit("flush-ms-max", 1_000).run(|daemon| {
        for round in 0..12 {
            let port = free_port();
            let join = || daemon.try_join(Transport::Tcp, &port.to_string(), "127.0.0.1").ok();
            let mut one = eventually("a session has room", join);
            let mut other = eventually("two sessions have room", join);
            let mut device = Device::connect("127.0.0.1", port);
            let addr = one.opened();
            other.opened();
            one.write(&addr, &pattern(round, 0, LARGE));
            if round % 2 == 0 {
                device.expect(&pattern(round, 0, LARGE));
            }
            match round % 3 {
                0 => one.leave(),
                1 => one.reset(),
                _ => one.send(vec![9]),
            }
        }
    });
}

fn silent_connections_leave_descriptors_to_drivers_and_devices(shards: usize) {
    raise_descriptor_limit();
    let limited = ["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""];
    Setup::new(shards).under(&limited).limit("request-head-ms-max", 60_000).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        // They say nothing, and are more than there are descriptors: the one that waits longest goes for the next.
        let silent: Vec<_> = (0..400).map(|_| daemon.connection()).collect();
        assert_waits_quietly(daemon);
        assert!(fds(daemon.pid()).len() < 128, "{}", fds(daemon.pid()).len());
        device.send(b"still served");
        driver.received(&addr, b"still served");
        driver.write(&addr, b"both ways");
        device.expect(b"both ways");
        // New ones are, too.
        assert_serves_on(daemon);
        drop(silent);
    });
}

fn an_ordinary_user_is_enough_and_no_file_is_written(shards: usize) {
    if !is_root() {
        say_skipped("only root can become an ordinary user");
        return;
    }
    // The first byte in any file would end it by a signal.
    let setup = Setup::new(shards).under(&["prlimit", "--fsize=0:0"]);
    setup.with_no_privilege().run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1,::1");
        let _device = Device::connect("::1", port);
        assert_eq!(driver.opened(), Addr::new("::1", 0));
        // Nothing is open that a read-only root would not allow.
        let harmless = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
        for target in fds(daemon.pid()) {
            assert!(harmless.iter().any(|kind| target.starts_with(kind)), "{target} is open");
        }
    });
}

fn the_descriptor_limit_is_raised_as_far_as_it_goes(shards: usize) {
    let hard = raise_descriptor_limit().min(4_096);
    let limited = format!("ulimit -Sn 128; ulimit -Hn {hard}; exec \"$0\" \"$@\"");
    Setup::new(shards).under(&["sh", "-c", &limited]).run(|daemon| {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
        let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let open_files: Vec<&str> = open_files.split_whitespace().take(2).collect();
        assert_eq!(open_files, [hard.to_string(), hard.to_string()]);
    });
}

fn a_large_message_without_memory_ends_its_session_with_1013_and_leaves_room(shards: usize) {
    // One session fits, and little more of a message than what needs no memory of its own.
    let setup = Setup::new(shards).limit("session-memory-bytes-max", 700_000).limit("credit-wait-ms-max", 1_000);
    setup.run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            let port = free_port().to_string();
            let join = || daemon.try_join(transport, &port, "127.0.0.1").ok();
            eventually("there is room for a session", join).leave();
            let mut wire = eventually("there is room again", || {
                let target = join_target(BASES[0], transport, &port, "127.0.0.1");
                let (stream, pending) = daemon.upgrade(&target, "").ok()?.into_parts();
                Some(Wire::new(stream, pending))
            });
            let message = frame(0x82, &write(&Addr::new("127.0.0.1", 0), &pattern(1, 0, 900_000)));
            // All but its end; it may be cut short by the daemon.
            let _ = wire.try_send(&message[..message.len() - 10]);
            assert_eq!(wire.close_reason(), (1013, "no room for a large message".to_owned()));
            drop(wire);
            eventually("there is room for another driver", join).leave();
        }
    });
}

#[test]
fn sixteen_shards_fit_into_the_locked_memory_of_an_ordinary_user_and_restart_at_once() {
    if !is_root() {
        say_skipped("only root can become an ordinary user");
        return;
    }
    for _ in 0..4 {
        let setup = Setup::new(16).under(&["prlimit", "--memlock=8388608:8388608"]).with_no_privilege();
        setup.run(assert_serves_on);
    }
}
