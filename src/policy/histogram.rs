//! How long things take: counts of times by upper bound, and their sum.
//!
//! **Invariants.** Every time is in one bucket; the last bucket has no bound.
//! **Not here.** Measuring (`shard`, `edge`), and how a histogram is written (`metrics`).

use std::cell::Cell;
use std::time::Duration;

/// Upper bounds of the buckets in seconds; one more bucket has none.
pub const BOUNDS_S: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// How many buckets there are.
pub const BUCKETS: usize = BOUNDS_S.len() + 1;

/// The times of one shard: plain numbers of its thread.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell<u64>; BUCKETS],
    sum_ns: Cell<u64>,
}

/// What a histogram has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistogramCount {
    /// Times by bucket, each alone.
    pub buckets: [u64; BUCKETS],
    /// All times together, in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = &self.buckets[BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1)];
        bucket.set(bucket.get() + 1);
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.set(self.sum_ns.get().wrapping_add(ns));
    }

    /// What it has counted.
    pub fn count(&self) -> HistogramCount {
        HistogramCount { buckets: std::array::from_fn(|at| self.buckets[at].get()), sum_ns: self.sum_ns.get() }
    }
}

impl HistogramCount {
    /// Adds what another has counted.
    pub fn merge(&mut self, other: &HistogramCount) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_of_the_least_bound_above_it() {
        let histogram = Histogram::default();
        for us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(us));
        }
        let mut count = histogram.count();
        let expected = [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        assert_eq!((count.buckets, count.sum_ns), (expected, 20_001_002_000));
        count.merge(&histogram.count());
        assert_eq!(count.buckets, expected.map(|times| 2 * times));
    }
}
