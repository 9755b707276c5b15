//! Proves that devices with TLS are as those without once their handshake is over: whole messages, ends, backpressure; and
//! which certificate they are shown.

use std::io::{Read, Write};
use std::sync::OnceLock;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::tls::{Authority, TlsDevice, connect};
use crate::harness::{BASES, Connection, Daemon, Driver, Setup, Transport, UPGRADE, eventually, free_port, pattern};

scenarios! {
    a_device_is_opened_after_its_handshake_and_speaks_in_the_clear_to_its_driver,
    bytes_cross_whole_both_ways_with_either_version,
    the_usual_certificate_is_made_once_for_every_port,
    a_certificate_of_a_driver_is_shown_whatever_its_version,
    a_key_alone_gets_a_certificate_of_its_own,
    a_certificate_that_is_not_good_is_400_and_names_its_parameter,
    a_certificate_that_the_operator_keeps_is_shown_by_its_name,
    a_port_has_tls_or_not_and_keeps_its_first_key,
    a_handshake_that_fails_is_counted_and_logged_and_makes_no_message,
    a_handshake_that_does_not_come_is_let_go_without_a_message,
    handshakes_end_with_their_port,
    a_reply_followed_by_close_arrives_whole,
    a_device_that_reads_late_sees_the_end_of_its_tls,
    a_device_that_ends_its_tls_has_ended,
    a_driver_that_stops_reading_stops_its_device_and_loses_nothing,
    many_devices_at_once_are_all_let_in,
    a_drain_ends_devices_in_good_order,
    no_key_is_in_the_log,
}

const BULK: usize = 4 << 20;
const PART: usize = 64 << 10;

/// Parameters of a join beside port and accept list.
type Parameters<'a> = &'a [(&'a str, &'a str)];

/// The target of a join.
pub fn target(port: u16, more: Parameters) -> String {
    target_accepting(port, "127.0.0.1", more)
}

fn target_accepting(port: u16, accept: &str, more: Parameters) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("port", &port.to_string()).append_pair("accept", accept);
    query.extend_pairs(more);
    format!("{}/tls_dispatch?{}", BASES[1], query.finish())
}

/// Joins.
pub fn join(daemon: &Daemon, port: u16, more: Parameters) -> Driver {
    join_by(daemon, &target(port, more))
}

fn join_by(daemon: &Daemon, target: &str) -> Driver {
    let joined = daemon.upgrade(target, "").unwrap_or_else(|response| panic!("refused: {response:?}"));
    let (stream, pending) = joined.into_parts();
    Driver::new(stream, pending)
}

/// Joins with a key that costs little to make and to sign with.
pub fn join_with_key(daemon: &Daemon, port: u16) -> Driver {
    join_accepting(daemon, port, "127.0.0.1")
}

/// The same for other sources.
pub fn join_accepting(daemon: &Daemon, port: u16, accept: &str) -> Driver {
    static KEY: OnceLock<String> = OnceLock::new();
    let key = KEY.get_or_init(|| Authority::new().issue(10).key);
    join_by(daemon, &target_accepting(port, accept, &[("private_key", key)]))
}

/// The common name of a certificate.
fn name(certificate: &[u8]) -> String {
    x509_parser::parse_x509_certificate(certificate).unwrap().1.subject().to_string()
}

fn a_device_is_opened_after_its_handshake_and_speaks_in_the_clear_to_its_driver(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let counts = |devices| {
            json!({"udp_listeners": {}, "tcp_listeners": {port.to_string(): 1},
                   "tcp_clients": {port.to_string(): devices}})
        };
        // Whoever has said nothing is no device yet.
        let silent = connect(port);
        daemon.until_statistics(&counts(0));
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        assert_eq!((addr.ip.as_str(), addr.id), ("127.0.0.1", 0));
        daemon.until_statistics(&counts(1));
        device.send(b"hello");
        driver.received(&addr, b"hello");
        driver.write(&addr, b"hello yourself");
        device.expect(b"hello yourself");
        drop(device);
        driver.closed(&addr);
        drop(silent);
        daemon.until_count("device_handshakes_gone", 1);
        assert_eq!(daemon.count("device_handshakes_full"), 1);
    });
}

