//! Proves that TLS goes on where a daemon is replaced, and what of it a reload changes.

use std::net::{Ipv4Addr, TcpListener};

use rustix::process::Signal;

use crate::harness::tls::{Authority, TlsDevice, connect};
use crate::harness::{
    BASES, Connection, Device, Driver, Manager, Place, Setup, Transport, UPGRADE, free_port, join_target,
};

scenarios! {
    drivers_with_tls_come_back_to_the_daemon_that_has_taken_over,
    a_listener_with_tls_is_left_with_the_manager_by_a_name_of_its_own,
    both_ports_of_a_socket_unit_are_served_whatever_their_names,
    a_socket_unit_with_a_port_for_tls_and_no_tls_is_told_of,
    a_daemon_without_tls_takes_over_from_one_with_it,
    turning_tls_on_waits_for_a_restart,
    a_reload_says_where_certificates_for_devices_are,
}

/// A driver with TLS and its device.
fn assert_serves(authority: &Authority, tls_port: u16) -> Driver {
    let port = free_port();
    let mut driver = authority.client().join(tls_port, port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    device.send(b"there");
    driver.received(&addr, b"there");
    drop(device);
    driver.closed(&addr);
    driver
}

fn goodbye(mut driver: Driver) {
    assert_eq!(driver.close_reason().0, 1001);
    driver.ends();
}

/// A daemon with TLS, always on the same ports.
fn setup(authority: &Authority, shards: usize, (api, tls): (u16, u16)) -> Setup {
    let setup = Setup::new(shards).api_port(api).flag("tls-port", &tls.to_string());
    setup.flag("tls-cert", &authority.path("cert.pem")).flag("tls-key", &authority.path("key.pem"))
}

fn drivers_with_tls_come_back_to_the_daemon_that_has_taken_over(shards: usize) {
    let (authority, place, ports) = (Authority::new(), Place::new(), (free_port(), free_port()));
    authority.install(&authority.issue(100));
    let mut old = place.of(setup(&authority, shards, ports)).start();
    let driver = assert_serves(&authority, ports.1);
    // Another certificate: whoever connects while neither accepts is shown that of the new daemon.
    authority.install(&authority.issue(100));
    let new = place.take_over(setup(&authority, shards % 3 + 1, ports));
    goodbye(driver);
    assert_eq!(old.exits().code(), Some(0));
    drop(assert_serves(&authority, ports.1));
    new.assert_drains();
}

fn a_listener_with_tls_is_left_with_the_manager_by_a_name_of_its_own(shards: usize) {
    let (authority, mut manager, ports) = (Authority::new(), Manager::new(), (free_port(), free_port()));
    authority.install(&authority.issue(100));
    let mut old = manager.watch(setup(&authority, shards, ports)).start();
    manager.until("READY=1");
    let driver = assert_serves(&authority, ports.1);
    old.signal(Signal::TERM);
    goodbye(driver);
    assert_eq!(old.exits().code(), Some(0));
    manager.take_notices();
    assert_eq!(
        manager.stored(),
        [vec!["stored-api"; shards], vec!["stored-tls"; shards], vec!["stored-port"]].concat()
    );
    let waiting = connect(ports.1);
    let new = manager.hand_stored(setup(&authority, shards % 3 + 1, ports)).start();
    drop(assert_serves(&authority, ports.1));
    manager.until("READY=1");
    assert!(manager.stored().is_empty(), "they are the daemon's again");
    drop(waiting);
    new.assert_drains();
}

/// What a .socket unit listens on: a port without TLS, and one with.
fn unit() -> ([TcpListener; 2], (u16, u16)) {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap());
    let [api, tls] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    (listeners, (api, tls))
}

fn both_ports_of_a_socket_unit_are_served_whatever_their_names(shards: usize) {
    let authority = Authority::new();
    authority.install(&authority.issue(100));
    for names in [["api", "api"], ["api", "api-tls"], ["drivers.socket", "drivers-tls.socket"]] {
        let (listeners, ports) = unit();
        let mut manager = Manager::new();
        // The second time with what the first daemon has left in the store, which are the same sockets.
        for _ in 0..2 {
            for (name, listener) in names.into_iter().zip(&listeners) {
                manager.listens(name, listener.try_clone().unwrap().into());
            }
            let waiting = (Connection::over(connect(ports.0)), connect(ports.1));
            let mut daemon = manager.hand_stored(setup(&authority, shards, ports)).start();
            let (mut plain, secure) = waiting;
            assert_eq!(plain.request("GET", "/api/server/version", "").status, 200);
            authority.client().shake_hands(secure).unwrap();
            let driver = assert_serves(&authority, ports.1);
            for own in [ports.0, ports.1] {
                assert_eq!(daemon.refusal(Transport::Tcp, &own.to_string(), "127.0.0.1").status, 403, "{names:?}");
            }
            daemon.signal(Signal::TERM);
            goodbye(driver);
            assert_eq!(daemon.exits().code(), Some(0));
            manager.take_notices();
        }
        // Both are the unit's, and listen on.
        drop([ports.0, ports.1].map(connect));
    }
}

