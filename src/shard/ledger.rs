//! What a port and its devices share: the port's name, what has been carried for it, and the shard's resources.
//!
//! **Invariants.** It belongs to one thread.
//! **Not here.** Counts of the shard as a whole (`policy::counts`), which go on when the port is gone.

use crate::policy::counts::Count;
use crate::policy::port_id::PortId;
use crate::shard::resources::Resources;
use std::cell::Cell;
use std::rc::Rc;

/// The ledger of one port.
pub struct Ledger {
    /// The port.
    pub port: PortId,
    /// What the shard's ports share.
    pub resources: Rc<Resources>,
    /// When it was opened, in seconds since the start of the process.
    pub since_s: u32,
    received_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
}

impl Ledger {
    /// That of a port which has just been opened.
    pub fn new(port: PortId, resources: Rc<Resources>) -> Rc<Self> {
        let since_s = resources.clock_s.get();
        let (received_bytes, written_bytes) = (Cell::new(0), Cell::new(0));
        Rc::new(Ledger { port, resources, since_s, received_bytes, written_bytes })
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

    /// Bytes that devices have sent.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Bytes that were written to devices.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }
}
