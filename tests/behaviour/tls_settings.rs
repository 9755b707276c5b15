//! Proves what is said of TLS settings and files that are not good, and that the daemon's own programs speak TLS.

use crate::harness::tls::{Authority, connect};
use crate::harness::{BASES, Device, Program, Run, free_port};

#[test]
fn a_setting_that_is_not_good_is_one_line_that_names_it_and_no_key() {
    let authority = Authority::new();
    let (own, other) = (authority.issue(10), authority.issue(10));
    authority.install(&own);
    let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let other_key = authority.file("other.pem", &other.key);
    let encrypted = authority.file("encrypted.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n");
    let nothing = authority.file("nothing.pem", "nothing\n");
    let good: [&str; 4] = ["--tls-cert", &cert, "--tls-key", &key];
    let with = |more: &[&'static str]| [&good[..], more].concat();
    let cases: [(Vec<&str>, &str, &str); 13] = [
        (vec!["--tls-cert", &cert], "--tls-cert (DISPATCH_TLS_CERT)", "needs --tls-key"),
        (vec!["--tls-key", &key], "--tls-key (DISPATCH_TLS_KEY)", "needs --tls-cert"),
        (vec!["--tls-client-ca", &cert], "--tls-client-ca", "needs --tls-cert"),
        (with(&["--tls-client-crl", "/nope"]), "--tls-client-crl", "needs --tls-client-ca"),
        (vec!["--tls-cert", "/nope", "--tls-key", &key], "--tls-cert", "No such file"),
        (vec!["--tls-cert", &nothing, "--tls-key", &key], "--tls-cert", "no certificate"),
        (vec!["--tls-cert", &cert, "--tls-key", &other_key], "--tls-key", "not that of the certificate"),
        (vec!["--tls-cert", &cert, "--tls-key", &encrypted], "--tls-key", "encrypted"),
        (vec!["--tls-cert", &cert, "--tls-key", &cert], "--tls-key", "no private key"),
        (vec!["--tls-cert", &cert, "--tls-key", &own.key], "--tls-key", "is a PEM text"),
        (with(&["--tls-client-ca", "/nope"]), "--tls-client-ca", "No such file"),
        (with(&["--tls-port", "3000"]), "--tls-port", "--port"),
        (with(&["--tls-host", "no such host"]), "--tls-host", "no address of this machine"),
    ];
    let words: Vec<&str> = own.key.lines().chain(other.key.lines()).filter(|line| !line.starts_with('-')).collect();
    for (flags, setting, reason) in &cases {
        let run = Run::binary(flags, &[]);
        assert_eq!(run.status.code(), Some(2), "{flags:?}");
        let lines: Vec<&str> = run.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(setting) && lines[0].contains(reason), "{lines:?} for {reason}");
        assert!(!words.iter().any(|word| lines[0].contains(word)), "{lines:?}");
    }
}

#[test]
fn a_list_or_an_authority_that_is_none_is_named() {
    let authority = Authority::new();
    authority.install(&authority.issue(10));
    let (cert, key, ca) = (authority.path("cert.pem"), authority.path("key.pem"), authority.path("ca.pem"));
    let nothing = authority.file("nothing.pem", "nothing\n");
    let bad_ca = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &nothing];
    let bad_crl = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca, "--tls-client-crl", &nothing];
    for (flags, reason) in [(&bad_ca[..], "no certificate"), (&bad_crl[..], "no revocation list")] {
        let run = Run::binary(flags, &[]);
        assert!(run.status.code() == Some(2) && run.stderr.contains(reason), "{}", run.stderr);
    }
}

