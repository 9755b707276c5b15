//! Proves that a device with TLS that cannot be let in is refused before its handshake, with the counts and the reasons of
//! one without.

use crate::harness::tls::{TlsDevice, connect};
use crate::harness::{BASES, Daemon, Device, Metrics, Setup, eventually, free_port};
use crate::tls_devices::join_with_key;

scenarios! {
    a_source_that_nobody_accepts_gets_no_handshake,
    a_port_that_is_full_gives_no_handshake,
    a_source_that_is_full_gets_no_handshake,
    a_daemon_that_is_full_lets_devices_wait_before_their_handshake,
    a_device_that_takes_the_place_of_an_old_one_gets_its_handshake,
    of_two_that_shake_hands_for_one_place_one_is_let_in,
}

/// Handshakes with devices that came to an end of any kind.
fn handshakes(daemon: &Daemon) -> u64 {
    let results = ["full", "resumed", "failed", "late", "gone"];
    results.into_iter().map(|result| daemon.count(&format!("device_handshakes_{result}"))).sum()
}

fn last_reason(daemon: &Daemon) -> String {
    let refused = daemon.fetch(&format!("{}/refused?address=127.0.0.1", BASES[0])).json();
    refused["items"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

fn a_source_that_nobody_accepts_gets_no_handshake(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let _driver = join_with_key(daemon, port);
        Device::connect("127.0.0.2", port).is_disconnected();
        daemon.until_count("devices_refused_source", 1);
        assert_eq!(handshakes(daemon), 0);
    });
}

fn a_port_that_is_full_gives_no_handshake(shards: usize) {
    Setup::new(shards).limit("devices-per-port-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        for id in 0..2 {
            let device = TlsDevice::connect(port);
            let addr = driver.opened();
            assert_eq!(addr.id, id, "a device that is refused uses up no id");
            // It says nothing, and need not.
            Device::connect("127.0.0.1", port).is_disconnected();
            daemon.until_count("devices_refused_limit", id + 1);
            assert_eq!((handshakes(daemon), last_reason(daemon).as_str()), (id + 1, "limit"));
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn a_source_that_is_full_gets_no_handshake(shards: usize) {
    Setup::new(shards).limit("devices-per-source-max", 1).run(|daemon| {
        let (port, plain_port) = (free_port(), free_port());
        let mut driver = join_with_key(daemon, port);
        let mut plain = daemon.join_tcp(plain_port, "127.0.0.1");
        // Its other device may be on any port, and its home any shard.
        let there = Device::connect("127.0.0.1", plain_port);
        let addr = plain.opened();
        Device::connect("127.0.0.1", port).is_disconnected();
        daemon.until_count("devices_refused_source_limit", 1);
        assert_eq!((handshakes(daemon), last_reason(daemon).as_str()), (0, "source_limit"));
        drop(there);
        plain.closed(&addr);
        let _device = TlsDevice::connect(port);
        driver.opened();
        assert_eq!(handshakes(daemon), 1);
    });
}

fn a_daemon_that_is_full_lets_devices_wait_before_their_handshake(shards: usize) {
    Setup::new(shards).limit("devices-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let first = TlsDevice::connect(port);
        let addr = driver.opened();
        let waiting = connect(port);
        daemon.until_count("accept_pauses", 1);
        assert_eq!(handshakes(daemon), 1);
        drop(first);
        driver.closed(&addr);
        let mut next = TlsDevice::over(waiting, rustls::ALL_VERSIONS);
        let addr = driver.opened();
        next.send(b"let in");
        driver.received(&addr, b"let in");
        assert_eq!(handshakes(daemon), 2);
    });
}

fn a_device_that_takes_the_place_of_an_old_one_gets_its_handshake(shards: usize) {
    let port = free_port();
    let setup = Setup::new(shards).limit("devices-per-port-max", 1).limit("devices-per-source-max", 1);
    setup.flag("replace-devices", &port.to_string()).run(|daemon| {
        let mut driver = join_with_key(daemon, port);
        let mut there = TlsDevice::connect(port);
        let mut addr = driver.opened();
        for _ in 0..3 {
            let mut next = TlsDevice::connect(port);
            driver.closed(&addr);
            addr = driver.opened();
            next.send(b"in its place");
            driver.received(&addr, b"in its place");
            there = next;
        }
        drop(there);
        driver.closed(&addr);
        assert_eq!(daemon.count("devices_refused_limit") + daemon.count("devices_refused_source_limit"), 0);
    });
}

fn of_two_that_shake_hands_for_one_place_one_is_let_in(shards: usize) {
    Setup::new(shards).limit("devices-per-port-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let begun = [connect(port), connect(port)];
        let slots = || Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_device_slots");
        eventually("both are accepted", || (slots() == 2.0).then_some(()));
        let [mut first, _second] = begun.map(|tcp| TlsDevice::over(tcp, rustls::ALL_VERSIONS));
        let addr = driver.opened();
        daemon.until_count("devices_refused_limit", 1);
        assert_eq!(handshakes(daemon), 2);
        first.send(b"the first is in");
        driver.received(&addr, b"the first is in");
    });
}
