//! What every scenario stands on: a daemon of its own, drivers, devices, and the proof that nothing is left behind.

mod baseline;
mod daemon;
mod device;
mod driver;
mod http;
mod line;
mod manager;
mod meeting;
mod message;
mod metrics;
mod process;
mod program;
mod story;
pub mod tls;
mod wire;

pub use daemon::{Daemon, Setup, UPGRADE, join_target};
pub use device::{Datagrams, Device};
pub use driver::Driver;
pub use http::Connection;
pub use line::{seal, seal_last};
pub use manager::Manager;
pub use meeting::{Place, Taker};
pub use message::{Addr, Event, close, pattern, request, write};
pub use metrics::Metrics;
pub use process::{bounded, cpu_time, fds, free_port, is_root, raise_descriptor_limit, resident_bytes, started};
pub use program::{Program, Run};
pub use story::Story;
pub use wire::{Frame, Opcode, Wire, frame};

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a scenario waits for anything that has to come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The two base paths of the API.
pub const BASES: [&str; 2] = ["/api/server", "/api/dispatch/v1"];

/// The transport of a port, as the API's routes name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The route that joins a port of this transport.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Tcp => "tcp_dispatch",
            Self::Udp => "udp_dispatch",
        }
    }
}

/// Sets its flag when it goes, also where a test fails, so that the threads that watch it end.
pub struct Until<'a>(pub &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Says that a test proves nothing here, and why: past the capture of its output, as it passes.
pub fn say_skipped(why: &str) {
    io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

/// Reads, again where the call was interrupted: as when the whole machine was paused.
pub fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Asks until there is an answer, every 10 ms and for at most [`PATIENCE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// More shards than one: `DISPATCH_TEST_SHARDS`, or three.
pub fn several_shards() -> usize {
    let Some(text) = std::env::var_os("DISPATCH_TEST_SHARDS") else { return 3 };
    let count = text.to_str().and_then(|text| text.parse().ok()).filter(|count| (2..=64).contains(count));
    count.unwrap_or_else(|| panic!("DISPATCH_TEST_SHARDS is {text:?}, and no number from 2 to 64"))
}

/// Makes each scenario `fn(shards: usize)` a test with one shard and a test with several.
macro_rules! scenarios {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod one_shard {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(1); })+
        }
        mod several_shards {
            $(#[test] $(#[$attribute])* fn $name() { super::$name(crate::harness::several_shards()); })+
        }
    };
}
