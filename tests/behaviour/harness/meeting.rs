//! How two daemons meet: the path of it, and one end of what they say.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Daemon, Setup};

/// The path where daemons meet; it is gone with the value.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("dispatch-takeover-{}-{count}", std::process::id())))
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// A daemon that can be taken over here.
    pub fn of(&self, setup: Setup) -> Setup {
        setup.variable("DISPATCH_TAKEOVER_SOCKET", self.path())
    }

    /// Starts a daemon that takes over from the one here, and waits until it serves.
    pub fn take_over(&self, setup: Setup) -> Daemon {
        let daemon = self.of(setup).variable("DISPATCH_TAKEOVER", "on").spawn();
        daemon.until_logged("dispatch serves");
        daemon
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One end of the conversation of two daemons, which says what the test wants.
pub struct Taker {
    wire: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Taker {
    pub fn meet(place: &Place) -> Self {
        Self::over(UnixStream::connect(place.path()).unwrap())
    }

    pub fn over(wire: UnixStream) -> Self {
        wire.set_read_timeout(Some(super::PATIENCE)).unwrap();
        let lines = BufReader::new(wire.try_clone().unwrap());
        Self { wire, lines }
    }

    pub fn wire(&self) -> &UnixStream {
        &self.wire
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.wire, "{line}").unwrap();
    }

    /// The next line; the bytes that carry descriptors have none.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Asks for the sockets, and takes those of the API.
    pub fn ask(&mut self) {
        self.say(r#"{"say":"hello","version":2}"#);
        assert!(self.hear().starts_with(r#"{"say":"sockets","meetings":1,"api":"#));
    }

    /// Has the daemon pause, and takes the sockets of its ports.
    pub fn have_it_pause(&mut self) {
        self.say(r#"{"say":"ready"}"#);
        let line = self.hear();
        assert!(line.contains(r#""meetings":0,"api":0,"tls":0,"ports":"#), "it has paused: {line}");
    }

    /// Takes over.
    pub fn take_over(&mut self) {
        self.say(r#"{"say":"taken"}"#);
        assert!(self.hear().ends_with("{\"say\":\"go\"}\n"));
    }
}
