//! The schemas of the OpenAPI document.
//!
//! **Invariants.** Every answer with a JSON body has one.
//! **Not here.** Which route answers with which (`openapi`).

use crate::policy::listing::Kind;
use serde_json::{Map, Value, json};

/// Numbers of drivers and of devices.
const REMOTE_COUNTS: [&str; 7] =
    ["id", "remote_port", "since", "last_seen", "bytes_received", "bytes_written", "backlog_bytes"];

/// The schema of a row.
pub fn row_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Ports => "Port",
        Kind::Drivers => "Driver",
        Kind::Devices => "Device",
        Kind::Refusals => "Refusal",
    }
}

/// The schema of a page.
pub fn page_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Ports => "Ports",
        Kind::Drivers => "Drivers",
        Kind::Devices => "Devices",
        Kind::Refusals => "Refusals",
    }
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

fn refusal() -> Value {
    json!({
        "type": "object",
        "required": ["time", "what", "address", "transport", "port", "reason", "times"],
        "additionalProperties": false,
        "properties": {
            "time": { "type": "integer", "minimum": 0 },
            "what": { "type": "string", "enum": ["device", "datagram", "join", "token"] },
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

/// Every schema by name.
pub fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let by_port = json!({ "type": "object", "additionalProperties": count });
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
        "Port": row(&["shard", "since", "drivers", "devices", "bytes_received", "bytes_written", "backlog_bytes"], &[]),
        "Driver": row(&[REMOTE_COUNTS.as_slice(), &["credit_bytes"]].concat(), &["address", "accept", "module"]),
        "Device": row(&REMOTE_COUNTS, &["address"]),
        "Ports": page("Port"),
        "Drivers": page("Driver"),
        "Devices": page("Device"),
        "Refusals": page("Refusal"),
        "Refusal": refusal(),
        "LogLevel": { "type": "object", "required": ["filter"], "properties": { "filter": text } },
        "Disconnected": {
            "type": "object", "required": ["disconnected"], "properties": { "disconnected": count }
        },
        "Mismatch": {
            "type": "object", "required": ["error", "matching"], "properties": { "error": text, "matching": count }
        },
        "Shards": {
            "type": "object",
            "required": ["shards"],
            "properties": { "shards": { "type": "array", "items": {
                "type": "object",
                "required": ["shard", "sessions", "ports", "devices", "tasks", "buffers_out", "buffers_lost", "buffer_waits", "counts"],
                "properties": {
                    "shard": count, "sessions": count, "ports": count, "devices": count, "tasks": count,
                    "buffers_out": count, "buffers_lost": count, "buffer_waits": count, "counts": by_port
                }
            } } }
        }
    })
}
