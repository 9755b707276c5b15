//! Drivers' side of a shard: HTTP, the upgrade, WebSocket sessions.
//!
//! **Invariants.** A session stays on the shard that accepted its connection.
//! **Not here.** Ports and devices (`shard`).

pub mod answers;
pub mod api;
pub mod door;
pub mod handshakes;
pub mod identities;
pub mod join;
pub mod line;
pub mod lists;
pub mod openapi;
pub mod page;
pub mod received;
pub mod reports;
pub mod routes;
pub mod session;
pub mod tap;
pub mod websocket;
