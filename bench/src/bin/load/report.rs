//! The table of a run.
//!
//! **Invariants.** It fits 100 columns.
//! **Not here.** JSON, which is the outcome itself.

use crate::outcome::Outcome;
use crate::record::Percentiles;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount};

/// The run as a table, with doubts and faults below it.
pub fn table(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([outcome.scenario.to_owned(), setting(outcome)]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("messages", format!("{}/s", HumanCount(outcome.messages_per_s as u64)));
    row("bytes", format!("{}/s", BinaryBytes(outcome.bytes_per_s as u64)));
    row("latency, µs", percentiles(&outcome.latency_us));
    if let Some(daemon) = &outcome.daemon {
        let each = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |ns| format!("{ns:.digits$}"));
        row(
            "daemon CPU",
            format!("{} ns a message, {} ns a byte", each(daemon.cpu_ns_a_message, 0), each(daemon.cpu_ns_a_byte, 3)),
        );
        let usage = &daemon.usage;
        row("daemon cores", format!("{:.3}, its busiest thread {:.3}", usage.cores, usage.busiest_thread));
        let memory = &daemon.memory;
        row(
            "daemon memory",
            format!(
                "{} before devices, {} with them, {} after load",
                BinaryBytes(memory.before_devices_bytes),
                BinaryBytes(memory.with_devices_bytes),
                BinaryBytes(memory.after_load_bytes)
            ),
        );
        row("  a device", each(daemon.resident_bytes_a_device, 0) + " bytes");
    }
    row(
        "loss",
        format!(
            "{} of {} ({} datagrams, {} reordered)",
            outcome.lost,
            HumanCount(outcome.sent),
            outcome.lost_datagrams,
            outcome.reordered
        ),
    );
    row("tool", format!("{:.3} cores, its busiest thread {:.3}", outcome.tool.cores, outcome.tool.busiest_thread));
    if outcome.rate.is_some() {
        row("tool late, µs", percentiles(&outcome.lateness_us));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    let mut text = table.to_string();
    for doubt in &outcome.doubts {
        text += &format!("\nNote: {doubt}.");
    }
    if !outcome.passed {
        text += &format!("\nFAILED: {} faults, {} OPENED, {} CLOSED.", outcome.faults, outcome.opened, outcome.closed);
    }
    for fault in &outcome.first_faults {
        text += &format!("\n  {fault}");
    }
    text
}

fn setting(outcome: &Outcome) -> String {
    let pace = match (outcome.rate, outcome.under_way) {
        (Some(rate), _) => format!("{rate} a second"),
        (None, Some(under_way)) => format!("{under_way} under way each"),
        (None, None) => String::new(),
    };
    format!(
        "{} devices, {} ports, {} drivers each, {} B, {pace}, {:.1} s",
        outcome.devices, outcome.ports, outcome.drivers, outcome.size, outcome.seconds
    )
}

fn percentiles(percentiles: &Percentiles) -> String {
    let Percentiles { p50, p90, p99, p99_9, max } = percentiles;
    format!("p50 {p50:.0}  p90 {p90:.0}  p99 {p99:.0}  p99.9 {p99_9:.0}  max {max:.0}")
}
