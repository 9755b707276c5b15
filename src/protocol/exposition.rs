//! Prometheus' text format, version 0.0.4: families of samples, written in the order of the calls.
//!
//! A writer of our own, as shards count in plain cells and nothing is registered: a library's counters are atomics that it
//! owns, and the format is three kinds of lines.
//!
//! **Invariants.** Whatever a label or a help text holds, it cannot end its line or its quotes.
//! **Not here.** Which families there are (`policy::metrics`).

use std::fmt::{self, Display, Write};

/// The `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is at the moment.
    Gauge,
    /// Counts of what was at most so large.
    Histogram,
}

impl Kind {
    /// As a TYPE line has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A text that grows by whole lines.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.line(format_args!("# HELP {name} {}", Escaped { text: help, quotes: false }));
        self.line(format_args!("# TYPE {name} {}", kind.name()));
    }

    /// One sample; a value is a number as Rust prints it, or `+Inf` for an infinite one.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels = Labels(labels);
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // A String takes every write.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

/// A number that may be infinite, which stands for "no limit".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Real(pub f64);

impl Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.write_str("+Inf") } else { write!(f, "{}", self.0) }
    }
}

struct Labels<'a>(&'a [(&'a str, &'a str)]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            write!(f, "{before}{name}=\"{}\"", Escaped { text: value, quotes: true })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "}" })
    }
}

/// Backslashes and line ends escaped, in a label's value quotes as well.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.text.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_its_help_its_type_and_its_samples() {
        let mut text = Exposition::default();
        text.family("a_total", Kind::Counter, "What it is.");
        text.sample("a_total", &[], 7);
        text.sample("a_total", &[("b", "c"), ("d", "e")], Real(0.25));
        text.sample("a_total", &[("b", "x")], Real(f64::INFINITY));
        let expected = "# HELP a_total What it is.\n# TYPE a_total counter\na_total 7\n\
                        a_total{b=\"c\",d=\"e\"} 0.25\na_total{b=\"x\"} +Inf\n";
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    fn nothing_in_a_label_ends_its_line_or_its_quotes() {
        let mut text = Exposition::default();
        text.sample("a", &[("b", "\"\\\n")], 1);
        assert_eq!(text.into_text(), "a{b=\"\\\"\\\\\\n\"} 1\n");
    }
}
