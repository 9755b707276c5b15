//! The standard set against the daemon and the baselines in turn.
//!
//! **Invariants.** Each run has a process of its own. Within a round the daemon and its rivals take turns in every case, so
//! that what else the machine does meets all alike. One that fails is told, and the others go on.
//! **Not here.** The cases (`cases`), what all runs add up to (`summary`).

use crate::arguments::{Arguments, Command, SuiteOptions};
use crate::cases::{QUICK, STANDARD};
use crate::outcome::Outcome;
use crate::plan::{self, Plan, PlanError};
use crate::plot::{self, NotDrawn};
use crate::run;
use crate::runs::{DAEMON, Runs};
use crate::subject::{Start, Subject, TOKEN};
use crate::summary::{CaseSummary, Summary};
use clap::Parser;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Ports of one run; the next run takes others, so that nothing is left of the one before.
const RUN_PORTS: u16 = 100;
const RUNS_APART: u16 = 10;
const QUICK_SECONDS: f64 = 1.0;

/// Why the suite did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// The system says so.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// Its options make no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A plot cannot be written.
    #[error(transparent)]
    NotDrawn(#[from] NotDrawn),
    /// A command line is none.
    #[error("{0:?} is no scenario")]
    NotAScenario(String),
    /// It was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Runs the suite; whether all passed.
///
/// # Errors
/// [`NotDone`].
pub async fn run(options: &SuiteOptions) -> Result<bool, NotDone> {
    tokio::select! {
        done = run_all(options) => done,
        _ = tokio::signal::ctrl_c() => Err(NotDone::Interrupted),
    }
}

async fn run_all(options: &SuiteOptions) -> Result<bool, NotDone> {
    fs::create_dir_all(&options.out).map_err(|error| NotDone::Io(options.out.display().to_string(), error))?;
    let cases = if options.quick { QUICK } else { STANDARD };
    let mut all: Vec<Runs> = Vec::new();
    for case in cases.iter().filter(|case| case.name.contains(&options.only)) {
        let line = case.line.replace("{echo}", &options.echo_rate.to_string());
        all.push(Runs { case: *case, line, outcomes: Vec::new(), failures: Vec::new() });
    }
    let rounds = if options.quick { 1 } else { options.rounds };
    let mut number = 0;
    for round in 1..=rounds {
        for runs in &mut all {
            let rivals = if options.baseline.is_some() { runs.case.rivals.names() } else { &[] };
            for name in [DAEMON].iter().chain(rivals) {
                eprintln!("round {round} of {rounds}: {} on {name}", runs.case.name);
                match run_one(options, runs, name, number).await {
                    Ok(outcome) => runs.outcomes.push((name, outcome)),
                    Err(error) => runs.failures.push(format!("{name}: {error}")),
                }
                number += 1;
            }
        }
    }
    let cases = all.iter().map(CaseSummary::of).collect();
    let summary = Summary::new(options, rounds, cases);
    write(options, &all, &summary)?;
    Ok(summary.passed())
}

/// One run with a process of its own.
async fn run_one(options: &SuiteOptions, runs: &Runs, name: &str, number: u16) -> Result<Outcome, NotDone> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| NotDone::Io(what, error)
    };
    let first_port = options.base_port + number % RUNS_APART * RUN_PORTS;
    let tool_cpus = plan::cpus(&options.tool_cpus)?;
    let cpus: Vec<usize> =
        plan::cpus(&options.daemon_cpus)?.into_iter().chain(tool_cpus).take(runs.case.shards).collect();
    let start = Start {
        program: options.baseline.as_deref().filter(|_| name != DAEMON).unwrap_or(&options.daemon),
        api: SocketAddr::from((Ipv4Addr::LOCALHOST, first_port)),
        cpus: &cpus,
        log: options.out.join(format!("{name}.log")),
    };
    let subject = match name {
        DAEMON => Subject::daemon(&start, runs.case.shards).await,
        name => Subject::baseline(&start, name).await,
    };
    let subject = subject.map_err(failed("it cannot be started"))?;
    let seconds = if options.quick { QUICK_SECONDS } else { options.seconds };
    let line = format!(
        "dispatch-load {} --url http://{} --first-port {} --pid {} --cpus {} --duration {seconds} --warm-up {}",
        runs.line,
        start.api,
        first_port + 1,
        subject.pid().unwrap_or(0),
        options.tool_cpus,
        seconds / 4.0
    );
    let words = line.split(' ').chain(["--token", TOKEN]);
    let arguments = Arguments::try_parse_from(words).map_err(|_| NotDone::NotAScenario(line.clone()))?;
    let Command::One(scenario) = arguments.command else { return Err(NotDone::NotAScenario(line)) };
    let outcome = run::run(Plan::of(&scenario)?).await;
    subject.end().await.map_err(failed("it does not end"))?;
    outcome.map_err(|error| NotDone::Io(error.to_string(), io::ErrorKind::Other.into()))
}

/// Figures, plots and the table.
fn write(options: &SuiteOptions, all: &[Runs], summary: &Summary) -> Result<(), NotDone> {
    let failed = |error| NotDone::Io(options.out.display().to_string(), error);
    for runs in all {
        let last: Vec<(&str, &Outcome)> =
            runs.case.subjects().filter_map(|name| Some((name, runs.of(name).last()?))).collect();
        if last.iter().any(|(_, outcome)| outcome.messages > 0) {
            plot::draw(&options.out.join(format!("{}.svg", runs.case.name)), &last)?;
        }
    }
    let figures = serde_json::to_string_pretty(summary).map_err(|error| failed(error.into()))?;
    fs::write(options.out.join("load.json"), figures + "\n").map_err(failed)?;
    println!("{}", summary.markdown());
    if let Some(file) = &options.table {
        let failed = |error| NotDone::Io(file.display().to_string(), error);
        let text = fs::read_to_string(file).map_err(failed)?;
        fs::write(file, summary.placed_in(&text)).map_err(failed)?;
    }
    Ok(())
}
