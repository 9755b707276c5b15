//! What the operator decides and may decide anew while the daemon runs, and how that went.
//!
//! **Invariants.** Rules are whole: a shard has those of one load, never of two.
//! **Not here.** Where they come from (`config`), how they reach the shards (`server`).

use super::access::Access;
use super::balancers::Balancers;
use super::limits::Limits;
use super::metrics::Observation;
use super::port_rules::DeviceRules;
use super::token::Token;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The rules that a shard works by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Every bound.
    pub limits: Limits,
    /// What drivers may do.
    pub access: Access,
    /// What becomes of devices, by port.
    pub devices: DeviceRules,
    /// Who is believed when it says whom a connection comes from.
    pub balancers: Balancers,
    /// What the operator wants to be shown.
    pub observation: Observation,
    /// Who comes in.
    pub token: Token,
    /// Where certificates for devices are kept; `None` where none are.
    pub device_certs: Option<Arc<Path>>,
}

/// How reloading went. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reloads(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    succeeded_at_ms: AtomicU64,
    failed: AtomicU64,
    failing: AtomicU64,
}

/// What is told of reloading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReloadCount {
    /// When the settings in force were read, since 1970.
    pub succeeded_at: Duration,
    /// How many reloads failed.
    pub failed: u64,
    /// How many of them since the last that did not.
    pub failing: u64,
}

impl Reloads {
    /// The settings were read, and are in force.
    pub fn succeeded(&self, at: Duration) {
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.0.succeeded_at_ms.store(at_ms, Ordering::Relaxed);
        self.0.failing.store(0, Ordering::Relaxed);
    }

    /// They were not taken.
    pub fn failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
        self.0.failing.fetch_add(1, Ordering::Relaxed);
    }

    /// What there is to tell.
    pub fn count(&self) -> ReloadCount {
        // Relaxed: the numbers guard no other memory.
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let succeeded_at = Duration::from_millis(of(&self.0.succeeded_at_ms));
        ReloadCount { succeeded_at, failed: of(&self.0.failed), failing: of(&self.0.failing) }
    }
}
