//! What is shipped for operators' tools says what the daemon does: the list of metrics. `UPDATE_OBSERVE=1` writes it.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::Path;

use uring_dispatch::config::{Environment, Invocation};
use uring_dispatch::policy::metrics::{families, series_of_counts};

const HEAD: &str = "\
# Metrics

`GET /metrics` (also under both base paths) in Prometheus' text format 0.0.4, with the token unless `--metrics-open` is
on. Counters are sums over shards since the start of the process; a limit of `+Inf` is none.

";

fn document() -> String {
    let environment = Environment::of_process();
    let Ok(Invocation::Serve(loaded, _)) = Invocation::parse(["dispatch".into()], &environment) else { panic!() };
    let mut text = HEAD.to_owned();
    text.push_str("| metric | type | labels | what it is |\n|---|---|---|---|\n");
    for family in families(&loaded.config.limits) {
        let labels = family.labels.split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| `{}` | {} | {labels} | {} |", family.name, family.kind, family.help).unwrap();
    }
    text.push_str("\n## Counts\n\nThe names of counts in `GET {base}/shards`, and the metric that shows each.\n\n");
    text.push_str("| count | metric |\n|---|---|\n");
    for (count, series) in series_of_counts() {
        writeln!(text, "| `{count}` | `{series}` |").unwrap();
    }
    text
}

#[test]
fn every_metric_and_every_count_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observe/metrics.md");
    let document = document();
    if std::env::var_os("UPDATE_OBSERVE").is_some() {
        std::fs::write(&path, document).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == document, "observe/metrics.md is out of date: UPDATE_OBSERVE=1 cargo test --test observe");
}
