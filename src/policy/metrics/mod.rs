//! The metrics: every family's name, kind and help, and the text that a scrape gets.
//!
//! **Invariants.** Every count is shown once; every limit is a gauge beside its use, infinite where there is none; no
//! label's values are without bound.
//! **Not here.** Collecting the numbers (`shard`), the format (`protocol::exposition`).

mod table;

pub use table::{Family, series_of_counts};

use crate::policy::counts::{CountsTaken, PortCount, ShardCount};
use crate::policy::ending::{DeviceEnd, JoinRefusal, SessionEnd};
use crate::policy::histogram::{BOUNDS_S, HistogramCount};
use crate::policy::limits::Limits;
use crate::policy::port_id::Transport;
use crate::policy::rules::ReloadCount;
use crate::protocol::exposition::{Exposition, Kind, Real};
use std::collections::BTreeMap;
use std::time::Duration;
use table::{COUNTERS, PORT_FAMILIES};

/// What the operator wants to be shown, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Whether metrics need no token.
    pub metrics_open: bool,
    /// Whether there are series for each open port.
    pub port_series: bool,
}

/// What the whole process holds at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessCount {
    /// When it started, since 1970.
    pub started_at: Duration,
    /// TCP devices whose places are taken.
    pub devices: usize,
    /// Ports whose places are taken.
    pub ports: usize,
    /// Sessions whose places are taken.
    pub sessions: usize,
    /// Places of taps that are taken.
    pub taps: usize,
    /// What sources of devices have.
    pub sources: SourceCount,
    /// Memory that sessions and long request heads have reserved.
    pub session_memory_bytes: usize,
    /// Memory that long answers on their way have reserved.
    pub answer_bytes: usize,
    /// When the first certificate of the API expires, in seconds since 1970; `None` without TLS.
    pub certificate_expires_s: Option<i64>,
    /// Lines of the log that found no room.
    pub log_lines_dropped: usize,
    /// How reloading the settings went.
    pub reloads: ReloadCount,
    /// What the kernel says of it; `None` where it does not.
    pub kernel: Option<KernelCount>,
}

/// What sources of devices have, where they are limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceCount {
    /// TCP devices of the source that has most, on ports that count them.
    pub devices_most: usize,
    /// Sources that are refused for a while.
    pub refused: usize,
}

/// What the kernel says of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KernelCount {
    /// User and system time of all its threads.
    pub cpu_s: f64,
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// Memory that is mapped.
    pub virtual_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Its open descriptors.
    pub descriptors: u64,
    /// How many it may have.
    pub descriptors_max: u64,
}

/// A scrape's text while it is written.
#[derive(Default)]
pub struct Metrics {
    text: Exposition,
    families: Vec<Family>,
}

impl Metrics {
    /// Everything but the series of ports.
    pub fn write(&mut self, shards: &[ShardCount], process: &ProcessCount, limits: &Limits, build: [&str; 2]) {
        self.write_process(process, build);
        self.write_transports(shards);
        self.write_places(process, limits);
        self.write_limits(shards, process, limits);
        self.write_counts(shards);
        self.write_shards(shards);
        self.write_requests(shards);
    }

    /// How many families the series of ports are.
    pub const PORT_FAMILIES: usize = PORT_FAMILIES.len();

    /// Begins one family of the series of ports.
    pub fn begin_port_family(&mut self, at: usize) {
        self.family(PORT_FAMILIES[at].0);
    }

    /// Writes the series of some ports; their family has begun.
    pub fn write_ports(&mut self, at: usize, ports: &[PortCount]) {
        let (family, value) = &PORT_FAMILIES[at];
        for port in ports {
            let number = port.port.number.to_string();
            let labels = [("transport", port.port.transport.name()), ("port", &number)];
            self.text.sample(family.name, &labels, value(port));
        }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text.into_text()
    }

    fn family(&mut self, family: Family) {
        let kind = match family.kind {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            _ => Kind::Histogram,
        };
        self.text.family(family.name, kind, family.help);
        self.families.push(family);
    }

