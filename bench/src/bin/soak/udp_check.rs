//! What one driver's session is told of datagrams, checked as it comes.
//!
//! **Invariants.** A datagram is whole, from who says so, and comes once and in its sender's order; what is missing is
//! counted against what the daemon and the kernel counted, at the run's end.
//! **Not here.** The session's own life (`session`).

use super::accept::AcceptList;
use super::payload;
use super::tally::Count;
use super::world::World;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use uring_dispatch::protocol::message::ToDriver;

/// Senders that are remembered to be written to.
const PEERS_KEPT: usize = 64;

/// What a session knows of UDP devices.
#[derive(Debug)]
pub struct UdpCheck {
    port: u16,
    accept: AcceptList,
    is_warden: bool,
    next_numbers: BTreeMap<u64, u64>,
    peers: VecDeque<(SocketAddr, u64)>,
}

impl UdpCheck {
    /// Nothing has come yet.
    pub fn new(port: u16, accept: AcceptList, is_warden: bool) -> Self {
        UdpCheck { port, accept, is_warden, next_numbers: BTreeMap::new(), peers: VecDeque::new() }
    }

    /// Judges one message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, message: &[u8], world: &World) -> Result<(), String> {
        let head = &message[..message.len().min(64)];
        let message = ToDriver::decode(message).map_err(|fault| format!("{fault}: {head:02x?}"))?;
        let ToDriver::Received { device, data } = message else {
            return Err(format!("OPENED or CLOSED on a UDP port: {head:02x?}"));
        };
        let text = String::from_utf8_lossy(device.ip.as_bytes()).into_owned();
        let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no address"))?;
        let number = u16::try_from(device.id_or_port).map_err(|_| format!("port {}", device.id_or_port))?;
        let sender = SocketAddr::new(ip, number);
        if !self.accept.accepts(ip) {
            return Err(format!("a datagram of {sender}, this driver accepts {:?}", self.accept.text()));
        }
        let mut is_of_this_round = true;
        let unit = payload::datagram(data).map_err(|fault| format!("a datagram of {sender}: {fault}"))?;
        if let Some(unit) = unit {
            let known = world.senders.borrow().get(&unit.writer).cloned();
            let known = known.ok_or_else(|| format!("a datagram of {sender} says {unit:?}, who is unknown"))?;
            if known.address != sender {
                return Err(format!("a datagram of {} came as of {sender}: {unit:?}", known.address));
            }
            let next = self.next_numbers.entry(unit.writer).or_default();
            if unit.number < *next || unit.number >= known.sent.get() {
                return Err(format!(
                    "a datagram came again or too early ({unit:?} of {sender}, due is {next} of {})",
                    known.sent.get()
                ));
            }
            *next = unit.number + 1;
            is_of_this_round = known.round == world.round;
            self.remember(sender, unit.writer);
        }
        world.tally.one(Count::DatagramsVerifiedToDrivers);
        world.tally.add(Count::DatagramBytesVerifiedToDrivers, data.len() as u64);
        if let (true, Some(book)) = (self.is_warden && is_of_this_round, world.datagrams.get(&self.port)) {
            book.received_by_warden.set(book.received_by_warden.get() + 1);
        }
        Ok(())
    }

    /// Who sent lately, with its nonce.
    pub fn peers(&self) -> &VecDeque<(SocketAddr, u64)> {
        &self.peers
    }

    fn remember(&mut self, sender: SocketAddr, nonce: u64) {
        if self.peers.iter().any(|(known, _)| *known == sender) {
            return;
        }
        if self.peers.len() == PEERS_KEPT {
            self.peers.pop_front();
        }
        self.peers.push_back((sender, nonce));
    }
}
