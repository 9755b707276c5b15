//! What must hold for any input, one module a fuzz target. A module's `check` panics where something does not hold.
//!
//! **Invariants.** A check is deterministic: no clock, no io, no randomness but its input (`tls` alone has the keys that
//! TLS draws, and its certificate's dates).
//! **Not here.** The engine (`fuzz_targets`), and the inputs to begin with (`seeds`), which `tests/seeds.rs` runs
//! without the engine.

pub mod accept_list;
pub mod certificate;
pub mod config_file;
pub mod forwarded;
pub mod http_head;
pub mod list_query;
pub mod message;
pub mod port_model;
pub mod proxy_header;
pub mod tap;
pub mod tls;
pub mod websocket;
