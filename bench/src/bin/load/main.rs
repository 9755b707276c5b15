//! The load: drives any implementation of the protocol by its URL, verifies order and content, and measures.
//!
//! **Invariants.** Exit code 0 where all arrived as it should, 1 where it did not, 2 where nothing could be run.
//! **Not here.** Endings, faults and limits of a daemon: the soak's.

mod arguments;
mod book;
mod check;
mod churn;
mod device;
mod event;
mod fleet;
mod join;
mod outcome;
mod pacer;
mod payload;
mod plan;
mod poller;
mod progress;
mod record;
mod report;
mod run;
mod session;
mod shared;
mod sizes;
mod tally;
mod targets;
mod usage;
mod work;
mod worker;

use arguments::{Arguments, Command};
use clap::Parser;
use outcome::Outcome;
use plan::Plan;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(measure(&arguments.command)) {
        Ok(outcome) if outcome.passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => failed(error.as_ref()),
    }
}

/// Runs one scenario and shows what it came to.
async fn measure(command: &Command) -> Result<Outcome, Box<dyn Error>> {
    let options = command.options();
    let outcome = run::run(Plan::of(command)?).await?;
    if options.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!("{}", report::table(&outcome));
    }
    Ok(outcome)
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("dispatch-load cannot run: {error}");
    ExitCode::from(2)
}
