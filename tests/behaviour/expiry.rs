//! Proves how devices end without anyone's doing: idle for too long, connected for too long, replaced by a newer one.

use std::time::Duration;

use crate::harness::{Addr, BASES, Daemon, Device, Driver, Event, Setup, Transport, eventually, free_port};

scenarios! {
    a_device_that_is_idle_for_too_long_is_disconnected_and_a_busy_one_is_not,
    a_device_that_is_only_written_to_is_not_idle,
    a_device_that_its_driver_holds_back_is_not_idle,
    a_bound_holds_for_the_ports_that_it_names,
    a_device_that_is_connected_for_too_long_is_disconnected_though_busy,
    hundreds_of_idle_devices_end,
    a_new_connection_replaces_the_old_one_of_its_source,
    what_waits_for_the_old_one_does_not_hold_the_new_one_up,
    of_many_connections_the_newest_stays,
    other_ports_and_sources_are_not_replaced,
    a_source_that_is_replaced_is_still_one_device,
}

const IDLE: &str = "DISPATCH_DEVICE_IDLE_SECONDS_MAX";
const AGE: &str = "DISPATCH_DEVICE_AGE_SECONDS_MAX";
const REPLACE: &str = "DISPATCH_REPLACE_DEVICES";

/// Times that nobody waits for in full: devices that must stay do something far more often.
const SECONDS: &str = "3";

/// Waits until this device is closed, doing something again and again meanwhile; fails where another is closed.
fn until_closed(driver: &mut Driver, device: &Addr, mut meanwhile: impl FnMut(&mut Driver)) {
    for _ in 0..400 {
        meanwhile(driver);
        match driver.event() {
            Event::Closed(addr) => {
                assert_eq!(addr, *device, "another one is closed");
                return;
            }
            Event::Received(..) => {}
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{device:?} is not closed");
}

fn until_ended(daemon: &Daemon, end: &str) {
    daemon.until_logged(&format!("end=\"{end}\""));
}

fn a_device_that_is_idle_for_too_long_is_disconnected_and_a_busy_one_is_not(shards: usize) {
    Setup::new(shards).variable(IDLE, SECONDS).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut idle = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let mut busy = Device::connect("127.0.0.1", port);
        driver.opened();
        until_closed(&mut driver, &addr, |_| busy.send(b"x"));
        idle.ends();
        until_ended(daemon, "idle");
        assert_eq!(daemon.count("devices_ended"), 1);
    });
}

fn a_device_that_is_only_written_to_is_not_idle(shards: usize) {
    Setup::new(shards).variable(IDLE, SECONDS).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        let idle = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let _display = Device::connect("127.0.0.2", port);
        let display = driver.opened();
        // The driver is told nothing but the end of the idle one.
        let written = std::sync::atomic::AtomicBool::new(false);
        let mut writer = daemon.join_tcp(port, "127.0.0.2");
        writer.opened();
        std::thread::scope(|scope| {
            let _over = crate::harness::Until(&written);
            scope.spawn(|| {
                while !written.load(std::sync::atomic::Ordering::Relaxed) {
                    writer.write(&display, b"x");
                    std::thread::sleep(Duration::from_millis(25));
                }
            });
            driver.closed(&addr);
        });
        drop(idle);
    });
}

fn a_device_that_its_driver_holds_back_is_not_idle(shards: usize) {
    Setup::new(shards).variable(IDLE, SECONDS).limit("stall-ms-max", 600_000).run(|daemon| {
        let (port, other) = (free_port(), free_port());
        let mut slow = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut held_back = Device::connect("127.0.0.1", port);
        let sent = held_back.send_until_blocked(1, 8 << 20, Duration::from_millis(300));
        // Two in turn that are idle tell the time.
        let mut driver = daemon.join_tcp(other, "127.0.0.1");
        for _ in 0..2 {
            let _idle = Device::connect("127.0.0.1", other);
            let addr = driver.opened();
            driver.closed(&addr);
        }
        assert!(matches!(slow.event(), Event::Opened(_)));
        let mut received = 0;
        while received < sent {
            match slow.event() {
                Event::Received(_, data) => received += data.len(),
                other => panic!("{other:?} after {received} bytes of {sent}"),
            }
        }
        held_back.send(b"still there");
        assert!(matches!(slow.event(), Event::Received(..)));
    });
}

fn a_bound_holds_for_the_ports_that_it_names(shards: usize) {
    let (bound, free) = (free_port(), free_port());
    Setup::new(shards).variable(IDLE, &format!("{free}=0,{SECONDS}")).run(|daemon| {
        let mut drivers = [bound, free].map(|port| daemon.join_tcp(port, "127.0.0.1"));
        let _devices = [bound, free].map(|port| Device::connect("127.0.0.1", port));
        let addrs = [0, 1].map(|at| drivers[at].opened());
        drivers[0].closed(&addrs[0]);
        assert_eq!(daemon.count("devices_ended"), 1);
    });
}

