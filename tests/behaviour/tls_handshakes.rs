//! Proves how TLS handshakes go: who is let in, who is not and told so, that none lasts for ever or holds others back, and
//! that sessions are resumed.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use rustls::{AlertDescription, Error, HandshakeKind};

use crate::harness::tls::{Authority, Client, connect};
use crate::harness::{BASES, Daemon, Device, Metrics, Setup, eventually, free_port};

scenarios! {
    sessions_are_resumed_on_every_shard,
    a_certificate_is_read_again_and_no_session_keeps_the_old_one,
    files_that_are_not_good_change_nothing,
    a_protocol_other_than_http_1_1_is_refused_by_an_alert,
    something_that_is_no_tls_is_answered_by_an_alert_and_logged,
    a_handshake_that_does_not_come_is_let_go,
    handshakes_that_wait_give_way_to_the_next,
    a_storm_of_handshakes_holds_no_device_back,
    a_certificate_of_the_authority_is_asked_for_where_one_is_set,
    a_revoked_certificate_is_refused_also_after_the_list_was_read_again,
    the_expiry_is_a_metric_and_is_warned_of,
}

fn metrics(daemon: &Daemon) -> Metrics {
    Metrics::parse(daemon.fetch("/metrics").text())
}

/// Asks for the health over a new connection, which leaves what is needed for resuming with the client.
fn health(client: &Client, port: u16) -> std::io::Result<HandshakeKind> {
    let mut stream = client.try_connect(port)?;
    write!(stream, "GET {}/healthz HTTP/1.1\r\nConnection: close\r\n\r\n", BASES[0])?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(stream.conn.handshake_kind().unwrap())
}

/// The alert that a handshake failed by.
fn alert(result: std::io::Result<HandshakeKind>) -> AlertDescription {
    let error = result.expect_err("it was let in");
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error}"),
    }
}

fn sessions_are_resumed_on_every_shard(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = Client::new(&authority, &[version], None);
            assert_eq!(health(&client, port).unwrap(), HandshakeKind::Full);
            for _ in 0..20 {
                assert_eq!(health(&client, port).unwrap(), HandshakeKind::Resumed);
            }
        }
        assert_eq!((daemon.count("tls_handshakes_full"), daemon.count("tls_handshakes_resumed")), (2, 40));
    });
}

fn a_certificate_is_read_again_and_no_session_keeps_the_old_one(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        let client = authority.client();
        health(&client, port).unwrap();
        assert_eq!(health(&client, port).unwrap(), HandshakeKind::Resumed);
        let device_port = free_port();
        let mut driver = client.join(port, device_port, "127.0.0.1");
        let before = client.connect(port).conn.peer_certificates().unwrap().to_vec();

        authority.install(&authority.issue(200));
        daemon.signal(Signal::HUP);
        daemon.until_logged("the settings were reloaded");
        // Every shard has it; which one takes a connection is the kernel's choice.
        eventually("no shard shows the old one", || {
            let kinds = (0..4 * shards).map(|_| client.connect(port));
            kinds.into_iter().all(|stream| stream.conn.peer_certificates().unwrap() != before).then_some(())
        });
        assert_ne!(authority.client().connect(port).conn.peer_certificates().unwrap(), before);

        let mut device = Device::connect("127.0.0.1", device_port);
        let addr = driver.opened();
        device.send(b"the session from before goes on");
        driver.received(&addr, b"the session from before goes on");
    });
}

fn files_that_are_not_good_change_nothing(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        let before = metrics(daemon).value("dispatch_tls_certificate_expires_seconds");
        // The new certificate, and the key that is still the old one's.
        authority.file("cert.pem", &authority.issue(200).certificate);
        daemon.signal(Signal::HUP);
        daemon.until_logged("the settings were not reloaded");
        assert!(daemon.log().contains("is not that of the certificate"), "{}", daemon.log());
        health(&authority.client(), port).unwrap();
        assert_eq!(metrics(daemon).value("dispatch_tls_certificate_expires_seconds"), before);
    });
}

fn a_protocol_other_than_http_1_1_is_refused_by_an_alert(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        let client = authority.client().offering(&["h2"]);
        assert_eq!(alert(health(&client, port)), AlertDescription::NoApplicationProtocol);
        let client = authority.client().offering(&["h2", "http/1.1"]);
        health(&client, port).unwrap();
        assert_eq!(daemon.count("tls_handshakes_failed"), 1);
    });
}

fn something_that_is_no_tls_is_answered_by_an_alert_and_logged(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        let garbage: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", &[0x16; 4_000], &[0; 20_000]];
        for bytes in garbage {
            let mut stream = connect(port);
            // It may be let go before it has said everything.
            let _ = stream.write_all(bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer.first(), Some(&0x15), "no alert: {answer:x?}");
        }
        daemon.until_count("tls_handshakes_failed", 3);
        daemon.until_logged("TLS handshake failed");
        health(&authority.client(), port).unwrap();
        drop(connect(port));
        daemon.until_count("tls_handshakes_gone", 1);
    });
}