fn a_socket_unit_with_a_port_for_tls_and_no_tls_is_told_of(shards: usize) {
    for (name, code) in [("api", Some(1)), ("api-tls", Some(0))] {
        let (listeners, ports) = unit();
        let mut manager = Manager::new();
        for (name, listener) in ["api", name].into_iter().zip(listeners) {
            manager.listens(name, listener.into());
        }
        let mut daemon = manager.hand_stored(Setup::new(shards).api_port(ports.0)).spawn();
        if code == Some(1) {
            daemon.until_logged("the API is on one port, and with TLS on --tls-port");
        } else {
            daemon.until_logged("a listener for TLS was handed over, and no TLS is set: it is closed");
            manager.until("READY=1");
            daemon.signal(Signal::TERM);
        }
        assert_eq!(daemon.exits().code(), code);
    }
}

fn a_daemon_without_tls_takes_over_from_one_with_it(shards: usize) {
    let (authority, place, ports) = (Authority::new(), Place::new(), (free_port(), free_port()));
    authority.install(&authority.issue(100));
    let mut old = place.of(setup(&authority, shards, ports)).start();
    goodbye({
        let driver = assert_serves(&authority, ports.1);
        let _new = place.take_over(Setup::new(shards).api_port(ports.0));
        assert_eq!(old.exits().code(), Some(0));
        let refused = std::net::TcpStream::connect(("127.0.0.1", ports.1));
        assert!(refused.is_err(), "somebody listens where TLS was spoken");
        driver
    });
}

fn turning_tls_on_waits_for_a_restart(shards: usize) {
    let authority = Authority::new();
    authority.install(&authority.issue(100));
    let (config, tls_port) = (authority.file("dispatch.toml", ""), free_port());
    Setup::new(shards).flag("config", &config).flag("tls-port", &tls_port.to_string()).run(|daemon| {
        let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
        authority.file("dispatch.toml", &format!("tls_cert = {cert:?}\ntls_key = {key:?}\n"));
        daemon.signal(Signal::HUP);
        daemon.until_logged("the settings were reloaded");
        let log = daemon.log();
        for setting in ["tls_cert", "tls_key"] {
            let is_it = |line: &&str| line.contains("needs a restart") && line.contains(setting);
            assert_eq!(log.lines().filter(is_it).count(), 1, "{log}");
        }
        assert!(std::net::TcpStream::connect(("127.0.0.1", tls_port)).is_err(), "TLS is spoken");
    });
}

fn a_reload_says_where_certificates_for_devices_are(shards: usize) {
    let authority = Authority::new();
    let pair = authority.issue(100);
    authority.file("lobby.crt", &pair.certificate);
    authority.file("lobby.key", &pair.key);
    let config = authority.file("dispatch.toml", "");
    Setup::new(shards).flag("config", &config).run(|daemon| {
        let port = free_port();
        let target = join_target(BASES[1], Transport::Tcp, &port.to_string(), "127.0.0.1");
        let target = format!("{}&tls=lobby", target.replace("tcp_dispatch", "tls_dispatch"));
        let join = || {
            let mut connection = daemon.connection();
            let headers = format!("Authorization: Bearer testing\r\n{UPGRADE}");
            (connection.request("GET", &target, &headers).status, connection)
        };
        assert_eq!(join().0, 400);
        authority.file("dispatch.toml", &format!("tls_device_certs = {:?}\n", authority.path("")));
        daemon.signal(Signal::HUP);
        daemon.until_logged("the settings were reloaded");
        let (status, connection) = join();
        assert_eq!(status, 101);
        let (stream, pending) = connection.into_parts();
        let mut driver = Driver::new(stream, pending);
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        device.send(b"there");
        driver.received(&addr, b"there");
    });
}
