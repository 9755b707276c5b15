//! Connections from listed balancers: the header before everything else, which says whose they are.
//!
//! **Invariants.** The header is read before anything is decided about the connection; it is bounded in bytes and in time.
//! What came behind it is kept.
//! **Not here.** The header itself (`protocol::proxy_header`), and who is listed (`policy::balancers`).

use crate::policy::counts::Count;
use crate::policy::ending::DeviceRefusal;
use crate::protocol::proxy_header::{self, Origin, ProxyFault};
use crate::protocol::wiped;
use crate::shard::cipher::Cipher;
use crate::shard::port::{Arrival, Port};
use crate::shard::resources::Resources;
use crate::shard::ring::{Receipt, Stream, Timer};
use crate::shard::slots::Slot;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a header may take: balancers send it at once, and a lost segment is sent again after one second and after three.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads the header of a connection; `bytes` is what came behind it. The balancer's own, as a health check is, is also a
/// connection that ends before its first byte, and one whose header names its own other end: HAProxy checks so.
///
/// # Errors
/// Why it is none. Also where the receive is interrupted.
pub async fn read_header(
    stream: &Stream,
    resources: &Resources,
    peer: SocketAddr,
    bytes: &mut Vec<u8>,
) -> Result<Origin, ProxyFault> {
    let _deadline = Timer::interrupt_after(HEADER_TIME_MAX, stream);
    let origin = loop {
        match stream.receive(&resources.pool).await {
            Ok(Receipt::Data(data)) => {
                // A driver's request may stand behind the header, with a private key in it.
                wiped::extend(bytes, &data);
                data.wipe();
            }
            Ok(Receipt::End) | Err(_) if bytes.is_empty() => break Origin::Balancer,
            Ok(Receipt::End) | Err(_) => return Err(ProxyFault::Malformed),
            Ok(Receipt::Interrupted) => return Err(ProxyFault::Late),
        }
        if let Some((origin, header_bytes)) = proxy_header::parse(bytes)? {
            bytes.drain(..header_bytes);
            break if origin == Origin::Remote(peer) { Origin::Balancer } else { origin };
        }
    };
    if origin == Origin::Balancer {
        resources.counts.one(Count::BalancerChecks);
    }
    Ok(origin)
}

/// Lets a device in that comes through a balancer. A connection of the balancer's own is no device, and ends. A task.
pub async fn admit(port: Weak<Port>, resources: Rc<Resources>, stream: Stream, balancer: SocketAddr, slot: Slot) {
    let mut first = Vec::new();
    let origin = read_header(&stream, &resources, balancer, &mut first).await;
    let Some(port) = port.upgrade() else { return };
    match origin {
        Ok(Origin::Remote(remote)) => {
            port.admit(Arrival { stream, remote, slot, place: None, first, cipher: Cipher::Plain })
        }
        Ok(Origin::Balancer) => {}
        Err(fault) => {
            tell(&resources, fault, balancer.ip(), port.id().number.get());
            port.refuse(balancer.ip(), DeviceRefusal::Balancer(fault));
        }
    }
}

/// Says that a balancer does not say whose a connection is.
pub fn tell(resources: &Resources, fault: ProxyFault, remote_ip: IpAddr, server_port: u16) {
    if let Some(left_out) = resources.proxy_log.pass(remote_ip) {
        let reason = fault.name();
        tracing::warn!(%remote_ip, server_port, reason, left_out, "a connection of a listed balancer was ended: {fault}");
    }
}

/// The other end of a connection to the API: the peer, or whom its balancer names.
///
/// # Errors
/// Where a listed balancer names nobody.
pub async fn remote_of(
    stream: &Stream,
    resources: &Resources,
    peer: SocketAddr,
    bytes: &mut Vec<u8>,
) -> Result<SocketAddr, ProxyFault> {
    if !resources.rules().balancers.api.has(peer.ip()) {
        return Ok(peer);
    }
    match read_header(stream, resources, peer, bytes).await? {
        Origin::Remote(remote) => Ok(remote),
        Origin::Balancer => Ok(peer),
    }
}
