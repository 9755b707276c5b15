//! What a shard counts, what it has beside that, and the statistics document.
//!
//! **Invariants.** A count only grows; each has a unique name; merging is addition.
//! **Not here.** Who counts (`shard`, `edge`), and how counts are shown (`metrics`).

use crate::policy::ending::{DeviceEnd, DeviceRefusal, JoinRefusal, SessionEnd};
use crate::policy::histogram::HistogramCount;
use crate::policy::port_id::{PortId, Transport};
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeMap;

/// Everything that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it; `name` spells them out for operators.
pub enum Count {
    DevicesOpened,
    DevicesEnded,
    DevicesRefusedSource,
    DevicesRefusedLimit,
    DevicesRefusedSourceLimit,
    DevicesRefusedFlapping,
    DevicesRefusedReplaced,
    DevicesRefusedProxy,
    ConnectionsRefusedProxy,
    BalancerChecks,
    SourcesFlapping,
    DeviceBytesReceived,
    DeviceBytesWritten,
    DatagramsReceived,
    DatagramsWritten,
    DatagramsIgnoredSource,
    DatagramsDroppedOutbox,
    DatagramsDroppedWrite,
    DatagramsDroppedKernel,
    MessagesToDrivers,
    MessagesFromDrivers,
    DriverBytesReceived,
    DriverBytesWritten,
    WritesDropped,
    DriverMessagesIgnored,
    DevicesStalled,
    SessionsJoined,
    SessionsEnded,
    SessionsStalled,
    SessionsSilent,
    JoinsRefused,
    TokensRefused,
    TokensUnchecked,
    TlsHandshakesFull,
    TlsHandshakesResumed,
    TlsHandshakesFailed,
    TlsHandshakesLate,
    TlsHandshakesGone,
    DeviceHandshakesFull,
    DeviceHandshakesResumed,
    DeviceHandshakesFailed,
    DeviceHandshakesLate,
    DeviceHandshakesGone,
    AcceptPauses,
    CreditWaits,
    OutboxWaits,
    PortsOpened,
    PortsClosed,
    TapMessagesDropped,
    TasksFailed,
}

impl Count {
    /// How many counts there are.
    pub const LEN: usize = Count::TasksFailed as usize + 1;

    /// What counts devices that are not let in for this reason.
    pub fn of(refusal: DeviceRefusal) -> Count {
        match refusal {
            DeviceRefusal::Source => Count::DevicesRefusedSource,
            DeviceRefusal::Limit => Count::DevicesRefusedLimit,
            DeviceRefusal::SourceLimit => Count::DevicesRefusedSourceLimit,
            DeviceRefusal::Flapping => Count::DevicesRefusedFlapping,
            DeviceRefusal::Replaced => Count::DevicesRefusedReplaced,
            DeviceRefusal::Balancer(_) => Count::DevicesRefusedProxy,
        }
    }

    /// Every count, in the order of declaration.
    pub const ALL: [Count; Count::LEN] = [
        Count::DevicesOpened,
        Count::DevicesEnded,
        Count::DevicesRefusedSource,
        Count::DevicesRefusedLimit,
        Count::DevicesRefusedSourceLimit,
        Count::DevicesRefusedFlapping,
        Count::DevicesRefusedReplaced,
        Count::DevicesRefusedProxy,
        Count::ConnectionsRefusedProxy,
        Count::BalancerChecks,
        Count::SourcesFlapping,
        Count::DeviceBytesReceived,
        Count::DeviceBytesWritten,
        Count::DatagramsReceived,
        Count::DatagramsWritten,
        Count::DatagramsIgnoredSource,
        Count::DatagramsDroppedOutbox,
        Count::DatagramsDroppedWrite,
        Count::DatagramsDroppedKernel,
        Count::MessagesToDrivers,
        Count::MessagesFromDrivers,
        Count::DriverBytesReceived,
        Count::DriverBytesWritten,
        Count::WritesDropped,
        Count::DriverMessagesIgnored,
        Count::DevicesStalled,
        Count::SessionsJoined,
        Count::SessionsEnded,
        Count::SessionsStalled,
        Count::SessionsSilent,
        Count::JoinsRefused,
        Count::TokensRefused,
        Count::TokensUnchecked,
        Count::TlsHandshakesFull,
        Count::TlsHandshakesResumed,
        Count::TlsHandshakesFailed,
        Count::TlsHandshakesLate,
        Count::TlsHandshakesGone,
        Count::DeviceHandshakesFull,
        Count::DeviceHandshakesResumed,
        Count::DeviceHandshakesFailed,
        Count::DeviceHandshakesLate,
        Count::DeviceHandshakesGone,
        Count::AcceptPauses,
        Count::CreditWaits,
        Count::OutboxWaits,
        Count::PortsOpened,
        Count::PortsClosed,
        Count::TapMessagesDropped,
        Count::TasksFailed,
    ];

