//! Lists of ports, drivers, devices, refusals and sources that flap as JSON, and disconnecting, or forgiving, those that a
//! filter finds.
//!
//! **Invariants.** A page is made in slices, on every shard. Nothing is disconnected unless exactly as many match as the
//! request expects.
//! **Not here.** Filters and orders (`policy::listing`), looking through a shard (`shard::survey`).

use crate::edge::answers::{error, parameter_error};
use crate::policy::listing::{Fault, FlapRow, Kind, Page, PortRow, Query, RefusalRow, Remote, RowOf};
use crate::protocol::http::Answer;
use crate::shard::mailbox::Request;
use crate::shard::resources::Resources;
use crate::shard::ring;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Rows that are written in one go.
const ROWS_BATCH: usize = 50;
/// Parameters that choose among the rows that a filter finds: passed over, they would have more disconnected than shown.
const OF_PAGES: [&str; 3] = ["limit", "sort", "after"];

/// The answer to a parameter that is not taken.
pub fn bad_parameter(fault: &Fault) -> Answer {
    parameter_error(400, "bad parameter", &fault.parameter, &fault.restriction)
}

/// One page of a list.
pub async fn page(resources: &Resources, query: Query) -> Answer {
    let query = Arc::new(query);
    let page = survey(resources, &query).await;
    let total = page.total;
    let (rows, next) = page.into_rows();
    let mut items = String::new();
    for some in rows.chunks(ROWS_BATCH) {
        for row in some {
            let before = if items.is_empty() { "" } else { "," };
            items.push_str(&format!("{before}{}", row_json(row, resources)));
        }
        ring::turn().await;
    }
    let next = json!(next.map(|place| query.cursor(place)));
    Answer::json(200, format!("{{\"items\":[{items}],\"total\":{total},\"next\":{next}}}"))
}

/// The one row that a query finds; 404 where there is none.
pub async fn one(resources: &Resources, query: Query) -> Answer {
    let page = survey(resources, &Arc::new(query)).await;
    match page.into_rows().0.first() {
        Some(row) => Answer::json(200, row_json(row, resources).to_string()),
        None => error(404, "there is none"),
    }
}

/// Disconnects the one that a query finds; 404 where there is none.
pub async fn disconnect_one(resources: &Resources, query: Query, request_id: &str) -> Answer {
    let kind = query.kind();
    match disconnect(resources, query, request_id).await {
        Ok(count) => done(kind, count),
        Err(_) => error(404, "there is none"),
    }
}

/// Disconnects all that a query finds, if they are as many as it expects; 409 where they are not, and nothing is done.
pub async fn disconnect_all(resources: &Resources, query: Query, request_id: &str) -> Answer {
    let kind = query.kind();
    match disconnect(resources, query, request_id).await {
        Ok(count) => done(kind, count),
        Err(matching) => {
            let text = "not as many match as are expected; nothing was done";
            Answer::json(409, json!({ "error": text, "matching": matching }).to_string())
        }
    }
}

fn done(kind: Kind, count: usize) -> Answer {
    let done = if kind == Kind::Flapping { "forgiven" } else { "disconnected" };
    Answer::json(200, json!({ done: count }).to_string())
}

/// Those that were found are disconnected, and no others that come to match meanwhile.
///
/// # Errors
/// How many match, where they are not as many as are expected; of many more than that, so many as were counted.
async fn disconnect(resources: &Resources, query: Query, request_id: &str) -> Result<usize, usize> {
    let (kind, expected) = (query.kind(), query.expected.unwrap_or(0));
    let query = Arc::new(query);
    let found = ask_all(resources, |_, reply| Request::Gather { query: query.clone(), reply }).await;
    let matching = found.iter().map(Vec::len).sum();
    if matching != expected {
        return Err(matching);
    }
    let mut found = found;
    let ended = ask_all(resources, |shard, reply| {
        let identities = std::mem::take(&mut found[shard]);
        Request::Disconnect { kind, identities, reply }
    });
    let count = ended.await.into_iter().sum();
    if kind == Kind::Flapping {
        tracing::info!(count, request_id, "sources that flapped were forgiven by the operator");
    } else {
        tracing::info!(?kind, count, request_id, "disconnected by the operator");
    }
    Ok(count)
}

async fn survey(resources: &Resources, query: &Arc<Query>) -> Page<RowOf> {
    let mut page = Page::new(query);
    for found in ask_all(resources, |_, reply| Request::Survey { query: query.clone(), reply }).await {
        page.merge(found);
        ring::turn().await;
    }
    page
}

