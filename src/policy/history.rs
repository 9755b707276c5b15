//! What a shard had and had counted in the last minutes, for graphs that begin before someone looks.
//!
//! **Invariants.** A moment is a multiple of [`STEP_S`], so that those of several shards are the same; no more than
//! [`MOMENTS_MAX`] are held. Merging is addition.
//! **Not here.** When one is taken (`shard::pulse`), and how they are written (`edge::reports`).

use crate::policy::counts::CountsTaken;
use std::collections::{BTreeMap, VecDeque};

/// Time between moments.
pub const STEP_S: u32 = 5;
/// Moments that are held: five minutes, and their beginning.
pub const MOMENTS_MAX: usize = 61;

/// What there was and had been counted at one moment.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Sessions of drivers.
    pub sessions: usize,
    /// Connected devices.
    pub devices: usize,
    /// The counts.
    pub counts: CountsTaken,
}

/// The last moments of one shard, the oldest first, each with its number of steps since the start of the process.
#[derive(Debug, Default)]
pub struct History(VecDeque<(u32, Moment)>);

impl History {
    /// Takes the moment that `now_s` is in, unless it has been.
    pub fn take(&mut self, now_s: u32, moment: impl FnOnce() -> Moment) {
        let step = now_s / STEP_S;
        if self.0.back().is_some_and(|(last, _)| *last >= step) {
            return;
        }
        if self.0.len() == MOMENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((step, moment()));
    }

    /// Those that are held.
    pub fn held(&self) -> Vec<(u32, Moment)> {
        self.0.iter().cloned().collect()
    }
}

/// The moments that all of `shards` have, added up; the oldest first.
pub fn merge(shards: Vec<Vec<(u32, Moment)>>) -> Vec<(u32, Moment)> {
    let wanted = shards.len();
    let mut merged: BTreeMap<u32, (usize, Moment)> = BTreeMap::new();
    for (step, moment) in shards.into_iter().flatten() {
        let (shards, sum) = merged.entry(step).or_default();
        *shards += 1;
        sum.sessions += moment.sessions;
        sum.devices += moment.devices;
        sum.counts.merge(&moment.counts);
    }
    let whole = merged.into_iter().filter(|(_, (shards, _))| *shards == wanted);
    whole.map(|(step, (_, moment))| (step, moment)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(devices: usize) -> Moment {
        Moment { devices, ..Moment::default() }
    }

    #[test]
    fn a_moment_is_taken_once_a_step_and_the_oldest_goes() {
        let mut history = History::default();
        (0..1_000).for_each(|now_s| history.take(now_s, || moment(now_s as usize)));
        let held = history.held();
        assert_eq!(held.len(), MOMENTS_MAX);
        assert_eq!(held.last().map(|(step, moment)| (*step, moment.devices)), Some((199, 995)));
        assert_eq!(held.first().map(|(step, _)| *step), Some(200 - MOMENTS_MAX as u32));
    }

    #[test]
    fn only_moments_that_every_shard_has_are_added_up() {
        let merged = merge(vec![vec![(1, moment(1)), (2, moment(2))], vec![(2, moment(40)), (3, moment(3))]]);
        assert_eq!(merged.iter().map(|(step, moment)| (*step, moment.devices)).collect::<Vec<_>>(), [(2, 42)]);
    }
}
