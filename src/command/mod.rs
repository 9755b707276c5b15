//! What the program does beside serving: ask a running daemon for its health, and be a driver, or a tap, in a terminal.
//!
//! **Invariants.** Blocking and on one thread or two; nothing here touches a ring. Every wait on the network has an
//! end.
//! **Not here.** Arguments (`config`), the daemon (`server`).

pub mod health;
pub mod listen;
pub mod tap;
mod tcp;
mod wire;
