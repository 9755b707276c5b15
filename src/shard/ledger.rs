//! What a port and its devices share: the port's name, what has been carried for it, and the shard's resources.
//!
//! **Invariants.** It belongs to one thread.
//! **Not here.** Counts of the shard as a whole (`policy::counts`), which go on when the port is gone.

use crate::policy::counts::Count;
use crate::policy::port_id::PortId;
use crate::shard::resources::Resources;
use crate::shard::secured_port::SecuredPort;
use crate::shard::tls::Identity;
use std::cell::Cell;
use std::rc::Rc;

/// The ledger of one port.
pub struct Ledger {
    /// The port.
    pub port: PortId,
    /// What it has for devices with TLS; `None` where they speak none.
    pub secured: Option<Rc<SecuredPort>>,
    /// What the shard's ports share.
    pub resources: Rc<Resources>,
    /// When it was opened, in seconds since the start of the process.
    pub since_s: u32,
    received_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    waits: Cell<u64>,
    dropped: Cell<u64>,
    refused: Cell<u64>,
}

impl Ledger {
    /// That of a port which has just been opened.
    pub fn new(port: PortId, resources: Rc<Resources>, identity: Option<Identity>) -> Rc<Self> {
        let secured = identity.map(SecuredPort::new);
        let since_s = resources.clock_s.get();
        let none = || Cell::new(0);
        Rc::new(Ledger {
            port,
            secured,
            resources,
            since_s,
            received_bytes: none(),
            written_bytes: none(),
            waits: none(),
            dropped: none(),
            refused: none(),
        })
    }

    /// A device has sent bytes.
    pub fn received(&self, bytes: u64) {
        self.resources.counts.add(Count::DeviceBytesReceived, bytes);
        self.received_bytes.set(self.received_bytes.get() + bytes);
    }

    /// The kernel has taken bytes for a device.
    pub fn written(&self, bytes: u64) {
        self.resources.counts.add(Count::DeviceBytesWritten, bytes);
        self.written_bytes.set(self.written_bytes.get() + bytes);
    }

    /// A device waits for a driver.
    pub fn waited(&self) {
        self.resources.counts.one(Count::OutboxWaits);
        self.waits.set(self.waits.get() + 1);
    }

    /// So many writes or datagrams were dropped, for what `count` says.
    pub fn dropped(&self, count: Count, amount: u64) {
        self.resources.counts.add(count, amount);
        self.dropped.set(self.dropped.get() + amount);
    }

    /// A device or a datagram was refused, for what `count` says.
    pub fn refused(&self, count: Count) {
        self.resources.counts.one(count);
        self.refused.set(self.refused.get() + 1);
    }

    /// Times that a device waited for a driver.
    pub fn waits_count(&self) -> u64 {
        self.waits.get()
    }

    /// Writes and datagrams that were dropped.
    pub fn dropped_count(&self) -> u64 {
        self.dropped.get()
    }

    /// Devices and datagrams that were refused.
    pub fn refused_count(&self) -> u64 {
        self.refused.get()
    }

    /// Bytes that devices have sent.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Bytes that were written to devices.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }
}
