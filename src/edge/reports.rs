//! What is told of the daemon as a whole: statistics, shards, metrics, lists.
//!
//! **Invariants.** A long answer is written in slices, between which the shard's loop goes on; few are made at a time.
//! **Not here.** Lists (`lists`), collecting the numbers (`shard`), and what the metrics are (`policy::metrics`).

use crate::edge::answers::{error, parameter_error};
use crate::edge::lists::{self, Purpose};
use crate::edge::routes::{Endpoint, Found};
use crate::policy::counts::{Count, ShardCount, Statistics};
use crate::policy::histogram::{BOUNDS_S, HistogramCount};
use crate::policy::history::{self, Moment, STEP_S};
use crate::policy::listing::{Kind, Query, port_number};
use crate::policy::metrics::Metrics;
use crate::policy::port_id::{PortId, Transport};
use crate::protocol::exposition;
use crate::protocol::http::{Answer, RequestHead};
use crate::shard::mailbox::Request;
use crate::shard::outbox;
use crate::shard::resources::Resources;
use crate::shard::ring;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What was built.
const COMMIT: &str = match option_env!("DISPATCH_COMMIT") {
    Some(commit) => commit,
    None => "DEV",
};
/// The longest filter of the log.
const LOG_FILTER_BYTES_MAX: usize = 1_024;
/// Ports whose series are written in one go.
const PORTS_BATCH: usize = 256;

/// What is to be told.
#[derive(Debug)]
pub enum Report {
    /// Drivers and devices a port.
    Statistics,
    /// Everything that is counted.
    Metrics,
    /// What each shard has and has counted.
    Shards,
    /// What there was and was counted in the last minutes.
    History,
    /// One page of a list.
    Page(Query),
    /// One port, driver or device.
    One(Query),
    /// Disconnecting all that match.
    DisconnectAll(Query),
    /// Disconnecting one.
    DisconnectOne(Query),
    /// The filter of the log.
    LogLevel,
    /// Setting it.
    SetLogLevel(String),
}

impl Report {
    /// What a request for one of these routes is about.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub fn parse(found: &Found<'_>, head: &RequestHead<'_>) -> Result<Report, Answer> {
        let disconnects = head.method == "DELETE";
        Ok(match found.route.endpoint {
            Endpoint::Metrics => Report::Metrics,
            Endpoint::LogLevel if head.method == "PUT" => Report::SetLogLevel(log_filter(head)?),
            Endpoint::LogLevel => Report::LogLevel,
            Endpoint::Shards => Report::Shards,
            Endpoint::History => Report::History,
            Endpoint::List(kind) if disconnects => {
                Report::DisconnectAll(lists::query(kind, head.query, Purpose::Disconnect)?)
            }
            Endpoint::List(kind) => Report::Page(lists::query(kind, head.query, Purpose::Read)?),
            Endpoint::One(kind) => {
                let query = one_of(kind, &found.parts).ok_or_else(|| error(404, "there is none"))?;
                if disconnects { Report::DisconnectOne(query) } else { Report::One(query) }
            }
            _ => Report::Statistics,
        })
    }

    /// Whether nothing is changed by it.
    pub fn only_tells(&self) -> bool {
        !matches!(self, Report::DisconnectAll(_) | Report::DisconnectOne(_) | Report::SetLogLevel(_))
    }

    /// The answer, of all shards. Few are made at a time. One that [only tells](Self::only_tells) may be dropped.
    pub async fn answer(self, resources: &Resources, request_id: &str) -> Answer {
        // Never closed, so there is always a turn.
        let _turn = resources.reports.acquire().await;
        let count = || resources.shared.peers.count();
        match self {
            Report::Page(query) => lists::page(resources, query).await,
            Report::One(query) => lists::one(resources, query).await,
            Report::DisconnectAll(query) => lists::disconnect_all(resources, query, request_id).await,
            Report::DisconnectOne(query) => lists::disconnect_one(resources, query, request_id).await,
            Report::LogLevel => log_level(resources),
            Report::SetLogLevel(filter) => set_log_level(resources, &filter, request_id),
            Report::Statistics => {
                let shards = count().await;
                let statistics = Statistics::of(shards.into_iter().flat_map(|shard| shard.ports));
                Answer::json(200, serde_json::to_string(&statistics).unwrap_or_default())
            }
            Report::Metrics => metrics(resources, &count().await).await,
            Report::Shards => shards(resources, &count().await),
            Report::History => history(resources).await,
        }
    }
}

/// The filter that a request asks for.
fn log_filter(head: &RequestHead<'_>) -> Result<String, Answer> {
    let filter = head.parameter("filter");
    let filter = filter.ok_or_else(|| parameter_error(422, "missing parameter", "filter", "is required"))?;
    if filter.len() > LOG_FILTER_BYTES_MAX {
        let restriction = format!("must be of {LOG_FILTER_BYTES_MAX} bytes at most");
        return Err(parameter_error(400, "bad parameter", "filter", &restriction));
    }
    Ok(filter.into_owned())
}