    /// The names of all, in the same order.
    pub const NAMES: [&'static str; Count::LEN] = [
        "devices_opened",
        "devices_ended",
        "devices_refused_source",
        "devices_refused_limit",
        "devices_refused_source_limit",
        "devices_refused_flapping",
        "devices_refused_replaced",
        "devices_refused_proxy",
        "connections_refused_proxy",
        "balancer_checks",
        "sources_flapping",
        "device_bytes_received",
        "device_bytes_written",
        "datagrams_received",
        "datagrams_written",
        "datagrams_ignored_source",
        "datagrams_dropped_outbox",
        "datagrams_dropped_write",
        "datagrams_dropped_kernel",
        "messages_to_drivers",
        "messages_from_drivers",
        "driver_bytes_received",
        "driver_bytes_written",
        "writes_dropped",
        "driver_messages_ignored",
        "devices_stalled",
        "sessions_joined",
        "sessions_ended",
        "sessions_stalled",
        "sessions_silent",
        "joins_refused",
        "tokens_refused",
        "tokens_unchecked",
        "tls_handshakes_full",
        "tls_handshakes_resumed",
        "tls_handshakes_failed",
        "tls_handshakes_late",
        "tls_handshakes_gone",
        "device_handshakes_full",
        "device_handshakes_resumed",
        "device_handshakes_failed",
        "device_handshakes_late",
        "device_handshakes_gone",
        "accept_pauses",
        "credit_waits",
        "outbox_waits",
        "ports_opened",
        "ports_closed",
        "tap_messages_dropped",
        "tasks_failed",
    ];
}

/// The counts of one shard: plain numbers of its thread.
#[derive(Debug)]
pub struct Counts {
    counts: [Cell<u64>; Count::LEN],
    device_ends: Tally<{ DeviceEnd::NAMES.len() }>,
    session_ends: Tally<{ SessionEnd::NAMES.len() }>,
    join_refusals: Tally<{ JoinRefusal::NAMES.len() }>,
}

/// Counts of one thing by its kind.
type Tally<const KINDS: usize> = [Cell<u64>; KINDS];

fn add(cell: &Cell<u64>, amount: u64) {
    cell.set(cell.get().wrapping_add(amount));
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            counts: std::array::from_fn(|_| Cell::new(0)),
            device_ends: Tally::default(),
            session_ends: Tally::default(),
            join_refusals: Tally::default(),
        }
    }
}

impl Counts {
    /// Counts one.
    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// Counts `amount`.
    pub fn add(&self, count: Count, amount: u64) {
        add(&self.counts[count as usize], amount);
    }

    /// Counts the end of a device.
    pub fn device_ended(&self, end: DeviceEnd) {
        self.one(Count::DevicesEnded);
        add(&self.device_ends[end.index()], 1);
    }

    /// Counts the end of a session.
    pub fn session_ended(&self, end: SessionEnd) {
        self.one(Count::SessionsEnded);
        match end {
            SessionEnd::Stalled => self.one(Count::SessionsStalled),
            SessionEnd::Silent => self.one(Count::SessionsSilent),
            _ => {}
        }
        add(&self.session_ends[end.index()], 1);
    }

    /// Counts a join that is refused.
    pub fn join_refused(&self, refusal: JoinRefusal) {
        self.one(Count::JoinsRefused);
        add(&self.join_refusals[refusal.index()], 1);
    }

    /// The numbers at this moment.
    pub fn taken(&self) -> CountsTaken {
        CountsTaken {
            counts: std::array::from_fn(|at| self.counts[at].get()),
            device_ends: std::array::from_fn(|at| self.device_ends[at].get()),
            session_ends: std::array::from_fn(|at| self.session_ends[at].get()),
            join_refusals: std::array::from_fn(|at| self.join_refusals[at].get()),
        }
    }
}

/// The counts of a shard, or of several, at one moment.
#[derive(Debug, Clone)]
pub struct CountsTaken {
    counts: [u64; Count::LEN],
    /// By [`DeviceEnd::NAMES`].
    pub device_ends: [u64; DeviceEnd::NAMES.len()],
    /// By [`SessionEnd::NAMES`].
    pub session_ends: [u64; SessionEnd::NAMES.len()],
    /// By [`JoinRefusal::NAMES`].
    pub join_refusals: [u64; JoinRefusal::NAMES.len()],
}

impl Default for CountsTaken {
    fn default() -> Self {
        Counts::default().taken()
    }
}

impl CountsTaken {
    /// One of them.
    pub fn of(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// The numbers by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Count::NAMES.into_iter().zip(self.counts).collect()
    }

