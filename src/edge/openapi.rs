//! The OpenAPI document, generated from the table of routes.
//!
//! **Invariants.** It names every route of the table, and no other.
//! **Not here.** The routes (`routes`).

use crate::edge::routes::{self, Endpoint, Route};
use crate::protocol::exposition;
use serde_json::{Map, Value, json};

/// The document as JSON text, ending in a newline.
pub fn document() -> String {
    let mut paths = Map::new();
    for (path, route) in routes::paths() {
        let operation = json!({ "get": operation(&path, route) });
        paths.insert(path, operation);
    }
    let document = json!({
        "openapi": "3.0.3",
        "info": {
            "title": "dispatch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Devices reach TCP and UDP ports; drivers join them by WebSocket.",
            "license": { "name": "MIT" }
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": { "type": "http", "scheme": "bearer" },
                "query": { "type": "apiKey", "in": "query", "name": "bearer_token" }
            },
            "schemas": schemas(),
        }
    });
    format!("{document:#}\n")
}

fn operation(path: &str, route: &Route) -> Value {
    let mut responses = Map::new();
    match route.endpoint {
        Endpoint::Join(_) => {
            responses.insert("101".into(), json!({ "description": "Joined: binary messages follow" }));
            for (status, description, schema) in [
                ("400", "A parameter is bad", "ParameterError"),
                ("403", "The port, or an entry of accept, is not allowed", "Error"),
                ("409", "The port is in use by another program", "Error"),
                ("422", "A parameter is missing", "ParameterError"),
                ("426", "The request is no WebSocket upgrade", "Error"),
                ("503", "No room, or the daemon is stopping", "Error"),
            ] {
                responses.insert(status.into(), answer(description, schema));
            }
        }
        Endpoint::Health => drop(responses.insert("200".into(), json!({ "description": "Alive" }))),
        Endpoint::Statistics => drop(responses.insert("200".into(), answer("The numbers", "Statistics"))),
        Endpoint::Version => drop(responses.insert("200".into(), answer("The version", "Version"))),
        Endpoint::Metrics => {
            let content = json!({ exposition::CONTENT_TYPE: { "schema": { "type": "string" } } });
            responses.insert("200".into(), json!({ "description": "The metrics", "content": content }));
        }
        Endpoint::Shards => drop(responses.insert("200".into(), answer("The shards", "Shards"))),
    }
    let mut operation = json!({ "summary": route.summary, "operationId": operation_id(path) });
    if route.needs_token {
        responses.insert("401".into(), answer("The token is wrong or missing", "Error"));
        responses.insert("429".into(), answer("Too many failed tokens from this address", "Error"));
        operation["security"] = json!([{ "header": [] }, { "query": [] }]);
    }
    if matches!(route.endpoint, Endpoint::Join(_)) {
        operation["parameters"] = json!([
            {
                "name": "port", "in": "query", "required": true, "description": "The port to join",
                "schema": { "type": "integer", "minimum": 1, "maximum": 65535 }
            },
            {
                "name": "accept", "in": "query", "required": true,
                "description": "Addresses and CIDR blocks to accept devices from, separated by commas",
                "schema": { "type": "string" }, "example": "10.0.0.7,192.168.0.0/24"
            }
        ]);
    }
    operation["responses"] = Value::Object(responses);
    operation
}

fn operation_id(path: &str) -> String {
    path.split(['/', '_']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn answer(description: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn schemas() -> Value {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_under_both_base_paths() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), routes::paths().count());
        assert!(paths["/metrics"]["get"]["security"].is_array());
        assert!(paths["/api/dispatch/v1/tcp_dispatch"]["get"]["responses"]["409"].is_object());
    }
}
