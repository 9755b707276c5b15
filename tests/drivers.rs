//! The drivers of docs/drivers.md, as they stand there, against the real daemon and devices.
//!
//! Where Node or Python's `websockets` is not to be had, that is said on standard error, and the test passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// Compiled in and not started as a program, so that it is never an old one.
#[allow(dead_code)]
#[path = "../examples/driver.rs"]
mod driver;

// The harness of the behaviour tests, of which some is not needed here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "behaviour/harness/mod.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Daemon, Device, Setup, free_port, say_skipped};
use rustix::process::Signal;

const TOKEN: &str = "a token of the tests";
const ACCEPT: &str = "127.0.0.0/8";
/// The longest back-off, and as much again for a busy machine.
const REJOIN_TIME_MAX: Duration = Duration::from_secs(20);

/// A driver's program, which is killed with the value.
struct Program(Child);

impl Program {
    fn start(command: &mut Command, daemon: &str, port: u16) -> Program {
        command
            .args([daemon, &port.to_string(), ACCEPT])
            .env("TOKEN", TOKEN)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        Program(command.spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/drivers").join(name)
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn daemon_at(api_port: u16) -> Daemon {
    Setup::new(2).api_port(api_port).secret(TOKEN).variable("LOG_LEVEL", "info").start()
}

/// Waits until the driver has joined.
fn until_joined(daemon: &Daemon, port: u16) {
    let deadline = Instant::now() + REJOIN_TIME_MAX;
    while daemon.statistics()["tcp_listeners"][port.to_string()] != 1 {
        assert!(Instant::now() < deadline, "the driver has not joined; the daemon's log:\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends lines that are cut anywhere, each part a read and so a message of its own; the driver answers line by line.
fn assert_that_lines_come_back(daemon: &Daemon, port: u16) {
    let mut devices = ["127.0.0.1", "127.0.0.2"].map(|source| Device::connect(source, port));
    let mut delivered = 2;
    daemon.until_count("messages_to_drivers", delivered);
    let parts = [
        (0, "a line in "),
        (1, "the other "),
        (0, "three "),
        (1, "device's line\n"),
        (0, "parts\nthree lines\nin one\n\nand a part"),
        (1, "!\nnot finished"),
        (0, " of the"),
        (0, " last\n"),
    ];
    for (device, part) in parts {
        devices[device].send(part.as_bytes());
        delivered += 1;
        daemon.until_count("messages_to_drivers", delivered);
    }
    let [first, second] = &mut devices;
    first.expect(b"a line in three parts\nthree lines\nin one\n\nand a part of the last\n");
    second.expect(b"the other device's line\n!\n");
    assert_eq!(daemon.count("messages_from_drivers"), 7, "a WRITE for each line, and none for a part of one");
}

/// A device that sends no end of a line does not fill the driver's memory.
fn assert_that_an_endless_line_is_closed(port: u16) {
    let mut device = Device::connect("127.0.0.3", port);
    device.send(&[b'x'; 65 * 1024]);
    device.is_disconnected();
}

/// A driver that `start` has started for the daemon's URL and a port, through two ends of the daemon.
fn is_a_good_driver<T>(start: impl FnOnce(&str, u16) -> T) {
    let (api_port, port) = (free_port(), free_port());
    let mut daemon = daemon_at(api_port);
    let _driver = start(&format!("ws://127.0.0.1:{api_port}"), port);
    until_joined(&daemon, port);
    assert_that_lines_come_back(&daemon, port);
    assert_that_an_endless_line_is_closed(port);
    for signal in [Signal::TERM, Signal::KILL] {
        let mut device = Device::connect("127.0.0.1", port);
        device.send(b"a line that never ends");
        daemon.signal(signal);
        let status = daemon.exits();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
        device.is_disconnected();
        daemon = daemon_at(api_port);
        until_joined(&daemon, port);
        assert_that_lines_come_back(&daemon, port);
    }
}

#[test]
fn the_driver_in_rust_reassembles_lines_and_joins_again() {
    is_a_good_driver(|daemon, port| {
        let daemon = daemon.to_owned();
        // It never ends by itself; the process of the tests does.
        std::thread::spawn(move || driver::run(&daemon, &port.to_string(), ACCEPT, TOKEN));
    });
}

#[test]
fn the_driver_in_python_alone_reassembles_lines_and_joins_again() {
    if !succeeds("python3", &["--version"]) {
        return say_skipped("docs/drivers/driver.py: python3 is not to be had");
    }
    // Without packages, whether they are there or not.
    let command = || Command::new("python3");
    is_a_good_driver(|daemon, port| Program::start(command().arg("-S").arg(program("driver.py")), daemon, port));
}

#[test]
fn the_driver_in_python_with_websockets_reassembles_lines_and_joins_again() {
    if !succeeds("python3", &["-c", "import websockets.sync.client"]) {
        return say_skipped("docs/drivers/driver.py with `websockets`: python3 or the package is not to be had");
    }
    let command = || Command::new("python3");
    is_a_good_driver(|daemon, port| Program::start(command().arg(program("driver.py")), daemon, port));
}

#[test]
fn the_driver_in_node_reassembles_lines_and_joins_again() {
    const HAS_WEBSOCKET: &str = "process.exit(typeof WebSocket === 'function' ? 0 : 1)";
    let flags: [&[&str]; 2] = [&[], &["--experimental-websocket"]];
    let Some(flags) = flags.into_iter().find(|flags| succeeds("node", &[flags, &["-e", HAS_WEBSOCKET][..]].concat()))
    else {
        return say_skipped("docs/drivers/driver.mjs: node with a WebSocket client is not to be had");
    };
    let command = || Command::new("node");
    is_a_good_driver(|daemon, port| Program::start(command().args(flags).arg(program("driver.mjs")), daemon, port));
}
