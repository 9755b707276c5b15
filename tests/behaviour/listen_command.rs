//! Proves that the README's first steps work as they stand there: a daemon, `dispatch listen` as its driver, and a device.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Datagrams, Device, Program, eventually, free_port};
use crate::shards::Plain;

const README: &str = include_str!("../../README.md");

/// What follows this in the README, up to the end of the line.
fn told_behind(text: &str) -> &'static str {
    let (_, rest) = README.split_once(text).unwrap_or_else(|| panic!("README.md has no {text:?}"));
    rest.lines().next().unwrap()
}

/// `dispatch listen` while it runs.
struct Terminal(Program);

impl Terminal {
    fn start(daemon: &Plain, arguments: &[&str]) -> Self {
        let url = format!("http://{}", daemon.api());
        let arguments = [&["listen"], arguments, &["--url", &url]].concat();
        Self(Program::binary(&arguments, &[("SECRETS_PATH", "/nonexistent")]))
    }

    /// Fails unless the next line that it prints has this text.
    fn prints(&mut self, text: &str) {
        let line = self.0.printed();
        assert!(line.contains(text), "{line:?} instead of {text:?}");
    }

    /// The next line that it prints.
    fn object(&mut self) -> Value {
        serde_json::from_str(&self.0.printed()).unwrap()
    }

    /// Ends it as a person does; nothing more was printed.
    fn interrupt(mut self) {
        self.0.signal(Signal::INT);
        assert_eq!(self.0.exits().code(), Some(0));
        let more = self.0.printed_in_all();
        assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
    }
}

#[test]
fn the_first_steps_of_the_readme_work() {
    assert_eq!(told_behind("development secret:\n\n    cargo run"), " --release");
    let daemon = Plain::start(&[], &[]);
    let port = free_port();
    let told = told_behind("cargo run --release -- listen ").replace("6001", &port.to_string());
    let mut terminal = Terminal::start(&daemon, &told.split(' ').collect::<Vec<_>>());
    terminal.0.notes_until(&format!("joined tcp port {port}"));

    let source = told_behind("    nc ").strip_suffix(" 6001").unwrap();
    let mut device = Device::connect(source, port);
    terminal.prints("Z opened   127.0.0.1 @0");
    device.send(b"hello\n");
    terminal.prints("Z received 127.0.0.1 @0 6 bytes \"hello\\n\"");
    terminal.0.types("hi there\n");
    device.expect(b"hi there\n");
    let mut second = Device::connect(source, port);
    terminal.prints("Z opened   127.0.0.1 @1");
    terminal.0.types("@0 to the first\nto the last\n");
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
    terminal.0.notes_until("joined tcp port");
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
    terminal.0.types("@0 /close\n");
    device.ends();
    drop(device);
    assert_eq!(terminal.object()["event"], "closed");
    terminal.interrupt();

    let mut terminal = Terminal::start(&daemon, &["udp", &udp.to_string()]);
    terminal.0.notes_until("joined udp port");
    let datagrams = Datagrams::bind("127.0.0.1");
    datagrams.send(udp, b"trap");
    terminal.prints(&format!("Z received 127.0.0.1:{} 4 bytes \"trap\"", datagrams.port()));
    terminal.0.types(&format!("noted\n@127.0.0.1:{} again\n", datagrams.port()));
    datagrams.expect(b"noted\n");
    datagrams.expect(b"again\n");
    terminal.interrupt();
    assert!(daemon.ends().success());
}
