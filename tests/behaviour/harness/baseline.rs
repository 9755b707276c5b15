//! What a daemon holds when nothing is going on, to be the same again after each scenario.

use std::collections::BTreeMap;

use super::process;

/// Descriptors by kind, and what the shards count of their own things in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    fds: BTreeMap<String, usize>,
    held: BTreeMap<&'static str, u64>,
}

impl Baseline {
    /// Reads both; `shards` is the answer of `GET {base}/shards`.
    pub fn new(pid: u32, shards: &serde_json::Value) -> Self {
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
        let failed = shards.iter().filter_map(|shard| shard["counts"]["tasks_failed"].as_u64()).sum();
        held.insert("tasks_failed", failed);
        Self { fds, held }
    }

    /// Whether nothing here is more than there. Less may be: a busy machine is slow to be done with the questions that the
    /// other was read by.
    pub fn is_within(&self, other: &Self) -> bool {
        self.fds.iter().all(|(kind, count)| other.fds.get(kind).is_some_and(|most| count <= most))
            && self.held.iter().all(|(name, amount)| other.held.get(name).is_some_and(|most| amount <= most))
    }
}
