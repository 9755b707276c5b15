//! What a run has seen: numbers, endings by name, and violations.
//!
//! **Invariants.** Every violation is counted; the first ones of each kind are printed when found, and kept.
//! **Not here.** What is a violation (`record`, `tcp_check`, `udp_check`, `session`, `run`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// From here on, the soak itself is late: what it finds may be its own fault.
const LATE: Duration = Duration::from_millis(200);
/// Violations of a kind that are kept with their text.
const KEPT_OF_A_KIND: usize = 3;

/// Everything that is counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Count {
    DriversJoined,
    DevicesConnected,
    DevicesRefused,
    DevicesAnnounced,
    MessagesVerified,
    BytesVerifiedToDrivers,
    BytesUnlocated,
    WritesVerified,
    BytesVerifiedToDevices,
    DatagramsVerifiedToDrivers,
    DatagramBytesVerifiedToDrivers,
    DatagramsVerifiedToDevices,
    DatagramBytesVerifiedToDevices,
    DatagramsSent,
    TotalsVerified,
    LastPositionsVerified,
    ReadWritesVerified,
    ClosesVerified,
    LeavesVerified,
    PoisonSent,
    Pongs,
    RequestsAnswered,
    PortCycles,
}

impl Count {
    const LEN: usize = Count::PortCycles as usize + 1;
    /// Every count's name, in the order of declaration.
    pub const NAMES: [&'static str; Count::LEN] = [
        "drivers_joined",
        "devices_connected",
        "devices_refused",
        "devices_announced",
        "messages_verified",
        "bytes_verified_to_drivers",
        "bytes_unlocated",
        "writes_verified",
        "bytes_verified_to_devices",
        "datagrams_verified_to_drivers",
        "datagram_bytes_verified_to_drivers",
        "datagrams_verified_to_devices",
        "datagram_bytes_verified_to_devices",
        "datagrams_sent",
        "totals_verified",
        "last_positions_verified",
        "read_writes_verified",
        "closes_verified",
        "leaves_verified",
        "poison_sent",
        "pongs",
        "requests_answered",
        "port_cycles",
    ];
}

/// What a run has seen.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    counts: [Cell<u64>; Count::LEN],
    endings: RefCell<BTreeMap<String, u64>>,
    violations: RefCell<BTreeMap<String, (u64, Vec<String>)>>,
    slowest_pong_ms: Cell<u64>,
    slowest_turn_ms: Cell<u64>,
    late_at: Cell<Option<(Instant, Duration)>>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            started: Instant::now(),
            counts: std::array::from_fn(|_| Cell::new(0)),
            endings: RefCell::default(),
            violations: RefCell::default(),
            slowest_pong_ms: Cell::new(0),
            slowest_turn_ms: Cell::new(0),
            late_at: Cell::new(None),
        }
    }
}

impl Tally {
    /// Counts one.
    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// Counts `amount`.
    pub fn add(&self, count: Count, amount: u64) {
        let cell = &self.counts[count as usize];
        cell.set(cell.get() + amount);
    }

    /// A number.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].get()
    }

    /// Counts an ending by its name.
    pub fn ending(&self, name: impl Into<String>) {
        *self.endings.borrow_mut().entry(name.into()).or_default() += 1;
    }

    /// How often each ending was seen.
    pub fn endings(&self) -> BTreeMap<String, u64> {
        self.endings.borrow().clone()
    }

    /// Something that the contract rules out, and who saw it. What comes before the first digit or bracket is its kind, of
    /// which the first few are printed.
    pub fn violation(&self, what: &str, who: &str) {
        let kind = what.split(|c: char| c.is_ascii_digit() || "([{:".contains(c)).next().unwrap_or_default().trim();
        let mut kinds = self.violations.borrow_mut();
        let (count, kept) = kinds.entry(kind.to_owned()).or_default();
        *count += 1;
        if kept.len() < KEPT_OF_A_KIND {
            let late = self.late_at.get().map_or_else(String::new, |(at, late)| {
                format!("\n    the soak was {late:?} late, {:.1} s ago", at.elapsed().as_secs_f64())
            });
            let text = format!("[{:9.3} s] {what}\n    {who}{late}", self.started.elapsed().as_secs_f64());
            eprintln!("VIOLATION {text}");
            kept.push(text);
        }
    }

    /// How many violations there were.
    pub fn violation_count(&self) -> u64 {
        self.violations.borrow().values().map(|(count, _)| count).sum()
    }

    /// By kind, how many violations there were, and the first of them.
    pub fn violations(&self) -> BTreeMap<String, (u64, Vec<String>)> {
        self.violations.borrow().clone()
    }

    /// A pong took this long.
    pub fn pong(&self, since: Instant) {
        self.one(Count::Pongs);
        let ms = since.elapsed().as_millis() as u64;
        self.slowest_pong_ms.set(self.slowest_pong_ms.get().max(ms));
    }

    /// The longest that a pong took.
    pub fn slowest_pong_ms(&self) -> u64 {
        self.slowest_pong_ms.get()
    }

    /// The soak itself was this late: its devices read that much later than at once.
    pub fn turn(&self, late: Duration) {
        self.slowest_turn_ms.set(self.slowest_turn_ms.get().max(late.as_millis() as u64));
        if late >= LATE {
            self.late_at.set(Some((Instant::now(), late)));
        }
    }

    /// The latest that the soak itself was.
    pub fn slowest_turn_ms(&self) -> u64 {
        self.slowest_turn_ms.get()
    }

    /// Since when the run goes.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Every number by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Count::NAMES.into_iter().zip(self.counts.iter().map(Cell::get)).collect()
    }
}
