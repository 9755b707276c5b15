//! Bytes and their meaning: dispatch messages, WebSocket frames, HTTP heads, PROXY headers.
//!
//! **Invariants.** Pure functions over bytes; arbitrary input is an error value, never a panic.
//! **Not here.** What a message leads to (`policy`, `shard`), and where bytes come from (`shard::ring`).

pub mod exposition;
pub mod forwarded;
pub mod frame;
pub mod http;
pub mod message;
pub mod proxy_header;
pub mod tapped;
pub mod wiped;
