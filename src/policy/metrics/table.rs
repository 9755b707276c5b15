//! The families of counters, and of the series that each open port has.
//!
//! **Invariants.** Every count is shown by one sample: of a family here, or of those by ending and by reason.
//! **Not here.** Families that are no counts of shards, and how they are written (`metrics`).

use crate::policy::counts::{Count, PortCount};

/// One family as the list of metrics has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: &'static str,
    /// The labels of its samples, separated by commas.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
}

/// A family of counters, and which of its samples shows which count.
pub(super) type Counter = (&'static str, &'static str, &'static [(&'static [(&'static str, &'static str)], Count)]);

pub(super) const COUNTERS: [Counter; 27] = [
    ("dispatch_devices_opened_total", "TCP devices that were let in.", &[(&[], Count::DevicesOpened)]),
    (
        "dispatch_devices_refused_total",
        "TCP devices that were not let in, by reason: no driver accepts the source, the port is full, the source has as \
         many as it may, the source flaps, it connected again before, or its balancer does not say whose it is.",
        &[
            (&[("reason", "source")], Count::DevicesRefusedSource),
            (&[("reason", "limit")], Count::DevicesRefusedLimit),
            (&[("reason", "source_limit")], Count::DevicesRefusedSourceLimit),
            (&[("reason", "flapping")], Count::DevicesRefusedFlapping),
            (&[("reason", "replaced")], Count::DevicesRefusedReplaced),
            (&[("reason", "proxy")], Count::DevicesRefusedProxy),
        ],
    ),
    (
        "dispatch_connections_refused_total",
        "Connections to the API that were ended, as their balancer does not say whose they are.",
        &[(&[("reason", "proxy")], Count::ConnectionsRefusedProxy)],
    ),
    (
        "dispatch_balancer_checks_total",
        "Connections of balancers' own, as health checks are.",
        &[(&[], Count::BalancerChecks)],
    ),
    (
        "dispatch_sources_flapping_total",
        "Times that a source began to be refused, as it connected too often.",
        &[(&[], Count::SourcesFlapping)],
    ),
    ("dispatch_devices_stalled_total", "TCP devices that held back their driver.", &[(&[], Count::DevicesStalled)]),
    (
        "dispatch_device_received_bytes_total",
        "Bytes that devices sent, in streams and datagrams.",
        &[(&[], Count::DeviceBytesReceived)],
    ),
    (
        "dispatch_device_written_bytes_total",
        "Bytes that were written to devices, in streams and datagrams.",
        &[(&[], Count::DeviceBytesWritten)],
    ),
    ("dispatch_datagrams_received_total", "Datagrams that were let in.", &[(&[], Count::DatagramsReceived)]),
    ("dispatch_datagrams_written_total", "Datagrams that were sent for drivers.", &[(&[], Count::DatagramsWritten)]),
    (
        "dispatch_datagrams_dropped_total",
        "Datagrams that were dropped: from a source that no driver accepts, towards a driver whose outbox is full, from a \
         driver to where none can or may go, or by the kernel, whose buffer was full.",
        &[
            (&[("reason", "source")], Count::DatagramsIgnoredSource),
            (&[("reason", "outbox")], Count::DatagramsDroppedOutbox),
            (&[("reason", "write")], Count::DatagramsDroppedWrite),
            (&[("reason", "kernel")], Count::DatagramsDroppedKernel),
        ],
    ),
    ("dispatch_messages_to_drivers_total", "Messages for drivers.", &[(&[], Count::MessagesToDrivers)]),
    ("dispatch_messages_from_drivers_total", "Messages of drivers.", &[(&[], Count::MessagesFromDrivers)]),
    (
        "dispatch_driver_received_bytes_total",
        "Bytes that drivers sent, frames and all; those of TLS opened.",
        &[(&[], Count::DriverBytesReceived)],
    ),
    (
        "dispatch_driver_written_bytes_total",
        "Bytes that were sent to drivers, frames and all; those of TLS sealed.",
        &[(&[], Count::DriverBytesWritten)],
    ),
    (
        "dispatch_writes_dropped_total",
        "Commands of drivers for a TCP device that is not there or not theirs, and writes that were given up.",
        &[(&[], Count::WritesDropped)],
    ),
    (
        "dispatch_driver_messages_ignored_total",
        "Text messages of drivers, and messages that only the daemon sends.",
        &[(&[], Count::DriverMessagesIgnored)],
    ),
    ("dispatch_sessions_joined_total", "Drivers that joined.", &[(&[], Count::SessionsJoined)]),
    (
        "dispatch_tokens_refused_total",
        "Requests without the right token, and those that were not looked at as too many of their address were wrong.",
        &[(&[("reason", "wrong")], Count::TokensRefused), (&[("reason", "unchecked")], Count::TokensUnchecked)],
    ),
    (
        "dispatch_tls_handshakes_total",
        "TLS handshakes of connections to the API: in full, of a resumed session, failed, let go as they took too long or \
         were too many, or left by the other end.",
        &[
            (&[("result", "full")], Count::TlsHandshakesFull),
            (&[("result", "resumed")], Count::TlsHandshakesResumed),
            (&[("result", "failed")], Count::TlsHandshakesFailed),
            (&[("result", "late")], Count::TlsHandshakesLate),
            (&[("result", "gone")], Count::TlsHandshakesGone),
        ],
    ),
    (
        "dispatch_device_tls_handshakes_total",
        "TLS handshakes of devices: in full, of a resumed session, failed, let go as they took too long or their port closed, \
         or left by the device.",
        &[
            (&[("result", "full")], Count::DeviceHandshakesFull),
            (&[("result", "resumed")], Count::DeviceHandshakesResumed),
            (&[("result", "failed")], Count::DeviceHandshakesFailed),
            (&[("result", "late")], Count::DeviceHandshakesLate),
            (&[("result", "gone")], Count::DeviceHandshakesGone),
        ],
    ),
    (
        "dispatch_accept_pauses_total",
        "Pauses of accepting, for want of descriptors, memory or room for devices.",
        &[(&[], Count::AcceptPauses)],
    ),
    ("dispatch_credit_waits_total", "Times that a driver waited for devices.", &[(&[], Count::CreditWaits)]),
    ("dispatch_outbox_waits_total", "Times that a device waited for a driver.", &[(&[], Count::OutboxWaits)]),
    (
        "dispatch_port_changes_total",
        "Ports that were opened and closed.",
        &[(&[("change", "opened")], Count::PortsOpened), (&[("change", "closed")], Count::PortsClosed)],
    ),
    (
        "dispatch_tap_messages_dropped_total",
        "Messages that a tap was too slow for.",
        &[(&[], Count::TapMessagesDropped)],
    ),
    ("dispatch_tasks_failed_total", "Tasks that a defect ended.", &[(&[], Count::TasksFailed)]),
];

