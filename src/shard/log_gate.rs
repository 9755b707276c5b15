//! A gate for log lines that a remote can cause at will: one line a while, which says how many were left out.
//!
//! **Invariants.** However often it is asked, it lets one through in ten seconds; where it tells apart what lines are about,
//! one for each, and no more than `SUBJECTS_MAX` in all.
//! **Not here.** Counting what happened, which is exact (`policy::counts`).

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
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

/// Lines about different subjects in ten seconds at most.
const SUBJECTS_MAX: usize = 64;

/// One kind of line that is about an address, for tools that watch the log for addresses to shut out.
pub type AddressLogGate = SubjectLogGate<IpAddr>;

/// One kind of line that is about one of several.
#[derive(Debug)]
pub struct SubjectLogGate<S> {
    shut_until: RefCell<Vec<(S, Instant)>>,
    left_out: Cell<u64>,
}

impl<S> Default for SubjectLogGate<S> {
    fn default() -> Self {
        SubjectLogGate { shut_until: RefCell::default(), left_out: Cell::default() }
    }
}

impl<S: PartialEq> SubjectLogGate<S> {
    /// Whether a line about this subject may be written, and how many were left out since the last, about any.
    pub fn pass(&self, subject: S) -> Option<u64> {
        let now = Instant::now();
        let mut shut = self.shut_until.borrow_mut();
        shut.retain(|(_, until)| now < *until);
        if shut.len() >= SUBJECTS_MAX || shut.iter().any(|(known, _)| *known == subject) {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        shut.push((subject, now + QUIET));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_line_and_all_together_have_a_bound() {
        let gate = AddressLogGate::default();
        let ip = |number: u32| IpAddr::from(number.to_be_bytes());
        assert_eq!((gate.pass(ip(0)), gate.pass(ip(0)), gate.pass(ip(1))), (Some(0), None, Some(1)));
        let passed = (2..1_000).filter(|number| gate.pass(ip(*number)).is_some()).count();
        assert_eq!(passed, SUBJECTS_MAX - 2);
    }

    #[test]
    fn of_a_flood_one_line_passes_and_the_rest_are_counted() {
        let gate = LogGate::default();
        assert_eq!(gate.pass(), Some(0));
        assert!((0..1_000).all(|_| gate.pass().is_none()));
        gate.shut_until.set(None);
        assert_eq!(gate.pass(), Some(1_000));
    }
}
