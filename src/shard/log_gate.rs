//! A gate for log lines that a remote can cause at will: one line a while, which says how many were left out.
//!
//! **Invariants.** However often it is asked, it lets one through in ten seconds.
//! **Not here.** Counting what happened, which is exact (`policy::counts`).

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long the gate stays shut after a line.
const QUIET: Duration = Duration::from_secs(10);

/// One kind of line of one owner.
#[derive(Debug, Default)]
pub struct LogGate {
    shut_until: Cell<Option<Instant>>,
    left_out: Cell<u64>,
}

impl LogGate {
    /// Whether a line may be written, and how many were left out since the last.
    pub fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        if self.shut_until.get().is_some_and(|until| now < until) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.shut_until.set(Some(now + QUIET));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_one_line_passes_and_the_rest_are_counted() {
        let gate = LogGate::default();
        assert_eq!(gate.pass(), Some(0));
        assert!((0..1_000).all(|_| gate.pass().is_none()));
        gate.shut_until.set(None);
        assert_eq!(gate.pass(), Some(1_000));
    }
}