fn bytes_cross_whole_both_ways_with_either_version(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut device = TlsDevice::with_version(port, version);
            let addr = driver.opened();
            for size in [1, 1_000, 16 << 10, 300_000] {
                device.send(&pattern(1, 0, size));
                driver.received(&addr, &pattern(1, 0, size));
                driver.write(&addr, &pattern(2, 0, size));
                device.expect(&pattern(2, 0, size));
            }
            // The device reads late: writes wait at the daemon, and leave in the pieces that its socket takes.
            for offset in (0..BULK).step_by(PART) {
                if offset == BULK / 2 {
                    device.expect(&pattern(4, 0, BULK / 4));
                    device.send(&pattern(3, 0, BULK / 16));
                    driver.received(&addr, &pattern(3, 0, BULK / 16));
                    device.expect(&pattern(4, BULK / 4, BULK / 4));
                }
                driver.write(&addr, &pattern(4, offset, PART));
                if offset >= BULK / 2 {
                    device.expect(&pattern(4, offset, PART));
                }
            }
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn the_usual_certificate_is_made_once_for_every_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
        let _drivers: Vec<Driver> = ports.iter().map(|port| join(daemon, *port, &[])).collect();
        let shown: Vec<Vec<u8>> = ports.iter().map(|port| TlsDevice::connect(*port).certificate()).collect();
        assert!(shown.iter().all(|certificate| *certificate == shown[0]));
        assert_eq!(name(&shown[0]), "CN=placeos-dispatch");
        let (_, parsed) = x509_parser::parse_x509_certificate(&shown[0]).unwrap();
        assert_eq!(parsed.public_key().parsed().unwrap().key_size(), 2_048);
    });
}

fn a_certificate_of_a_driver_is_shown_whatever_its_version(shards: usize) {
    let authority = Authority::new();
    let pair = authority.issue(10);
    let old = (include_str!("certificates/version-1.crt"), include_str!("certificates/version-1.key"));
    Setup::new(shards).run(|daemon| {
        for (certificate, key) in [(pair.certificate.as_str(), pair.key.as_str()), old] {
            let port = free_port();
            let mut driver = join(daemon, port, &[("certificate", certificate), ("private_key", key)]);
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let mut device = TlsDevice::with_version(port, version);
                let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
                assert_eq!(device.certificate(), pem.contents);
                let addr = driver.opened();
                device.send(b"hello");
                driver.received(&addr, b"hello");
                drop(device);
                driver.closed(&addr);
            }
        }
    });
}

fn a_key_alone_gets_a_certificate_of_its_own(shards: usize) {
    let authority = Authority::new();
    let pairs = [authority.issue(10).key, include_str!("certificates/version-1.key").to_owned()];
    Setup::new(shards).run(|daemon| {
        for key in &pairs {
            let port = free_port();
            let _driver = join(daemon, port, &[("private_key", key)]);
            let shown = TlsDevice::connect(port).certificate();
            assert_eq!(name(&shown), "CN=placeos-dispatch");
        }
    });
}

fn a_certificate_that_is_not_good_is_400_and_names_its_parameter(shards: usize) {
    let authority = Authority::new();
    let (own, other) = (authority.issue(10), authority.issue(10));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    Setup::new(shards).run(|daemon| {
        let (certificate, key) = (("certificate", own.certificate.as_str()), ("private_key", own.key.as_str()));
        let cases: [(Parameters, &str, &str); 10] = [
            (&[certificate], "certificate", "needs its private_key"),
            (&[("certificate", "nonsense"), key], "certificate", "no certificate in PEM"),
            (&[("certificate", &own.key), key], "certificate", "no certificate in PEM"),
            (&[certificate, ("private_key", "nonsense")], "private_key", "no private key in PEM"),
            (&[("private_key", "nonsense")], "private_key", "no private key in PEM"),
            (&[certificate, ("private_key", encrypted)], "private_key", "encrypted"),
            (&[certificate, ("private_key", &other.key)], "private_key", "not that of the certificate"),
            (&[("tls", "name"), key], "tls", "must stand without"),
            (&[("tls", "name")], "tls", "no certificates are kept here"),
            (&[("tls", "../name")], "tls", "must be a name"),
        ];
        for (parameters, parameter, restriction) in cases {
            let refused = match daemon.upgrade(&target(free_port(), parameters), "") {
                Ok(_) => panic!("{parameters:?} was taken"),
                Err(response) => response,
            };
            assert_eq!((refused.status, refused.member("parameter").as_str()), (400, parameter), "{refused:?}");
            assert!(refused.member("restriction").contains(restriction), "{refused:?}");
            assert!(!refused.text().contains(own.key.lines().nth(1).unwrap()), "{refused:?}");
        }
        // What comes before is refused before.
        let mut connection = daemon.connection();
        let headers = format!("Authorization: Bearer testing\r\n{UPGRADE}");
        assert_eq!(connection.request("GET", &format!("{}/tls_dispatch?port=1", BASES[0]), &headers).status, 422);
        assert_eq!(
            connection.request("GET", &target(free_port(), &[]), "Authorization: Bearer testing\r\n").status,
            426
        );
    });
}

