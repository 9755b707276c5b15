//! What the runs of one case came to, of the daemon and of its rivals.
//!
//! **Invariants.** A run stands in one of the two lists.
//! **Not here.** Running (`suite`), and what the runs add up to (`summary`).

use crate::cases::Case;
use crate::outcome::Outcome;

/// The name of what is measured against its rivals.
pub const DAEMON: &str = "dispatch";

/// All runs of one case.
#[derive(Debug)]
pub struct Runs {
    /// The case.
    pub case: Case,
    /// The command line that was run.
    pub line: String,
    /// Each run that came to something, with the name of what was measured.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// Each that did not.
    pub failures: Vec<String>,
}

impl Case {
    /// The names of all that runs it.
    pub fn subjects(&self) -> impl Iterator<Item = &'static str> {
        [DAEMON].into_iter().chain(self.rivals.names().iter().copied())
    }
}

impl Runs {
    /// The runs of one subject, in their order.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |(found, _)| *found == name).map(|(_, outcome)| outcome)
    }
}
