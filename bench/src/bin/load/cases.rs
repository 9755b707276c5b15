//! The standard set: which runs the suite makes, as command lines of the tool itself.
//!
//! **Invariants.** A name is told once. The small set is a choice from the same scenarios.
//! **Not here.** Against what they run (`suite`).

/// What can stand in for the daemon in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rivals {
    /// The baselines for connections.
    Tcp,
    /// The baseline for datagrams.
    Udp,
    /// None.
    Nobody,
}

impl Rivals {
    /// The baselines' names on their command line.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Rivals::Tcp => &["tcp", "epoll"],
            Rivals::Udp => &["udp"],
            Rivals::Nobody => &[],
        }
    }
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, also of its plot.
    pub name: &'static str,
    /// The daemon's shards.
    pub shards: usize,
    /// What runs it beside the daemon.
    pub rivals: Rivals,
    /// Scenario and options; `{echo}` stands for the rate of round trips.
    pub line: &'static str,
}

const fn tcp(name: &'static str, line: &'static str) -> Case {
    Case { name, shards: 1, rivals: Rivals::Tcp, line }
}

const fn udp(name: &'static str, line: &'static str) -> Case {
    Case { name, shards: 1, rivals: Rivals::Udp, line }
}

const fn alone(name: &'static str, shards: usize, line: &'static str) -> Case {
    Case { name, shards, rivals: Rivals::Nobody, line }
}

/// The whole set.
pub const STANDARD: &[Case] = &[
    tcp("ingress-64-1", "ingress --devices 1"),
    tcp("ingress-64-100", "ingress --devices 100"),
    tcp("ingress-64-1000", "ingress --devices 1000"),
    tcp("ingress-64-5000", "ingress --devices 5000"),
    tcp("ingress-1024-1", "ingress --devices 1 --size 1024"),
    tcp("ingress-1024-100", "ingress --devices 100 --size 1024"),
    tcp("ingress-1024-1000", "ingress --devices 1000 --size 1024"),
    tcp("ingress-1024-5000", "ingress --devices 5000 --size 1024"),
    tcp("ingress-rate", "ingress --devices 1000 --rate 20000"),
    tcp("egress-64-100", "egress --devices 100 --under-way 8"),
    tcp("egress-64-1000", "egress --devices 1000 --under-way 8"),
    tcp("egress-rate", "egress --devices 1000 --rate 20000"),
    tcp("echo", "echo --devices 1000 --rate {echo}"),
    udp("udp-64", "udp --devices 100"),
    udp("udp-1024", "udp --devices 100 --size 1024"),
    udp("udp-rate", "udp --devices 100 --rate 20000"),
    tcp("idle-15000", "idle --devices 15000"),
    tcp("churn", "churn --devices 100 --rate 1000"),
    tcp("bulk", "bulk"),
    alone("fanout", 1, "fanout --devices 100"),
    alone("ports", 1, "ports"),
    alone("mixed", 1, "mixed"),
    alone("home-ingress", 2, "ingress --devices 1000 --place home"),
    alone("away-ingress", 2, "ingress --devices 1000 --place away"),
    alone("home-egress", 2, "egress --devices 1000 --under-way 8 --place home"),
    alone("away-egress", 2, "egress --devices 1000 --under-way 8 --place away"),
    alone("home-echo", 2, "echo --devices 1000 --rate {echo} --place home"),
    alone("away-echo", 2, "echo --devices 1000 --rate {echo} --place away"),
    alone("ports-2-shards", 2, "ports"),
];

/// The small set.
pub const QUICK: &[Case] = &[
    tcp("ingress-64-100", "ingress --devices 100"),
    tcp("egress-64-100", "egress --devices 100 --under-way 8"),
    tcp("echo", "echo --devices 1000 --rate {echo}"),
    udp("udp-64", "udp --devices 100"),
    tcp("idle-2000", "idle --devices 2000"),
    tcp("churn", "churn --devices 100 --rate 500"),
    tcp("bulk", "bulk"),
    alone("home-ingress", 2, "ingress --devices 100 --place home"),
    alone("away-ingress", 2, "ingress --devices 100 --place away"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_is_a_command_line() {
        for case in STANDARD.iter().chain(QUICK) {
            let line = format!("dispatch-load {}", case.line.replace("{echo}", "100"));
            let arguments = Arguments::try_parse_from(line.split(' ')).expect("a command line");
            assert!(matches!(arguments.command, Command::One(_)), "{line}");
        }
    }

    #[test]
    fn names_are_told_once() {
        for cases in [STANDARD, QUICK] {
            assert_eq!(cases.iter().map(|case| case.name).collect::<BTreeSet<_>>().len(), cases.len());
        }
    }
}
