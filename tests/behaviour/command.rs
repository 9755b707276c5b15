//! Proves the command line, the environment and the secret: how existing deployments start, check and ask the daemon.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use crate::harness::{BASES, Connection, Daemon, Run, Setup, eventually, free_port};

scenarios! {
    the_health_check_succeeds_on_a_healthy_daemon,
    the_secret_is_the_first_that_is_set,
    a_secret_of_either_name_is_found_in_its_file,
    production_logs_json_without_debug,
    elsewhere_the_log_is_readable_at_debug,
    production_warns_of_a_secret_that_anyone_can_guess,
    a_taken_api_port_is_one_line_and_a_failure,
}

/// Runs the binary with arguments and no environment of its own.
fn run(args: &[&str]) -> Run {
    Run::binary(args, &[])
}

/// A directory of files named like variables, gone with the value.
struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("dispatch-{name}-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A test that fails has more to say than that this does.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_version_is_printed_as_the_original_does() {
    let printed = run(&["-v"]);
    assert_eq!(printed.stdout, concat!("dispatch v", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(printed.status.success());
}

#[test]
fn the_routes_are_printed() {
    let printed = run(&["-r"]);
    assert!(printed.status.success());
    for base in BASES {
        for route in ["healthz", "version", "tcp_dispatch", "udp_dispatch"] {
            assert!(printed.stdout.contains(&format!("{base}/{route}")), "{base}/{route} in {}", printed.stdout);
        }
    }
}

#[test]
fn the_openapi_document_is_printed() {
    let printed = run(&["-d"]);
    assert!(printed.status.success());
    // The original prints YAML, of which JSON is a subset.
    let document: serde_json::Value = serde_json::from_str(&printed.stdout).expect("a JSON document");
    assert!(document["openapi"].as_str().expect("its version").starts_with("3."));
    let paths = document["paths"].as_object().expect("its paths");
    for route in ["healthz", "version", "tcp_dispatch", "udp_dispatch"] {
        assert!(paths.keys().any(|path| path.ends_with(route)), "{route} in {paths:?}");
    }
}

#[test]
fn the_help_names_flags_and_variables() {
    let printed = run(&["-h"]);
    assert!(printed.status.success());
    for word in ["-b", "-p", "-w", "SG_SERVER_PORT", "--stall-ms-max", "PLACE_SERVER_SECRET"] {
        assert!(printed.stdout.contains(word), "{word} in {}", printed.stdout);
    }
}

fn the_health_check_succeeds_on_a_healthy_daemon(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (route, code) in [("healthz", 0), ("version", 0), ("", 0), ("nope", 0)] {
            let url = format!("http://{}{}/{route}", daemon.api(), BASES[1]);
            assert_eq!(run(&["-c", &url]).status.code(), Some(code), "{url}");
            assert_eq!(run(&["/dispatch", "-c", &url]).status.code(), Some(code), "{url}");
        }
    });
}

/// What the health check says of a server that answers with this status.
fn health_of(status: u16) -> Option<i32> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/healthz", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        write!(stream, "HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    let code = run(&["-c", &url]).status.code();
    server.join().unwrap();
    code
}

#[test]
fn the_health_check_tells_statuses_apart() {
    for status in [200, 204, 301, 401, 404, 499] {
        assert_eq!(health_of(status), Some(0), "{status}");
    }
    for status in [500, 503, 599] {
        assert_eq!(health_of(status), Some(1), "{status}");
    }
}

#[test]
fn the_health_check_of_nobody_is_2() {
    let url = format!("http://127.0.0.1:{}/healthz", free_port());
    assert_eq!(run(&["-c", &url]).status.code(), Some(2));
}

/// Fails unless the daemon refuses to start, in one line with this word and without the text of a secret.
fn assert_refuses_to_start(args: &[&str], variables: &[(&str, &str)], word: &str) {
    let port = free_port().to_string();
    let refused = Run::binary(&[&["-p", &port, "-w", "1", "--pin", "off"], args].concat(), variables);
    assert!(!refused.status.success(), "started with {args:?} {variables:?}");
    let error = &refused.stderr;
    assert!(error.contains(word), "{word} in {error:?}");
    assert_eq!(error.lines().count(), 1, "more than a line: {error}");
}

#[test]
fn an_empty_secret_is_a_start_up_error() {
    for name in ["PLACE_SERVER_SECRET", "SERVER_SECRET"] {
        assert_refuses_to_start(&[], &[(name, "")], name);
        let files = Files::new("empty", &[(name, "")]);
        assert_refuses_to_start(&[], &[("SECRETS_PATH", files.path())], name);
    }
    // The next one does not serve in its place.
    assert_refuses_to_start(&[], &[("PLACE_SERVER_SECRET", ""), ("SERVER_SECRET", "good")], "PLACE_SERVER_SECRET");
}

#[test]
fn production_refuses_to_start_on_the_built_in_secret() {
    assert_refuses_to_start(&[], &[("SG_ENV", "production")], "SERVER_SECRET");
}

