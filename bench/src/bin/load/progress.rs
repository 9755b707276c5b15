//! A live line: how far a run is, at which rates.
//!
//! **Invariants.** It is drawn on a terminal only, and never into the output.
//! **Not here.** The figures of the run (`outcome`).

use crate::record::Point;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::time::Duration;

/// A live line.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For a load of this length.
    pub fn new(scenario: &str, time: Duration) -> Self {
        let bar = ProgressBar::new(time.as_millis() as u64);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(scenario.to_owned());
        Progress { bar }
    }

    /// Says what goes on where there are no figures.
    pub fn say(&self, what: String) {
        self.bar.set_message(what);
    }

    /// How far it is, and what the last point says.
    pub fn show(&self, passed: Duration, last: Option<&Point>) {
        self.bar.set_position(passed.as_millis() as u64);
        let Some(point) = last else { return };
        self.bar.set_message(format!(
            "{}/s  {}/s  p50 {:.0} µs  p99 {:.0} µs",
            HumanCount(point.messages_per_s as u64),
            HumanBytes(point.bytes_per_s as u64),
            point.latency_us.p50,
            point.latency_us.p99
        ));
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
