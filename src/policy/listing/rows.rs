//! The rows of lists.
//!
//! **Invariants.** An identity is unique among the rows of its kind, and does not change; but that of a refusal moves with
//! the last time that it was met.
//! **Not here.** Which rows there are (`shard::survey`).

use super::Order;
use crate::policy::origins::Flap;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::refusals::Refusal;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

/// An open port.
#[derive(Debug, Clone)]
pub struct PortRow {
    /// The port.
    pub port: PortId,
    /// Its home.
    pub shard: usize,
    /// When it was opened, in seconds since the start of the process; here and below.
    pub since_s: u32,
    /// Joined drivers.
    pub drivers: usize,
    /// Connected devices.
    pub devices: usize,
    /// Bytes that its devices have sent.
    pub received_bytes: u64,
    /// Bytes that were written to its devices.
    pub written_bytes: u64,
    /// Bytes that wait at the port for drivers.
    pub backlog_bytes: usize,
    /// Times that a device waited for a driver.
    pub waits: u64,
    /// Writes and datagrams that were dropped.
    pub dropped: u64,
    /// Devices and datagrams that were refused.
    pub refused: u64,
}

/// What lists show of the other end of a socket, be it a driver or a device.
#[derive(Debug, Clone, Copy)]
pub struct Remote {
    /// The port that it has joined, or is connected to.
    pub port: PortId,
    /// Its address.
    pub address: SocketAddr,
    /// When it joined or connected.
    pub since_s: u32,
    /// When it last sent anything.
    pub seen_s: u32,
    /// Bytes that it has sent.
    pub received_bytes: u64,
    /// Bytes that the kernel has taken for it.
    pub written_bytes: u64,
    /// Bytes for it that wait: of a driver, those that have left its port; of a device, those of its drivers.
    pub backlog_bytes: usize,
}

/// A driver's session.
#[derive(Debug, Clone)]
pub struct DriverRow {
    /// Its session's id.
    pub id: u64,
    /// Its socket's other end.
    pub remote: Remote,
    /// Its `X-Module-ID`.
    pub module: Option<Arc<str>>,
    /// Its accept list; cut where it is long.
    pub accepted: Arc<str>,
    /// Write credit that it has in use.
    pub credit_bytes: usize,
    /// Whether its outbox has no room, so that its devices wait.
    pub outbox_is_full: bool,
    /// Times that its outbox had no room.
    pub outbox_waits: u64,
    /// Times that its writes waited for a device.
    pub credit_waits: u64,
}

/// A connected device.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    /// Its id on its port.
    pub id: u64,
    /// Its socket's other end.
    pub remote: Remote,
}

/// A refusal.
#[derive(Debug, Clone, Copy)]
pub struct RefusalRow {
    /// Where it is held.
    pub shard: usize,
    /// What it was.
    pub refusal: Refusal,
}

/// A source that is refused for a while.
#[derive(Debug, Clone, Copy)]
pub struct FlapRow {
    /// Its address.
    pub ip: IpAddr,
    /// Since when, until when, and how often.
    pub flap: Flap,
}

impl FlapRow {
    /// The address that an identity stands for.
    pub fn of_identity(identity: u128) -> IpAddr {
        Ipv6Addr::from_bits(identity).to_canonical()
    }
}

/// What filters and orders want to know of a row.
pub trait Row {
    /// What it is told from others by; an id stands in the lower 64 bits.
    fn identity(&self) -> u128;

    /// Its value in an order of its kind.
    fn value(&self, order: Order) -> u128;

    /// The other end that it is about, where it is about one; the answers below are then that one's.
    fn remote(&self) -> Option<&Remote> {
        None
    }

    /// Its port, where it has one.
    fn port(&self) -> Option<PortId> {
        Some(self.remote()?.port)
    }

    /// Its remote's address.
    fn ip(&self) -> Option<IpAddr> {
        Some(self.remote()?.address.ip())
    }

    /// When it was last heard of.
    fn seen_s(&self) -> u32 {
        self.remote().map_or(0, |remote| remote.seen_s)
    }

    /// Bytes that wait for it.
    fn backlog_bytes(&self) -> usize {
        self.remote().map_or(0, |remote| remote.backlog_bytes)
    }
}

/// A row of any kind.
#[derive(Debug, Clone)]
pub enum RowOf {
    /// A port.
    Port(PortRow),
    /// A driver.
    Driver(DriverRow),
    /// A device.
    Device(DeviceRow),
    /// A refusal.
    Refusal(RefusalRow),
    /// A source that flaps.
    Flap(FlapRow),
}

