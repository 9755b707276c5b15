//! Whom the process lets in of the devices that drivers accept: limits of one source, on whichever shards its ports are.
//!
//! **Invariants.** A source is counted in one place, so that shards together let no more in than the limit. Where no such
//! limit is or was set nothing is kept and no lock is taken; where one is, a device takes a lock as it connects and as it ends, for
//! a look into a table, and never for its bytes. Asking the source's own shard by a request would cost each connect a
//! wake-up, some hundred times as much, and would let more in while the answers are on their way.
//! **Not here.** Whether a port's devices are counted (`ledger`), the limits of a port (`port`), and of the process (`resources`).

use crate::policy::ending::DeviceRefusal;
use crate::policy::limits::Limits;
use crate::policy::metrics::SourceCount;
use crate::policy::origins::{Connect, Flap, Origins};
use std::fmt;
use std::net::IpAddr;
#[expect(clippy::disallowed_types, reason = "taken as a device connects and ends, not in the data path")]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// The gate of the process; clones are the same.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
    started_at: Instant,
}

struct Inner {
    parts: Box<[Part]>,
    /// Whether there is a limit of connects.
    is_rated: AtomicBool,
}

#[expect(clippy::disallowed_types, reason = "see above")]
type Part = Mutex<Origins>;

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("is_rated", &self.inner.is_rated).finish_non_exhaustive()
    }
}

/// A place among the devices of its source. Dropping it gives it back.
#[derive(Debug)]
pub struct SourcePlace(Option<(Gate, IpAddr)>);

/// What the gate says of a connect that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its source is refused for a while, from here on.
    FromHere,
    /// Its source is refused already.
    Still,
}

impl Gate {
    /// A gate for these limits, in as many parts as there are shards. Times count from `started_at`.
    pub fn new(limits: &Limits, shards: usize, started_at: Instant) -> Self {
        let parts = (0..shards).map(|_| Part::default()).collect();
        let gate = Gate { inner: Arc::new(Inner { parts, is_rated: AtomicBool::new(false) }), started_at };
        gate.set_limits(limits);
        gate
    }

    /// Goes by other limits from here on. Who is refused for a while stays so, unless there is no limit of connects any
    /// more; what is beyond a lower limit of devices stays until it ends by itself.
    pub fn set_limits(&self, limits: &Limits) {
        let (devices, rate) = (limits.devices_per_source_max, limits.source_connects_per_second_max);
        for part in &self.inner.parts {
            lock(part).set_limits(devices, rate, limits.source_refused_time);
        }
        // Relaxed: who reads it late goes by the limits from before, or by none.
        self.inner.is_rated.store(rate != usize::MAX, Ordering::Relaxed);
    }

    /// A source connects that a driver accepts.
    ///
    /// # Errors
    /// Where it does so too often.
    pub fn connects(&self, source: IpAddr) -> Result<(), Refused> {
        if !self.inner.is_rated.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.part_of(source).connects(source, self.started_at.elapsed()) {
            Connect::Taken => Ok(()),
            Connect::Flaps => Err(Refused::FromHere),
            Connect::Refused => Err(Refused::Still),
        }
    }

    /// Lets a device of this source in, or one that is about to shake hands for it.
    ///
    /// # Errors
    /// Where its source has as many as it may.
    pub fn enters(&self, source: IpAddr) -> Result<SourcePlace, DeviceRefusal> {
        let has_entered = self.part_of(source).enters(source);
        has_entered.then(|| SourcePlace(Some((self.clone(), source)))).ok_or(DeviceRefusal::SourceLimit)
    }

    /// Counts a device of this source that is there already, whatever the limit; it [leaves](Self::leaves) once.
    pub fn is_there(&self, source: IpAddr) {
        self.part_of(source).is_there(source);
    }

    /// A device of this source has ended.
    pub fn leaves(&self, source: IpAddr) {
        self.part_of(source).leaves(source);
    }

    /// The sources that are refused, of one part: parts are numbered as shards are.
    pub fn flapping(&self, part: usize) -> Vec<(IpAddr, Flap)> {
        self.inner
            .parts
            .get(part)
            .map_or_else(Vec::new, |part| lock(part).flapping(self.started_at.elapsed()).collect())
    }

    /// What it holds at this moment. Looks through all of it, a part at a time.
    pub fn count(&self) -> SourceCount {
        let now = self.started_at.elapsed();
        let parts = self.inner.parts.iter().map(|part| {
            let part = lock(part);
            (part.devices_most(), part.flapping(now).count())
        });
        parts.fold(SourceCount::default(), |sum, (devices_most, refused)| SourceCount {
            devices_most: sum.devices_most.max(devices_most),
            refused: sum.refused + refused,
        })
    }

    /// Refuses a source no longer; false where it was not refused.
    pub fn forgive(&self, source: IpAddr) -> bool {
        self.part_of(source).forgive(source, self.started_at.elapsed())
    }

    fn part_of(&self, source: IpAddr) -> MutexGuard<'_, Origins> {
        let bits = match source {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
        };
        let mixed = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        lock(&self.inner.parts[mixed as usize % self.inner.parts.len()])
    }
}

impl SourcePlace {
    /// Keeps the place until its device [leaves](Gate::leaves).
    pub fn hold(mut self) {
        self.0 = None;
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        if let Some((gate, source)) = &self.0 {
            gate.leaves(*source);
        }
    }
}

/// A panic while the lock was held leaves a table that still holds together.
fn lock(part: &Part) -> MutexGuard<'_, Origins> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
