//! What all runs of the suite add up to: medians, and what the daemon costs as a multiple of the better baseline.
//!
//! **Invariants.** A ratio above 1 means that the daemon costs more. What failed stands in the table.
//! **Not here.** Running anything (`suite`).

use crate::arguments::SuiteOptions;
use crate::runs::{DAEMON, Runs};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const BEGIN: &str = "<!-- load -->";
const END: &str = "<!-- /load -->";

/// The medians of one subject's runs in one case.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Medians {
    /// Runs that these are of.
    pub runs: usize,
    /// Messages that arrived a second.
    pub messages_per_s: f64,
    /// Their bytes.
    pub bytes_per_s: f64,
    /// Latency of half of the messages.
    pub p50_us: f64,
    /// Of 99 of 100.
    pub p99_us: f64,
    /// Of 999 of 1,000.
    pub p99_9_us: f64,
    /// CPU a message.
    pub cpu_ns_a_message: Option<f64>,
    /// CPU a byte.
    pub cpu_ns_a_byte: Option<f64>,
    /// Memory a device.
    pub resident_bytes_a_device: Option<f64>,
    /// The most that one run lost.
    pub lost_max: u64,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseSummary {
    /// Its name.
    pub name: &'static str,
    /// What was run.
    pub line: String,
    /// The daemon's shards.
    pub shards: usize,
    /// By the name of what was measured.
    pub subjects: BTreeMap<&'static str, Medians>,
    /// The daemon's CPU a message by that of the better baseline.
    pub cpu_ratio: Option<f64>,
    /// The daemon's memory a device by that of the better baseline.
    pub memory_ratio: Option<f64>,
    /// What is to be known before a figure is believed.
    pub notes: Vec<String>,
    /// Whether every run passed.
    pub passed: bool,
}

/// The suite.
#[derive(Debug, Serialize)]
pub struct Summary {
    machine: String,
    kernel: String,
    commit: String,
    command: String,
    rounds: usize,
    cases: Vec<CaseSummary>,
}

impl CaseSummary {
    /// What the runs of a case add up to.
    pub fn of(runs: &Runs) -> Self {
        let subjects = runs.case.subjects().map(|name| (name, Medians::of(runs, name)));
        let subjects: BTreeMap<_, _> = subjects.filter(|(_, medians)| medians.runs > 0).collect();
        CaseSummary {
            name: runs.case.name,
            line: runs.line.clone(),
            shards: runs.case.shards,
            cpu_ratio: ratio(&subjects, |medians| medians.cpu_ns_a_message),
            memory_ratio: ratio(&subjects, |medians| medians.resident_bytes_a_device).filter(|_| runs.is_idle()),
            subjects,
            notes: notes(runs),
            passed: runs.failures.is_empty() && runs.outcomes.iter().all(|(_, outcome)| outcome.passed),
        }
    }

    fn row(&self) -> String {
        let medians = self.subjects.get(DAEMON).cloned().unwrap_or_default();
        let rivals = |value: &dyn Fn(&Medians) -> String| {
            let rivals = self.subjects.iter().filter(|(name, _)| **name != DAEMON);
            rivals.map(|(name, medians)| format!("{name} {}", value(medians))).collect::<Vec<_>>().join(", ")
        };
        let cost = |medians: &Medians| match medians.cpu_ns_a_message {
            Some(ns) => format!("{ns:.0} ns"),
            None => medians.resident_bytes_a_device.map_or("-".to_owned(), |bytes| format!("{bytes:.0} B a device")),
        };
        let ratio = self.memory_ratio.or(self.cpu_ratio).map_or(String::new(), |ratio| format!("{ratio:.2}"));
        format!(
            "| {} | {} | {:.0} | {:.1} | {} | {} | {ratio} | {} | {:.0} | {:.0} | {} | {} |",
            self.name,
            self.shards,
            medians.messages_per_s,
            medians.bytes_per_s / 1e6,
            cost(&medians),
            rivals(&cost),
            medians.cpu_ns_a_byte.map_or(String::new(), |ns| format!("{ns:.2}")),
            medians.p50_us,
            medians.p99_us,
            rivals(&|medians| format!("{:.0}", medians.p99_us)),
            self.notes.join("; "),
        )
    }
}

impl Medians {
    fn of(runs: &Runs, name: &str) -> Self {
        let all: Vec<_> = runs.of(name).collect();
        let of = |value: &dyn Fn(usize) -> Option<f64>| median((0..all.len()).filter_map(value).collect());
        let daemon = |index: usize| all[index].daemon.as_ref();
        Medians {
            runs: all.len(),
            messages_per_s: of(&|index| Some(all[index].messages_per_s)).unwrap_or(0.0),
            bytes_per_s: of(&|index| Some(all[index].bytes_per_s)).unwrap_or(0.0),
            p50_us: of(&|index| Some(all[index].latency_us.p50)).unwrap_or(0.0),
            p99_us: of(&|index| Some(all[index].latency_us.p99)).unwrap_or(0.0),
            p99_9_us: of(&|index| Some(all[index].latency_us.p99_9)).unwrap_or(0.0),
            cpu_ns_a_message: of(&|index| daemon(index)?.cpu_ns_a_message),
            cpu_ns_a_byte: of(&|index| daemon(index)?.cpu_ns_a_byte),
            resident_bytes_a_device: of(&|index| daemon(index)?.resident_bytes_a_device),
            lost_max: all.iter().map(|outcome| outcome.lost).max().unwrap_or(0),
        }
    }
}