/// Asks every shard at once; the answers come in the order of shards.
pub async fn ask_all<T>(
    resources: &Resources,
    mut request: impl FnMut(usize, oneshot::Sender<T>) -> Request,
) -> Vec<T> {
    let peers = &resources.shared.peers;
    let mut replies = Vec::with_capacity(peers.shards());
    for shard in 0..peers.shards() {
        let (reply, answered) = oneshot::channel();
        peers.ask(shard, request(shard, reply)).await;
        replies.push(answered);
    }
    let mut answers = Vec::with_capacity(replies.len());
    for answered in replies {
        // None comes from a shard that has ended, and then the process does.
        answers.extend(answered.await);
    }
    answers
}

fn row_json(row: &RowOf, resources: &Resources) -> Value {
    let time = |s: u32| resources.shared.started.since_epoch.as_secs() + u64::from(s);
    match row {
        RowOf::Port(PortRow {
            port,
            shard,
            since_s,
            drivers,
            devices,
            received_bytes,
            written_bytes,
            backlog_bytes,
            waits,
            dropped,
            refused,
        }) => {
            json!({
                "transport": port.transport.name(), "port": port.number.get(), "shard": shard, "since": time(*since_s),
                "drivers": drivers, "devices": devices, "bytes_received": received_bytes,
                "bytes_written": written_bytes, "backlog_bytes": backlog_bytes, "waits": waits, "dropped": dropped,
                "refused": refused,
            })
        }
        RowOf::Refusal(RefusalRow { refusal, shard }) => json!({
            "shard": shard, "time": time(row.as_row().seen_s()), "what": refusal.what.name(), "address": refusal.ip,
            "transport": refusal.port.map(|port| port.transport.name()),
            "port": refusal.port.map(|port| port.number.get()), "reason": refusal.reason, "times": refusal.times,
        }),
        RowOf::Flap(FlapRow { ip, flap }) => {
            let second = |at: Duration| time(u32::try_from(at.as_secs()).unwrap_or(u32::MAX));
            json!({ "address": ip, "since": second(flap.since), "until": second(flap.until), "times": flap.times })
        }
        RowOf::Driver(driver) => {
            let mut row = remote_json(driver.id, &driver.remote, time);
            row["module"] = driver.module.as_deref().into();
            row["accept"] = (*driver.accepted).into();
            row["credit_bytes"] = driver.credit_bytes.into();
            row["outbox_full"] = driver.outbox_is_full.into();
            row["outbox_waits"] = driver.outbox_waits.into();
            row["credit_waits"] = driver.credit_waits.into();
            row
        }
        RowOf::Device(device) => remote_json(device.id, &device.remote, time),
    }
}

/// What drivers and devices show alike; `time` makes times of seconds since the start.
fn remote_json(id: u64, remote: &Remote, time: impl Fn(u32) -> u64) -> Value {
    json!({
        "id": id, "transport": remote.port.transport.name(), "port": remote.port.number.get(),
        "address": remote.address.ip(), "remote_port": remote.address.port(), "since": time(remote.since_s),
        "last_seen": time(remote.seen_s), "bytes_received": remote.received_bytes,
        "bytes_written": remote.written_bytes, "backlog_bytes": remote.backlog_bytes,
    })
}

/// A query of what a request's target says.
///
/// # Errors
/// The answer that refuses it: 400, or 422 where many are to be disconnected and it is not said how many.
pub fn query(kind: Kind, text: &str, purpose: Purpose) -> Result<Query, Answer> {
    let of_pages = |(name, _): &(Cow<'_, str>, _)| OF_PAGES.contains(&&**name);
    if purpose == Purpose::Disconnect
        && let Some((name, _)) = form_urlencoded::parse(text.as_bytes()).find(of_pages)
    {
        return Err(parameter_error(400, "bad parameter", &name, "is for GET alone"));
    }
    let query = Query::parse(kind, text).map_err(|fault| bad_parameter(&fault))?;
    match (purpose, query.expected) {
        (Purpose::Read, None) | (Purpose::Disconnect, Some(_)) => Ok(query),
        (Purpose::Read, Some(_)) => Err(parameter_error(400, "bad parameter", "expected", "is for DELETE alone")),
        (Purpose::Disconnect, None) => Err(parameter_error(422, "missing parameter", "expected", "is required")),
    }
}

/// What a query is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To see what matches.
    Read,
    /// To disconnect what matches.
    Disconnect,
}
