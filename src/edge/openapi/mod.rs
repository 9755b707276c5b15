//! The OpenAPI document, generated from the table of routes.
//!
//! **Invariants.** It names every route of the table, and no other.
//! **Not here.** The routes (`routes`).

mod schemas;

use crate::edge::page;
use crate::edge::routes::{self, Endpoint, Methods, Route};
use crate::policy::listing::{Kind, Order, PAGE_ROWS, PAGE_ROWS_MAX, VALUE_BYTES_MAX};
use crate::protocol::exposition;
use serde_json::{Map, Value, json};

/// The greatest integer that every JSON reader has exactly.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// An IPv6 address is no longer.
const ADDRESS_CHARS_MAX: usize = 45;

/// The shape of a page's end, which is not to be understood.
const CURSOR: &str = "^-?[a-z_]+~[0-9a-f]+~[0-9a-f]+$";

/// The document as JSON text, ending in a newline.
pub fn document() -> String {
    let mut paths = Map::new();
    for (path, route) in routes::paths() {
        let mut operations = Map::new();
        operations.insert("get".into(), operation(&path, route, "get"));
        if route.methods == Methods::ReadDelete {
            operations.insert("delete".into(), operation(&path, route, "delete"));
        }
        if route.methods == Methods::ReadPut {
            operations.insert("put".into(), operation(&path, route, "put"));
        }
        if let Some(parts) = path_parameters(route) {
            operations.insert("parameters".into(), parts);
        }
        paths.insert(path, Value::Object(operations));
    }
    let document = json!({
        "openapi": "3.0.3",
        "info": {
            "title": "dispatch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Devices reach TCP and UDP ports; drivers join them by WebSocket, with TLS or without.",
            "license": { "name": "MIT" }
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "header": { "type": "http", "scheme": "bearer" },
                "query": { "type": "apiKey", "in": "query", "name": "bearer_token" }
            },
            "schemas": schemas::schemas(),
        }
    });
    format!("{document:#}\n")
}

fn operation(path: &str, route: &Route, method: &str) -> Value {
    let mut responses = responses(route, method);
    let operation_id = operation_id(path, method);
    let mut operation = json!({ "summary": route.summary, "operationId": operation_id });
    if route.needs_token {
        responses.insert("401".into(), answer("The token is wrong or missing", "Error"));
        let failed = || answer("Too many failed tokens from this address", "Error");
        responses.entry("429").or_insert_with(failed);
        operation["security"] = json!([{ "header": [] }, { "query": [] }]);
    }
    match route.endpoint {
        Endpoint::Tap => operation["parameters"] = tap_parameters(),
        Endpoint::Join(_) => operation["parameters"] = join_parameters(),
        Endpoint::JoinTls => operation["parameters"] = tls_join_parameters(),
        Endpoint::List(kind) => operation["parameters"] = list_parameters(kind, method),
        Endpoint::LogLevel if method == "put" => {
            let description = "A level, or targets with levels; empty for what the daemon started with";
            operation["parameters"] = json!([{
                "name": "filter", "in": "query", "required": true, "description": description,
                "allowEmptyValue": true, "schema": { "type": "string", "maxLength": 1024 }, "example": "debug"
            }]);
        }
        _ => {}
    }
    operation["responses"] = Value::Object(responses);
    operation
}

/// Status, description and schema of the answers that are no upgrade.
const JOIN_REFUSALS: [(&str, &str, &str); 7] = [
    ("400", "A parameter is bad", "ParameterError"),
    ("403", "The port, or an entry of accept, is not allowed", "Error"),
    ("409", "Another program has the port, or it is open in the other way (TLS or not)", "Error"),
    ("422", "A parameter is missing", "ParameterError"),
    ("426", "The request is no WebSocket upgrade", "Error"),
    ("429", "As many sessions of this token as there may be, or too many failed tokens from this address", "Error"),
    ("503", "No room, or the daemon is stopping", "Error"),
];
const TAP_REFUSALS: [(&str, &str, &str); 4] = [
    ("400", "A parameter is bad", "ParameterError"),
    ("422", "A parameter is missing", "ParameterError"),
    ("426", "The request is no WebSocket upgrade", "Error"),
    ("503", "No room for another tap, or the daemon is stopping", "Error"),
];