fn a_certificate_that_the_operator_keeps_is_shown_by_its_name(shards: usize) {
    let authority = Authority::new();
    let (kept, other) = (authority.issue(10), authority.issue(10));
    authority.file("lobby.crt", &kept.certificate);
    authority.file("lobby.key", &kept.key);
    authority.file("torn.crt", &kept.certificate);
    authority.file("torn.key", &other.key);
    Setup::new(shards).flag("tls-device-certs", &authority.path("")).run(|daemon| {
        let port = free_port();
        let _driver = join(daemon, port, &[("tls", "lobby")]);
        let (_, pem) = x509_parser::pem::parse_x509_pem(kept.certificate.as_bytes()).unwrap();
        assert_eq!(TlsDevice::connect(port).certificate(), pem.contents);
        for (name, restriction) in
            [("cellar", "cellar.crt cannot be read"), ("torn", "torn.key: its private key is not")]
        {
            let Err(refused) = daemon.upgrade(&target(free_port(), &[("tls", name)]), "") else { panic!("{name}") };
            assert_eq!((refused.status, refused.member("parameter").as_str()), (400, "tls"));
            assert!(refused.member("restriction").contains(restriction), "{refused:?}");
        }
    });
}

fn a_port_has_tls_or_not_and_keeps_its_first_key(shards: usize) {
    const OTHERS: usize = 10;
    let authority = Authority::new();
    Setup::new(shards).run(|daemon| {
        let (secure, plain) = (free_port(), free_port());
        let mut first = join_with_key(daemon, secure);
        let _plain = daemon.join_tcp(plain, "127.0.0.1");
        let refused = daemon.refusal(Transport::Tcp, &secure.to_string(), "127.0.0.1");
        assert_eq!(refused.status, 409, "{refused:?}");
        let Err(refused) = daemon.upgrade(&target(plain, &[]), "") else { panic!("joined with TLS") };
        assert_eq!(refused.status, 409, "{refused:?}");

        let shown = TlsDevice::connect(secure).certificate();
        let addr = first.opened();
        first.closed(&addr);
        let key = authority.issue(10).key;
        let mut second = join(daemon, secure, &[("private_key", &key)]);
        daemon.until_logged("a driver brought another key");
        (0..OTHERS).for_each(|_| join(daemon, secure, &[("private_key", &key)]).leave());
        let times = |line: &str| daemon.log().matches(line).count();
        eventually("all are in the log", || (times("driver left") >= OTHERS).then_some(()));
        assert!(times("a driver brought another key") <= OTHERS / 2, "a line for each of them");
        let mut device = TlsDevice::connect(secure);
        assert_eq!(device.certificate(), shown);
        let addr = first.opened();
        assert_eq!(second.opened(), addr);
        device.send(b"both");
        first.received(&addr, b"both");
        second.received(&addr, b"both");
        // Opened afresh it may be without.
        first.leave();
        second.leave();
        eventually("the port is closed", || daemon.try_join(Transport::Tcp, &secure.to_string(), "127.0.0.1").ok());
    });
}

fn a_handshake_that_fails_is_counted_and_logged_and_makes_no_message(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut stream = connect(port);
        stream.write_all(b"no TLS at all, but long enough").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.first(), Some(&0x15), "no alert: {answer:x?}");
        daemon.until_count("device_handshakes_failed", 1);
        daemon.until_logged("TLS handshake of a device failed");
        // It has used up no id.
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        assert_eq!(addr.id, 0);
        device.send(b"good");
        driver.received(&addr, b"good");
    });
}

fn a_handshake_that_does_not_come_is_let_go_without_a_message(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", 4_000).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut stream = connect(port);
        stream.write_all(&[0x16, 3, 1]).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "it is let go without a word");
        daemon.until_count("device_handshakes_late", 1);
        // Nothing was said of it: the next message is of the next device.
        let _device = TlsDevice::connect(port);
        assert_eq!(driver.opened().id, 0);
    });
}

