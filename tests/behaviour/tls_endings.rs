//! Proves that what was said before TLS ends arrives, however soon that is, in good order or by a fault; and that a large
//! write to a device with TLS is there once.

use std::io::{Error, Read, Write};
use std::net::Shutdown;

use rustls::{AlertDescription, SupportedProtocolVersion};
use serde_json::json;

use crate::harness::tls::{Authority, Client, TlsDevice, connect};
use crate::harness::{
    BASES, Daemon, Device, Metrics, Setup, Transport, eventually, frame, free_port, join_target, pattern,
    resident_bytes, seal, seal_last, write,
};
use crate::tls_devices::join_with_key;

scenarios! {
    a_device_that_says_one_thing_and_closes_is_heard,
    devices_that_report_and_hang_up_are_all_heard,
    what_comes_before_a_fault_arrives_and_the_device_is_told,
    what_a_driver_wrote_before_a_fault_arrives,
    requests_that_end_their_tls_are_answered,
    a_driver_that_joins_and_writes_and_ends_its_tls_at_once_has_done_so,
    a_large_write_to_a_device_is_there_once,
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A record of application data that no key has sealed.
const BROKEN: [u8; 37] = {
    let mut record = [0; 37];
    (record[0], record[1], record[2], record[4]) = (0x17, 3, 3, 32);
    record
};

fn until_ended(daemon: &Daemon, ending: &str, count: u32) {
    let name = format!("dispatch_devices_ended_total{{ending=\"{ending}\"}}");
    let ended = || Metrics::parse(daemon.fetch("/metrics").text()).value(&name);
    eventually(&format!("{name} is {count}"), || (ended() == f64::from(count)).then_some(()));
}

/// The alert that a read failed by.
fn alert(error: &Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error}"),
    }
}

fn a_device_that_says_one_thing_and_closes_is_heard(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let mut count = 0;
        for version in VERSIONS {
            for (ends_tls, ends_tcp) in [(true, false), (true, true), (false, true)] {
                for data in [b"one thing".as_slice(), b""] {
                    let mut device = TlsDevice::almost_connect(port, version);
                    let stream = device.stream();
                    let bytes = if ends_tls { seal_last(stream, data) } else { seal(stream, data) };
                    stream.sock.write_all(&bytes).unwrap();
                    if ends_tcp {
                        stream.sock.shutdown(Shutdown::Write).unwrap();
                    }
                    let addr = driver.opened();
                    driver.received(&addr, data);
                    driver.closed(&addr);
                    device.ends();
                    count += 1;
                }
            }
        }
        until_ended(daemon, "device_closed", count);
    });
}

fn devices_that_report_and_hang_up_are_all_heard(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        for version in VERSIONS {
            for at in 0..24 {
                let mut device = TlsDevice::with_version(port, version);
                device.send(b"a report");
                if at % 2 == 0 {
                    device.end_tls();
                }
                drop(device);
                let addr = driver.opened();
                driver.received(&addr, b"a report");
                driver.closed(&addr);
            }
        }
    });
}

fn what_comes_before_a_fault_arrives_and_the_device_is_told(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        let [old, new] = VERSIONS;
        let devices: [fn(u16, &'static SupportedProtocolVersion) -> TlsDevice; 2] =
            [TlsDevice::with_version, TlsDevice::almost_connect];
        let mut count = 0;
        for (connect, version) in devices.iter().flat_map(|connect| [(connect, old), (connect, new)]) {
            let mut device = connect(port, version);
            let stream = device.stream();
            let bytes = [seal(stream, &pattern(1, 0, 1_000)), BROKEN.to_vec()].concat();
            stream.sock.write_all(&bytes).unwrap();
            let addr = driver.opened();
            driver.received(&addr, &pattern(1, 0, 1_000));
            driver.closed(&addr);
            let error = stream.read(&mut [0; 64]).unwrap_err();
            assert_eq!(alert(&error), AlertDescription::BadRecordMac);
            count += 1;
        }
        until_ended(daemon, "io", count);
    });
}

fn what_a_driver_wrote_before_a_fault_arrives(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|_| {
        for version in VERSIONS {
            let port = free_port();
            let mut driver = Client::new(&authority, &[version], None).join(tls_port, port, "127.0.0.1");
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            let sealed = driver.sealed(&frame(0x82, &write(&addr, b"the last words")));
            driver.tcp().write_all(&[&sealed[..], &BROKEN].concat()).unwrap();
            device.expect(b"the last words");
            device.ends();
            driver.is_cut_off();
        }
    });
}

fn requests_that_end_their_tls_are_answered(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|_| {
        for version in VERSIONS {
            let client = Client::new(&authority, &[version], None);
            for header in ["", "Connection: close\r\n"] {
                let first = format!("GET {}/healthz HTTP/1.1\r\n\r\n", BASES[0]);
                let last = format!("GET {}/version HTTP/1.1\r\n{header}\r\n", BASES[0]);
                let mut stream = client.almost_shake_hands(connect(port));
                let bytes = seal_last(&mut stream, format!("{first}{last}").as_bytes());
                stream.sock.write_all(&bytes).unwrap();
                let mut answers = String::new();
                // Without close_notify this would be an error.
                stream.read_to_string(&mut answers).unwrap();
                assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
                assert!(answers.contains("\"service\":\"dispatch\""), "{answers}");
            }
        }
    });
}

fn a_driver_that_joins_and_writes_and_ends_its_tls_at_once_has_done_so(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.run(|daemon| {
        let port = free_port();
        let mut other = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = other.opened();
        for version in VERSIONS {
            let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
            let head = format!(
                "GET {target} HTTP/1.1\r\nAuthorization: Bearer testing\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            );
            let bytes = [head.as_bytes(), &frame(0x82, &write(&addr, b"the only words"))].concat();
            let mut stream = Client::new(&authority, &[version], None).almost_shake_hands(connect(tls_port));
            let sealed = seal_last(&mut stream, &bytes);
            stream.sock.write_all(&sealed).unwrap();
            device.expect(b"the only words");
            daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {port.to_string(): 1},
                                            "tcp_clients": {port.to_string(): 1}}));
        }
    });
}

fn a_large_write_to_a_device_is_there_once(shards: usize) {
    const LARGE: usize = 32 << 20;
    Setup::new(shards).limit("message-bytes-max", LARGE + (1 << 20)).run(|daemon| {
        let port = free_port();
        let mut driver = join_with_key(daemon, port);
        for version in VERSIONS {
            let mut device = TlsDevice::with_version(port, version);
            let addr = driver.opened();
            let data = pattern(1, 0, LARGE);
            let before = resident_bytes(daemon.pid());
            driver.write(&addr, &data);
            driver.write(&addr, b"and what follows it");
            // It is on its way, and the most of it waits at the daemon.
            device.expect(&data[..1]);
            let grown = resident_bytes(daemon.pid()).saturating_sub(before);
            assert!(grown < LARGE as u64 * 3 / 2, "{grown} bytes for a write of {LARGE}");
            device.expect(&data[1..]);
            device.expect(b"and what follows it");
            drop(device);
            driver.closed(&addr);
        }
    });
}
