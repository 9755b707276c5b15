//! Faults injected for real into the real binary: links, machines, clocks, memory and hostile remotes.
//!
//! What needs root, a tool or a kernel feature that is not to be had prints `SKIPPED` with the reason.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// The harness of the behaviour tests, of which some is not needed here.
#[macro_use]
#[allow(dead_code, unused_imports)]
#[path = "../behaviour/harness/mod.rs"]
mod harness;

mod bad_links;
mod clock;
mod control_group;
mod hostile;
mod machines_gone;
mod memory;
mod network;
mod relay;
mod restart;
mod scarcity;
mod service;
mod stopped;
mod stuck;
