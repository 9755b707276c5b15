//! The load: drives any implementation of the protocol by its URL, verifies order and content, and measures.
//!
//! **Invariants.** Exit code 0 where all arrived as it should, 1 where it did not, 2 where nothing could be run.
//! **Not here.** Endings, faults and limits of a daemon: the soak's.

mod arguments;
mod book;
mod cases;
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
mod plot;
mod poller;
mod progress;
mod record;
mod report;
mod run;
mod runs;
mod session;
mod shared;
mod sizes;
mod subject;
mod suite;
mod summary;
mod tally;
mod targets;
mod usage;
mod work;
mod worker;

use arguments::{Arguments, Command, Scenario};
use clap::Parser;
use plan::Plan;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let passed = runtime.block_on(async {
        match &arguments.command {
            Command::One(scenario) => measure(scenario).await,
            Command::Suite(options) => Ok(suite::run(options).await?),
        }
    });
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(error.as_ref()),
    }
}

/// Runs one scenario and shows what it came to; whether it passed.
async fn measure(scenario: &Scenario) -> Result<bool, Box<dyn Error>> {
    let options = scenario.options();
    let outcome = run::run(Plan::of(scenario)?).await?;
    if options.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!("{}", report::table(&outcome));
    }
    if let Some(file) = &options.plot {
        plot::draw(file, &[(outcome.scenario, &outcome)])?;
    }
    Ok(outcome.passed)
}

fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("dispatch-load cannot run: {error}");
    ExitCode::from(2)
}
