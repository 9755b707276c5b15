//! What is printed: progress while it runs, and the summary, also as JSON.
//!
//! **Invariants.** The summary has the same numbers in both forms.
//! **Not here.** Violations as they are found (`tally`).

use super::arguments::Arguments;
use super::baseline::Sample;
use super::tally::{Count, Tally};
use super::world::World;
use dispatch_bench::http::ShardReport;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

const MIB: f64 = (1 << 20) as f64;

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Summary {
    seed: u64,
    shards: usize,
    minutes: f64,
    restarts: u32,
    seconds: f64,
    seen: BTreeMap<&'static str, u64>,
    slowest_pong_ms: u64,
    slowest_turn_ms: u64,
    endings: BTreeMap<String, u64>,
    start: Sample,
    peak: Sample,
    end: Sample,
    daemon: BTreeMap<String, u64>,
    violation_count: u64,
    violations: BTreeMap<String, (u64, Vec<String>)>,
}

impl Summary {
    /// The summary of a run with what the daemon held at its start, at most, and at its end.
    pub fn new(arguments: &Arguments, tally: &Tally, [start, peak, end]: [Sample; 3], report: ShardReport) -> Self {
        Summary {
            seed: arguments.seed,
            shards: arguments.shards,
            minutes: arguments.minutes,
            restarts: arguments.restarts,
            seconds: tally.started().elapsed().as_secs_f64(),
            seen: tally.by_name(),
            slowest_pong_ms: tally.slowest_pong_ms(),
            slowest_turn_ms: tally.slowest_turn_ms(),
            endings: tally.endings(),
            start,
            peak,
            end,
            daemon: report.counts,
            violation_count: tally.violation_count(),
            violations: tally.violations(),
        }
    }
}

/// One line of progress.
pub fn progress(world: &World, sample: &Sample) {
    let tally = &world.tally;
    let (devices, sessions) = world.gauges();
    let endings: u64 = tally.endings().values().sum();
    println!(
        "{:6.0} s  {devices:3} devices  {sessions:3} drivers  {:9} messages {:8.1} MiB to drivers  {:8} writes {:8.1} MiB to \
         devices  {:8} datagrams  {endings:6} endings  {:5.1} MiB RSS  {:4} fds  {:4} tasks  {} violations",
        tally.started().elapsed().as_secs_f64(),
        tally.get(Count::MessagesVerified),
        tally.get(Count::BytesVerifiedToDrivers) as f64 / MIB,
        tally.get(Count::WritesVerified),
        tally.get(Count::BytesVerifiedToDevices) as f64 / MIB,
        tally.get(Count::DatagramsVerifiedToDrivers) + tally.get(Count::DatagramsVerifiedToDevices),
        sample.resident_bytes as f64 / MIB,
        sample.descriptors,
        sample.tasks,
        tally.violation_count()
    );
}

/// One line for a drain.
pub fn round(world: &World, round: u32, took: Duration, sample: &Sample) {
    let tally = &world.tally;
    println!(
        "drain {round:3}  {} devices, {} drivers  took {:.3} s  {} messages, {} writes so far  {} violations",
        sample.devices,
        sample.sessions,
        took.as_secs_f64(),
        tally.get(Count::MessagesVerified),
        tally.get(Count::WritesVerified),
        tally.violation_count()
    );
}

/// Prints the summary, and writes it as JSON where that is wanted; how many violations there were.
///
/// # Errors
/// Where the JSON cannot be written.
pub fn print(summary: &Summary, json: Option<&Path>) -> io::Result<u64> {
    println!("\nseed {}, {} shards, {:.1} s", summary.seed, summary.shards, summary.seconds);
    println!("seen:");
    summary.seen.iter().for_each(|(name, count)| println!("  {name:36} {count:14}"));
    println!("  {:36} {:14}", "slowest_pong_ms", summary.slowest_pong_ms);
    println!("  {:36} {:14}", "slowest_turn_ms", summary.slowest_turn_ms);
    println!("endings:");
    summary.endings.iter().for_each(|(name, count)| println!("  {name:50} {count:8}"));
    println!("the daemon counted:");
    summary.daemon.iter().for_each(|(name, count)| println!("  {name:36} {count:14}"));
    println!("the daemon held:    start        peak         end");
    let row = |name: &str, of: fn(&Sample) -> u64| {
        println!("  {name:14}{:10}{:12}{:12}", of(&summary.start), of(&summary.peak), of(&summary.end));
    };
    row("descriptors", |sample| sample.descriptors);
    row("RSS, KiB", |sample| sample.resident_bytes / 1024);
    row("tasks", |sample| sample.tasks);
    row("sessions", |sample| sample.sessions);
    row("ports", |sample| sample.ports);
    row("devices", |sample| sample.devices);
    row("buffers out", |sample| sample.buffers_out);
    row("buffers lost", |sample| sample.buffers_lost);
    println!("{} violations", summary.violation_count);
    for (kind, (count, first)) in &summary.violations {
        println!("{count:6} x {kind}");
        first.iter().for_each(|violation| println!("  {violation}"));
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(summary)?)?;
    }
    Ok(summary.violation_count)
}
