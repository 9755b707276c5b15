//! What all actors of a run share: where the daemon is, its ports, who is there, what was seen, and when to stop.
//!
//! **Invariants.** Single-threaded. A record stays known for as long as a driver may still be told of its device.
//! **Not here.** What an actor does.

use super::accept::{AcceptList, WARDEN_ACCEPTS};
use super::record::DeviceRecord;
use super::session::Session;
use super::tally::Tally;
use dispatch_bench::tunnel::Wire;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// How long a pause may go on after a stop.
const PAUSE_STEP: Duration = Duration::from_millis(50);
/// How long a record stays known after its device's end.
const RECORD_KEPT: Duration = Duration::from_secs(60);

/// The ports of a run, all from one base number.
#[derive(Debug, Clone)]
pub struct Topology {
    /// TCP ports with a warden: a driver that stays, reads at once and accepts most devices.
    pub shared: Vec<u16>,
    /// TCP ports that open and close with the drivers that come and go.
    pub free: Vec<u16>,
    /// UDP ports with a warden.
    pub shared_datagrams: Vec<u16>,
    /// UDP ports without.
    pub free_datagrams: Vec<u16>,
    /// TCP ports of one cycler each, which opens and closes them all the time.
    pub cycled: Vec<u16>,
    /// A port that no device ever uses.
    pub silent: u16,
    /// Where the API speaks TLS.
    pub api_tls: u16,
    /// Those of the TCP ports whose devices speak TLS.
    secured: [u16; 2],
}

impl Topology {
    /// The ports from `base` on.
    pub fn from_base(base: u16) -> Self {
        let ports = |from: u16, count: u16| (base + from..base + from + count).collect();
        Topology {
            shared: ports(1, 4),
            free: ports(5, 3),
            shared_datagrams: ports(10, 2),
            free_datagrams: ports(12, 1),
            cycled: ports(20, 2),
            silent: base + 30,
            api_tls: base + 39,
            secured: [base + 4, base + 7],
        }
    }

    /// How devices speak on a TCP port.
    pub fn wire_of(&self, port: u16) -> Wire {
        if self.secured.contains(&port) { Wire::Tls } else { Wire::Plain }
    }
}

/// The times and sizes that the daemon runs with, as far as actors go by them.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long a driver may take nothing.
    pub stall: Duration,
    /// How long a driver may show no life.
    pub silence: Duration,
    /// A message of a driver at most.
    pub message_bytes_max: usize,
}

/// One simulated UDP device's socket, and its datagrams.
#[derive(Debug)]
pub struct Sender {
    /// What its datagrams are marked with.
    pub nonce: u64,
    /// Its address and port.
    pub address: SocketAddr,
    /// Datagrams that it sent to the daemon.
    pub sent: Cell<u64>,
    /// The round in which it sent.
    pub round: u32,
}

/// Datagrams towards one UDP port.
#[derive(Debug, Default)]
pub struct DatagramBook {
    /// Sent from anywhere.
    pub sent: Cell<u64>,
    /// Sent from where the warden accepts.
    pub sent_to_warden: Cell<u64>,
    /// Received by the warden.
    pub received_by_warden: Cell<u64>,
    /// Dropped by the kernel at the daemon's sockets.
    pub kernel_dropped: Cell<u64>,
}

/// What all actors share.
#[derive(Debug)]
pub struct World {
    /// How many daemons were there before this one.
    pub round: u32,
    /// Where the daemon listens for drivers.
    pub api: SocketAddr,
    /// Where it does with TLS.
    pub api_tls: SocketAddr,
    /// The secret.
    pub token: String,
    /// The ports.
    pub topology: Topology,
    /// The daemon's bounds.
    pub bounds: Bounds,
    /// What was seen.
    pub tally: Rc<Tally>,
    /// Datagrams of the shared UDP ports.
    pub datagrams: BTreeMap<u16, DatagramBook>,
    /// Simulated UDP devices by nonce, those of the rounds before included.
    pub senders: Rc<RefCell<BTreeMap<u64, Rc<Sender>>>>,
    warden_accepts: AcceptList,
    /// Those of the rounds before included.
    devices: Rc<RefCell<BTreeMap<u64, Rc<DeviceRecord>>>>,
    sessions: RefCell<Vec<Weak<Session>>>,
    stopping: Cell<bool>,
    is_quiet: Cell<bool>,
    drained_at: Cell<Option<Instant>>,
}

