//! What one thread measures: its counts, and latency by intervals that it hands over.
//!
//! **Invariants.** Every interval lies within one phase. Handing over waits for nobody.
//! **Not here.** What all intervals add up to (`outcome`).

use crate::payload::Head;
use crate::shared::{Counts, Phase};
use hdrhistogram::Histogram;
use std::sync::mpsc::Sender;
use uring_dispatch::policy::port_id::Transport;

/// An interval's length, unless a phase ends before.
pub const INTERVAL_NS: u64 = 250_000_000;
/// The longest time that is told from longer ones.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// What one thread saw in one interval.
#[derive(Debug)]
pub struct Interval {
    /// The phase that it lies in.
    pub phase: Phase,
    /// Its end on the clock of the run.
    pub end_ns: u64,
    /// Messages that were sent.
    pub sent: u64,
    /// Messages that arrived.
    pub arrived: u64,
    /// Their bytes.
    pub arrived_bytes: u64,
    /// From when a message should have been sent to its arrival.
    pub latency: Histogram<u64>,
    /// From when a message should have been sent to when it was.
    pub lateness: Histogram<u64>,
}

/// Times in nanoseconds, to three digits or 64 ns.
pub fn histogram() -> Histogram<u64> {
    // The bounds are right by their definition: 1 ≤ low, 2 × low ≤ high.
    Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// What one thread measures.
#[derive(Debug)]
pub struct Tally {
    /// Since the start.
    pub counts: Counts,
    phase: Phase,
    from: Counts,
    end_ns: u64,
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    out: Sender<Interval>,
}

impl Tally {
    /// Counts nothing yet; intervals go to `out`.
    pub fn new(out: Sender<Interval>) -> Self {
        Tally {
            counts: Counts::default(),
            phase: Phase::Connecting,
            from: Counts::default(),
            end_ns: INTERVAL_NS,
            latency: histogram(),
            lateness: histogram(),
            out,
        }
    }

    /// A message was sent, which `receivers` are to get.
    pub fn sent(&mut self, transport: Transport, intended_ns: u64, now_ns: u64, receivers: u64) {
        self.counts.sent += 1;
        self.counts.expected += receivers;
        if transport == Transport::Udp {
            self.counts.expected_datagrams += receivers;
        }
        self.lateness.saturating_record(now_ns.saturating_sub(intended_ns));
    }

    /// A message arrived.
    pub fn arrived(&mut self, transport: Transport, head: &Head, now_ns: u64) {
        self.counts.arrived += 1;
        if transport == Transport::Udp {
            self.counts.arrived_datagrams += 1;
        }
        self.counts.arrived_bytes += u64::from(head.size);
        self.latency.saturating_record(now_ns.saturating_sub(head.intended_ns));
    }

    /// Hands the interval over where it has ended.
    pub fn roll(&mut self, phase: Phase, now_ns: u64) {
        if phase == self.phase && now_ns < self.end_ns {
            return;
        }
        let interval = Interval {
            phase: self.phase,
            end_ns: now_ns,
            sent: self.counts.sent - self.from.sent,
            arrived: self.counts.arrived - self.from.arrived,
            arrived_bytes: self.counts.arrived_bytes - self.from.arrived_bytes,
            latency: std::mem::replace(&mut self.latency, histogram()),
            lateness: std::mem::replace(&mut self.lateness, histogram()),
        };
        self.from = self.counts;
        self.phase = phase;
        self.end_ns = now_ns + INTERVAL_NS;
        // The receiver is gone only when the run has failed.
        let _ = self.out.send(interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn head(intended_ns: u64) -> Head {
        Head { stream: 0, size: 64, sequence: 0, intended_ns }
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let (out, intervals) = mpsc::channel();
        let mut tally = Tally::new(out);
        tally.sent(Transport::Tcp, 1_000_000, 3_000_000, 2);
        tally.arrived(Transport::Tcp, &head(1_000_000), 5_000_000);
        tally.roll(Phase::WarmUp, 6_000_000);
        let interval = intervals.recv().expect("an interval");
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) < wanted / 500;
        assert!(near(interval.latency.max(), 4_000_000), "{}", interval.latency.max());
        assert!(near(interval.lateness.max(), 2_000_000), "{}", interval.lateness.max());
        assert_eq!((interval.sent, interval.arrived, interval.arrived_bytes), (1, 1, 64));
        assert_eq!(tally.counts.expected, 2);
    }

    #[test]
    fn a_phase_begins_an_interval_of_its_own() {
        let (out, intervals) = mpsc::channel();
        let mut tally = Tally::new(out);
        tally.roll(Phase::Connecting, 1);
        assert!(intervals.try_recv().is_err());
        tally.roll(Phase::WarmUp, 2);
        tally.arrived(Transport::Tcp, &head(0), 3);
        tally.roll(Phase::Measured, 4);
        assert_eq!(intervals.recv().expect("an interval").phase, Phase::Connecting);
        let warm_up = intervals.recv().expect("an interval");
        assert_eq!((warm_up.phase, warm_up.arrived), (Phase::WarmUp, 1));
    }

    #[test]
    fn a_time_beyond_all_bounds_is_counted_at_the_bound() {
        let mut histogram = histogram();
        histogram.saturating_record(u64::MAX);
        assert_eq!(histogram.len(), 1);
        assert!(histogram.max() >= LATENCY_NS_MAX);
    }
}
