//! What a shard counts, how shards' numbers are merged, and the statistics document.
//!
//! **Invariants.** A count only grows; each has a unique name; merging is addition.
//! **Not here.** Gauges that their owners know (devices, sessions, buffers out): `shard` puts them beside the counts.

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
    DeviceBytesReceived,
    DeviceBytesWritten,
    DatagramsReceived,
    DatagramsWritten,
    DatagramsIgnoredSource,
    DatagramsDroppedOutbox,
    DatagramsDroppedWrite,
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
    AcceptPauses,
    CreditWaits,
    OutboxWaits,
    PortsOpened,
    PortsClosed,
    TasksFailed,
}

impl Count {
    /// How many counts there are.
    pub const LEN: usize = Count::TasksFailed as usize + 1;

    /// Every count with its name, in the order of declaration.
    pub const NAMES: [&'static str; Count::LEN] = [
        "devices_opened",
        "devices_ended",
        "devices_refused_source",
        "devices_refused_limit",
        "device_bytes_received",
        "device_bytes_written",
        "datagrams_received",
        "datagrams_written",
        "datagrams_ignored_source",
        "datagrams_dropped_outbox",
        "datagrams_dropped_write",
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
        "accept_pauses",
        "credit_waits",
        "outbox_waits",
        "ports_opened",
        "ports_closed",
        "tasks_failed",
    ];
}

/// The counts of one shard: plain numbers of its thread.
#[derive(Debug)]
pub struct Counts([Cell<u64>; Count::LEN]);

impl Default for Counts {
    fn default() -> Self {
        Counts(std::array::from_fn(|_| Cell::new(0)))
    }
}

impl Counts {
    /// Counts one.
    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// Counts `amount`.
    pub fn add(&self, count: Count, amount: u64) {
        let cell = &self.0[count as usize];
        cell.set(cell.get().wrapping_add(amount));
    }

    /// The numbers by name.
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Count::NAMES.into_iter().zip(self.0.iter().map(Cell::get)).collect()
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
        for PortCount { port, drivers, devices } in ports {
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
        let statistics = Statistics::of([
            PortCount { port: port(Transport::Udp, 162), drivers: 8, devices: 0 },
            PortCount { port: port(Transport::Tcp, 6001), drivers: 1, devices: 0 },
        ]);
        let json = serde_json::to_string(&statistics).expect("plain maps");
        assert_eq!(json, r#"{"udp_listeners":{"162":8},"tcp_listeners":{"6001":1},"tcp_clients":{"6001":0}}"#);
    }

    #[test]
    fn every_count_has_a_name_of_its_own() {
        let counts = Counts::default();
        counts.one(Count::TasksFailed);
        let by_name = counts.by_name();
        assert_eq!(by_name.len(), Count::LEN);
        assert_eq!(by_name["tasks_failed"], 1);
    }
}
