//! What is told of the daemon as a whole: statistics, shards, metrics.
//!
//! **Invariants.** A long answer is written in slices, between which the shard's loop goes on.
//! **Not here.** Collecting the numbers (`shard`), and what the metrics are (`policy::metrics`).

use crate::policy::counts::{ShardCount, Statistics};
use crate::policy::metrics::Metrics;
use crate::protocol::exposition;
use crate::protocol::http::Answer;
use crate::shard::resources::Resources;
use crate::shard::ring;
use serde_json::json;

/// What was built.
const COMMIT: &str = match option_env!("DISPATCH_COMMIT") {
    Some(commit) => commit,
    None => "DEV",
};
/// Ports whose series are written in one go.
const PORTS_BATCH: usize = 256;

/// What is to be told.
#[derive(Debug, Clone, Copy)]
pub enum Report {
    /// Drivers and devices a port.
    Statistics,
    /// Everything that is counted.
    Metrics,
    /// What each shard has and has counted.
    Shards,
}

impl Report {
    /// The answer, of all shards.
    pub async fn answer(self, resources: &Resources) -> Answer {
        let shards = resources.shared.peers.count().await;
        match self {
            Report::Statistics => {
                let statistics = Statistics::of(shards.into_iter().flat_map(|shard| shard.ports));
                Answer::json(200, serde_json::to_string(&statistics).unwrap_or_default())
            }
            Report::Metrics => metrics(resources, &shards).await,
            Report::Shards => {
                let shards: Vec<_> = shards.iter().map(shard_json).collect();
                Answer::json(200, json!({ "shards": shards }).to_string())
            }
        }
    }
}

async fn metrics(resources: &Resources, shards: &[ShardCount]) -> Answer {
    let process = resources.count_process().await;
    let mut metrics = Metrics::default();
    metrics.write(shards, &process, resources.limits(), [env!("CARGO_PKG_VERSION"), COMMIT]);
    if resources.shared.observation.port_series {
        for family in 0..Metrics::PORT_FAMILIES {
            metrics.begin_port_family(family);
            for shard in shards {
                for ports in shard.ports.chunks(PORTS_BATCH) {
                    metrics.write_ports(family, ports);
                    ring::turn().await;
                }
            }
        }
    }
    Answer { content_type: exposition::CONTENT_TYPE, ..Answer::json(200, metrics.into_text()) }
}

/// What runs.
pub fn version() -> Answer {
    let version = json!({
        "service": "dispatch",
        "commit": COMMIT,
        "version": env!("CARGO_PKG_VERSION"),
        "build_time": option_env!("DISPATCH_BUILD_TIME").unwrap_or(""),
        "platform_version": option_env!("PLACE_VERSION").unwrap_or("DEV"),
    });
    Answer::json(200, version.to_string())
}

fn shard_json(shard: &ShardCount) -> serde_json::Value {
    json!({
        "shard": shard.shard,
        "sessions": shard.sessions,
        "ports": shard.ports.len(),
        "devices": shard.devices,
        "tasks": shard.tasks,
        "buffers_out": shard.buffers_out,
        "buffers_lost": shard.buffers_lost,
        "buffer_waits": shard.buffer_waits,
        "counts": shard.counts.by_name(),
    })
}