    /// Adds those of another shard.
    pub fn merge(&mut self, other: &CountsTaken) {
        let own = self.counts.iter_mut().chain(&mut self.device_ends);
        let own = own.chain(&mut self.session_ends).chain(&mut self.join_refusals);
        let more = other.counts.iter().chain(&other.device_ends).chain(&other.session_ends).chain(&other.join_refusals);
        own.zip(more).for_each(|(own, more)| *own = own.wrapping_add(*more));
    }
}

/// One open port, as its home counts it.
#[derive(Debug, Clone, Copy)]
pub struct PortCount {
    /// The port.
    pub port: PortId,
    /// Joined drivers.
    pub drivers: usize,
    /// Connected devices; 0 for UDP.
    pub devices: usize,
    /// Bytes that its devices have sent since it was opened.
    pub received_bytes: u64,
    /// Bytes that were written to its devices since it was opened.
    pub written_bytes: u64,
    /// Bytes in the open chunks of its drivers' outboxes.
    pub outbox_bytes: usize,
}

/// What one shard has and has counted.
#[derive(Debug, Default)]
pub struct ShardCount {
    /// The shard.
    pub shard: usize,
    /// Whether it has been told to stop.
    pub is_draining: bool,
    /// Its open ports.
    pub ports: Vec<PortCount>,
    /// Sessions whose sockets it serves.
    pub sessions: usize,
    /// Connected devices, including those that are ending.
    pub devices: usize,
    /// Connections to the API that have not joined.
    pub handshakes: usize,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Receive buffers that the kernel does not have.
    pub buffers_out: usize,
    /// Receive buffers that cannot come back.
    pub buffers_lost: usize,
    /// How often a receive found no buffer.
    pub buffer_waits: u64,
    /// Bytes in chunks that its sessions have yet to send.
    pub backlog_bytes: usize,
    /// Bytes of its sessions' write windows that are in use.
    pub credit_bytes: usize,
    /// How late its timers are.
    pub timer_lag: HistogramCount,
    /// How long one turn of its loop takes.
    pub loop_turn: HistogramCount,
    /// How long its answers took, by route.
    pub requests: Vec<(&'static str, HistogramCount)>,
    /// Its counts.
    pub counts: CountsTaken,
}

/// The statistics document of the contract; its keys are the original's.
#[derive(Debug, Default, Serialize)]
pub struct Statistics {
    udp_listeners: BTreeMap<u16, usize>,
    tcp_listeners: BTreeMap<u16, usize>,
    tcp_clients: BTreeMap<u16, usize>,
}

impl Statistics {
    /// The document of these ports, from whichever shards.
    pub fn of(ports: impl IntoIterator<Item = PortCount>) -> Self {
        let mut statistics = Statistics::default();
        for PortCount { port, drivers, devices, .. } in ports {
            let number = port.number.get();
            match port.transport {
                Transport::Tcp => {
                    statistics.tcp_listeners.insert(number, drivers);
                    statistics.tcp_clients.insert(number, devices);
                }
                Transport::Udp => {
                    statistics.udp_listeners.insert(number, drivers);
                }
            }
        }
        statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU16;

    #[test]
    fn the_statistics_have_the_shape_of_the_contract() {
        let port = |transport, number| PortId { transport, number: NonZeroU16::new(number).expect("not zero") };
        let count = |port, drivers| PortCount {
            port,
            drivers,
            devices: 0,
            received_bytes: 0,
            written_bytes: 0,
            outbox_bytes: 0,
        };
        let statistics = Statistics::of([count(port(Transport::Udp, 162), 8), count(port(Transport::Tcp, 6001), 1)]);
        let json = serde_json::to_string(&statistics).expect("plain maps");
        assert_eq!(json, r#"{"udp_listeners":{"162":8},"tcp_listeners":{"6001":1},"tcp_clients":{"6001":0}}"#);
    }

    #[test]
    fn every_count_has_a_name_of_its_own() {
        let counts = Counts::default();
        counts.one(Count::TasksFailed);
        let by_name = counts.taken().by_name();
        assert_eq!(by_name.len(), Count::LEN);
        assert_eq!(by_name["tasks_failed"], 1);
    }

    #[test]
    fn merging_adds_every_count_and_every_kind() {
        let counts = Counts::default();
        counts.device_ended(DeviceEnd::Failed);
        counts.session_ended(SessionEnd::Stalled);
        counts.join_refused(JoinRefusal::InUse);
        let mut sum = counts.taken();
        sum.merge(&counts.taken());
        let merged = [Count::DevicesEnded, Count::SessionsEnded, Count::SessionsStalled, Count::JoinsRefused];
        assert_eq!(merged.map(|count| sum.of(count)), [2; 4]);
        assert_eq!(sum.device_ends[DeviceEnd::Failed.index()], 2);
        assert_eq!(sum.session_ends[SessionEnd::Stalled.index()], 2);
        assert_eq!(sum.join_refusals[JoinRefusal::InUse.index()], 2);
    }
}
