//! When messages are due in a run with a set rate.
//!
//! **Invariants.** The time of a message depends on its number alone, never on how long others took: a stall makes what
//! follows late and does not move it.
//! **Not here.** Who sends it.

/// A series of times at a set rate.
#[derive(Debug, Clone)]
pub struct Pacer {
    start_ns: u64,
    /// Messages in 10⁹ seconds, so that rates below one a second are exact enough.
    rate_nano: u128,
    next: u64,
}

const NS_A_SECOND: f64 = 1e9;

impl Pacer {
    /// Times from `start_ns` on, `rate` a second; the first is one step after the start.
    pub fn new(start_ns: u64, rate: f64) -> Self {
        Pacer { start_ns, rate_nano: ((rate * NS_A_SECOND) as u128).max(1), next: 0 }
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> u64 {
        let passed = (u128::from(self.next) + 1) * 1_000_000_000_000_000_000 / self.rate_nano;
        self.start_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The number and time of a message that is due, which is taken by this.
    pub fn take(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.next_ns();
        (due_ns <= now_ns).then(|| {
            self.next += 1;
            (self.next - 1, due_ns)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_a_long_time() {
        let mut pacer = Pacer::new(500, 3.0);
        let mut taken = Vec::new();
        while let Some(due) = pacer.take(500 + 10_000_000_000) {
            taken.push(due);
        }
        assert_eq!(taken.len(), 30);
        assert_eq!(taken[2], (2, 1_000_000_500));
        assert_eq!(taken[29], (29, 10_000_000_500));
    }

    #[test]
    fn a_stall_does_not_move_what_follows() {
        let mut pacer = Pacer::new(0, 1_000.0);
        let after_stall: Vec<_> = std::iter::from_fn(|| pacer.take(5_000_000)).map(|(_, due_ns)| due_ns).collect();
        assert_eq!(after_stall, [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]);
        assert_eq!(pacer.next_ns(), 6_000_000);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        assert_eq!(Pacer::new(10, 1_000.0).take(1_000_009), None);
    }
}