    /// A gauge of one sample.
    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(Family { name, kind: "gauge", labels: "", help });
        self.text.sample(name, &[], Real(value));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(Family { name, kind: "counter", labels: "", help });
        self.text.sample(name, &[], Real(value));
    }

    fn write_process(&mut self, process: &ProcessCount, [version, commit]: [&str; 2]) {
        let help = "What runs; always 1.";
        self.family(Family { name: "dispatch_build_info", kind: "gauge", labels: "version,commit", help });
        self.text.sample("dispatch_build_info", &[("version", version), ("commit", commit)], 1);
        let help = "When the process started, since 1970.";
        self.gauge("process_start_time_seconds", help, process.started_at.as_secs_f64());
        let dropped = process.log_lines_dropped as f64;
        self.counter("dispatch_log_lines_dropped_total", "Lines of the log that found no room.", dropped);
        if let Some(expires_s) = process.certificate_expires_s {
            let help = "When the first certificate of the API expires, since 1970; only with TLS.";
            self.gauge("dispatch_tls_certificate_expires_seconds", help, expires_s as f64);
        }
        let reloads = &process.reloads;
        let help = "When the settings in force were read, since 1970.";
        self.gauge("dispatch_reload_success_timestamp_seconds", help, reloads.succeeded_at.as_secs_f64());
        let help = "Whether the last reload failed, and the settings from before are in force.";
        self.gauge("dispatch_reload_failing", help, if reloads.failing > 0 { 1.0 } else { 0.0 });
        self.counter("dispatch_reloads_failed_total", "Reloads that failed.", reloads.failed as f64);
        let Some(kernel) = &process.kernel else { return };
        self.counter("process_cpu_seconds_total", "User and system time of all threads.", kernel.cpu_s);
        self.gauge("process_resident_memory_bytes", "Memory that is resident.", kernel.resident_bytes as f64);
        self.gauge("process_virtual_memory_bytes", "Memory that is mapped.", kernel.virtual_bytes as f64);
        self.gauge("process_threads", "Threads.", kernel.threads as f64);
        self.gauge("process_open_fds", "Open descriptors.", kernel.descriptors as f64);
        self.gauge("process_max_fds", "Descriptors that the process may have.", limit(kernel.descriptors_max));
    }

    fn write_transports(&mut self, shards: &[ShardCount]) {
        let ports: Vec<&PortCount> = shards.iter().flat_map(|shard| &shard.ports).collect();
        let by_transport = |transport, amount: fn(&PortCount) -> usize| {
            let of = ports.iter().filter(|port| port.port.transport == transport);
            of.map(|port| amount(port)).sum::<usize>()
        };
        for (name, help, amount) in [
            ("dispatch_ports", "Open ports.", (|_| 1) as fn(&PortCount) -> usize),
            ("dispatch_sessions", "Drivers that are joined.", |port| port.drivers),
            ("dispatch_devices", "Connected devices; UDP has none.", |port| port.devices),
        ] {
            self.family(Family { name, kind: "gauge", labels: "transport", help });
            for transport in [Transport::Tcp, Transport::Udp] {
                self.text.sample(name, &[("transport", transport.name())], by_transport(transport, amount));
            }
        }
    }

    fn write_places(&mut self, process: &ProcessCount, limits: &Limits) {
        for (name, help, value) in [
            ("dispatch_port_slots", "Places of ports that are taken.", process.ports as f64),
            ("dispatch_port_slots_limit", "Places of ports (--ports-max).", limit(limits.ports_max as u64)),
            ("dispatch_session_slots", "Places of sessions that are taken.", process.sessions as f64),
            ("dispatch_session_slots_limit", "Places of sessions (--sessions-max).", limit(limits.sessions_max as u64)),
            ("dispatch_tap_slots", "Taps that are open.", process.taps as f64),
            ("dispatch_tap_slots_limit", "Places of taps (--taps-max).", limits.taps_max as f64),
            (
                "dispatch_session_slots_per_token_limit",
                "Sessions that one token may have (--sessions-per-token-max).",
                limit(limits.sessions_per_token_max as u64),
            ),
            ("dispatch_device_slots", "Places of TCP devices that are taken.", process.devices as f64),
            ("dispatch_device_slots_limit", "Places of TCP devices (--devices-max).", limit(limits.devices_max as u64)),
            (
                "dispatch_device_slots_per_port_limit",
                "TCP devices that one port may have (--devices-per-port-max).",
                limit(limits.devices_per_port_max as u64),
            ),
            (
                "dispatch_device_slots_per_source",
                "TCP devices of the source that has most; 0 where their number is not limited, and has not been.",
                process.sources.devices_most as f64,
            ),
            (
                "dispatch_device_slots_per_source_limit",
                "TCP devices that one source may have (--devices-per-source-max).",
                limit(limits.devices_per_source_max as u64),
            ),
            (
                "dispatch_sources_refused",
                "Sources that are refused for a while, as they connected too often.",
                process.sources.refused as f64,
            ),
            (
                "dispatch_source_connects_per_second_limit",
                "How often one source may connect (--source-connects-per-second-max).",
                limit(limits.source_connects_per_second_max as u64),
            ),
        ] {
            self.gauge(name, help, value);
        }
    }

    fn write_limits(&mut self, shards: &[ShardCount], process: &ProcessCount, limits: &Limits) {
        let sum = |amount: fn(&ShardCount) -> usize| shards.iter().map(amount).sum::<usize>() as f64;
        let outbox = sum(|shard| shard.backlog_bytes + shard.ports.iter().map(|port| port.outbox_bytes).sum::<usize>());
        for (name, help, value) in [
            ("dispatch_handshakes", "Connections to the API that have not joined.", sum(|shard| shard.handshakes)),
            (
                "dispatch_handshakes_limit",
                "How many of them there may be (--handshakes-max).",
                limit(limits.handshakes_max as u64),
            ),
            (
                "dispatch_session_memory_bytes",
                "Memory that sessions have reserved.",
                process.session_memory_bytes as f64,
            ),
            (
                "dispatch_session_memory_limit_bytes",
                "Memory that sessions may reserve (--session-memory-bytes-max).",
                limits.session_memory_bytes_max as f64,
            ),
            ("dispatch_answer_bytes", "Bytes of long answers on their way.", process.answer_bytes as f64),
            (
                "dispatch_answer_limit_bytes",
                "How many of them there may be (--answer-bytes-max).",
                limits.answer_bytes_max as f64,
            ),
            (
                "dispatch_receive_buffers_limit",
                "Receive buffers of one shard (--receive-buffers).",
                f64::from(limits.receive_buffers),
            ),
            ("dispatch_outbox_bytes", "Bytes on their way to drivers, in all outboxes.", outbox),
            (
                "dispatch_outbox_limit_bytes",
                "Bytes that one outbox may hold (--outbox-bytes-max).",
                limits.outbox_bytes_max as f64,
            ),
            ("dispatch_credit_bytes", "Write credit in use, of all drivers.", sum(|shard| shard.credit_bytes)),
            (
                "dispatch_credit_limit_bytes",
                "Write credit of one driver (--write-window-bytes-max).",
                limits.write_window_bytes_max as f64,
            ),
        ] {
            self.gauge(name, help, value);
        }
    }

    fn write_counts(&mut self, shards: &[ShardCount]) {
        let mut sum = CountsTaken::default();
        shards.iter().for_each(|shard| sum.merge(&shard.counts));
        for (name, help, samples) in &COUNTERS {
            let labels = samples[0].0.first().map_or("", |(label, _)| label);
            self.family(Family { name, kind: "counter", labels, help });
            for (labels, count) in *samples {
                self.text.sample(name, labels, sum.of(*count));
            }
        }
        let device_ends = DeviceEnd::NAMES.iter().zip(&sum.device_ends);
        self.kinds("dispatch_devices_ended_total", "TCP devices that ended, by ending.", "ending", device_ends);
        let session_ends = SessionEnd::NAMES.iter().zip(&sum.session_ends);
        self.kinds("dispatch_sessions_ended_total", "Sessions that ended, by ending.", "ending", session_ends);
        let refusals = JoinRefusal::NAMES.iter().zip(&sum.join_refusals);
        self.kinds("dispatch_joins_refused_total", "Joins that were refused, by reason.", "reason", refusals);
    }

    fn kinds<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        kinds: impl Iterator<Item = (&'a &'static str, &'a u64)>,
    ) {
        self.family(Family { name, kind: "counter", labels: label, help });
        for (kind, count) in kinds {
            self.text.sample(name, &[(label, kind)], count);
        }
    }

    fn write_shards(&mut self, shards: &[ShardCount]) {
        for (name, kind, help, value) in [
            ("dispatch_shard_tasks", "gauge", "Tasks.", (|shard| shard.tasks as u64) as fn(&ShardCount) -> u64),
            ("dispatch_receive_buffers_out", "gauge", "Receive buffers that hold bytes.", |shard| {
                shard.buffers_out as u64
            }),
            ("dispatch_receive_buffers_lost", "gauge", "Receive buffers that cannot come back.", |shard| {
                shard.buffers_lost as u64
            }),
            ("dispatch_receive_buffer_waits_total", "counter", "Receives that found no buffer (ENOBUFS).", |shard| {
                shard.buffer_waits
            }),
        ] {
            self.family(Family { name, kind, labels: "shard", help });
            for shard in shards {
                self.text.sample(name, &[("shard", &shard.shard.to_string())], value(shard));
            }
        }
        for (name, help, times) in [
            (
                "dispatch_loop_turn_seconds",
                "How long one turn of a shard's loop takes, looked at four times a second.",
                (|shard| &shard.loop_turn) as fn(&ShardCount) -> &HistogramCount,
            ),
            (
                "dispatch_timer_lag_seconds",
                "How late a shard's timer fires, of which up to a millisecond is its resolution.",
                |shard| &shard.timer_lag,
            ),
        ] {
            self.family(Family { name, kind: "histogram", labels: "shard", help });
            for shard in shards {
                self.histogram(name, ("shard", &shard.shard.to_string()), times(shard));
            }
        }
    }

    fn write_requests(&mut self, shards: &[ShardCount]) {
        let name = "dispatch_http_request_duration_seconds";
        let help = "Time from a request's head to the end of its answer, by route; a join ends with its 101.";
        self.family(Family { name, kind: "histogram", labels: "route", help });
        let mut routes: BTreeMap<&str, HistogramCount> = BTreeMap::new();
        for (route, times) in shards.iter().flat_map(|shard| &shard.requests) {
            routes.entry(route).or_default().merge(times);
        }
        routes.iter().for_each(|(route, times)| self.histogram(name, ("route", route), times));
    }

    fn histogram(&mut self, name: &str, label: (&str, &str), times: &HistogramCount) {
        let mut below = 0;
        let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
        for (bound, times) in bounds.zip(times.buckets) {
            below += times;
            let bound = Real(bound).to_string();
            self.text.sample(&format!("{name}_bucket"), &[label, ("le", &bound)], below);
        }
        self.text.sample(&format!("{name}_sum"), &[label], Real(times.sum_ns as f64 / 1e9));
        self.text.sample(&format!("{name}_count"), &[label], below);
    }
}

