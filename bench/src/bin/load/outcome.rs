//! What a run came to: its figures, and whether they can be trusted.
//!
//! **Invariants.** Every form of output has these figures and no others. A run passes only where nothing is wrong and no
//! TCP message is missing; datagrams may be.
//! **Not here.** How it is shown (`report`, `plot`).

use crate::plan::Plan;
use crate::record::{Percentiles, Point, Record};
use crate::shared::{Counts, Shared};
use crate::usage::Usage;
use serde::Serialize;
use std::time::Duration;

/// From this share of a core on a thread has nothing left.
const BUSY: f64 = 0.95;
/// Below this share the daemon's busiest thread had something left.
const NOT_BUSY: f64 = 0.9;
/// Whoever waits for a core for this share of the time is measured with its neighbours.
const WAITED: f64 = 0.1;
/// The least share of a rate that counts as held.
const RATE_HELD: f64 = 0.99;
/// A tool that is this late in one of a hundred sends is late.
const LATE_US: f64 = 1_000.0;

/// The daemon's memory at the moments that matter.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// With drivers, without devices.
    pub before_devices_bytes: u64,
    /// With devices, before any load.
    pub with_devices_bytes: u64,
    /// At the end of the load.
    pub after_load_bytes: u64,
}

/// What the daemon used.
#[derive(Debug, Serialize)]
pub struct DaemonUsage {
    /// Its CPU in the measured phase.
    #[serde(flatten)]
    pub usage: Usage,
    /// CPU a message that arrived.
    pub cpu_ns_a_message: Option<f64>,
    /// CPU a byte that arrived.
    pub cpu_ns_a_byte: Option<f64>,
    /// Its memory.
    #[serde(flatten)]
    pub memory: Memory,
    /// What one connected device adds to it.
    pub resident_bytes_a_device: Option<f64>,
}

/// What the whole run came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// Devices in all.
    pub devices: usize,
    /// Ports.
    pub ports: usize,
    /// Drivers of each port.
    pub drivers: usize,
    /// Bytes of a message.
    pub size: String,
    /// The rate that was asked for.
    pub rate: Option<f64>,
    /// Messages under way for each device where there was none.
    pub under_way: Option<u64>,
    /// Messages of one send of a device.
    pub batch: usize,
    /// Where sessions were.
    pub place: &'static str,
    /// How long was measured.
    pub seconds: f64,
    /// Messages that arrived in that time.
    pub messages: u64,
    /// The same a second.
    pub messages_per_s: f64,
    /// Their bytes a second.
    pub bytes_per_s: f64,
    /// From when a message should have been sent to its arrival.
    pub latency_us: Percentiles,
    /// From when a message should have been sent to when it was.
    pub lateness_us: Percentiles,
    /// Messages that were sent in the whole run.
    pub sent: u64,
    /// Messages that did not arrive, or more often than they should.
    pub lost: u64,
    /// Datagrams among them.
    pub lost_datagrams: u64,
    /// Datagrams behind a later one.
    pub reordered: u64,
    /// OPENED that came.
    pub opened: u64,
    /// CLOSED that came.
    pub closed: u64,
    /// What was wrong.
    pub faults: u64,
    /// The first of it.
    pub first_faults: Vec<String>,
    /// What the daemon used, where its process is known.
    pub daemon: Option<DaemonUsage>,
    /// What the tool used.
    pub tool: Usage,
    /// Why the figures are the tool's or the machine's rather than the daemon's.
    pub doubts: Vec<String>,
    /// Whether all that was sent arrived as it should.
    pub passed: bool,
    /// The run over time.
    pub series: Vec<Point>,
}

/// What was seen from outside.
#[derive(Debug)]
pub struct Seen {
    /// How long was measured.
    pub time: Duration,
    /// What the daemon used.
    pub daemon: Option<(Usage, Memory)>,
    /// What the tool used.
    pub tool: Usage,
}

impl Outcome {
    /// Puts together what was measured.
    pub fn new(plan: &Plan, shared: &Shared, record: Record, seen: Seen) -> Self {
        let counts = shared.counts();
        let faults = shared.faults();
        let seconds = seen.time.as_secs_f64();
        let a_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let daemon = seen.daemon.map(|(usage, memory)| daemon_usage(plan, &record, usage, memory));
        let mut outcome = Outcome {
            scenario: plan.scenario,
            devices: plan.devices,
            ports: plan.ports.len(),
            drivers: plan.drivers,
            size: plan.sizes.to_string(),
            rate: plan.rate,
            under_way: plan.rate.is_none().then_some(plan.under_way),
            batch: plan.batch,
            place: plan.place.name(),
            seconds,
            messages: record.arrived,
            messages_per_s: a_second(record.arrived),
            bytes_per_s: a_second(record.arrived_bytes),
            latency_us: Percentiles::of(&record.latency),
            lateness_us: Percentiles::of(&record.lateness),
            sent: counts.sent,
            lost: counts.missing(),
            lost_datagrams: counts.missing_datagrams(),
            reordered: counts.reordered,
            opened: counts.opened,
            closed: counts.closed,
            faults,
            first_faults: shared.first_faults(),
            daemon,
            tool: seen.tool,
            doubts: Vec::new(),
            passed: has_passed(&counts, faults),
            series: record.series,
        };
        outcome.doubts = outcome.find_doubts();
        outcome
    }

