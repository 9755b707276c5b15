//! The baselines: the cheapest relays between devices and drivers that the same kernel allows, for a figure of the daemon
//! to be held against.
//!
//! **Invariants.** One thread. A turn of the loop takes all that has come, then writes once to each driver and once to
//! each device. No byte is lost or reordered, however slowly it is taken. `unsafe` is in `kernel` alone.
//! **Not here.** What a relay in the field needs: tokens, accept lists, bounds, time-outs, statistics, a drain. SIGTERM and
//! SIGINT end the process as they do by default.

mod arguments;
mod device;
mod epoll;
mod frames;
mod handshake;
mod kernel;
mod key;
mod outbound;
mod port;
mod relay;
mod ring;
mod session;
mod sockets;
mod token;

use arguments::{Arguments, Kind};
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io::{self, Write as _};
use std::process::ExitCode;
use uring_dispatch::policy::port_id::Transport;

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the baseline cannot run: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: &Arguments) -> io::Result<()> {
    if let Some(cpu) = arguments.cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)?;
    }
    let api = sockets::listen(arguments.api)?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", api.local_addr()?)?;
    out.flush()?;
    match arguments.kind {
        Kind::Tcp => ring::run(&api),
        Kind::Epoll => epoll::run(&api, Transport::Tcp),
        Kind::Udp => epoll::run(&api, Transport::Udp),
    }
}