/// A limit as a number; the greatest stands for none.
fn limit(limit: u64) -> f64 {
    if limit >= usize::MAX as u64 { f64::INFINITY } else { limit as f64 }
}

/// Every family, in the order of the text.
pub fn families(limits: &Limits) -> Vec<Family> {
    let mut metrics = Metrics::default();
    let process = ProcessCount {
        kernel: Some(KernelCount::default()),
        certificate_expires_s: Some(0),
        ..ProcessCount::default()
    };
    metrics.write(&[ShardCount::default()], &process, limits, ["", ""]);
    (0..Metrics::PORT_FAMILIES).for_each(|at| metrics.begin_port_family(at));
    metrics.families
}

#[cfg(test)]
mod tests {
    use super::table::COUNTERS;
    use super::*;
    use crate::policy::counts::Count;

    #[test]
    fn every_count_is_shown_once() {
        let shown: Vec<Count> = COUNTERS.iter().flat_map(|(_, _, samples)| *samples).map(|(_, count)| *count).collect();
        const BY_KIND: [Count; 5] = [
            Count::DevicesEnded,
            Count::SessionsEnded,
            Count::SessionsStalled,
            Count::SessionsSilent,
            Count::JoinsRefused,
        ];
        for count in Count::ALL {
            let times = shown.iter().filter(|&&other| other == count).count();
            assert_eq!(times, usize::from(!BY_KIND.contains(&count)), "{count:?}");
        }
        assert!(series_of_counts().iter().all(|(_, series)| !series.is_empty()));
    }
}