/// A family of the series of ports, and a port's value.
pub(super) type PortFamily = (Family, fn(&PortCount) -> u64);

/// Families of the series that each open port has.
pub(super) const PORT_FAMILIES: [PortFamily; 5] = [
    (port_family("dispatch_port_drivers", "gauge", "Drivers that are joined to the port."), |port| port.drivers as u64),
    (port_family("dispatch_port_devices", "gauge", "TCP devices on the port."), |port| port.devices as u64),
    (
        port_family("dispatch_port_received_bytes_total", "counter", "Bytes from the port's devices since it opened."),
        |port| port.received_bytes,
    ),
    (
        port_family("dispatch_port_written_bytes_total", "counter", "Bytes to the port's devices since it opened."),
        |port| port.written_bytes,
    ),
    (
        port_family("dispatch_port_outbox_bytes", "gauge", "Bytes for the port's drivers that wait at the port."),
        |port| port.outbox_bytes as u64,
    ),
];

const fn port_family(name: &'static str, kind: &'static str, help: &'static str) -> Family {
    Family { name, kind, labels: "transport,port", help }
}

/// Where each count of `{base}/shards` stands among the metrics.
pub fn series_of_counts() -> Vec<(&'static str, String)> {
    let of = |count: Count| match count {
        Count::DevicesEnded => "dispatch_devices_ended_total".to_owned(),
        Count::SessionsEnded => "dispatch_sessions_ended_total".to_owned(),
        Count::SessionsStalled => "dispatch_sessions_ended_total{ending=\"stalled\"}".to_owned(),
        Count::SessionsSilent => "dispatch_sessions_ended_total{ending=\"silent\"}".to_owned(),
        Count::JoinsRefused => "dispatch_joins_refused_total".to_owned(),
        count => COUNTERS.iter().find_map(|(name, _, samples)| series(name, samples, count)).unwrap_or_default(),
    };
    Count::ALL.into_iter().map(|count| (Count::NAMES[count as usize], of(count))).collect()
}

fn series(name: &str, samples: &[(&[(&str, &str)], Count)], count: Count) -> Option<String> {
    let (labels, _) = samples.iter().find(|(_, shown)| *shown == count)?;
    let labels = labels.first().map_or_else(String::new, |(label, value)| format!("{{{label}=\"{value}\"}}"));
    Some(format!("{name}{labels}"))
}