fn a_handshake_that_does_not_come_is_let_go(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    // Long enough for a handshake on a machine that is busy with other work.
    setup.limit("tls-handshake-ms-max", 3_000).run(|daemon| {
        let hello_begins = [0x16, 3, 1, 0, 200, 1, 0];
        let device_port = free_port();
        let mut driver = authority.client().join(port, device_port, "127.0.0.1");
        let mut waiting = [&[][..], &hello_begins[..]].map(|bytes| {
            let mut stream = connect(port);
            stream.write_all(bytes).unwrap();
            stream
        });
        for stream in &mut waiting {
            assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "it is let go without a word");
        }
        daemon.until_count("tls_handshakes_late", 2);
        // A session lasts longer than a handshake may.
        let mut device = Device::connect("127.0.0.1", device_port);
        let addr = driver.opened();
        driver.write(&addr, b"later");
        device.expect(b"later");
    });
}

fn handshakes_that_wait_give_way_to_the_next(shards: usize) {
    const WAITING_MAX: usize = 2;
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.limit("handshakes-max", WAITING_MAX * shards).run(|daemon| {
        let idle: Vec<TcpStream> = (0..10 * shards).map(|_| connect(port)).collect();
        health(&authority.client(), port).unwrap();
        eventually("those that wait longest have gone", || {
            let let_go = daemon.count("tls_handshakes_late");
            (let_go >= (8 * shards) as u64).then_some(())
        });
        drop(idle);
    });
}

fn a_storm_of_handshakes_holds_no_device_back(shards: usize) {
    const STORM: usize = 5;
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    setup.run(|daemon| {
        let device_port = free_port();
        let mut driver = daemon.join_tcp(device_port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", device_port);
        let addr = driver.opened();
        let (authority, mut echoed) = (&authority, 0);
        std::thread::scope(|scope| {
            let handshakes: Vec<_> = (0..STORM)
                .map(|_| scope.spawn(move || (0..10).for_each(|_| assert!(health(&authority.client(), port).is_ok()))))
                .collect();
            while handshakes.iter().any(|thread| !thread.is_finished()) {
                device.send(b"ping");
                driver.received(&addr, b"ping");
                driver.write(&addr, b"pong");
                device.expect(b"pong");
                echoed += 1;
            }
        });
        assert!(echoed >= STORM, "{echoed} echoes beside {} handshakes", STORM * 10);
        assert_eq!(daemon.count("tls_handshakes_full"), (STORM * 10) as u64);
    });
}

fn with_authority(authority: &Authority, shards: usize) -> (Setup, u16) {
    let (setup, port) = authority.daemon(shards);
    (setup.flag("tls-client-ca", &authority.path("ca.pem")), port)
}

fn a_certificate_of_the_authority_is_asked_for_where_one_is_set(shards: usize) {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (setup, port) = with_authority(&authority, shards);
    setup.run(|daemon| {
        let (good, strange, expired) = (authority.issue(10), stranger.issue(10), authority.issue(-1));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = |own| Client::new(&authority, &[version], own);
            health(&client(Some(&good)), port).unwrap();
            alert(health(&client(None), port));
            assert_eq!(alert(health(&client(Some(&strange)), port)), AlertDescription::UnknownCA);
            assert_eq!(alert(health(&client(Some(&expired)), port)), AlertDescription::CertificateExpired);
        }
        daemon.until_count("tls_handshakes_failed", 6);
        // The plain port asks for none.
        assert_eq!(daemon.fetch(BASES[0]).status, 200);
    });
}

fn a_revoked_certificate_is_refused_also_after_the_list_was_read_again(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = with_authority(&authority, shards);
    let [first, second, good] = [(); 3].map(|()| authority.issue(10));
    let list = authority.file("list.pem", &authority.revoke(&[&first]));
    setup.flag("tls-client-crl", &list).run(|daemon| {
        let client = |own| Client::new(&authority, rustls::ALL_VERSIONS, Some(own));
        assert_eq!(alert(health(&client(&first), port)), AlertDescription::CertificateRevoked);
        let known = client(&second);
        health(&known, port).unwrap();
        assert_eq!(health(&known, port).unwrap(), HandshakeKind::Resumed);

        authority.file("list.pem", &authority.revoke(&[&first, &second]));
        daemon.signal(Signal::HUP);
        daemon.until_logged("the settings were reloaded");
        // Not by resuming either.
        eventually("it is refused by every shard", || {
            (0..4 * shards).all(|_| health(&known, port).is_err()).then_some(())
        });
        assert_eq!(alert(health(&client(&second), port)), AlertDescription::CertificateRevoked);
        health(&client(&good), port).unwrap();
    });
}

fn the_expiry_is_a_metric_and_is_warned_of(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = authority.daemon(shards);
    authority.install(&authority.issue(5));
    setup.run(|daemon| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let days = (metrics(daemon).value("dispatch_tls_certificate_expires_seconds") - now) / 86_400.0;
        assert!((5.0..6.0).contains(&days), "{days}");
        daemon.until_logged("the certificate expires soon");
        assert!(daemon.log().contains("expires_in_days=5"), "{}", daemon.log());
        authority.install(&authority.issue(-1));
        daemon.signal(Signal::HUP);
        daemon.until_logged("the certificate has expired");
        // Whoever does not look is still served.
        drop(connect(port));
    });
    assert!(!Setup::new(shards).start().fetch("/metrics").text().contains("dispatch_tls_certificate"));
}
