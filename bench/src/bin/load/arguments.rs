//! The command line as it is written.
//!
//! **Invariants.** Nothing is checked here but the form.
//! **Not here.** What a scenario makes of it (`plan`).

use crate::sizes::Sizes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Drives any implementation of the dispatch protocol, and measures it. Order and content are always verified.
#[derive(Debug, Parser)]
#[command(name = "dispatch-load", args_override_self = true)]
pub struct Arguments {
    /// What is run.
    #[command(subcommand)]
    pub command: Command,
}

/// What is run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// One scenario.
    #[command(flatten)]
    One(Scenario),
    /// The standard set, against the daemon and the baselines in turn
    Suite(SuiteOptions),
}

/// One scenario.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Devices send to drivers; each message is a send of its own
    Ingress(Options),
    /// Drivers send to devices
    Egress(Options),
    /// Round trips, timed from when they should have begun
    Echo(Options),
    /// Devices send datagrams to drivers
    Udp(Options),
    /// Few devices send large messages
    Bulk(Options),
    /// Devices connect and say nothing
    Idle(Options),
    /// Devices connect, send one message, and close
    Churn(Options),
    /// Several drivers receive from the same devices
    Fanout(Options),
    /// Many ports, each with its driver
    Ports(Options),
    /// All of it at once, a port each
    Mixed(Options),
}

impl Scenario {
    /// The options of whatever is run.
    pub fn options(&self) -> &Options {
        match self {
            Scenario::Ingress(options)
            | Scenario::Egress(options)
            | Scenario::Echo(options)
            | Scenario::Udp(options)
            | Scenario::Bulk(options)
            | Scenario::Idle(options)
            | Scenario::Churn(options)
            | Scenario::Fanout(options)
            | Scenario::Ports(options)
            | Scenario::Mixed(options) => options,
        }
    }
}

/// The options of every scenario. What is left out has a default that suits the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Where drivers join; the path is one of the two base paths
    #[arg(long, default_value = "http://127.0.0.1:3000/api/server")]
    pub url: String,
    /// The secret that drivers show
    #[arg(long, default_value = "testing", hide_default_value = true)]
    pub token: String,
    /// Devices in all
    #[arg(long, short)]
    pub devices: Option<usize>,
    /// Bytes of a message, or a mix such as 64:70,1024:25,4096:5
    #[arg(long, short)]
    pub size: Option<Sizes>,
    /// Messages a second in all; 0 to send as fast as messages arrive
    #[arg(long, short)]
    pub rate: Option<f64>,
    /// Without a rate: messages under way for each device at most
    #[arg(long, value_name = "COUNT")]
    pub under_way: Option<u64>,
    /// Messages in one send of a device at most
    #[arg(long, default_value = "1", value_name = "COUNT")]
    pub batch: usize,
    /// Seconds that are measured
    #[arg(long, short = 't', default_value = "10", value_name = "SECONDS")]
    pub duration: f64,
    /// Seconds of load before that
    #[arg(long, default_value = "2", value_name = "SECONDS")]
    pub warm_up: f64,
    /// Drivers of each port
    #[arg(long)]
    pub drivers: Option<usize>,
    /// Ports
    #[arg(long)]
    pub ports: Option<usize>,
    /// The first port; the others follow
    #[arg(long, default_value = "20000", value_name = "PORT")]
    pub first_port: u16,
    /// Source addresses of the devices; more than one needs a daemon on this machine
    #[arg(long, value_name = "COUNT")]
    pub sources: Option<usize>,
    /// Cores for the tool, a thread each, such as 1 or 2-5,8
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// The daemon's process, for its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Where sessions are to be: on the home shard of their port, on another, or anywhere
    #[arg(long, value_enum, default_value = "any")]
    pub place: Place,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// Draw throughput and latency into this file
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// The options of the suite.
#[derive(Debug, Args)]
pub struct SuiteOptions {
    /// The daemon's program
    #[arg(long, value_name = "PATH")]
    pub daemon: PathBuf,
    /// The baselines' program; without it the daemon is measured alone
    #[arg(long, value_name = "PATH")]
    pub baseline: Option<PathBuf>,
    /// A small set, once, for less than two minutes
    #[arg(long)]
    pub quick: bool,
    /// Cases whose names contain this, and no others
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// How often all is run; the medians count
    #[arg(long, default_value = "3", value_name = "COUNT")]
    pub rounds: usize,
    /// Seconds that are measured in each run
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    pub seconds: f64,
    /// The rate of the round trips
    #[arg(long, default_value = "20000", value_name = "RATE")]
    pub echo_rate: u32,
    /// Cores of the daemon, one a shard
    #[arg(long, default_value = "0", value_name = "LIST")]
    pub daemon_cpus: String,
    /// Cores of the tool, a thread each
    #[arg(long, default_value = "1", value_name = "LIST")]
    pub tool_cpus: String,
    /// The first of 1,000 ports that are used
    #[arg(long, default_value = "17000", value_name = "PORT")]
    pub base_port: u16,
    /// Where figures and plots go, and the logs of the daemon
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// A Markdown file whose part between the marks of the suite becomes the table
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// The commit that is measured
    #[arg(long, default_value = "unknown")]
    pub commit: String,
    /// The command that a reader may repeat
    #[arg(long, default_value = "scripts/load")]
    pub command: String,
}

/// Where a session is, seen from its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Wherever it comes to be.
    Any,
    /// On the home of its port.
    Home,
    /// On another shard.
    Away,
}

impl Place {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Place::Any => "any",
            Place::Home => "home",
            Place::Away => "away",
        }
    }
}