    fn find_doubts(&self) -> Vec<String> {
        let mut doubts = doubts_of_cores(&self.tool, self.daemon.as_ref().map(|daemon| &daemon.usage));
        if self.rate.is_some() && self.lateness_us.p99 > LATE_US {
            doubts.push(format!("the tool was late: by {:.1} ms at p99", self.lateness_us.p99 / 1e3));
        }
        if let Some(rate) = self.rate {
            let held = self.messages_per_s / (rate * self.receivers());
            if self.scenario != "idle" && held < RATE_HELD {
                doubts.push(format!("the rate was not held: {} of it arrived", percent(held)));
            }
        }
        doubts
    }

    /// How often a message arrives.
    fn receivers(&self) -> f64 {
        if matches!(self.scenario, "egress" | "echo") { 1.0 } else { self.drivers as f64 }
    }
}

/// Who was the bottleneck, and who did not get the cores that it could have used.
fn doubts_of_cores(tool: &Usage, daemon: Option<&Usage>) -> Vec<String> {
    let mut doubts = Vec::new();
    let busiest = percent(tool.busiest_thread);
    match daemon.map(|daemon| daemon.busiest_thread) {
        Some(daemon) if tool.busiest_thread >= BUSY && daemon < NOT_BUSY => doubts.push(format!(
            "the tool was the bottleneck: its busiest thread used {busiest} of a core, the daemon's {}",
            percent(daemon)
        )),
        None if tool.busiest_thread >= BUSY => {
            doubts.push(format!("the tool may have been the bottleneck: its busiest thread used {busiest} of a core"));
        }
        _ => {}
    }
    for (who, usage) in [("the tool", Some(tool)), ("the daemon", daemon)] {
        let waited = usage.map_or(0.0, |usage| usage.most_waiting_thread);
        if waited >= WAITED {
            doubts.push(format!("{who} had to wait for a core, {} of the time", percent(waited)));
        }
    }
    doubts
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn has_passed(counts: &Counts, faults: u64) -> bool {
    faults == 0 && counts.missing() == counts.missing_datagrams() && counts.opened == counts.closed
}

fn daemon_usage(plan: &Plan, record: &Record, usage: Usage, memory: Memory) -> DaemonUsage {
    let each = |count: u64| (count > 0).then(|| usage.cpu_ns as f64 / count as f64);
    let held = plan.devices_held();
    let added = memory.with_devices_bytes.saturating_sub(memory.before_devices_bytes);
    DaemonUsage {
        usage,
        cpu_ns_a_message: each(record.arrived),
        cpu_ns_a_byte: each(record.arrived_bytes),
        memory,
        resident_bytes_a_device: (held > 0).then(|| added as f64 / held as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_the_bottleneck_says_so() {
        let usage = |busiest_thread| Usage { busiest_thread, ..Usage::default() };
        let about = |tool, daemon: Option<f64>| doubts_of_cores(&usage(tool), daemon.map(usage).as_ref()).join("; ");
        assert!(about(0.99, Some(0.6)).starts_with("the tool was the bottleneck"));
        assert!(about(0.99, None).starts_with("the tool may have been the bottleneck"));
        assert_eq!(about(0.99, Some(0.98)), "");
        assert_eq!(about(0.5, Some(0.3)), "");
        let waiting = Usage { most_waiting_thread: 0.5, ..Usage::default() };
        let doubts = doubts_of_cores(&usage(0.1), Some(&waiting));
        assert_eq!(doubts, ["the daemon had to wait for a core, 50 % of the time"]);
    }

    #[test]
    fn a_message_that_is_missing_fails_a_run_but_a_datagram_does_not() {
        let counts = Counts { expected: 10, arrived: 10, opened: 2, closed: 2, ..Counts::default() };
        assert!(has_passed(&counts, 0));
        assert!(!has_passed(&counts, 1));
        assert!(!has_passed(&Counts { arrived: 9, ..counts }, 0));
        assert!(!has_passed(&Counts { arrived: 11, ..counts }, 0));
        assert!(!has_passed(&Counts { closed: 1, ..counts }, 0));
        let datagrams = Counts { arrived: 9, expected_datagrams: 10, arrived_datagrams: 9, ..counts };
        assert!(has_passed(&datagrams, 0));
    }
}
