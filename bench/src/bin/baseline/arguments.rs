//! The command line of the baselines.
//!
//! **Invariants.** None beyond what clap checks.
//! **Not here.** What is done with them (`main`).

use clap::{Parser, ValueEnum};
use std::net::SocketAddr;

/// The cheapest relay between devices and drivers, to measure the daemon against.
#[derive(Debug, Parser)]
#[command(name = "baseline")]
pub struct Arguments {
    /// What the relay is built on
    pub kind: Kind,
    /// Where drivers join; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3000")]
    pub api: SocketAddr,
    /// Run on this core alone
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

/// What a relay is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Connections, by io_uring: multishot accept and receive, a buffer ring, deferred task running
    Tcp,
    /// Connections, by epoll
    Epoll,
    /// Datagrams, by recvmmsg and sendmmsg
    Udp,
}
