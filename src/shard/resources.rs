//! What the ports and sessions of one shard share.
//!
//! **Invariants.** It belongs to one thread; only budgets, slots and mailboxes reach beyond it.
//! **Not here.** Ports and sessions themselves.

use crate::policy::access::Access;
use crate::policy::budget::Budget;
use crate::policy::counts::Counts;
use crate::policy::limits::Limits;
use crate::shard::device::Device;
use crate::shard::log_gate::LogGate;
use crate::shard::mailbox::Peers;
use crate::shard::ring::{DatagramBatch, Pool};
use crate::shard::settling::Settling;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What the whole process shares; clones are the same.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Every bound.
    pub limits: Limits,
    /// What drivers may do.
    pub access: Arc<Access>,
    /// The way to every shard.
    pub peers: Peers,
    /// Room for devices.
    pub device_slots: Arc<Semaphore>,
    /// Room for open ports.
    pub ports: Budget,
    /// Room for sessions.
    pub sessions: Budget,
    /// Memory that sessions may reserve.
    pub session_memory: Budget,
}

impl Shared {
    /// Everything free.
    pub fn new(limits: Limits, access: Access, peers: Peers) -> Self {
        Shared {
            limits,
            access: Arc::new(access),
            peers,
            device_slots: Arc::new(Semaphore::new(limits.devices_max.min(Semaphore::MAX_PERMITS))),
            ports: Budget::new(limits.ports_max),
            sessions: Budget::new(limits.sessions_max),
            session_memory: Budget::new(limits.session_memory_bytes_max),
        }
    }
}

/// What one shard's ports and sessions share.
pub struct Resources {
    /// The shard's index.
    pub shard: usize,
    /// What the whole process shares.
    pub shared: Shared,
    /// What this shard has counted.
    pub counts: Counts,
    /// Its receive buffers.
    pub pool: Pool,
    /// Sessions whose sockets this shard serves.
    pub sessions: Cell<usize>,
    /// What its sessions owe to devices, when a drain begins.
    pub settling: Settling,
    /// Devices of this shard's ports, until their sockets are closed.
    pub devices: Cell<usize>,
    /// Devices that have a user timeout, as bytes may be under way to them.
    pub under_way: RefCell<Vec<Weak<Device>>>,
    /// Devices that have writes from this turn.
    pub unsent: RefCell<Vec<Rc<Device>>>,
    /// Where writes are put together for one send.
    pub gathered: RefCell<Vec<u8>>,
    /// For lines about accepting that pauses.
    pub accept_log: LogGate,
    /// For lines about datagram sockets that fail.
    pub datagram_log: LogGate,
    /// Where a session reads on without waiting: as large as a receive buffer.
    pub scratch: RefCell<Vec<u8>>,
    /// One batch for all UDP ports, made with the first.
    pub datagrams: RefCell<Option<DatagramBatch>>,
}

impl Resources {
    /// What a shard starts with. Called on its own thread, in its runtime.
    pub fn new(shard: usize, shared: Shared) -> Self {
        let pool = Pool::new(shared.limits.receive_buffers, shared.limits.receive_buffer_bytes);
        let scratch = vec![0; shared.limits.receive_buffer_bytes];
        Resources {
            shard,
            shared,
            counts: Counts::default(),
            pool,
            sessions: Cell::new(0),
            settling: Settling::default(),
            devices: Cell::new(0),
            under_way: RefCell::default(),
            unsent: RefCell::default(),
            gathered: RefCell::default(),
            accept_log: LogGate::default(),
            datagram_log: LogGate::default(),
            scratch: RefCell::new(scratch),
            datagrams: RefCell::new(None),
        }
    }

    /// Every bound.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }
}
