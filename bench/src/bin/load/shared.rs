//! What the threads of a run share: its clock, its phase, what each has counted, and how far each stream has come.
//!
//! **Invariants.** Every count has one thread that writes it. A phase is never taken back.
//! **Not here.** Latency, which travels in intervals (`tally`).

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Instant;

const FAULTS_KEPT: usize = 10;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Devices connect.
    Connecting,
    /// Load that is not measured.
    WarmUp,
    /// Load that is measured.
    Measured,
    /// Nothing more is sent; what is under way arrives.
    Draining,
    /// Devices close.
    Closing,
    /// Drivers leave.
    Ended,
}

impl Phase {
    const ALL: [Phase; 6] =
        [Phase::Connecting, Phase::WarmUp, Phase::Measured, Phase::Draining, Phase::Closing, Phase::Ended];

    /// Whether messages are sent.
    pub fn is_load(self) -> bool {
        matches!(self, Phase::WarmUp | Phase::Measured)
    }
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Devices that stay and are connected.
    pub connected: u64,
    /// OPENED that came, at all drivers.
    pub opened: u64,
    /// CLOSED that came, at all drivers.
    pub closed: u64,
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that should arrive: one for each driver that receives.
    pub expected: u64,
    /// Messages that arrived and are right.
    pub arrived: u64,
    /// Their bytes.
    pub arrived_bytes: u64,
    /// Datagrams of those that should arrive.
    pub expected_datagrams: u64,
    /// Datagrams of those that arrived.
    pub arrived_datagrams: u64,
    /// Datagrams behind a later one.
    pub reordered: u64,
}

/// The counts of one thread, on cache lines of their own.
const COUNTS: usize = 10;

/// The counts of one thread, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Published([AtomicU64; COUNTS]);

impl Counts {
    /// Messages that should have arrived and did not, or the other way round.
    pub fn missing(&self) -> u64 {
        self.expected.abs_diff(self.arrived)
    }

    /// Those of them that are datagrams.
    pub fn missing_datagrams(&self) -> u64 {
        self.expected_datagrams.abs_diff(self.arrived_datagrams)
    }

    fn to_array(self) -> [u64; COUNTS] {
        let Counts { connected, opened, closed, sent, expected, arrived, arrived_bytes, .. } = self;
        let Counts { expected_datagrams, arrived_datagrams, reordered, .. } = self;
        let counts = [connected, opened, closed, sent, expected, arrived, arrived_bytes];
        let datagrams = [expected_datagrams, arrived_datagrams, reordered];
        std::array::from_fn(|index| counts.get(index).copied().unwrap_or_else(|| datagrams[index - counts.len()]))
    }

    fn from_array(counts: [u64; COUNTS]) -> Counts {
        let [connected, opened, closed, sent, expected, arrived, arrived_bytes, ..] = counts;
        let [.., expected_datagrams, arrived_datagrams, reordered] = counts;
        Counts {
            connected,
            opened,
            closed,
            sent,
            expected,
            arrived,
            arrived_bytes,
            expected_datagrams,
            arrived_datagrams,
            reordered,
        }
    }
}

/// What the threads share.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    phase: AtomicU8,
    published: Vec<Published>,
    /// The phase of each thread when it last made its counts known.
    entered: Vec<AtomicU8>,
    arrived: Vec<AtomicU64>,
    streams: AtomicU64,
    faults: AtomicU64,
    first_faults: [OnceLock<String>; FAULTS_KEPT],
}

impl Shared {
    /// For this many threads and devices: a stream from each device, and one to each.
    pub fn new(workers: usize, devices: usize) -> Self {
        Shared {
            started: Instant::now(),
            phase: AtomicU8::new(0),
            published: (0..workers).map(|_| Published::default()).collect(),
            entered: (0..workers).map(|_| AtomicU8::new(0)).collect(),
            arrived: (0..2 * devices).map(|_| AtomicU64::new(0)).collect(),
            streams: AtomicU64::new(devices as u64),
            faults: AtomicU64::new(0),
            first_faults: Default::default(),
        }
    }

    /// Time since the start of the run.
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// How far the run is.
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    /// Goes on to a later phase.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }

    /// Whether every thread has come to the present phase, with all that it began before in its counts.
    pub fn is_entered(&self) -> bool {
        let phase = self.phase.load(Relaxed);
        self.entered.iter().all(|entered| entered.load(Acquire) == phase)
    }

    /// Makes a thread's counts known, and the phase that it is about to act in.
    pub fn publish(&self, worker: usize, phase: Phase, counts: Counts) {
        for (published, count) in self.published[worker].0.iter().zip(counts.to_array()) {
            published.store(count, Relaxed);
        }
        self.entered[worker].store(phase as u8, Release);
    }

    /// The sums over all threads.
    pub fn counts(&self) -> Counts {
        let sum = |index: usize| self.published.iter().map(|published| published.0[index].load(Relaxed)).sum();
        Counts::from_array(std::array::from_fn(sum))
    }

    /// Messages of a stream that have arrived.
    pub fn arrived(&self, stream: u32) -> u64 {
        self.arrived.get(stream as usize).map_or(0, |arrived| arrived.load(Relaxed))
    }

    /// Notes that all messages of a stream up to `count` have arrived.
    pub fn note_arrived(&self, stream: u32, count: u64) {
        if let Some(arrived) = self.arrived.get(stream as usize) {
            arrived.fetch_max(count, Relaxed);
        }
    }

    /// Whether there is such a stream.
    pub fn has_stream(&self, stream: u32) -> bool {
        (stream as usize) < self.arrived.len()
    }

    /// A stream to a device; those from devices have the devices' numbers.
    pub fn next_stream(&self) -> u32 {
        self.streams.fetch_add(1, Relaxed) as u32
    }

    /// Notes something that is wrong; the first ones are kept as text.
    pub fn fault(&self, text: String) {
        let index = self.faults.fetch_add(1, Relaxed);
        if let Some(kept) = self.first_faults.get(index as usize) {
            // Nobody else has this index.
            let _ = kept.set(text);
        }
    }

    /// How much was wrong.
    pub fn faults(&self) -> u64 {
        self.faults.load(Relaxed)
    }

    /// What was wrong first.
    pub fn first_faults(&self) -> Vec<String> {
        self.first_faults.iter().filter_map(OnceLock::get).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_sums_over_the_threads() {
        let shared = Shared::new(2, 0);
        shared.publish(0, Phase::WarmUp, Counts { sent: 1, reordered: 4, ..Counts::default() });
        shared.publish(1, Phase::WarmUp, Counts { sent: 2, ..Counts::default() });
        let counts = shared.counts();
        assert_eq!((counts.sent, counts.reordered, counts.connected), (3, 4, 0));
        assert!(!shared.is_entered());
        shared.advance(Phase::WarmUp);
        assert!(shared.is_entered());
    }

    #[test]
    fn counts_come_out_as_they_went_in() {
        let counts = Counts::from_array(std::array::from_fn(|index| index as u64));
        assert_eq!((counts.connected, counts.arrived_bytes, counts.reordered), (0, 6, 9));
        assert_eq!(counts.to_array(), std::array::from_fn(|index| index as u64));
    }

    #[test]
    fn a_phase_is_never_taken_back() {
        let shared = Shared::new(1, 0);
        shared.advance(Phase::Draining);
        shared.advance(Phase::WarmUp);
        assert_eq!(shared.phase(), Phase::Draining);
    }
}