fn refusals(all: &[(&str, &str, &str)]) -> impl Iterator<Item = (String, Value)> {
    all.iter().map(|(status, description, schema)| ((*status).to_owned(), answer(description, schema)))
}

fn responses(route: &Route, method: &str) -> Map<String, Value> {
    let mut responses = Map::new();
    match route.endpoint {
        Endpoint::Join(_) | Endpoint::JoinTls => {
            responses.insert("101".into(), json!({ "description": "Joined: binary messages follow" }));
            responses.extend(refusals(&JOIN_REFUSALS));
        }
        Endpoint::Tap => {
            responses.insert("101".into(), json!({ "description": "Tapped: binary messages follow" }));
            responses.extend(refusals(&TAP_REFUSALS));
        }
        Endpoint::Health => drop(responses.insert("200".into(), json!({ "description": "Alive" }))),
        Endpoint::Ready => {
            responses.insert("200".into(), json!({ "description": "Ready" }));
            responses.insert("503".into(), answer("A shard does not answer, or the daemon is stopping", "Error"));
        }
        Endpoint::Statistics => drop(responses.insert("200".into(), answer("The numbers", "Statistics"))),
        Endpoint::Version => drop(responses.insert("200".into(), answer("The version", "Version"))),
        Endpoint::Metrics => {
            let content = json!({ exposition::CONTENT_TYPE: { "schema": { "type": "string" } } });
            responses.insert("200".into(), json!({ "description": "The metrics", "content": content }));
        }
        Endpoint::Page => {
            let content = json!({ page::CONTENT_TYPE: { "schema": { "type": "string" } } });
            responses.insert("200".into(), json!({ "description": "The page", "content": content }));
            responses.insert("304".into(), json!({ "description": "It is as `If-None-Match` says" }));
        }
        Endpoint::History => drop(responses.insert("200".into(), answer("The last minutes", "History"))),
        Endpoint::Shards => drop(responses.insert("200".into(), answer("The shards", "Shards"))),
        Endpoint::List(kind) => {
            responses.insert("400".into(), answer("A parameter is bad or not known", "ParameterError"));
            if method == "delete" {
                let (description, schema) = schemas::done(kind, "They are");
                responses.insert("200".into(), answer(&description, schema));
                responses.insert("409".into(), answer("Not as many match as are expected", "Mismatch"));
                responses.insert("422".into(), answer("`expected` is missing", "ParameterError"));
            } else {
                responses.insert("200".into(), answer("A page", schemas::page_of(kind)));
            }
        }
        Endpoint::LogLevel => {
            responses.insert("200".into(), answer("What is logged", "LogLevel"));
            if method == "put" {
                responses.insert("400".into(), answer("It is no filter", "ParameterError"));
                responses.insert("422".into(), answer("`filter` is missing", "ParameterError"));
            }
        }
        Endpoint::One(kind) => {
            let (description, schema) = match method {
                "delete" => schemas::done(kind, "It is"),
                _ => ("It".to_owned(), schemas::row_of(kind)),
            };
            responses.insert("200".into(), answer(&description, schema));
            responses.insert("404".into(), answer("There is none", "Error"));
        }
    }
    responses
}

fn tls_join_parameters() -> Value {
    let mut parameters = join_parameters();
    let own = [
        ("certificate", "The certificate that devices are shown and its chain, in PEM; with its key alone"),
        ("private_key", "Its private key, in PEM; without a certificate one is made for it. Proxies log queries"),
        ("tls", "The name of a certificate that the operator keeps, in the place of both"),
    ];
    let own = own.map(|(name, description)| {
        json!({ "name": name, "in": "query", "description": description, "schema": { "type": "string" } })
    });
    parameters.as_array_mut().into_iter().for_each(|all| all.extend(own.clone()));
    parameters
}

fn join_parameters() -> Value {
    json!([
        {
            "name": "port", "in": "query", "required": true, "description": "The port to join",
            "schema": { "type": "integer", "minimum": 1, "maximum": 65535 }
        },
        {
            "name": "accept", "in": "query", "required": true,
            "description": "Addresses and CIDR blocks to accept devices from, separated by commas",
            "schema": { "type": "string" }, "example": "10.0.0.7,192.168.0.0/24"
        }
    ])
}

