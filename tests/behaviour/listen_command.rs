//! Proves that the README's first steps work as they stand there: a daemon, `dispatch listen` as its driver, and a device.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Datagrams, Device, PATIENCE, eventually, free_port, started};
use crate::shards::Plain;

const README: &str = include_str!("../../README.md");

/// What follows this in the README, up to the end of the line.
fn told_behind(text: &str) -> &'static str {
    let (_, rest) = README.split_once(text).unwrap_or_else(|| panic!("README.md has no {text:?}"));
    rest.lines().next().unwrap()
}

/// `dispatch listen` while it runs.
struct Terminal {
    child: Child,
    output: Receiver<String>,
    notes: Receiver<String>,
}

impl Terminal {
    fn start(daemon: &Plain, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
        command.arg("listen").args(arguments).args(["--url", &format!("http://{}", daemon.api())]);
        command.env_clear().env("SECRETS_PATH", "/nonexistent");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = started(&mut command);
        let (output, notes) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, output, notes }
    }

    fn types(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Fails unless the next line that it prints has this text.
    fn prints(&self, text: &str) {
        let line = self.output.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing printed, and no {text:?}"));
        assert!(line.contains(text), "{line:?} instead of {text:?}");
    }

    /// The next line that it prints.
    fn object(&self) -> Value {
        serde_json::from_str(&self.output.recv_timeout(PATIENCE).unwrap()).unwrap()
    }

    /// Waits until a note has this text.
    fn notes(&self, text: &str) {
        while !self.notes.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no note {text:?}")).contains(text) {}
    }

    /// Ends it as a person does; nothing more was printed.
    fn interrupt(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let status = eventually("listen ends", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        let more: Vec<String> = self.output.iter().collect();
        assert!(more.is_empty(), "{more:?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, read by a thread that ends with it.
fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            // Nobody listens where the test has failed.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[test]
fn the_first_steps_of_the_readme_work() {
    assert_eq!(told_behind("development secret:\n\n    cargo run"), " --release");
    let daemon = Plain::start(&[], &[]);
    let port = free_port();
    let told = told_behind("cargo run --release -- listen ").replace("6001", &port.to_string());
    let mut terminal = Terminal::start(&daemon, &told.split(' ').collect::<Vec<_>>());
    terminal.notes(&format!("joined tcp port {port}"));

    let source = told_behind("    nc ").strip_suffix(" 6001").unwrap();
    let mut device = Device::connect(source, port);
    terminal.prints("Z opened   127.0.0.1 @0");
    device.send(b"hello\n");
    terminal.prints("Z received 127.0.0.1 @0 6 bytes \"hello\\n\"");
    terminal.types("hi there\n");
    device.expect(b"hi there\n");
    let mut second = Device::connect(source, port);
    terminal.prints("Z opened   127.0.0.1 @1");
    terminal.types("@0 to the first\nto the last\n");
    device.expect(b"to the first\n");
    second.expect(b"to the last\n");

    let page = daemon.connection().request("GET", "/", "");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let token = told_behind("its token is `").split('`').next().unwrap();
    let header = format!("Authorization: Bearer {token}\r\n");
    let statistics = daemon.connection().request("GET", "/api/dispatch/v1", &header);
    let key = port.to_string();
    let expected = json!({"udp_listeners": {}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 2}});
    assert_eq!((statistics.status, statistics.json()), (200, expected));

    terminal.interrupt();
    device.ends();
    second.ends();
    eventually("the port is closed", || Device::try_connect(source, port).err());
    assert!(daemon.ends().success());
}

#[test]
fn listening_prints_json_and_serves_datagrams() {
    let daemon = Plain::start(&[], &[]);
    let (tcp, udp) = (free_port(), free_port());
    let mut terminal = Terminal::start(&daemon, &["tcp", &tcp.to_string(), "--json"]);
    terminal.notes("joined tcp port");
    let mut device = Device::connect("127.0.0.1", tcp);
    let opened = terminal.object();
    assert_eq!(
        (&opened["event"], &opened["address"], &opened["id"]),
        (&json!("opened"), &json!("127.0.0.1"), &json!(0))
    );
    device.send(b"hello\n");
    let received = terminal.object();
    assert_eq!(
        (&received["event"], &received["size"], &received["data"]),
        (&json!("received"), &json!(6), &json!("hello\n"))
    );
    terminal.types("@0 /close\n");
    device.ends();
    drop(device);
    assert_eq!(terminal.object()["event"], "closed");
    terminal.interrupt();

    let mut terminal = Terminal::start(&daemon, &["udp", &udp.to_string()]);
    terminal.notes("joined udp port");
    let datagrams = Datagrams::bind("127.0.0.1");
    datagrams.send(udp, b"trap");
    terminal.prints(&format!("Z received 127.0.0.1:{} 4 bytes \"trap\"", datagrams.port()));
    terminal.types(&format!("noted\n@127.0.0.1:{} again\n", datagrams.port()));
    datagrams.expect(b"noted\n");
    datagrams.expect(b"again\n");
    terminal.interrupt();
    assert!(daemon.ends().success());
}
