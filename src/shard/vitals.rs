//! Whether every shard's loop turns, as each tells by its beats, and whether the daemon is ready for newcomers.
//!
//! **Invariants.** A beat is told once a timer and a turn of the ring have come round, so a loop that hangs tells none.
//! Telling costs a shard four stores a second; nothing else of it reaches a shard.
//! **Not here.** Beating (`pulse`), the watchdog (`service`), and the answer to whoever asks (`edge`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a shard may tell no beat before it counts as one that does not answer: eight beats.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// The vitals of the process; clones are the same.
#[derive(Debug, Clone)]
pub struct Vitals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started_at: Instant,
    /// When each shard has told its last beat, in milliseconds since the start and 1 more; 0 before its first.
    beats: Box<[AtomicU64]>,
    draining: AtomicBool,
}

/// Why the daemon is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// It is told to stop.
    #[error("the daemon is stopping")]
    Draining,
    /// Shards whose loops have not begun, or do not turn.
    #[error("no answer from the shards {0:?}")]
    Silent(Vec<usize>),
}

impl Vitals {
    /// Those of a process with so many shards, none of which has told a beat.
    pub fn new(shards: usize) -> Self {
        let beats = (0..shards).map(|_| AtomicU64::new(0)).collect();
        Vitals(Arc::new(Inner { started_at: Instant::now(), beats, draining: AtomicBool::new(false) }))
    }

    /// A shard's loop has come round.
    pub fn beat(&self, shard: usize) {
        self.0.beats[shard].store(self.now_ms() + 1, Ordering::Relaxed);
    }

    /// The last beat of every shard, to be compared with what it is later.
    pub fn beats(&self) -> Vec<u64> {
        self.0.beats.iter().map(|beat| beat.load(Ordering::Relaxed)).collect()
    }

    /// From here on the daemon is not ready.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Whether newcomers are served as they should be.
    ///
    /// # Errors
    /// Why they are not.
    pub fn readiness(&self) -> Result<(), Unready> {
        if self.is_draining() {
            return Err(Unready::Draining);
        }
        let oldest_ms = self.now_ms().saturating_sub(SILENCE_MAX.as_millis() as u64);
        let is_silent = |beat: u64| beat == 0 || beat - 1 < oldest_ms;
        let beats = self.beats();
        let silent: Vec<usize> = (0..beats.len()).filter(|&shard| is_silent(beats[shard])).collect();
        if silent.is_empty() { Ok(()) } else { Err(Unready::Silent(silent)) }
    }

    fn now_ms(&self) -> u64 {
        self.0.started_at.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_once_every_shard_has_told_a_beat_and_until_it_drains() {
        let vitals = Vitals::new(2);
        assert_eq!(vitals.readiness(), Err(Unready::Silent(vec![0, 1])));
        vitals.beat(1);
        assert_eq!(vitals.readiness(), Err(Unready::Silent(vec![0])));
        vitals.beat(0);
        assert_eq!(vitals.readiness(), Ok(()));
        vitals.drain();
        assert_eq!(vitals.readiness(), Err(Unready::Draining));
    }
}
