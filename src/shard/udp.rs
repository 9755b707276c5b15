//! The UDP side of a port: datagrams to the drivers that accept their source, and datagrams of drivers to wherever they
//! may go.
//!
//! **Invariants.** One datagram is one message, whole; what finds no room in a driver's outbox is dropped for that driver
//! alone, and counted.
//! **Not here.** Waiting and draining (`ring::Datagrams`).

use crate::policy::access::Egress;
use crate::policy::counts::Count;
use crate::policy::ending::DeviceRefusal;
use crate::policy::port_id::PortId;
use crate::policy::refusals::Refused;
use crate::policy::roster::SessionId;
use crate::policy::sources::Family;
use crate::protocol::frame::DATAGRAM_BYTES_MAX;
use crate::protocol::message::{DeviceAddr, DeviceName, IpText, ToDriver};
use crate::protocol::tapped::TapEvent;
use crate::shard::outbox::Appended;
use crate::shard::port::Port;
use crate::shard::ring::{DatagramBatch, Datagrams, Readiness};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a socket rests that reports an error which is not a datagram's.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Receives on one socket until it is stopped. A task of its own.
pub async fn receive(port: Weak<Port>, socket: Rc<Datagrams>) {
    loop {
        let failed = match socket.readable().await {
            Ok(Readiness::Stopped) => return,
            Ok(Readiness::Readable) => {
                let Some(port) = port.upgrade() else { return };
                drain(&port, &socket)
            }
            Err(error) => Err(error),
        };
        let Err(error) = failed else { continue };
        let Some(id) = port.upgrade().map(|port| (port.id(), port.resources().datagram_log.pass())) else { return };
        if let (port, Some(left_out)) = id {
            tracing::warn!(%port, %error, left_out, "receiving datagrams failed");
        }
        tokio::time::sleep(ERROR_PAUSE).await;
    }
}

fn drain(port: &Port, socket: &Datagrams) -> io::Result<()> {
    let mut batch = port.resources().datagrams.borrow_mut();
    let batch = batch.get_or_insert_with(DatagramBatch::default);
    match batch.drain(socket, |sender, data| deliver(port, sender, data)) {
        // Another turn took them, or an earlier send was refused: nothing is wrong with the socket.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => Ok(()),
        result => result,
    }
}

fn deliver(port: &Port, sender: SocketAddr, data: &[u8]) {
    let counts = &port.resources().counts;
    let source = sender.ip().to_canonical();
    let roster = port.roster();
    let mut accepting = roster.accepting(source).peekable();
    if accepting.peek().is_none() {
        port.ledger().refused(Count::DatagramsIgnoredSource);
        return refuse(port, source);
    }
    counts.one(Count::DatagramsReceived);
    port.ledger().received(data.len() as u64);
    let device = DeviceName { ip: IpText::new(source), id_or_port: sender.port().into() };
    let taps = &port.resources().taps;
    if !taps.is_empty() {
        let has_module = |module: &str| roster.accepting(source).any(|(_, driver)| driver.module() == Some(module));
        taps.tell(counts, port.id(), TapEvent::Received { device, data }, has_module);
    }
    for (_, subscription) in accepting {
        match subscription.try_append(&ToDriver::Received { device, data }) {
            Appended::Yes => counts.one(Count::MessagesToDrivers),
            Appended::Full => port.ledger().dropped(Count::DatagramsDroppedOutbox, 1),
            Appended::Closed => {}
        }
    }
}

fn refuse(port: &Port, remote_ip: IpAddr) {
    let reason = DeviceRefusal::Source.name();
    let PortId { transport, number } = port.id();
    port.resources().refused(Refused::Datagram, remote_ip, Some(port.id()), reason);
    tracing::trace!(
        server_protocol = transport.name(), server_port = number.get(), %remote_ip, reason,
        "datagram refused"
    );
}

/// Sends one datagram of a driver; false where it is dropped: no address, no port, no socket of that family, too large,
/// to where this driver's may not go, or refused by the kernel, whose buffer may be full.
pub fn send(port: &Port, session: SessionId, device: DeviceAddr, data: &[u8]) -> bool {
    let (Some(ip), Ok(number)) = (device.ip, u16::try_from(device.id_or_port)) else { return false };
    if number == 0 || data.len() > DATAGRAM_BYTES_MAX {
        return false;
    }
    let may_go = match port.resources().rules().access.udp_egress {
        Egress::Any => true,
        Egress::Accepted => port.roster().accepts(session, ip),
    };
    if !may_go {
        return false;
    }
    let Some(socket) = port.datagrams(Family::of(ip)) else { return false };
    match socket.send_to_now(data, SocketAddr::new(ip, number)) {
        Ok(()) => {
            port.resources().counts.one(Count::DatagramsWritten);
            port.ledger().written(data.len() as u64);
            true
        }
        Err(error) => {
            tracing::debug!(%error, port = %port.id(), remote_ip = %ip, "datagram dropped");
            false
        }
    }
}