fn a_device_that_is_connected_for_too_long_is_disconnected_though_busy(shards: usize) {
    Setup::new(shards).variable(AGE, SECONDS).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut busy = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        // It may be gone by the time.
        until_closed(&mut driver, &addr, |_| drop(busy.try_send(b"x")));
        until_ended(daemon, "aged");
        // It may come back.
        let _again = Device::connect("127.0.0.1", port);
        assert_eq!(driver.opened().id, 1);
    });
}

fn hundreds_of_idle_devices_end(shards: usize) {
    Setup::new(shards).variable(IDLE, "2").variable("LOG_LEVEL", "info").run(|daemon| {
        let ports = [free_port(), free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.1"));
        let devices: Vec<Device> = (0..700).map(|at| Device::connect("127.0.0.1", ports[at % 3])).collect();
        daemon.until_count("devices_ended", 700);
        drop((drivers, devices));
    });
}

fn a_new_connection_replaces_the_old_one_of_its_source(shards: usize) {
    Setup::new(shards).variable(REPLACE, "1-65535").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        let mut second = daemon.join_tcp(port, "127.0.0.1");
        let mut old = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        assert_eq!(second.opened(), addr);
        for id in 1..20 {
            let new = Device::connect("127.0.0.1", port);
            let closed = Addr::new("127.0.0.1", id - 1);
            for driver in [&mut driver, &mut second] {
                driver.closed(&closed);
                assert_eq!(driver.opened(), Addr::new("127.0.0.1", id));
            }
            old.is_disconnected();
            old = new;
        }
        until_ended(daemon, "replaced");
        old.send(b"served");
        driver.received(&Addr::new("127.0.0.1", 19), b"served");
    });
}

fn what_waits_for_the_old_one_does_not_hold_the_new_one_up(shards: usize) {
    let setup = Setup::new(shards).variable(REPLACE, "1-65535").limit("socket-bytes", 4_096);
    // Longer than anyone waits here.
    setup.limit("flush-ms-max", 40_000).limit("credit-wait-ms-max", 600_000).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let dead = Device::with_receive_buffer("127.0.0.1", port, Some(4_096)).unwrap();
        let addr = driver.opened();
        driver.write(&addr, &[7; 200_000]);
        driver.close(&addr);
        let target = format!("{}/devices?backlog=true", BASES[0]);
        eventually("bytes wait", || (daemon.fetch(&target).json()["total"] == 1).then_some(()));
        let mut new = Device::connect("127.0.0.1", port);
        driver.closed(&addr);
        let addr = driver.opened();
        driver.write(&addr, b"hello");
        new.expect(b"hello");
        drop(dead);
    });
}

fn of_many_connections_the_newest_stays(shards: usize) {
    const COUNT: u64 = 60;
    Setup::new(shards).variable(REPLACE, "1-65535").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut devices: Vec<Device> = (0..COUNT).map(|_| Device::connect("127.0.0.1", port)).collect();
        let newest = devices.last().unwrap().local().port();
        let list = format!("{}/devices", BASES[0]);
        eventually("each was let in or gave way", || {
            let met = daemon.count("devices_opened") + daemon.count("devices_refused_replaced");
            let there = daemon.fetch(&list).json();
            (met == COUNT && there["total"] == 1 && there["items"][0]["remote_port"] == newest).then_some(())
        });
        let opened = daemon.count("devices_opened");
        for id in 0..opened {
            let addr = driver.opened();
            assert_eq!(addr.id, id);
            if id + 1 < opened {
                driver.closed(&addr);
            }
        }
        devices.last_mut().unwrap().send(b"here");
        driver.received(&Addr::new("127.0.0.1", opened - 1), b"here");
    });
}

fn other_ports_and_sources_are_not_replaced(shards: usize) {
    let (replacing, other) = (free_port(), free_port());
    Setup::new(shards).variable(REPLACE, &replacing.to_string()).run(|daemon| {
        let drivers = [replacing, other].map(|port| daemon.join_tcp(port, "127.0.0.0/8"));
        let devices = [("127.0.0.1", replacing), ("127.0.0.2", replacing), ("127.0.0.1", other), ("127.0.0.1", other)]
            .map(|(source, port)| Device::connect(source, port));
        daemon.until_count("devices_opened", 4);
        assert_eq!((daemon.count("devices_ended"), daemon.held("devices")), (0, 4));
        drop((drivers, devices));
    });
}

fn a_source_that_is_replaced_is_still_one_device(shards: usize) {
    let setup = Setup::new(shards).variable(REPLACE, "1-65535");
    setup.limit("devices-per-source-max", 1).limit("devices-per-port-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut devices = vec![Device::connect("127.0.0.1", port)];
        let mut addr = driver.opened();
        for _ in 0..20 {
            devices.push(Device::connect("127.0.0.1", port));
            driver.closed(&addr);
            addr = driver.opened();
        }
        assert_eq!(daemon.count("devices_refused_source_limit") + daemon.count("devices_refused_limit"), 0);
    });
}
