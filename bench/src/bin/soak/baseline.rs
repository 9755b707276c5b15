//! What the daemon holds: at the start, at its peak, and once everything was closed.
//!
//! **Invariants.** A sample is taken between requests; of several, the least counts, as a request itself holds a task.
//! **Not here.** What the load did.

use super::tally::Tally;
use dispatch_bench::http::{self, ShardReport};
use dispatch_bench::proc;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long the daemon may take to be back at its baseline.
const BACK_TIME_MAX: Duration = Duration::from_secs(20);
const SAMPLE_STEP: Duration = Duration::from_millis(100);
const BASELINE_SAMPLES: usize = 5;

/// What the daemon holds at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Sample {
    /// Open descriptors.
    pub descriptors: u64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Tasks of all shards.
    pub tasks: u64,
    /// Joined drivers.
    pub sessions: u64,
    /// Open ports.
    pub ports: u64,
    /// Connected devices.
    pub devices: u64,
    /// Receive buffers in use.
    pub buffers_out: u64,
    /// Receive buffers that cannot come back.
    pub buffers_lost: u64,
}

impl Sample {
    /// What the daemon holds, and what it has counted.
    pub async fn take(api: SocketAddr, token: &str, pid: u32) -> io::Result<(Sample, ShardReport)> {
        let report = http::shards(api, token).await?;
        let sample = Sample {
            descriptors: proc::descriptors(pid)?,
            resident_bytes: proc::resident_bytes(pid)?,
            tasks: report.tasks,
            sessions: report.sessions,
            ports: report.ports,
            devices: report.devices,
            buffers_out: report.buffers_out,
            buffers_lost: report.buffers_lost,
        };
        Ok((sample, report))
    }

    /// The least of several, before anything has begun.
    pub async fn baseline(api: SocketAddr, token: &str, pid: u32) -> io::Result<Sample> {
        let (mut least, _) = Sample::take(api, token, pid).await?;
        for _ in 0..BASELINE_SAMPLES {
            tokio::time::sleep(SAMPLE_STEP).await;
            let (sample, _) = Sample::take(api, token, pid).await?;
            least = least.each(&sample, u64::min);
        }
        Ok(least)
    }

    /// The greater of both in each.
    pub fn peak(&self, other: &Sample) -> Sample {
        self.each(other, u64::max)
    }

    fn each(&self, other: &Sample, choose: impl Fn(u64, u64) -> u64) -> Sample {
        Sample {
            descriptors: choose(self.descriptors, other.descriptors),
            resident_bytes: choose(self.resident_bytes, other.resident_bytes),
            tasks: choose(self.tasks, other.tasks),
            sessions: choose(self.sessions, other.sessions),
            ports: choose(self.ports, other.ports),
            devices: choose(self.devices, other.devices),
            buffers_out: choose(self.buffers_out, other.buffers_out),
            buffers_lost: choose(self.buffers_lost, other.buffers_lost),
        }
    }

    /// What is more than at the start; memory is not, as an allocator keeps some.
    fn beyond(&self, start: &Sample) -> Vec<String> {
        let beyond =
            |name: &str, now: u64, then: u64| (now > then).then(|| format!("{name} {now}, at the start {then}"));
        [
            beyond("descriptors", self.descriptors, start.descriptors),
            beyond("tasks", self.tasks, start.tasks),
            beyond("sessions", self.sessions, start.sessions),
            beyond("ports", self.ports, start.ports),
            beyond("devices", self.devices, start.devices),
            beyond("buffers_out", self.buffers_out, start.buffers_out),
            beyond("buffers_lost", self.buffers_lost, 0),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Waits until the daemon holds no more than at the start, and says what it holds then.
pub async fn wait_until_back(
    api: SocketAddr,
    token: &str,
    pid: u32,
    start: &Sample,
    tally: &Tally,
) -> io::Result<(Sample, ShardReport)> {
    let until = Instant::now() + BACK_TIME_MAX;
    let mut least: Option<Sample> = None;
    loop {
        let (sample, report) = Sample::take(api, token, pid).await?;
        let now = least.map_or(sample, |least| least.each(&sample, u64::min));
        least = Some(now);
        let beyond = now.beyond(start);
        if beyond.is_empty() {
            return Ok((now, report));
        }
        if Instant::now() > until {
            tally.violation(&format!("the daemon is not back at its baseline: {}", beyond.join(", ")), "the daemon");
            return Ok((now, report));
        }
        tokio::time::sleep(SAMPLE_STEP).await;
    }
}
