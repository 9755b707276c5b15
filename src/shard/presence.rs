//! What a shard can tell of a session whose socket it serves, while it is served.
//!
//! **Invariants.** It stands in the shard's table exactly while its session lives.
//! **Not here.** The session itself (`edge::session`), and what its port knows of it (`roster`).

use crate::policy::listing::{DriverRow, Remote};
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::shard::credit::Window;
use crate::shard::outbox::Backlog;
use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;

/// One session, as whoever asks sees it.
pub struct Presence {
    /// The session.
    pub id: SessionId,
    /// The port that it has joined.
    pub port: PortId,
    /// The other end of its socket, in canonical form.
    pub remote: SocketAddr,
    /// Its driver's `X-Module-ID`.
    pub module: Option<Arc<str>>,
    /// Its accept list; cut where it is long.
    pub accepted: Arc<str>,
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
    /// How often its writes waited for a device.
    pub credit_waits: Cell<u64>,
    /// Ends it; set once the session is there.
    pub end: OnceCell<Box<dyn Fn()>>,
}

impl Presence {
    /// Has the session end for the operator; false where it is only about to be there.
    pub fn disconnect(&self) -> bool {
        self.end.get().inspect(|end| end()).is_some()
    }

    /// As a list shows it.
    pub fn row(&self) -> DriverRow {
        DriverRow {
            id: self.id.0,
            remote: Remote {
                port: self.port,
                address: self.remote,
                since_s: self.since_s,
                seen_s: self.seen_s.get(),
                received_bytes: self.received_bytes.get(),
                written_bytes: self.written_bytes.get(),
                backlog_bytes: self.backlog.bytes(),
            },
            module: self.module.clone(),
            accepted: self.accepted.clone(),
            credit_bytes: self.window.used_bytes(),
            outbox_is_full: self.backlog.is_full(),
            outbox_waits: self.backlog.waits(),
            credit_waits: self.credit_waits.get(),
        }
    }

    /// Its writes wait for a device.
    pub fn waited_for_credit(&self) {
        self.credit_waits.set(self.credit_waits.get() + 1);
    }

    /// Its driver has sent bytes.
    pub fn received(&self, bytes: usize, clock_s: u32) {
        self.received_bytes.set(self.received_bytes.get() + bytes as u64);
        self.seen_s.set(clock_s);
    }
}
