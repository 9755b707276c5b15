//! What a daemon holds when nothing is going on, to be the same again after each scenario.

use std::collections::BTreeMap;

use super::{Metrics, process};

/// What the whole process has promised or lent, as the metrics say it.
const RESERVED: [&str; 6] = [
    "dispatch_session_memory_bytes",
    "dispatch_session_slots",
    "dispatch_port_slots",
    "dispatch_device_slots",
    "dispatch_outbox_bytes",
    "dispatch_credit_bytes",
];

/// Descriptors by kind, and what the shards and the process count of their own things in all.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    fds: BTreeMap<String, usize>,
    held: BTreeMap<&'static str, u64>,
    reserved: BTreeMap<&'static str, f64>,
}

impl Baseline {
    /// Reads all of it; `shards` is the answer of `GET {base}/shards`.
    pub fn new(pid: u32, shards: &serde_json::Value, metrics: &Metrics) -> Self {
        let mut fds = BTreeMap::new();
        for target in process::fds(pid) {
            let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
            *fds.entry(kind.to_owned()).or_default() += 1;
        }
        let shards = shards["shards"].as_array().expect("the list of shards");
        let mut held: BTreeMap<&'static str, u64> =
            ["sessions", "ports", "devices", "tasks", "buffers_out", "buffers_lost"]
                .into_iter()
                .map(|name| (name, shards.iter().map(|shard| shard[name].as_u64().expect(name)).sum()))
                .collect();
        // A task that panics counts, and a buffer that the kernel wrote to when it should not have makes one panic.
        let failed = |shard: &serde_json::Value| shard["counts"]["tasks_failed"].as_u64().expect("tasks_failed");
        held.insert("tasks_failed", shards.iter().map(failed).sum());
        let reserved = RESERVED.into_iter().map(|name| (name, metrics.value(name))).collect();
        Self { fds, held, reserved }
    }

    /// Whether nothing here is more than there. Less may be: a busy machine is slow to be done with the questions that the
    /// other was read by.
    pub fn is_within(&self, other: &Self) -> bool {
        self.fds.iter().all(|(kind, count)| other.fds.get(kind).is_some_and(|most| count <= most))
            && self.held.iter().all(|(name, amount)| other.held.get(name).is_some_and(|most| amount <= most))
            && self.reserved.iter().all(|(name, amount)| other.reserved.get(name).is_some_and(|most| amount <= most))
    }
}