#[test]
fn a_bad_setting_is_one_line_and_a_failure() {
    assert_refuses_to_start(&["--stall-ms-max", "soon"], &[], "--stall-ms-max");
    assert_refuses_to_start(&["--message-bytes-max", "131071"], &[], "--message-bytes-max");
    assert_refuses_to_start(&["--no-such-flag"], &[], "--no-such-flag");
    assert_refuses_to_start(&["-b", "999.1.2.3"], &[], "999.1.2.3");
    assert_refuses_to_start(&[], &[("LOG_LEVEL", "verbose")], "LOG_LEVEL");
    // An address that no interface of this machine has.
    assert_refuses_to_start(&["-b", "192.0.2.1"], &[], "192.0.2.1");
}

fn a_taken_api_port_is_one_line_and_a_failure(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = daemon.api().port().to_string();
        let refused = Run::binary(&["-p", &port, "-w", &shards.to_string(), "--pin", "off"], &[]);
        assert!(!refused.status.success(), "two daemons on one port");
        let errors: Vec<_> = refused.stderr.lines().collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(&port), "{errors:?}");
    });
    // Another program's listener.
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let refused = Run::binary(&["-p", &port, "-w", &shards.to_string(), "--pin", "off"], &[]);
    assert!(!refused.status.success());
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
}

/// Whether a daemon takes this token.
fn takes(daemon: &Daemon, token: &str) -> bool {
    let mut connection = Connection::open(daemon.api());
    connection.request("GET", BASES[0], &format!("Authorization: Bearer {token}\r\n")).status == 200
}

/// Starts a daemon that takes only the token `right`, whatever else it was told.
fn assert_secret(setup: Setup, right: &str, wrong: &[&str]) {
    let daemon = setup.spawn();
    eventually("the daemon listens", || TcpStream::connect(daemon.api()).ok());
    assert!(takes(&daemon, right), "{right:?} is not taken");
    for token in wrong {
        assert!(!takes(&daemon, token), "{token:?} is taken");
    }
    daemon.assert_drains();
}

fn the_secret_is_the_first_that_is_set(shards: usize) {
    let both = [("PLACE_SERVER_SECRET", "place-file"), ("SERVER_SECRET", "file")];
    let files = Files::new("both", &both);
    let files = files.path();
    let setup = || Setup::new(shards).variable("SECRETS_PATH", files);
    assert_secret(setup(), "place-file", &["file", "testing", ""]);
    let environment = setup().variable("SERVER_SECRET", "environment");
    assert_secret(environment, "place-file", &["environment", "file", "testing"]);
    let all = setup().variable("SERVER_SECRET", "environment").variable("PLACE_SERVER_SECRET", "place");
    assert_secret(all, "place", &["place-file", "environment", "file", "testing"]);
    assert_secret(Setup::new(shards), "testing", &["", "file"]);
}

fn a_secret_of_either_name_is_found_in_its_file(shards: usize) {
    for name in ["PLACE_SERVER_SECRET", "SERVER_SECRET"] {
        let files = Files::new("secret", &[(name, "from a file\n")]);
        let setup = Setup::new(shards).variable("SECRETS_PATH", files.path());
        assert_secret(setup, "from a file", &["testing"]);
    }
    let files = Files::new("order", &[("SERVER_SECRET", "file")]);
    let setup = Setup::new(shards).variable("SECRETS_PATH", files.path()).variable("SERVER_SECRET", "environment");
    assert_secret(setup, "environment", &["file", "testing"]);
}

fn production_logs_json_without_debug(shards: usize) {
    Setup::new(shards).secret("open-sesame").variable("SG_ENV", "production").run(|daemon| {
        let driver = daemon.join_tcp(free_port(), "127.0.0.1");
        driver.leave();
        let lines = eventually("the session is in the log", || {
            let log = daemon.log();
            (log.lines().count() >= 2 && log.ends_with('\n')).then_some(log)
        });
        for line in lines.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            let level = event["level"].as_str().expect("a level");
            assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
        }
    });
}

fn elsewhere_the_log_is_readable_at_debug(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let _device = crate::harness::Device::connect("127.0.0.1", port);
        driver.opened();
        daemon.until_logged("DEBUG");
        assert!(daemon.log().lines().all(|line| !line.starts_with('{')));
    });
}

fn production_warns_of_a_secret_that_anyone_can_guess(shards: usize) {
    Setup::new(shards).secret("testing").variable("SG_ENV", "production").run(|daemon| {
        daemon.until_logged("WARN");
    });
}

#[test]
fn the_usual_image_starts_with_its_name_repeated() {
    let daemon = Setup::new(1).with_name_repeated().start();
    assert_eq!(daemon.fetch("/api/dispatch/v1/healthz").status, 200);
    daemon.assert_drains();
}

#[test]
fn host_port_and_workers_may_stand_in_the_environment() {
    let setup = Setup::new(2).told_by_environment();
    let daemon = setup.start();
    assert_eq!(daemon.fetch("/api/dispatch/v1/shards").json()["shards"].as_array().unwrap().len(), 2);
    daemon.assert_drains();
}
