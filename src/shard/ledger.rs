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
use std::num::NonZeroU32;
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
    idle_s_max: Cell<Option<NonZeroU32>>,
    age_s_max: Cell<Option<NonZeroU32>>,
    counts_sources: Cell<bool>,
    received_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    waits: Cell<u64>,
    dropped: Cell<u64>,
    refused: Cell<u64>,
}

/// Whether a port's devices are counted by source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// They are or they are not, as before.
    AsBefore,
    /// They are from here on; those that are there have not been.
    FromHereOn,
}

impl Ledger {
    /// That of a port which has just been opened.
    pub fn new(port: PortId, resources: Rc<Resources>, identity: Option<Identity>) -> Rc<Self> {
        let secured = identity.map(SecuredPort::new);
        let since_s = resources.clock_s.get();
        let none = || Cell::new(0);
        let ledger = Rc::new(Ledger {
            port,
            secured,
            resources,
            since_s,
            idle_s_max: Cell::default(),
            age_s_max: Cell::default(),
            counts_sources: Cell::default(),
            received_bytes: none(),
            written_bytes: none(),
            waits: none(),
            dropped: none(),
            refused: none(),
        });
        ledger.follow_rules();
        ledger
    }

    /// Takes over what the rules say of this port's devices, as they stand. Once they are counted by source they always
    /// are, so that each that was counted leaves once; the answer says whether they are from here on.
    pub fn follow_rules(&self) -> Counted {
        let rules = self.resources.rules();
        self.idle_s_max.set(rules.devices.idle.of(self.port.number));
        self.age_s_max.set(rules.devices.age.of(self.port.number));
        if self.counts_sources.get() || rules.limits.devices_per_source_max == usize::MAX {
            return Counted::AsBefore;
        }
        self.counts_sources.set(true);
        Counted::FromHereOn
    }

    /// Whether its devices are counted by source.
    pub fn counts_sources(&self) -> bool {
        self.counts_sources.get()
    }

    /// For how many seconds nothing may come from a device, nor go to it.
    pub fn idle_s_max(&self) -> Option<NonZeroU32> {
        self.idle_s_max.get()
    }

    /// For how many seconds a device may be connected.
    pub fn age_s_max(&self) -> Option<NonZeroU32> {
        self.age_s_max.get()
    }

    /// The shortest time after which a device may end by itself.
    pub fn time_s_min(&self) -> Option<u32> {
        self.idle_s_max.get().into_iter().chain(self.age_s_max.get()).min().map(NonZeroU32::get)
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