fn handshakes_end_with_their_port(shards: usize) {
    Setup::new(shards).limit("tls-handshake-ms-max", 3_600_000).run(|daemon| {
        let port = free_port();
        let driver = join_with_key(daemon, port);
        let mut stream = connect(port);
        stream.write_all(&[0x16, 3, 1]).unwrap();
        // Once it is no longer in the kernel's queue.
        TlsDevice::connect(port);
        driver.leave();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0);
        daemon.until_count("device_handshakes_late", 1);
    });
}

fn a_reply_followed_by_close_arrives_whole(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        for size in [5, 400_000] {
            let mut device = TlsDevice::connect(port);
            let addr = driver.opened();
            device.send(b"a question that the driver does not read first");
            driver.write(&addr, &pattern(1, 0, size));
            driver.close(&addr);
            device.expect(&pattern(1, 0, size));
            device.ends();
            driver.received(&addr, b"a question that the driver does not read first");
            driver.closed(&addr);
        }
    });
}

fn a_device_that_reads_late_sees_the_end_of_its_tls(shards: usize) {
    Setup::new(shards).limit("write-window-bytes-max", 4 << 20).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        // At some of these sizes what was written fills the socket, and nothing else fits.
        for size in (60_000..600_000).step_by(15_000) {
            let mut device = TlsDevice::connect(port);
            let addr = driver.opened();
            driver.write(&addr, &pattern(1, 0, size));
            driver.close(&addr);
            std::thread::sleep(std::time::Duration::from_millis(10));
            device.expect(&pattern(1, 0, size));
            device.ends();
            driver.closed(&addr);
        }
    });
}

fn a_device_that_ends_its_tls_has_ended(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        device.send(b"last words");
        device.end_tls();
        driver.received(&addr, b"last words");
        driver.closed(&addr);
        device.ends();
    });
}

fn a_driver_that_stops_reading_stops_its_device_and_loses_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut device = TlsDevice::connect(port);
        let addr = driver.opened();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for offset in (0..4 * BULK).step_by(PART) {
                    device.send(&pattern(1, offset, PART));
                }
            });
            daemon.until_count("outbox_waits", 1);
            driver.received(&addr, &pattern(1, 0, 4 * BULK));
        });
    });
}

fn many_devices_at_once_are_all_let_in(shards: usize) {
    const DEVICES: usize = 100;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        std::thread::scope(|scope| {
            let devices: Vec<_> = (0..DEVICES).map(|_| scope.spawn(move || TlsDevice::connect(port))).collect();
            let mut ids: Vec<u64> = (0..DEVICES).map(|_| driver.opened().id).collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..DEVICES as u64).collect::<Vec<_>>());
            let _devices: Vec<TlsDevice> = devices.into_iter().map(|device| device.join().unwrap()).collect();
        });
    });
}

fn a_drain_ends_devices_in_good_order(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let port = free_port();
    let mut driver = join_with_key(&daemon, port);
    let mut device = TlsDevice::connect(port);
    let addr = driver.opened();
    let silent = connect(port);
    driver.write(&addr, &pattern(1, 0, 100_000));
    daemon.signal(Signal::TERM);
    device.expect(&pattern(1, 0, 100_000));
    device.ends();
    driver.closed(&addr);
    assert_eq!(driver.close_reason().0, 1001);
    assert!(daemon.exits().success());
    drop(silent);
}

fn no_key_is_in_the_log(shards: usize) {
    let authority = Authority::new();
    let pair = authority.issue(10);
    Setup::new(shards).variable("LOG_LEVEL", "trace").run(|daemon| {
        let port = free_port();
        let parameters = [("certificate", pair.certificate.as_str()), ("private_key", pair.key.as_str())];
        let _driver = join(daemon, port, &parameters);
        let _ = daemon.upgrade(&target(free_port(), &[("private_key", &pair.key[..pair.key.len() / 2])]), "");
        drop(TlsDevice::connect(port));
        let mut unauthorised = Connection::open(daemon.api());
        assert_eq!(unauthorised.request("GET", &target(port, &parameters), UPGRADE).status, 401);
        let (log, secret) = (daemon.log(), pair.key.lines().nth(1).unwrap().to_owned());
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        assert!(!log.contains(&secret) && !log.contains(&encoded), "{log}");
    });
}
