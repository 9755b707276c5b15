//! Proves that `dispatch tap` shows what passes through a real daemon, and what becomes of its port.

use rustix::process::Signal;

use crate::harness::{Daemon, Device, Program, Setup, free_port};

scenarios! {
    the_terminals_tap_goes_on_while_its_port_closes_and_opens_again,
    the_terminals_tap_says_when_the_daemon_stops,
}

/// `dispatch tap` while it runs.
struct Terminal(Program);

impl Terminal {
    fn start(daemon: &Daemon, port: u16) -> Self {
        let url = format!("http://{}", daemon.api());
        Self(Program::binary(&["tap", "tcp", &port.to_string(), "--json", "--url", &url], &[]))
    }

    /// Fails unless the next records are these, in the order of their events.
    fn shows(&mut self, events: &[(&str, &str)]) {
        let mut shown: Vec<(String, String)> = events
            .iter()
            .map(|_| {
                let record: serde_json::Value = serde_json::from_str(&self.0.printed()).unwrap();
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
        terminal.0.signal(Signal::INT);
        assert_eq!(terminal.0.exits().code(), Some(0));
    });
}

fn the_terminals_tap_says_when_the_daemon_stops(shards: usize) {
    let mut daemon = Setup::new(shards).start();
    let mut terminal = Terminal::start(&daemon, free_port());
    terminal.shows(&[("port_closed", "")]);
    daemon.signal(Signal::TERM);
    terminal.0.notes_until("the session ended: the daemon closed it with 1001 the daemon stops");
    terminal.0.notes_until("trying again in 1 s");
    assert!(daemon.exits().success());
}
