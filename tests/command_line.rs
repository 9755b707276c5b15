//! The real program's command line: what it prints, and the exit codes that deployments rely on.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// The harness of the behaviour tests, of which some is not needed here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "behaviour/harness/mod.rs"]
mod harness;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::{Run, bounded};

/// The one line of a refusal, which names `setting`.
fn refused(arguments: &[&str], variables: &[(&str, &str)], setting: &str) -> String {
    let run = Run::binary(arguments, variables);
    let line = run.stderr;
    assert_eq!(run.status.code(), Some(2), "{arguments:?} {variables:?}: {line}");
    assert_eq!((line.lines().count(), run.stdout.as_str()), (1, ""), "{line}");
    assert!(line.starts_with("dispatch: ") && line.contains(setting), "{line}");
    line
}

/// A web server that answers one request, then leaves.
fn answering(answer: &'static str) -> (String, JoinHandle<()>) {
    let listener = bounded(TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}/api/dispatch/v1/healthz", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut stream = bounded(listener.accept().unwrap().0);
        let mut request = [0; 1_024];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(answer.as_bytes()).unwrap();
        let _ = stream.read(&mut request);
    });
    (url, server)
}

#[test]
fn the_version_is_printed_as_deployments_expect_it() {
    for arguments in [["-v"].as_slice(), &["/dispatch", "--version"], &["dispatch", "-v"]] {
        let run = Run::binary(arguments, &[("SG_SERVER_PORT", "a setting that is wrong")]);
        assert!(run.status.success());
        assert_eq!(run.stdout, concat!("dispatch v", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

#[test]
fn help_is_grouped_and_shows_units_defaults_and_variables() {
    let run = Run::binary(&["--help"], &[]);
    assert!(run.status.success());
    let help = run.stdout;
    for heading in
        ["Actions", "Listening:", "Access:", "Shards:", "Drivers:", "Devices:", "Memory:", "Metrics:", "Logging:"]
    {
        assert!(help.lines().any(|line| line.starts_with(heading)), "{heading}\n{help}");
    }
    for part in [
        "-b, --host <HOST>",
        "[env: SG_SERVER_HOST]",
        "[default: 127.0.0.1]",
        "--stall-ms-max <MS>",
        "[env: DISPATCH_STALL_MS_MAX]",
        "[default: 20000]",
        "--message-bytes-max <BYTES>",
        "SECRETS_PATH",
    ] {
        assert!(help.contains(part), "{part}\n{help}");
    }
    let short = Run::binary(&["-h"], &[]);
    assert!(short.status.success() && !short.stdout.is_empty());
}

#[test]
fn a_bad_setting_is_one_line_that_names_it_and_exit_code_two() {
    refused(&["-p", "0"], &[], "-p/--port (SG_SERVER_PORT)");
    refused(&[], &[("SG_SERVER_PORT", "70000")], "-p/--port (SG_SERVER_PORT)");
    refused(&[], &[("SG_PROCESS_COUNT", "-1")], "-w/--workers (SG_PROCESS_COUNT)");
    refused(&["--pin", "perhaps"], &[], "--pin (DISPATCH_PIN)");
    refused(&["--ring-entries=7"], &[], "--ring-entries (DISPATCH_RING_ENTRIES)");
    refused(&[], &[("LOG_LEVEL", "loud")], "--log-level (LOG_LEVEL)");
    refused(&[], &[("DISPATCH_PING_INTERVAL_MS", "80000")], "--driver-silence-ms-max (DISPATCH_DRIVER_SILENCE_MS_MAX)");
    refused(&["--frobnicate"], &[], "--frobnicate");
    refused(&["--allow-ports", "2000-1000"], &[], "--allow-ports (DISPATCH_ALLOW_PORTS)");
    refused(&[], &[("DISPATCH_ALLOW_SOURCES", "somewhere")], "--allow-sources (DISPATCH_ALLOW_SOURCES)");
    refused(&[], &[("DISPATCH_UDP_EGRESS", "none")], "--udp-egress (DISPATCH_UDP_EGRESS)");
    refused(&["-v", "-r"], &[], "--version");
    refused(&["-c", "ftp://127.0.0.1/"], &[], "--curl");
    refused(&["listen", "tcp"], &[], "<PORT>");
}

#[test]
fn a_secret_that_is_empty_or_missing_in_production_keeps_the_daemon_from_starting() {
    refused(&[], &[("PLACE_SERVER_SECRET", "")], "PLACE_SERVER_SECRET");
    refused(&[], &[("SERVER_SECRET", " ")], "SERVER_SECRET");
    refused(&[], &[("SG_ENV", "production")], "PLACE_SERVER_SECRET");
    refused(&[], &[("PLACE_SERVER_SECRET_NEXT", "")], "PLACE_SERVER_SECRET_NEXT");
    refused(&[], &[("SERVER_SECRET_NEXT", " ")], "SERVER_SECRET_NEXT");
    refused(&[], &[("SERVER_SECRET_NEXT", "testing")], "SERVER_SECRET_NEXT");
}

#[test]
fn a_secret_is_never_printed() {
    let secret = ("PLACE_SERVER_SECRET", "correct-horse-battery");
    let runs = [
        Run::binary(&["--help"], &[secret]),
        Run::binary(&["-p", "none"], &[secret]),
        Run::binary(&["listen", "tcp", "1", "--url", "http://127.0.0.1:0"], &[secret]),
        Run::binary(&["--help"], &[secret, ("SERVER_SECRET_NEXT", secret.1)]),
        Run::binary(&[], &[secret, ("SERVER_SECRET_NEXT", secret.1)]),
        Run::binary(&["-p", "none"], &[("SERVER_SECRET", "other"), ("SERVER_SECRET_NEXT", secret.1)]),
    ];
    for run in runs {
        let printed = run.stdout + &run.stderr;
        assert!(!printed.is_empty() && !printed.contains(secret.1), "{printed}");
    }
}

#[test]
fn the_health_checks_exit_code_tells_the_status() {
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 0),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", 1),
        ("nonsense\r\n\r\n", 2),
    ] {
        let (url, server) = answering(answer);
        let run = Run::binary(&["-c", &url], &[("SERVER_SECRET", "")]);
        assert_eq!(run.status.code(), Some(code), "{answer}: {}", run.stderr);
        assert_eq!(run.stderr.lines().count(), usize::from(code != 0));
        server.join().unwrap();
    }
}

#[test]
fn a_health_check_that_gets_no_answer_ends_with_exit_code_two() {
    // The port is taken, so that no other test gets it, but not at this address.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    assert_eq!(Run::binary(&["-c", &format!("http://127.9.9.9:{port}/")], &[]).status.code(), Some(2));

    let begun = Instant::now();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    assert_eq!(Run::binary(&["-c", &url], &[]).status.code(), Some(2));
    assert!(begun.elapsed() < Duration::from_secs(8));
}
