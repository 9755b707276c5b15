//! Proves that no source holds the handshakes of others back on a port with TLS: who gets room for one, who waits, and that
//! a source is counted from the start of its handshakes.

use std::io::{Read, Write};

use crate::harness::tls::{TlsDevice, connect};
use crate::harness::{Daemon, Device, Metrics, Setup, eventually, free_port};
use crate::tls_devices::{join_accepting, join_with_key};
use crate::tls_proxied::proxied_for;

scenarios! {
    a_source_that_says_nothing_holds_no_other_back,
    a_source_that_says_nothing_holds_no_other_back_behind_a_balancer,
    who_finds_no_room_waits_for_one,
    who_waits_for_room_in_vain_is_let_go,
    those_that_wait_for_room_end_with_their_port,
    a_source_has_no_more_handshakes_than_devices,
    a_handshake_that_failed_leaves_its_place_at_once,
    a_new_connection_takes_the_place_of_its_source_s_handshake,
}

/// Handshakes of a port at a time.
const ROOMS: usize = 64;
/// For handshakes that take all the time of a scenario.
const FOREVER_MS: usize = 3_600_000;

fn until_accepted(daemon: &Daemon, count: usize) {
    let slots = || Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_device_slots");
    eventually("all are accepted", || (slots() == count as f64).then_some(()));
}

fn a_source_that_says_nothing_holds_no_other_back(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS).run(|daemon| {
        let port = free_port();
        let mut driver = join_accepting(daemon, port, "127.0.0.1,127.0.0.66");
        let _silent: Vec<Device> = (0..ROOMS + 16).map(|_| Device::connect("127.0.0.66", port)).collect();
        until_accepted(daemon, ROOMS + 16);
        Device::connect("127.0.0.2", port).is_disconnected();
        daemon.until_count("devices_refused_source", 1);
        for id in 0..2 {
            let mut device = TlsDevice::connect(port);
            let addr = driver.opened();
            assert_eq!(addr.id, id);
            device.send(b"in");
            driver.received(&addr, b"in");
            drop(device);
            driver.closed(&addr);
        }
        daemon.until_count("device_handshakes_late", 1);
    });
}

fn a_source_that_says_nothing_holds_no_other_back_behind_a_balancer(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS).flag("device-proxy-from", "127.0.0.9").run(|daemon| {
        let port = free_port();
        let mut driver = join_accepting(daemon, port, "192.0.2.0/24");
        let _silent: Vec<_> = (0..ROOMS + 16).map(|_| proxied_for("192.0.2.66", port)).collect();
        until_accepted(daemon, ROOMS + 16);
        let mut device = TlsDevice::over(proxied_for("192.0.2.9", port), rustls::ALL_VERSIONS);
        let addr = driver.opened();
        device.send(b"in");
        driver.received(&addr, b"in");
    });
}

/// Connections that say nothing, one of each source, which all have room for a handshake.
fn fill(daemon: &Daemon, port: u16) -> Vec<Device> {
    let silent = (1..=ROOMS).map(|number| Device::connect(&format!("127.0.1.{number}"), port)).collect();
    until_accepted(daemon, ROOMS);
    silent
}

fn who_finds_no_room_waits_for_one(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS).run(|daemon| {
        let port = free_port();
        let mut driver = join_accepting(daemon, port, "127.0.0.0/8");
        let mut silent = fill(daemon, port);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| TlsDevice::connect(port));
            until_accepted(daemon, ROOMS + 1);
            assert_eq!(daemon.count("device_handshakes_full"), 0);
            silent.pop();
            let addr = driver.opened();
            waiting.join().unwrap().send(b"in");
            driver.received(&addr, b"in");
        });
        daemon.until_count("device_handshakes_gone", 1);
        assert_eq!(daemon.count("device_handshakes_late"), 0);
    });
}

fn who_waits_for_room_in_vain_is_let_go(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", 2_000).run(|daemon| {
        let port = free_port();
        let mut driver = join_accepting(daemon, port, "127.0.0.0/8");
        let _silent = fill(daemon, port);
        Device::connect("127.0.0.1", port).is_disconnected();
        daemon.until_count("device_handshakes_late", ROOMS as u64 + 1);
        TlsDevice::connect(port);
        driver.opened();
    });
}

fn those_that_wait_for_room_end_with_their_port(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS).run(|daemon| {
        let port = free_port();
        let driver = join_with_key(daemon, port);
        let mut silent: Vec<Device> = (0..ROOMS + 6).map(|_| Device::connect("127.0.0.1", port)).collect();
        until_accepted(daemon, ROOMS + 6);
        driver.leave();
        silent.iter_mut().for_each(Device::is_disconnected);
        daemon.until_count("device_handshakes_late", ROOMS as u64 + 6);
    });
}

fn a_source_has_no_more_handshakes_than_devices(shards: usize) {
    const DEVICES_MAX: usize = 4;
    let setup = Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS);
    setup.limit("devices-per-source-max", DEVICES_MAX).run(|daemon| {
        let (port, other) = (free_port(), free_port());
        let mut driver = join_with_key(daemon, port);
        // On another port of the same source they count, too.
        let mut plain = daemon.join_tcp(other, "127.0.0.1");
        let mut silent: Vec<Device> = (0..DEVICES_MAX).map(|_| Device::connect("127.0.0.1", port)).collect();
        until_accepted(daemon, DEVICES_MAX);
        for (count, port) in [(1, port), (2, other)] {
            Device::connect("127.0.0.1", port).is_disconnected();
            daemon.until_count("devices_refused_source_limit", count);
        }
        for _ in 0..2 {
            // Who gives up makes room, and so does a device that ends.
            silent.truncate(DEVICES_MAX - 1);
            daemon.until_count("device_handshakes_gone", 1);
            let device = TlsDevice::connect(port);
            let addr = driver.opened();
            assert!(TlsDevice::try_over(connect(port)).is_err());
            drop(device);
            driver.closed(&addr);
        }
        let _device = Device::connect("127.0.0.1", other);
        plain.opened();
    });
}

fn a_handshake_that_failed_leaves_its_place_at_once(shards: usize) {
    let setup = Setup::new(shards).limit("devices-per-source-max", 1).limit("linger-ms-max", 60_000);
    setup.run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut lingers = connect(port);
        lingers.write_all(b"no TLS at all, but long enough").unwrap();
        assert!(lingers.read(&mut [0; 64]).unwrap() > 0, "no alert");
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        device.send(b"in");
        driver.received(&addr, b"in");
    });
}

fn a_new_connection_takes_the_place_of_its_source_s_handshake(shards: usize) {
    let port = free_port();
    let setup = Setup::new(shards).limit("tls-handshake-ms-max", FOREVER_MS).limit("devices-per-source-max", 1);
    setup.flag("replace-devices", &port.to_string()).run(|daemon| {
        let mut driver = join_with_key(daemon, port);
        let mut silent = Device::connect("127.0.0.1", port);
        until_accepted(daemon, 1);
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        device.send(b"in its place");
        driver.received(&addr, b"in its place");
        silent.is_disconnected();
        assert_eq!(daemon.count("devices_refused_source_limit"), 0);
    });
}