impl World {
    /// A world without actors.
    pub fn new(api: SocketAddr, token: String, topology: Topology, bounds: Bounds, tally: Rc<Tally>) -> Rc<Self> {
        let datagrams = topology.shared_datagrams.iter().map(|port| (*port, DatagramBook::default())).collect();
        Rc::new(World {
            round: 0,
            api,
            api_tls: SocketAddr::new(api.ip(), topology.api_tls),
            token,
            topology,
            bounds,
            tally,
            datagrams,
            senders: Rc::default(),
            warden_accepts: AcceptList::of(WARDEN_ACCEPTS),
            devices: Rc::default(),
            sessions: RefCell::default(),
            stopping: Cell::new(false),
            is_quiet: Cell::new(false),
            drained_at: Cell::new(None),
        })
    }

    /// The world of the daemon that takes this one's over: without actors, but with the devices of this one, as what they
    /// send at that moment goes to either.
    pub fn next(&self) -> Rc<Self> {
        let World { api, ref token, ref topology, bounds, ref tally, .. } = *self;
        let mut next = World::new(api, token.clone(), topology.clone(), bounds, tally.clone());
        if let Some(next) = Rc::get_mut(&mut next) {
            next.round = self.round + 1;
            (next.senders, next.devices) = (self.senders.clone(), self.devices.clone());
        }
        next
    }

    /// Whether a warden accepts devices at `source` on `port` throughout.
    pub fn has_warden(&self, port: u16, source: IpAddr) -> bool {
        let has_warden = self.topology.shared.contains(&port) || self.topology.shared_datagrams.contains(&port);
        has_warden && self.warden_accepts.accepts(source)
    }

    /// Makes a device known.
    pub fn add_device(&self, record: Rc<DeviceRecord>) {
        self.devices.borrow_mut().insert(record.nonce, record);
    }

    /// The device with this nonce.
    pub fn device(&self, nonce: u64) -> Option<Rc<DeviceRecord>> {
        self.devices.borrow().get(&nonce).cloned()
    }

    /// Devices that are connected, and sessions.
    pub fn gauges(&self) -> (usize, usize) {
        let devices = self.devices.borrow();
        (devices.values().filter(|device| device.ended_at.get().is_none()).count(), self.sessions().len())
    }

    /// Makes a session known.
    pub fn add_session(&self, session: &Rc<Session>) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Rc::downgrade(session));
    }

    /// The sessions that are there.
    pub fn sessions(&self) -> Vec<Rc<Session>> {
        self.sessions.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets devices that ended long ago.
    pub fn forget_old(&self) {
        let is_old = |record: &DeviceRecord| record.ended_at.get().is_some_and(|at| at.elapsed() > RECORD_KEPT);
        self.devices.borrow_mut().retain(|_, record| !is_old(record));
    }

    /// Tells every actor to end what it does and to begin nothing.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// Whether actors are to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get() || self.is_draining()
    }

    /// Notes that all actors but the wardens have ended.
    pub fn quiet(&self) {
        self.is_quiet.set(true);
    }

    /// Whether all actors but the wardens have ended.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet.get()
    }

    /// Notes that the daemon is about to be told to stop.
    pub fn drain(&self) {
        self.drained_at.set(Some(Instant::now()));
    }

    /// When the daemon was told to stop.
    pub fn drained_at(&self) -> Option<Instant> {
        self.drained_at.get()
    }

    /// Whether the daemon was told to stop.
    pub fn is_draining(&self) -> bool {
        self.drained_at.get().is_some()
    }

    /// Notes what the kernel has dropped at each shared UDP port, while the sockets are there that it counts for.
    pub fn note_kernel_drops(&self, dropped: impl Fn(u16) -> u64) {
        for (port, book) in &self.datagrams {
            book.kernel_dropped.set(book.kernel_dropped.get().max(dropped(*port)));
        }
    }

    /// Waits, but not on after a stop.
    pub async fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() && Instant::now() < until {
            tokio::time::sleep(PAUSE_STEP.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }
}
