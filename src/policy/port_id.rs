//! A port's name, transport and number, and the shard that is its home.
//!
//! **Invariants.** `home` depends on the port and the number of shards alone: it is the registry of ports.
//! **Not here.** Whether a port is open (`shard`).

use std::fmt;
use std::num::NonZeroU16;

/// How devices reach a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// What [`name`](Self::name) says.
    pub fn parse(name: &str) -> Option<Self> {
        [Transport::Tcp, Transport::Udp].into_iter().find(|transport| transport.name() == name)
    }

    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// One port that drivers join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// How devices reach it.
    pub transport: Transport,
    /// 1 to 65,535.
    pub number: NonZeroU16,
}

impl PortId {
    /// The index of the shard that owns this port when there are `shards` of them (at least one).
    ///
    /// The multiplier spreads neighbouring numbers, which deployments like, over the shards.
    pub fn home(self, shards: usize) -> usize {
        let key = u64::from(self.number.get()) << 1 | u64::from(self.transport == Transport::Udp);
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        mixed as usize % shards
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transport.name(), self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(transport: Transport, number: u16) -> PortId {
        PortId { transport, number: NonZeroU16::new(number).expect("a port of the test") }
    }

    #[test]
    fn one_shard_is_home_to_every_port() {
        assert_eq!(port(Transport::Tcp, 1).home(1), 0);
        assert_eq!(port(Transport::Udp, 65_535).home(1), 0);
    }

    #[test]
    fn neighbouring_ports_spread_evenly() {
        for shards in [2, 3, 8, 16] {
            let mut homes = vec![0usize; shards];
            for number in 2_000..2_000 + 100 * shards as u16 {
                homes[port(Transport::Tcp, number).home(shards)] += 1;
            }
            assert!(homes.iter().all(|&count| (80..=120).contains(&count)), "{shards} shards: {homes:?}");
        }
    }
}