/// The parts of a route's path, where it has any.
fn path_parameters(route: &Route) -> Option<Value> {
    let parts = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = parts
        .map(|part| {
            let schema = match part {
                "transport" => json!({ "type": "string", "enum": ["tcp", "udp"] }),
                "port" => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
                "address" => json!({ "type": "string", "maxLength": ADDRESS_CHARS_MAX }),
                _ => json!({ "type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER }),
            };
            json!({ "name": part, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    (!parameters.is_empty()).then_some(Value::Array(parameters))
}

fn list_parameters(kind: Kind, method: &str) -> Value {
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let mut parameters = Vec::new();
    if kind != Kind::Flapping {
        let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
        let transport = json!({ "type": "string", "enum": ["tcp", "udp"] });
        parameters.push(query("transport", "Rows of this transport", transport));
        parameters.push(query("port", "Rows of this port", port));
    }
    if !matches!(kind, Kind::Refusals | Kind::Flapping) {
        parameters.push(query("backlog", "Rows for which bytes wait", json!({ "type": "boolean" })));
    }
    if kind != Kind::Ports {
        let sources = "Rows whose address is in this list of addresses and CIDR blocks";
        let mut address = query("address", sources, json!({ "type": "string", "maxLength": VALUE_BYTES_MAX }));
        address["example"] = json!("10.0.0.0/8");
        parameters.push(address);
    }
    if matches!(kind, Kind::Drivers | Kind::Devices) {
        let module = "Rows of drivers with this X-Module-ID";
        parameters.push(query("module", module, json!({ "type": "string", "maxLength": VALUE_BYTES_MAX })));
        let idle = "Rows not heard of for so long";
        let seconds = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
        parameters.push(query("idle_seconds_min", idle, seconds));
    }
    if method == "delete" {
        let mut expected = query(
            "expected",
            "How many rows match; where it is another number, nothing is done",
            json!({ "type": "integer", "minimum": 0, "maximum": 100_000 }),
        );
        expected["required"] = json!(true);
        parameters.push(expected);
        return Value::Array(parameters);
    }
    let names = Order::of(kind).iter().map(|order| order.name());
    let orders: Vec<String> = names.flat_map(|name| [name.to_owned(), format!("-{name}")]).collect();
    parameters.push(query("sort", "What rows are in the order of; with a minus, falling", json!({ "enum": orders })));
    let rows = json!({ "type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS });
    parameters.push(query("limit", "Rows of the page at most", rows));
    parameters.push(query(
        "after",
        "`next` of the page before, in the same order",
        json!({ "type": "string", "pattern": CURSOR }),
    ));
    Value::Array(parameters)
}

fn tap_parameters() -> Value {
    json!([
        {
            "name": "transport", "in": "query", "required": true, "description": "That of the port",
            "schema": { "type": "string", "enum": ["tcp", "udp"] }
        },
        {
            "name": "port", "in": "query", "required": true, "description": "The port to tap, open or not",
            "schema": { "type": "integer", "minimum": 1, "maximum": 65535 }
        },
        {
            "name": "device", "in": "query", "required": false,
            "description": "One device: IP, IP:ID or [IP]:ID; the id of a UDP device is its port",
            "schema": { "type": "string" }, "example": "10.0.0.7:3"
        },
        {
            "name": "module", "in": "query", "required": false,
            "description": "The module id of one driver: what it sends, and what its devices send",
            "schema": { "type": "string" }
        }
    ])
}

fn operation_id(path: &str, method: &str) -> String {
    let path = if path == routes::PAGE_PATH { "page" } else { path };
    let words = if method == "get" { path.to_owned() } else { format!("{path}/{method}") };
    words.split(['/', '_', '{', '}']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn answer(description: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_names_every_route_under_both_base_paths() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), routes::paths().count());
        assert!(paths["/metrics"]["get"]["security"].is_array());
        let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
        // Beside them stand the parameters of a path.
        let ids: Vec<_> = operations.filter_map(|operation| operation.get("operationId")?.as_str()).collect();
        assert!(ids.len() >= paths.len() && ids.iter().all(|id| !id.is_empty()), "{ids:?}");
        assert_eq!(ids.len(), BTreeSet::from_iter(&ids).len(), "each is another: {ids:?}");
        assert!(paths["/api/dispatch/v1/tcp_dispatch"]["get"]["responses"]["409"].is_object());
    }
}
