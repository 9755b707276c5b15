//! What the ports and sessions of one shard share.
//!
//! **Invariants.** It belongs to one thread; only budgets, slots, the gate and mailboxes reach beyond it.
//! **Not here.** Ports and sessions themselves.

use crate::policy::budget::Budget;
use crate::policy::counts::Counts;
use crate::policy::histogram::Histogram;
use crate::policy::history::History;
use crate::policy::limits::Limits;
use crate::policy::metrics::ProcessCount;
use crate::policy::port_id::PortId;
use crate::policy::refusals::{Refusal, Refusals, Refused};
use crate::policy::roster::SessionId;
use crate::policy::rules::{Reloads, Rules};
use crate::shard::device::{Device, WriteQueue};
use crate::shard::gate::Gate;
use crate::shard::log_gate::{AddressLogGate, LogGate};
use crate::shard::mailbox::Peers;
use crate::shard::newcomers::Newcomers;
use crate::shard::presence::Presence;
use crate::shard::process;
use crate::shard::ring::{DatagramBatch, Pool};
use crate::shard::settling::Settling;
use crate::shard::slots::Slots;
use crate::shard::taps::Taps;
use crate::shard::tls::{Identity, Tls};
use crate::shard::vitals::Vitals;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

/// What a session reads at once where it reads on.
pub const READ_ON_BYTES: usize = 16 << 10;
/// Reports that are made at a time for connections of one shard.
const REPORTS_MAX: usize = 2;

/// What the whole process shares; clones are the same.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Limits of one source.
    pub gate: Gate,
    /// The process's log.
    pub log: LogControl,
    /// The way to every shard.
    pub peers: Peers,
    /// Whether every shard's loop turns.
    pub vitals: Vitals,
    /// When the process started.
    pub started: Started,
    /// Room for devices.
    pub device_slots: Slots,
    /// Room for open ports.
    pub ports: Budget,
    /// Room for sessions.
    pub sessions: Budget,
    /// Room for taps.
    pub taps: Budget,
    /// Memory that sessions may reserve.
    pub session_memory: Budget,
    /// Memory that long answers on their way may reserve.
    pub answers: Budget,
    /// How reloading went.
    pub reloads: Reloads,
}

/// What the log of the process can be asked; `server` knows how.
#[derive(Debug, Clone, Copy)]
pub struct LogControl {
    /// Lines that found no room.
    pub dropped_lines: fn() -> usize,
    /// The filter as it stands.
    pub filter: fn() -> String,
    /// Sets the filter; an empty text is that of the settings. An error is half a sentence for the operator.
    pub set_filter: fn(&str) -> Result<(), String>,
}

/// The moment that a process counts its seconds from.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// On the clock that never goes back.
    pub at: Instant,
    /// Since 1970.
    pub since_epoch: Duration,
}

impl Shared {
    /// Everything free, from here on.
    pub fn new(limits: &Limits, log: LogControl, peers: Peers, vitals: Vitals) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started = Started { at: Instant::now(), since_epoch };
        let reloads = Reloads::default();
        reloads.succeeded(since_epoch);
        Shared {
            gate: Gate::new(limits, peers.shards(), started.at),
            log,
            peers,
            vitals,
            started,
            device_slots: Slots::new(limits.devices_max),
            ports: Budget::new(limits.ports_max),
            sessions: Budget::new(limits.sessions_max),
            taps: Budget::new(limits.taps_max),
            session_memory: Budget::new(limits.session_memory_bytes_max),
            answers: Budget::new(limits.answer_bytes_max),
            reloads,
        }
    }

    /// Makes as much room as these bounds say. Called by one thread at a time.
    pub fn set_limits(&self, limits: &Limits) {
        self.device_slots.set_limit(limits.devices_max);
        self.ports.set_limit(limits.ports_max);
        self.sessions.set_limit(limits.sessions_max);
        self.taps.set_limit(limits.taps_max);
        self.session_memory.set_limit(limits.session_memory_bytes_max);
        self.answers.set_limit(limits.answer_bytes_max);
        self.gate.set_limits(limits);
    }
}

impl Started {
    /// This moment, since 1970, on the clock that never goes back.
    pub fn now(&self) -> Duration {
        self.since_epoch + self.at.elapsed()
    }
}

