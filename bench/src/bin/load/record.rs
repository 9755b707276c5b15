//! What all threads measured, put together as it comes.
//!
//! **Invariants.** Only intervals of the measured phase count for the figures; all of them are drawn. Memory does not grow
//! with the rate, and by some bytes a point with the time.
//! **Not here.** What the figures mean (`outcome`).

use crate::shared::Phase;
use crate::tally::{INTERVAL_NS, Interval, histogram};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Points that may still get an interval: threads end theirs at different moments.
const POINTS_OPEN_MAX: usize = 4;

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p99_9: f64,
    /// All.
    pub max: f64,
}

/// One point of the series over time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Seconds since the start of the run.
    pub at_s: f64,
    /// Messages that arrived, a second.
    pub messages_per_s: f64,
    /// Their bytes, a second.
    pub bytes_per_s: f64,
    /// Latency in this interval.
    pub latency_us: Percentiles,
}

#[derive(Debug)]
struct OpenPoint {
    arrived: u64,
    arrived_bytes: u64,
    latency: Histogram<u64>,
}

/// What was measured.
#[derive(Debug)]
pub struct Record {
    /// Messages that were sent in the measured phase.
    pub sent: u64,
    /// Messages that arrived in it.
    pub arrived: u64,
    /// Their bytes.
    pub arrived_bytes: u64,
    /// Their latency.
    pub latency: Histogram<u64>,
    /// How late they were sent.
    pub lateness: Histogram<u64>,
    /// The series over time.
    pub series: Vec<Point>,
    open: BTreeMap<u64, OpenPoint>,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            sent: 0,
            arrived: 0,
            arrived_bytes: 0,
            latency: histogram(),
            lateness: histogram(),
            series: Vec::new(),
            open: BTreeMap::new(),
        }
    }
}

impl Record {
    /// Takes what one thread saw in one interval.
    pub fn add(&mut self, interval: &Interval) {
        if interval.phase == Phase::Measured {
            self.sent += interval.sent;
            self.arrived += interval.arrived;
            self.arrived_bytes += interval.arrived_bytes;
            add(&mut self.latency, &interval.latency);
            add(&mut self.lateness, &interval.lateness);
        }
        if !interval.phase.is_load() {
            return;
        }
        let point = self.open.entry(interval.end_ns / INTERVAL_NS).or_insert_with(|| OpenPoint {
            arrived: 0,
            arrived_bytes: 0,
            latency: histogram(),
        });
        point.arrived += interval.arrived;
        point.arrived_bytes += interval.arrived_bytes;
        add(&mut point.latency, &interval.latency);
        while self.open.len() > POINTS_OPEN_MAX {
            self.close_first();
        }
    }

    /// Ends the series.
    pub fn finish(&mut self) {
        while !self.open.is_empty() {
            self.close_first();
        }
    }

    /// The last point that is whole.
    pub fn last(&self) -> Option<&Point> {
        self.series.last()
    }

    fn close_first(&mut self) {
        let Some((slot, point)) = self.open.pop_first() else { return };
        let a_second = 1e9 / INTERVAL_NS as f64;
        self.series.push(Point {
            at_s: slot as f64 / a_second,
            messages_per_s: point.arrived as f64 * a_second,
            bytes_per_s: point.arrived_bytes as f64 * a_second,
            latency_us: Percentiles::of(&point.latency),
        });
    }
}

impl Percentiles {
    /// Those of a histogram in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| if histogram.is_empty() { 0.0 } else { us(histogram.value_at_quantile(quantile)) };
        Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p99_9: at(0.999), max: at(1.0) }
    }
}

/// Microseconds with the digits that a histogram has.
fn us(ns: u64) -> f64 {
    (ns as f64 / 10.0).round() / 100.0
}

fn add(sum: &mut Histogram<u64>, part: &Histogram<u64>) {
    // They have the same bounds, so that it cannot fail.
    let _ = sum.add(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(phase: Phase, slot: u64, latencies: &[u64]) -> Interval {
        let mut latency = histogram();
        latencies.iter().for_each(|ns| latency.saturating_record(*ns));
        Interval {
            phase,
            end_ns: slot * INTERVAL_NS,
            sent: latencies.len() as u64,
            arrived: latencies.len() as u64,
            arrived_bytes: 64 * latencies.len() as u64,
            latency,
            lateness: histogram(),
        }
    }

    #[test]
    fn only_what_was_measured_counts() {
        let mut record = Record::default();
        record.add(&interval(Phase::WarmUp, 1, &[9_000_000]));
        record.add(&interval(Phase::Measured, 2, &[1_000, 2_000, 3_000]));
        record.add(&interval(Phase::Draining, 3, &[9_000_000]));
        record.finish();
        assert_eq!((record.arrived, record.arrived_bytes), (3, 192));
        let latency = Percentiles::of(&record.latency);
        assert!((latency.p50 - 2.0).abs() < 0.1 && (latency.max - 3.0).abs() < 0.1, "{latency:?}");
        assert_eq!(record.series.len(), 2);
    }

    #[test]
    fn threads_share_the_points_of_a_series() {
        let mut record = Record::default();
        for slot in 1..=10 {
            record.add(&interval(Phase::Measured, slot, &[1_000]));
            record.add(&interval(Phase::Measured, slot, &[5_000]));
        }
        record.finish();
        assert_eq!(record.series.len(), 10);
        assert!(record.series.iter().all(|point| (point.messages_per_s - 8.0).abs() < 1e-9), "{:?}", record.series);
    }
}
