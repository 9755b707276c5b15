//! The command line of the soak, and what the daemon is started with.
//!
//! **Invariants.** The daemon's bounds are small, so that endings are frequent; actors go by the same numbers.
//! **Not here.** What runs (`run`, `restarts`, `takeovers`).

use super::world::{Bounds, Topology};
use clap::Parser;
use dispatch_bench::daemon::Launch;
use dispatch_bench::tunnel;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// More than twice the wait for credit, as the daemon's defaults are.
const STALL_MS: u64 = 8_000;
/// Longer than the longest nap, which is twice a stall.
const SILENCE_MS: u64 = 18_000;
const MESSAGE_BYTES_MAX: usize = 262_144;
/// How long a drain may take; longer than a stall, a flush and a linger together.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);

/// Drives the daemon under a mixed load, and checks every byte in both directions.
#[derive(Debug, Parser)]
#[command(name = "dispatch-soak")]
pub struct Arguments {
    /// Minutes of load; a part of one is allowed
    #[arg(long, default_value = "1")]
    pub minutes: f64,
    /// The daemon's shards
    #[arg(long, default_value = "2")]
    pub shards: usize,
    /// What every choice of the actors follows from
    #[arg(long, default_value = "1")]
    pub seed: u64,
    /// Drains under full load instead, this many times
    #[arg(long, default_value = "0")]
    pub restarts: u32,
    /// Daemons that take the one before over in the middle of the load, this many
    #[arg(long, default_value = "0", conflicts_with = "restarts")]
    pub takeovers: u32,
    /// The daemon's program
    #[arg(long, value_name = "PATH")]
    pub daemon: PathBuf,
    /// The first of 40 port numbers that are used
    #[arg(long, default_value = "14000")]
    pub base_port: u16,
    /// Drivers that come and go
    #[arg(long, default_value = "16")]
    pub drivers: usize,
    /// TCP devices at a time
    #[arg(long, default_value = "40")]
    pub devices: usize,
    /// UDP devices at a time
    #[arg(long, default_value = "8")]
    pub datagram_devices: usize,
    /// A flag of the daemon as `--name=value`; may be repeated
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub flags: Vec<String>,
    /// What the daemon logs
    #[arg(long, default_value = "warn")]
    pub log_level: String,
    /// Where the daemon's log goes
    #[arg(long, value_name = "FILE", default_value = "soak-daemon.log")]
    pub log: PathBuf,
    /// Write the summary as JSON, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Arguments {
    /// How the daemon is started. Its certificate and the socket to take it over are made beside its log.
    ///
    /// # Errors
    /// Where the certificate cannot be written.
    pub fn launch(&self) -> io::Result<Launch> {
        let beside = |extension: &str| self.log.with_extension(format!("{}.{extension}", self.base_port));
        let (certificate, key) = (beside("crt"), beside("key"));
        tunnel::write_certificate(&certificate, &key)?;
        let text = |path: PathBuf| path.display().to_string();
        let bounds = [
            ("--stall-ms-max", STALL_MS.to_string()),
            ("--credit-wait-ms-max", "3000".to_owned()),
            ("--flush-ms-max", "2000".to_owned()),
            ("--linger-ms-max", "1000".to_owned()),
            ("--ping-interval-ms", "4000".to_owned()),
            ("--driver-silence-ms-max", SILENCE_MS.to_string()),
            ("--drain-ms-max", DRAIN_TIME_MAX.as_millis().to_string()),
            ("--message-bytes-max", MESSAGE_BYTES_MAX.to_string()),
            ("--outbox-bytes-max", "204800".to_owned()),
            ("--write-window-bytes-max", "65536".to_owned()),
            ("--receive-buffers", "64".to_owned()),
            ("--ring-entries", "256".to_owned()),
            ("--tls-cert", text(certificate)),
            ("--tls-key", text(key)),
            ("--tls-port", self.topology().api_tls.to_string()),
            ("--takeover-socket", text(beside("socket"))),
            ("--takeover-wait-ms-max", "5000".to_owned()),
        ];
        let is_overridden = |flag: &str| self.flags.iter().any(|given| given.split('=').next() == Some(flag));
        let bounds = bounds.into_iter().filter(|(flag, _)| !is_overridden(flag));
        let bounds = bounds.map(|(flag, value)| format!("{flag}={value}"));
        Ok(Launch {
            program: self.daemon.clone(),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, self.base_port)),
            shards: self.shards,
            flags: bounds.chain(self.flags.iter().cloned()).collect(),
            token: "soak".to_owned(),
            log_level: self.log_level.clone(),
            log: self.log.clone(),
        })
    }

    /// The ports.
    pub fn topology(&self) -> Topology {
        Topology::from_base(self.base_port)
    }

    /// The daemon's bounds, as actors go by them.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            stall: Duration::from_millis(STALL_MS),
            silence: Duration::from_millis(SILENCE_MS),
            message_bytes_max: MESSAGE_BYTES_MAX,
        }
    }
}