/// What one shard's ports and sessions share.
pub struct Resources {
    /// The shard's index.
    pub shard: usize,
    /// What the whole process shares.
    pub shared: Shared,
    /// The bounds of the rules, read where every message passes.
    limits: Cell<Limits>,
    rules: RefCell<Arc<Rules>>,
    /// What this shard has counted.
    pub counts: Counts,
    /// Who gets a copy of its ports' messages.
    pub taps: Taps,
    /// Its receive buffers.
    pub pool: Pool,
    /// Seconds since the start, as of the last beat: a clock that costs nothing to read.
    pub clock_s: Cell<u32>,
    /// What there was in the last minutes.
    pub history: RefCell<History>,
    /// How late timers are.
    pub timer_lag: Histogram,
    /// How long a turn of the loop takes.
    pub loop_turn: Histogram,
    /// How long answers took, by route.
    pub requests: RefCell<BTreeMap<&'static str, Histogram>>,
    /// Connections to the API that have not joined.
    pub handshakes: Cell<usize>,
    /// Connections to the API whose first request has not been answered.
    pub newcomers: Rc<Newcomers>,
    /// What the connections with TLS share.
    pub tls: Tls,
    /// Places that sessions of this shard have taken, those that are about to join included.
    pub sessions: Cell<usize>,
    /// The last refusals.
    pub refusals: RefCell<Refusals>,
    /// Lists that connections of this shard may make at a time; more wait.
    pub reports: Semaphore,
    /// Sessions whose sockets this shard serves.
    pub presences: RefCell<BTreeMap<SessionId, Rc<Presence>>>,
    /// What its sessions owe to devices, when a drain begins.
    pub settling: Settling,
    /// Devices of this shard's ports, until their sockets are closed.
    pub devices: Cell<usize>,
    /// Devices that have a user timeout, as bytes may be under way to them.
    pub under_way: RefCell<Vec<Weak<Device>>>,
    /// Devices that have writes from this turn.
    pub unsent: RefCell<Vec<Rc<Device>>>,
    /// Empty queues, as a device has one only while something is queued for it.
    pub spare_queues: RefCell<Vec<Box<WriteQueue>>>,
    /// Where writes are put together for one send.
    pub gathered: RefCell<Vec<u8>>,
    /// For lines about accepting that pauses.
    pub accept_log: LogGate,
    /// For lines about balancers that do not say whose a connection is.
    pub proxy_log: AddressLogGate,
    /// For lines about sources that flap.
    pub flapping_log: AddressLogGate,
    /// For lines about devices that hold their drivers' writes up.
    pub let_go_log: AddressLogGate,
    /// For lines about datagram sockets that fail.
    pub datagram_log: LogGate,
    /// Where a session reads on without waiting.
    pub scratch: RefCell<Vec<u8>>,
    /// One batch for all UDP ports, made with the first.
    pub datagrams: RefCell<Option<DatagramBatch>>,
}

impl Resources {
    /// What a shard starts with. Called on its own thread, in its runtime.
    ///
    /// # Errors
    /// That there is no memory for its receive buffers.
    pub fn new(shard: usize, shared: Shared, rules: Arc<Rules>, identity: Option<Identity>) -> io::Result<Self> {
        let limits = rules.limits;
        let pool = Pool::new(limits.receive_buffers, limits.receive_buffer_bytes)?;
        Ok(Resources {
            shard,
            shared,
            limits: Cell::new(limits),
            rules: RefCell::new(rules),
            counts: Counts::default(),
            taps: Taps::default(),
            pool,
            clock_s: Cell::new(0),
            history: RefCell::default(),
            timer_lag: Histogram::default(),
            loop_turn: Histogram::default(),
            requests: RefCell::default(),
            handshakes: Cell::new(0),
            newcomers: Rc::default(),
            tls: Tls::new(identity),
            sessions: Cell::new(0),
            refusals: RefCell::default(),
            reports: Semaphore::new(REPORTS_MAX),
            presences: RefCell::default(),
            settling: Settling::default(),
            devices: Cell::new(0),
            under_way: RefCell::default(),
            unsent: RefCell::default(),
            spare_queues: RefCell::default(),
            gathered: RefCell::default(),
            accept_log: LogGate::default(),
            proxy_log: AddressLogGate::default(),
            flapping_log: AddressLogGate::default(),
            let_go_log: AddressLogGate::default(),
            datagram_log: LogGate::default(),
            scratch: RefCell::new(vec![0; READ_ON_BYTES]),
            datagrams: RefCell::new(None),
        })
    }

    /// Holds a refusal, for the operator to see; counting and logging it is the caller's.
    pub fn refused(&self, what: Refused, ip: IpAddr, port: Option<PortId>, reason: &'static str) {
        let at = self.shared.started.at.elapsed();
        self.refusals.borrow_mut().hold(Refusal { at, what, ip, port, reason, times: 1 });
    }

    /// Counts how long an answer took, by its route.
    pub fn answered(&self, route: &'static str, time: Duration) {
        self.requests.borrow_mut().entry(route).or_default().observe(time);
    }

    /// What the whole process holds.
    pub async fn count_process(&self) -> ProcessCount {
        let shared = &self.shared;
        ProcessCount {
            started_at: shared.started.since_epoch,
            devices: shared.device_slots.used(),
            ports: shared.ports.used(),
            sessions: shared.sessions.used(),
            taps: shared.taps.used(),
            sources: shared.gate.count(),
            session_memory_bytes: shared.session_memory.used(),
            answer_bytes: shared.answers.used(),
            certificate_expires_s: self.tls.identity().map(|identity| identity.expires_s),
            log_lines_dropped: (shared.log.dropped_lines)(),
            reloads: shared.reloads.count(),
            kernel: process::count().await,
        }
    }

    /// Every bound, as it stands: what is to agree later has to be kept.
    pub fn limits(&self) -> Limits {
        self.limits.get()
    }

    /// The rules, as they stand. Borrowed: not to be held across an await.
    pub fn rules(&self) -> Ref<'_, Rules> {
        Ref::map(self.rules.borrow(), |rules| &**rules)
    }

    /// Goes by other rules from here on. What has begun under the old ones keeps what it was given.
    pub fn set_rules(&self, rules: Arc<Rules>) {
        self.limits.set(rules.limits);
        self.rules.replace(rules);
    }
}