fn log_level(resources: &Resources) -> Answer {
    Answer::json(200, json!({ "filter": (resources.shared.log.filter)() }).to_string())
}

fn set_log_level(resources: &Resources, filter: &str, request_id: &str) -> Answer {
    if let Err(reason) = (resources.shared.log.set_filter)(filter) {
        return parameter_error(400, "bad parameter", "filter", &reason);
    }
    let filter = (resources.shared.log.filter)();
    tracing::warn!(filter, request_id, "what is logged was changed");
    log_level(resources)
}

/// What a path names: a port, a session, a device of a port, or a source.
fn one_of(kind: Kind, parts: &[&str]) -> Option<Query> {
    let port = |transport: &str, number: &str| {
        Some(PortId { transport: Transport::parse(transport)?, number: port_number(number)? })
    };
    match (kind, parts) {
        (Kind::Ports, [transport, number]) => Some(Query::one(kind, Some(port(transport, number)?), None)),
        (Kind::Drivers, [id]) => Some(Query::one(kind, None, Some(id.parse().ok()?))),
        (Kind::Devices, [transport, number, id]) => {
            Some(Query::one(kind, Some(port(transport, number)?), Some(id.parse().ok()?)))
        }
        (Kind::Flapping, [address]) => {
            // Colons may have come encoded.
            let (address, _) = form_urlencoded::parse(address.as_bytes()).next()?;
            Some(Query::of_address(kind, address.parse().ok()?))
        }
        _ => None,
    }
}

async fn metrics(resources: &Resources, shards: &[ShardCount]) -> Answer {
    let process = resources.count_process().await;
    let mut metrics = Metrics::default();
    metrics.write(shards, &process, &resources.limits(), [env!("CARGO_PKG_VERSION"), COMMIT]);
    let port_series = resources.rules().observation.port_series;
    if port_series {
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

/// Whether newcomers are served, with the reason where they are not.
pub fn readiness(resources: &Resources) -> Answer {
    match resources.shared.vitals.readiness() {
        Ok(()) => Answer::json(200, String::new()),
        Err(unready) => error(503, &unready.to_string()),
    }
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

/// What each shard has, and beside it what a reader needs to make sense of it.
fn shards(resources: &Resources, shards: &[ShardCount]) -> Answer {
    let limits = resources.limits();
    let is_draining = shards.iter().any(|shard| shard.is_draining);
    let started = resources.shared.started;
    let document = json!({
        "state": if is_draining { "draining" } else { "serving" },
        "started": started.since_epoch.as_secs(),
        "uptime_seconds": started.at.elapsed().as_millis() as f64 / 1e3,
        "limits": {
            "driver_backlog_bytes": outbox::backlog_bytes_max(limits.outbox_bytes_max),
            "driver_credit_bytes": limits.write_window_bytes_max,
            "receive_buffers": limits.receive_buffers,
        },
        "time_bounds_seconds": BOUNDS_S,
        "shards": shards.iter().map(shard_json).collect::<Vec<_>>(),
    });
    Answer::json(200, document.to_string())
}

/// The last minutes of all shards together, by name and then by time.
async fn history(resources: &Resources) -> Answer {
    let moments = history::merge(lists::ask_all(resources, |_, reply| Request::Recall { reply }).await);
    let since_epoch = resources.shared.started.since_epoch.as_secs();
    let column = |value: &dyn Fn(&Moment) -> u64| moments.iter().map(|(_, moment)| value(moment)).collect::<Vec<_>>();
    let counts = Count::ALL.iter().zip(Count::NAMES);
    let document = json!({
        "times": moments.iter().map(|(step, _)| since_epoch + u64::from(step * STEP_S)).collect::<Vec<_>>(),
        "sessions": column(&|moment| moment.sessions as u64),
        "devices": column(&|moment| moment.devices as u64),
        "counts": counts.map(|(count, name)| (name, column(&|moment| moment.counts.of(*count)))).collect::<BTreeMap<_, _>>(),
    });
    Answer::json(200, document.to_string())
}

fn times_json(times: &HistogramCount) -> Value {
    json!({ "seconds": times.sum_ns as f64 / 1e9, "buckets": times.buckets })
}

fn shard_json(shard: &ShardCount) -> Value {
    json!({
        "shard": shard.shard,
        "sessions": shard.sessions,
        "ports": shard.ports.len(),
        "devices": shard.devices,
        "tasks": shard.tasks,
        "buffers_out": shard.buffers_out,
        "buffers_lost": shard.buffers_lost,
        "buffer_waits": shard.buffer_waits,
        "loop_turn": times_json(&shard.loop_turn),
        "timer_lag": times_json(&shard.timer_lag),
        "counts": shard.counts.by_name(),
    })
}
