//! Calls of the kernel that no safe crate has: entries of the ring with its receive buffers, and many datagrams a call.
//!
//! **Invariants.** Whatever the callers do, no memory is read or written that is not there: what the kernel writes into
//! is never freed.
//! **Not here.** Sessions, devices and messages.
#![allow(unsafe_code)]

mod buffers;
mod datagrams;
mod uring;

pub use datagrams::{DatagramBatch, DatagramQueue};
pub use uring::{Event, Group, Ring};

use std::net::TcpListener;
use std::os::fd::AsFd;

/// Ends what waits for connections at a listener that is about to close: a pending accept would keep it open.
pub fn interrupt(listener: &TcpListener) {
    // It fails where the socket does not listen, and then there is nothing to end.
    let _ = rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both);
}