impl Summary {
    /// The suite's cases on this machine.
    pub fn new(options: &SuiteOptions, rounds: usize, cases: Vec<CaseSummary>) -> Self {
        Summary {
            machine: machine(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: options.commit.clone(),
            command: options.command.clone(),
            rounds,
            cases,
        }
    }

    /// Whether every run passed.
    pub fn passed(&self) -> bool {
        self.cases.iter().all(|case| case.passed)
    }

    /// The table, with what is needed to repeat it.
    pub fn markdown(&self) -> String {
        let Summary { machine, kernel, commit, command, rounds, .. } = self;
        let mut text = format!(
            "`{command}` at {commit} on {machine}, Linux {kernel}; medians of {rounds} rounds. CPU is that of the process \
             that is measured, over the measured time; the ratio is the daemon's to the better baseline's, of memory \
             where nothing is sent. Without a rate as many messages are under way as the tool sets, and latency is that \
             of a full pipe.\n\n\
             | case | shards | messages/s | MB/s | CPU a message | baselines | ratio | ns a byte | p50 µs | p99 µs | \
             baselines | notes |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for case in &self.cases {
            text += &case.row();
            text.push('\n');
        }
        text
    }

    /// A file with the table in its place, or at its end where it has none.
    pub fn placed_in(&self, text: &str) -> String {
        let table = format!("{BEGIN}\n{}{END}", self.markdown());
        let marked = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        match marked {
            Some((before, after)) => format!("{before}{table}{after}"),
            None => format!("{}\n\n## Load\n\n{table}\n", text.trim_end()),
        }
    }
}

impl Runs {
    fn is_idle(&self) -> bool {
        self.outcomes.iter().all(|(_, outcome)| outcome.sent == 0)
    }
}

/// The daemon's value by the least of its rivals'.
fn ratio(subjects: &BTreeMap<&'static str, Medians>, value: impl Fn(&Medians) -> Option<f64>) -> Option<f64> {
    let own = value(subjects.get(DAEMON)?)?;
    let rivals = subjects.iter().filter(|(name, _)| **name != DAEMON).filter_map(|(_, medians)| value(medians));
    let least = rivals.min_by(f64::total_cmp)?;
    (least > 0.0).then(|| own / least)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// What failed, and each kind of doubt with those whom it is about.
fn notes(runs: &Runs) -> Vec<String> {
    let mut notes: BTreeSet<String> = runs.failures.iter().map(|failure| format!("FAILED: {failure}")).collect();
    let mut doubted: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (name, outcome) in &runs.outcomes {
        if !outcome.passed {
            let first = outcome.first_faults.first().map_or("messages are missing", String::as_str);
            notes.insert(format!("FAILED: {name}: {first}"));
        }
        // The figures in a doubt differ from run to run, and its first words tell what it is about.
        for kind in outcome.doubts.iter().filter_map(|doubt| doubt.split([':', ',']).next()) {
            doubted.entry(kind.to_owned()).or_default().insert(name);
        }
    }
    let doubted = doubted
        .into_iter()
        .map(|(kind, names)| format!("{kind} ({})", names.into_iter().collect::<Vec<_>>().join(", ")));
    notes.into_iter().chain(doubted).collect()
}

/// The processor's name and cores, and the memory.
fn machine() -> String {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = processors.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    let cores = processors.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    format!("{} ({cores} cores, {} GiB)", name.unwrap_or("an unknown processor"), kib.unwrap_or(0u64) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let text = String::new;
        Summary { machine: text(), kernel: text(), commit: text(), command: text(), rounds: 3, cases: Vec::new() }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn the_ratio_is_to_the_better_baseline() {
        let medians = |ns| Medians { cpu_ns_a_message: Some(ns), ..Medians::default() };
        let mut subjects = BTreeMap::from([(DAEMON, medians(1_200.0))]);
        let cpu = |medians: &Medians| medians.cpu_ns_a_message;
        assert_eq!(ratio(&subjects, cpu), None);
        subjects.extend([("epoll", medians(1_500.0)), ("tcp", medians(1_000.0))]);
        assert_eq!(ratio(&subjects, cpu), Some(1.2));
    }

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let summary = summary();
        let first = summary.placed_in("# Results\n\nText.\n");
        assert!(first.starts_with("# Results\n\nText.\n\n## Load\n\n<!-- load -->\n"), "{first}");
        assert_eq!(summary.placed_in(&first), first);
    }
}