#[test]
fn a_taken_tls_port_is_one_line_that_names_its_settings() {
    let authority = Authority::new();
    authority.install(&authority.issue(10));
    let (cert, key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let (port, taken) = (free_port().to_string(), free_port());
    let _other = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let taken = taken.to_string();
    let flags = ["-p", &port, "-w", "1", "--tls-cert", &cert, "--tls-key", &key, "--tls-port", &taken];
    let run = Run::binary(&flags, &[]);
    assert_eq!((run.status.code(), run.stderr.lines().count()), (Some(1), 1), "{}", run.stderr);
    assert!(run.stderr.contains("--tls-port") && run.stderr.contains(&taken), "{}", run.stderr);
}

#[test]
fn the_daemons_own_programs_speak_tls_to_whom_they_trust() {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(1);
    setup.run(|_| {
        let ca = authority.path("ca.pem");
        let url = format!("https://127.0.0.1:{tls_port}{}/healthz", BASES[1]);
        let trusting = Run::binary(&["-c", &url], &[("SSL_CERT_FILE", &ca)]);
        assert_eq!(trusting.status.code(), Some(0), "{}", trusting.stderr);
        let wary = Run::binary(&["-c", &url], &[("SSL_CERT_FILE", &Authority::new().path("ca.pem"))]);
        assert_eq!(wary.status.code(), Some(2), "{}", wary.stderr);
        assert!(wary.stderr.contains("certificate"), "{}", wary.stderr);
        let told = Run::binary(&["-c", &url, "--ca", &ca], &[]);
        assert_eq!(told.status.code(), Some(0), "{}", told.stderr);
        listen(tls_port, &["--ca", &ca]);
        drop(connect(tls_port));
    });
}

#[test]
fn the_daemons_own_programs_show_a_certificate_where_one_is_demanded() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (setup, tls_port) = authority.daemon(1);
    let ca = authority.path("ca.pem");
    let own = |authority: &Authority| {
        let pair = authority.issue(10);
        [authority.file("own.pem", &pair.certificate), authority.file("own-key.pem", &pair.key)]
    };
    let ([cert, key], [strange, strange_key]) = (own(&authority), own(&stranger));
    let good = ["--ca", &ca, "--cert", &cert, "--key", &key];
    let unfit = ["--ca", &ca, "--cert", &strange, "--key", &strange_key];
    let health = format!("https://127.0.0.1:{tls_port}{}/healthz", BASES[1]);
    let (url, port) = (format!("wss://127.0.0.1:{tls_port}"), free_port().to_string());
    setup.flag("tls-client-ca", &ca).run(|_| {
        listen(tls_port, &good);
        let checked = Run::binary(&[&["-c", &health], &good[..]].concat(), &[]);
        assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
        for (trust, reason) in [
            (&good[..2], "the daemon demands a certificate: --cert and --key"),
            (&unfit[..], "the daemon does not take the certificate of --cert: UnknownCA"),
        ] {
            let programs = [
                (vec!["-c", &health], 2),
                (vec!["listen", "tcp", &port, "--url", &url], 1),
                (vec!["tap", "tcp", &port, "--url", &url], 1),
            ];
            for (program, code) in programs {
                let run = Run::binary(&[&program, trust].concat(), &[]);
                assert_eq!(run.status.code(), Some(code), "{program:?}: {}", run.stderr);
                assert!(run.stderr.contains(reason) && run.stderr.lines().count() == 1, "{}", run.stderr);
            }
        }
    });
}

#[test]
fn an_option_of_theirs_that_is_not_good_is_one_line_that_names_it() {
    let authority = Authority::new();
    let (own, other) = (authority.issue(10), authority.issue(10));
    authority.install(&own);
    let (ca, cert, key) = (authority.path("ca.pem"), authority.path("cert.pem"), authority.path("key.pem"));
    let other_key = authority.file("other.pem", &other.key);
    let (tls, plain) = ("https://127.0.0.1:1/", "http://127.0.0.1:1/");
    let cases: [(&str, &[&str], &str); 10] = [
        (tls, &["--ca", &ca, "--cert", &cert], "--cert: needs --key"),
        (tls, &["--ca", &ca, "--key", &key], "--key: needs --cert"),
        (tls, &["--ca", "/nope"], "--ca: \"/nope\": No such file"),
        (tls, &["--ca", &key], "no certificate"),
        (tls, &["--ca", &ca, "--cert", "/nope", "--key", &key], "--cert: \"/nope\": No such file"),
        (tls, &["--ca", &ca, "--cert", &cert, "--key", "/nope"], "--key: \"/nope\": No such file"),
        (tls, &["--ca", &ca, "--cert", &cert, "--key", &other_key], "not that of the certificate"),
        (tls, &["--ca", &ca, "--cert", &cert, "--key", &own.key], "--key: is a PEM text"),
        (plain, &["--cert", &cert, "--key", &key], "--cert: is for TLS"),
        (plain, &["--ca", &ca], "--ca: is for TLS"),
    ];
    for (url, options, reason) in cases {
        for program in
            [&["-c", url][..], &["listen", "tcp", "6001", "--url", url], &["tap", "udp", "162", "--url", url]]
        {
            let run = Run::binary(&[program, options].concat(), &[]);
            assert_eq!(run.status.code(), Some(2), "{program:?} {options:?}: {}", run.stderr);
            assert!(run.stderr.contains(reason) && run.stderr.lines().count() == 1, "{reason}: {}", run.stderr);
        }
    }
    let stray = Run::binary(&["--cert", &cert, "--key", &key], &[]);
    assert_eq!(stray.status.code(), Some(2), "{}", stray.stderr);
    assert!(stray.stderr.contains("--cert: goes with -c, listen and tap"), "{}", stray.stderr);
}

/// A driver and a tap in a terminal, by way of TLS.
fn listen(tls_port: u16, trust: &[&str]) {
    let port = free_port();
    let (url, port_text) = (format!("wss://localhost:{tls_port}"), port.to_string());
    let words = ["listen", "tcp", &port_text, "--accept", "127.0.0.1", "--url", &url];
    let mut driver = Program::binary(&[&words, trust].concat(), &[]);
    driver.notes_until("joined tcp port");
    let mut tap = Program::binary(&[&["tap", "tcp", &port_text, "--url", &url], trust].concat(), &[]);
    tap.notes_until("tapping tcp port");
    let mut device = Device::connect("127.0.0.1", port);
    device.send(b"over TLS\n");
    for expected in ["opened", "over TLS"] {
        let line = driver.printed();
        assert!(line.contains(expected), "{line}");
    }
    driver.types("back\n");
    device.expect(b"back\n");
    tap.printed_until("over TLS");
    drop((tap, driver));
    device.is_disconnected();
}