impl RowOf {
    /// As filters and orders see it.
    pub fn as_row(&self) -> &dyn Row {
        match self {
            RowOf::Port(row) => row,
            RowOf::Driver(row) => row,
            RowOf::Device(row) => row,
            RowOf::Refusal(row) => row,
            RowOf::Flap(row) => row,
        }
    }
}

impl DeviceRow {
    /// The port and the id that an identity stands for; `None` where it is none.
    pub fn of_identity(identity: u128) -> Option<(PortId, u64)> {
        let port = u32::try_from(identity >> 64).ok()?;
        let transport = if port >> 16 == 0 { Transport::Tcp } else { Transport::Udp };
        let number = NonZeroU16::new(port as u16)?;
        Some((PortId { transport, number }, identity as u64))
    }
}

fn port_value(port: PortId) -> u128 {
    u128::from(port.transport == Transport::Udp) << 16 | u128::from(port.number.get())
}

fn address_value(ip: IpAddr) -> u128 {
    match ip {
        // Below every IPv6 address but those that nothing on a network has, such as `::1`.
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Remote {
    /// Its value in an order that is about it; 0 in another.
    fn value(&self, order: Order) -> u128 {
        match order {
            Order::Address => address_value(self.address.ip()),
            Order::Since => self.since_s.into(),
            Order::LastSeen => self.seen_s.into(),
            Order::BytesReceived => self.received_bytes.into(),
            Order::BytesWritten => self.written_bytes.into(),
            Order::Backlog => self.backlog_bytes as u128,
            Order::Identity | Order::Credit | Order::Drivers | Order::Devices => 0,
        }
    }
}

impl Row for PortRow {
    fn identity(&self) -> u128 {
        port_value(self.port)
    }

    fn value(&self, order: Order) -> u128 {
        match order {
            Order::Since => self.since_s.into(),
            Order::BytesReceived => self.received_bytes.into(),
            Order::BytesWritten => self.written_bytes.into(),
            Order::Backlog => self.backlog_bytes as u128,
            Order::Drivers => self.drivers as u128,
            Order::Devices => self.devices as u128,
            Order::Identity | Order::Address | Order::LastSeen | Order::Credit => 0,
        }
    }

    fn port(&self) -> Option<PortId> {
        Some(self.port)
    }

    fn seen_s(&self) -> u32 {
        self.since_s
    }

    fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }
}

impl Row for DriverRow {
    fn identity(&self) -> u128 {
        self.id.into()
    }

    fn value(&self, order: Order) -> u128 {
        match order {
            Order::Credit => self.credit_bytes as u128,
            order => self.remote.value(order),
        }
    }

    fn remote(&self) -> Option<&Remote> {
        Some(&self.remote)
    }
}

impl Row for DeviceRow {
    fn identity(&self) -> u128 {
        port_value(self.remote.port) << 64 | u128::from(self.id)
    }

    fn value(&self, order: Order) -> u128 {
        self.remote.value(order)
    }

    fn remote(&self) -> Option<&Remote> {
        Some(&self.remote)
    }
}

impl Row for RefusalRow {
    fn port(&self) -> Option<PortId> {
        self.refusal.port
    }

    fn identity(&self) -> u128 {
        const SHARD_BITS: u32 = 16;
        self.refusal.at.as_nanos() << SHARD_BITS | self.shard as u128
    }

    fn ip(&self) -> Option<IpAddr> {
        Some(self.refusal.ip)
    }

    fn seen_s(&self) -> u32 {
        u32::try_from(self.refusal.at.as_secs()).unwrap_or(u32::MAX)
    }

    fn value(&self, order: Order) -> u128 {
        match order {
            Order::LastSeen => self.refusal.at.as_nanos(),
            Order::Address => address_value(self.refusal.ip),
            _ => 0,
        }
    }
}

impl Row for FlapRow {
    fn identity(&self) -> u128 {
        match self.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        Some(self.ip)
    }

    fn seen_s(&self) -> u32 {
        u32::try_from(self.flap.since.as_secs()).unwrap_or(u32::MAX)
    }

    fn value(&self, order: Order) -> u128 {
        match order {
            Order::Since => self.flap.since.as_nanos(),
            Order::Address => address_value(self.ip),
            _ => 0,
        }
    }
}
