//! The schemas of the OpenAPI document.
//!
//! **Invariants.** Every answer with a JSON body has one.
//! **Not here.** Which route answers with which (`openapi`).

use crate::policy::listing::Kind;
use serde_json::{Map, Value, json};

/// Numbers of drivers and of devices.
const REMOTE_COUNTS: [&str; 7] =
    ["id", "remote_port", "since", "last_seen", "bytes_received", "bytes_written", "backlog_bytes"];

/// Numbers of shards.
const SHARD_NUMBERS: [&str; 8] =
    ["shard", "sessions", "ports", "devices", "tasks", "buffers_out", "buffers_lost", "buffer_waits"];
/// Numbers of ports.
const PORT_NUMBERS: [&str; 10] = [
    "shard",
    "since",
    "drivers",
    "devices",
    "bytes_received",
    "bytes_written",
    "backlog_bytes",
    "waits",
    "dropped",
    "refused",
];

/// The schema of a row.
pub fn row_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Ports => "Port",
        Kind::Drivers => "Driver",
        Kind::Devices => "Device",
        Kind::Refusals => "Refusal",
        Kind::Flapping => "Flapping",
    }
}

/// The schema of a page.
pub fn page_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Ports => "Ports",
        Kind::Drivers => "Drivers",
        Kind::Devices => "Devices",
        Kind::Refusals => "Refusals",
        Kind::Flapping => "FlappingPage",
    }
}

/// What DELETE does with rows of a kind, and the schema that says with how many.
pub fn done(kind: Kind, subject: &str) -> (String, &'static str) {
    match kind {
        Kind::Flapping => (format!("{subject} refused no longer"), "Forgiven"),
        _ => (format!("{subject} disconnected"), "Disconnected"),
    }
}

fn flapping() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["address", "since", "until", "times"],
        "additionalProperties": false,
        "properties": { "address": { "type": "string" }, "since": count, "until": count, "times": count }
    })
}

/// A row with these numbers and texts, and a port.
fn row(numbers: &[&str], texts: &[&str]) -> Value {
    let mut properties = Map::new();
    properties.insert("transport".into(), json!({ "type": "string", "enum": ["tcp", "udp"] }));
    properties.insert("port".into(), json!({ "type": "integer", "minimum": 1, "maximum": 65535 }));
    for name in numbers {
        properties.insert((*name).into(), json!({ "type": "integer", "minimum": 0 }));
    }
    for name in texts {
        properties.insert((*name).into(), json!({ "type": "string", "nullable": *name == "module" }));
    }
    let required: Vec<&String> = properties.keys().collect();
    json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
}

fn driver() -> Value {
    let numbers = [REMOTE_COUNTS.as_slice(), &["credit_bytes", "outbox_waits", "credit_waits"]].concat();
    let mut driver = row(&numbers, &["address", "accept", "module"]);
    driver["properties"]["outbox_full"] = json!({ "type": "boolean" });
    driver
}

fn refusal() -> Value {
    json!({
        "type": "object",
        "required": ["shard", "time", "what", "address", "transport", "port", "reason", "times"],
        "additionalProperties": false,
        "properties": {
            "shard": { "type": "integer", "minimum": 0 },
            "time": { "type": "integer", "minimum": 0 },
            "what": { "type": "string", "enum": ["device", "datagram", "join", "token", "connection"] },
            "address": { "type": "string" },
            "transport": { "type": "string", "nullable": true },
            "port": { "type": "integer", "nullable": true },
            "reason": { "type": "string" },
            "times": { "type": "integer", "minimum": 1 }
        }
    })
}

fn page(row: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items", "total", "next"],
        "additionalProperties": false,
        "properties": {
            "items": { "type": "array", "items": { "$ref": format!("#/components/schemas/{row}") } },
            "total": { "type": "integer", "minimum": 0 },
            "next": { "type": "string", "nullable": true }
        }
    })
}

fn shards() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    let by_name = json!({ "type": "object", "additionalProperties": count });
    let times = json!({
        "type": "object",
        "required": ["seconds", "buckets"],
        "properties": { "seconds": { "type": "number" }, "buckets": { "type": "array", "items": count } }
    });
    let mut properties: Map<String, Value> = SHARD_NUMBERS.iter().map(|name| ((*name).into(), count.clone())).collect();
    properties.insert("loop_turn".into(), times.clone());
    properties.insert("timer_lag".into(), times);
    properties.insert("counts".into(), by_name.clone());
    let required: Vec<&String> = properties.keys().collect();
    let shard = json!({ "type": "object", "required": required, "properties": properties });
    json!({
        "type": "object",
        "required": ["state", "started", "uptime_seconds", "limits", "time_bounds_seconds", "shards"],
        "properties": {
            "state": { "type": "string", "enum": ["serving", "draining"] },
            "started": count, "uptime_seconds": { "type": "number", "minimum": 0 }, "limits": by_name,
            "time_bounds_seconds": { "type": "array", "items": { "type": "number" } },
            "shards": { "type": "array", "items": shard }
        }
    })
}

/// Every schema by name.
pub fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let by_port = json!({ "type": "object", "additionalProperties": count });
    let numbers = json!({ "type": "array", "items": count });
    json!({
        "Error": { "type": "object", "required": ["error"], "properties": { "error": text } },
        "ParameterError": {
            "type": "object",
            "required": ["error", "parameter", "restriction"],
            "properties": { "error": text, "parameter": text, "restriction": text }
        },
        "Statistics": {
            "type": "object",
            "required": ["udp_listeners", "tcp_listeners", "tcp_clients"],
            "properties": { "udp_listeners": by_port, "tcp_listeners": by_port, "tcp_clients": by_port }
        },
        "Version": {
            "type": "object",
            "required": ["service", "commit", "version", "build_time", "platform_version"],
            "properties": {
                "service": text, "commit": text, "version": text, "build_time": text, "platform_version": text
            }
        },
        "Port": row(&PORT_NUMBERS, &[]),
        "Driver": driver(),
        "Device": row(&REMOTE_COUNTS, &["address"]),
        "Ports": page("Port"),
        "Drivers": page("Driver"),
        "Devices": page("Device"),
        "Refusals": page("Refusal"),
        "Refusal": refusal(),
        "FlappingPage": page("Flapping"),
        "Flapping": flapping(),
        "LogLevel": { "type": "object", "required": ["filter"], "properties": { "filter": text } },
        "Forgiven": {
            "type": "object", "required": ["forgiven"], "properties": { "forgiven": count }
        },
        "Disconnected": {
            "type": "object", "required": ["disconnected"], "properties": { "disconnected": count }
        },
        "Mismatch": {
            "type": "object", "required": ["error", "matching"], "properties": { "error": text, "matching": count }
        },
        "Shards": shards(),
        "History": {
            "type": "object",
            "required": ["times", "sessions", "devices", "counts"],
            "properties": {
                "times": numbers, "sessions": numbers, "devices": numbers,
                "counts": { "type": "object", "additionalProperties": numbers }
            }
        }
    })
}
