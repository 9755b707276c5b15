//! Proves that existing deployments start, check and ask a running daemon as they did the original.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use crate::harness::{BASES, Connection, Daemon, Run, Setup, eventually, free_port};

scenarios! {
    the_health_check_succeeds_on_a_healthy_daemon,
    the_secret_is_the_first_that_is_set,
    a_secret_of_either_name_is_found_in_its_file,
    production_logs_json_without_debug,
    elsewhere_the_log_is_readable_at_debug,
    the_start_says_what_its_bounds_come_to,
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

fn the_health_check_succeeds_on_a_healthy_daemon(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (route, code) in [("healthz", 0), ("version", 0), ("", 0), ("nope", 0)] {
            let url = format!("http://{}{}/{route}", daemon.api(), BASES[1]);
            assert_eq!(run(&["-c", &url]).status.code(), Some(code), "{url}");
            assert_eq!(run(&["/dispatch", "-c", &url]).status.code(), Some(code), "{url}");
        }
    });
}

fn a_taken_api_port_is_one_line_and_a_failure(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = daemon.api().port().to_string();
        let refused = Run::binary(&["-p", &port, "-w", &shards.to_string(), "--pin", "off"], &[]);
        assert_eq!(refused.status.code(), Some(1), "two daemons on one port");
        let errors: Vec<_> = refused.stderr.lines().collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(&port), "{errors:?}");
    });
    // Another program's listener, and an address that no interface of this machine has.
    let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let refused = Run::binary(&["-p", &port, "-w", &shards.to_string(), "--pin", "off"], &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    let foreign = Run::binary(&["-b", "192.0.2.1", "-p", &port, "-w", &shards.to_string(), "--pin", "off"], &[]);
    assert_eq!(foreign.status.code(), Some(1));
    assert_eq!(foreign.stderr.lines().count(), 1, "{}", foreign.stderr);
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
        let lines = eventually("the session's end is in the log", || {
            let log = daemon.log();
            (log.contains("driver left") && log.ends_with('\n')).then_some(log)
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

fn the_start_says_what_its_bounds_come_to(shards: usize) {
    const MIB: u64 = 1 << 20;
    let start = |setup: Setup| {
        let daemon = setup.secret("open-sesame").variable("SG_ENV", "production").start();
        let start: serde_json::Value = eventually("the start is in the log", || {
            let log = daemon.log();
            log.lines().find(|line| line.contains("dispatch serves")).map(|line| serde_json::from_str(line).unwrap())
        });
        daemon.assert_drains();
        start
    };
    let setup = || {
        let setup = Setup::new(shards).limit("receive-buffers", 512).limit("receive-buffer-bytes", 8_192);
        setup.limit("session-memory-bytes-max", 50 << 20)
    };
    let line = start(setup());
    let of = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("no {name} in {line}"));
    assert_eq!(of("receive_buffers_mib"), shards as u64 * 4);
    assert_eq!(of("datagrams_mib"), shards as u64);
    assert_eq!(of("devices_mib"), of("devices_max") * 2_048 / MIB);
    assert_eq!(of("waiting_devices_mib"), of("devices_max") * 8_192 / MIB);
    let parts = ["session_memory", "receive_buffers", "datagrams", "devices", "waiting_devices", "handshakes"];
    let sum: u64 = parts.iter().map(|part| of(&format!("{part}_mib"))).sum();
    // Each part is rounded down, and so is the whole.
    let whole = of("worst_case_mib");
    assert!((sum..sum + parts.len() as u64).contains(&whole), "{whole} of {sum}");
    // As many as there is memory for, or as are allowed, if those are fewer.
    let by_memory = of("sessions_max");
    assert_eq!(by_memory, (50 << 20) / (608 << 10));
    for (allowed, sessions_max) in [(7, 7), (1_000_000, by_memory)] {
        assert_eq!(start(setup().limit("sessions-max", allowed))["sessions_max"], sessions_max);
    }
}

fn production_warns_of_a_secret_that_anyone_can_guess(shards: usize) {
    Setup::new(shards).secret("testing").variable("SG_ENV", "production").run(|daemon| {
        daemon.until_logged("the secret is `testing`, which anyone can guess");
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
