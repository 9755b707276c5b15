//! What a shard can tell of a session whose socket it serves, while it is served.
//!
//! **Invariants.** It stands in the shard's table exactly while its session lives.
//! **Not here.** The session itself (`edge::session`), and what its port knows of it (`roster`).

use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::shard::credit::Window;
use crate::shard::outbox::Backlog;
use std::cell::Cell;
use std::net::SocketAddr;

/// One session, as whoever asks sees it.
#[derive(Debug)]
pub struct Presence {
    /// The session.
    pub id: SessionId,
    /// The port that it has joined.
    pub port: PortId,
    /// The other end of its socket, in canonical form.
    pub remote: SocketAddr,
    /// Its driver's `X-Module-ID`.
    pub module: Option<String>,
    /// Its accept list; cut where it is long.
    pub accepted: String,
    /// When it joined, in seconds since the start of the process.
    pub since_s: u32,
    /// When it last sent anything, in the same.
    pub seen_s: Cell<u32>,
    /// Bytes that it has sent.
    pub received_bytes: Cell<u64>,
    /// Bytes that the kernel has taken for it.
    pub written_bytes: Cell<u64>,
    /// Its write credit.
    pub window: Window,
    /// What waits to be sent to it.
    pub backlog: Backlog,
}

impl Presence {
    /// Its driver has sent bytes.
    pub fn received(&self, bytes: usize, clock_s: u32) {
        self.received_bytes.set(self.received_bytes.get() + bytes as u64);
        self.seen_s.set(clock_s);
    }
}
