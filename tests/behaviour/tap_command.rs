//! Proves that `dispatch tap` shows what passes through a real daemon, and what becomes of its port.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Daemon, Device, Setup, clear_environment, free_port, started};

scenarios! {
    the_terminals_tap_goes_on_while_its_port_closes_and_opens_again,
    the_terminals_tap_says_when_the_daemon_stops,
}

/// `dispatch tap` while it runs.
struct Terminal {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Terminal {
    fn start(daemon: &Daemon, port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
        let url = format!("http://{}", daemon.api());
        command.args(["tap", "tcp", &port.to_string(), "--json", "--url", &url]);
        clear_environment(&mut command);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = started(command);
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Fails unless the next records are these, in the order of their events.
    fn shows(&mut self, events: &[(&str, &str)]) {
        let mut shown: Vec<(String, String)> = events
            .iter()
            .map(|_| {
                let mut line = String::new();
                self.output.read_line(&mut line).unwrap();
                let record: serde_json::Value = serde_json::from_str(&line).unwrap();
                let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
                (text("event"), text("data"))
            })
            .collect();
        // A port may be closed before its last device has ended.
        if events[0].0 == "closed" {
            shown.sort();
        }
        let events: Vec<_> = events.iter().map(|(event, data)| ((*event).to_owned(), (*data).to_owned())).collect();
        assert_eq!(shown, events);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn the_terminals_tap_goes_on_while_its_port_closes_and_opens_again(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut terminal = Terminal::start(daemon, port);
        terminal.shows(&[("port_closed", "")]);
        for _ in 0..2 {
            let mut driver = daemon.join_tcp(port, "127.0.0.1");
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            device.send(b"ask");
            driver.received(&addr, b"ask");
            driver.write(&addr, b"answer");
            device.expect(b"answer");
            terminal.shows(&[("port_open", ""), ("opened", ""), ("received", "ask"), ("write", "answer")]);
            driver.leave();
            device.ends();
            terminal.shows(&[("closed", ""), ("port_closed", "")]);
        }
        kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
        assert_eq!(terminal.child.wait().unwrap().code(), Some(0));
    });
}

fn the_terminals_tap_says_when_the_daemon_stops(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let mut terminal = Terminal::start(&daemon, free_port());
    terminal.shows(&[("port_closed", "")]);
    daemon.signal(Signal::TERM);
    let notes = BufReader::new(terminal.child.stderr.take().unwrap());
    let mut notes = notes.lines().map(|line| line.unwrap());
    assert!(notes.any(|note| note.contains("the session ended: the daemon closed it with 1001 the daemon stops")));
    assert!(notes.any(|note| note.contains("trying again in 1 s")));
    assert!(daemon.exits().success());
}
