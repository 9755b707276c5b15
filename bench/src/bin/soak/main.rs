//! The soak: drives the real daemon under a mixed load that never stops changing, and checks every byte in both
//! directions against what the contract promises.
//!
//! **Invariants.** Loopback only; every loop and wait is bounded; only the daemon that was started here is signalled.
//! **Not here.** Speed: nothing is measured.

mod accept;
mod acts;
mod arguments;
mod baseline;
mod cycler;
mod pattern;
mod payload;
mod plan;
mod record;
mod report;
mod requester;
mod restarts;
mod run;
mod session;
mod takeovers;
mod tally;
mod tcp_check;
mod tcp_device;
mod udp_check;
mod udp_device;
mod world;

use arguments::Arguments;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let local = tokio::task::LocalSet::new();
    let done = local.block_on(&runtime, async {
        match arguments.restarts {
            0 => run::run(&arguments).await,
            rounds => restarts::run(&arguments, rounds).await,
        }
    });
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("the soak cannot run: {error}");
    ExitCode::from(2)
}
