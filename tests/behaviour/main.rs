//! Behaviour of the real binary over real sockets: each scenario with one shard and with three.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[macro_use]
mod harness;

mod access;
mod backpressure_devices;
mod backpressure_drivers;
mod command;
mod endings;
mod expiry;
mod fairness;
mod hosts;
mod http_connections;
mod http_routes;
mod isolation;
mod join_refused;
mod join_sources;
mod limits;
mod lists;
mod metrics;
mod page;
mod proxied;
mod refused;
mod reload;
mod reload_limits;
mod service_manager;
mod sources;
mod stopping;
mod stored_sockets;
mod stories;
mod takeover;
mod tap;
mod tap_command;
mod tap_life;
mod tcp_endings;
mod tcp_events;
mod tcp_many;
mod tcp_sharing;
mod tls;
mod tls_admission;
mod tls_devices;
mod tls_endings;
mod tls_flood;
mod tls_handshakes;
mod tls_keys;
mod tls_proxied;
mod tls_rooms;
mod tls_settings;
mod tls_upgrades;
mod tokens;
mod udp;
mod upgrades;
mod websocket_life;
mod websocket_messages;
