//! Behaviour of the real binary over real sockets: each scenario with one shard and with three.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[macro_use]
mod harness;

mod command;
mod http_connections;
mod http_routes;
mod join_refused;
mod join_sources;
mod tcp_endings;
mod tcp_events;
mod tcp_many;
mod tcp_sharing;
mod udp;
mod websocket_life;
mod websocket_messages;
