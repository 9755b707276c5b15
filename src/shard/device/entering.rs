//! A device with TLS before it is one: its handshake.
//!
//! **Invariants.** It has an id, and its drivers hear of it, only once the handshake is over. Its place among the devices, of
//! the process and of its source, is taken from the start; that of its source is given back as soon as its handshake fails.
//! **Not here.** The handshake itself (`shard::tls`), and who is let in (`port`).

use crate::policy::counts::Count;
use crate::policy::port_id::PortId;
use crate::shard::port::{Arrival, Port};
use crate::shard::secured_port::SecuredPort;
use crate::shard::tls::{self, HandshakeFault};
use std::net::Shutdown;
use std::rc::{Rc, Weak};

/// Shakes hands, and has the port let the device in. A task of its own.
pub async fn shake_hands(port: Weak<Port>, secured: Rc<SecuredPort>, mut arrival: Arrival) {
    let Some((id, resources)) = port.upgrade().map(|port| (port.id(), port.resources().clone())) else { return };
    let mut handshake = secured.begin(&arrival.stream, arrival.remote.ip(), arrival.place.take());
    let limits = resources.limits();
    let first = std::mem::take(&mut arrival.first);
    let shaken = if handshake.has_room(limits.tls_handshake_time_max).await {
        tls::shake_hands(handshake.waiting(), first, secured.identity().config.clone(), &resources).await
    } else {
        Err(HandshakeFault::Late)
    };
    let fault = match shaken {
        Ok(done) => {
            let count = if done.is_resumed { Count::DeviceHandshakesResumed } else { Count::DeviceHandshakesFull };
            resources.counts.one(count);
            let place = handshake.finish();
            if let Some(port) = port.upgrade() {
                port.enter(Arrival { cipher: done.cipher, place, first: done.first, ..arrival });
            }
            return;
        }
        Err(fault) => fault,
    };
    drop(handshake);
    resources.counts.one(match fault {
        HandshakeFault::Tls(_) => Count::DeviceHandshakesFailed,
        HandshakeFault::Late => Count::DeviceHandshakesLate,
        HandshakeFault::Gone => Count::DeviceHandshakesGone,
    });
    let Arrival { stream, remote, .. } = arrival;
    if !matches!(fault, HandshakeFault::Gone)
        && let Some(left_out) = resources.tls.failed_log.pass(remote.ip())
    {
        let PortId { transport, number } = id;
        tracing::warn!(
            server_protocol = transport.name(), server_port = number.get(), remote_ip = %remote.ip(), reason = %fault,
            left_out, "TLS handshake of a device failed"
        );
    }
    if matches!(fault, HandshakeFault::Tls(_)) {
        // Else unread bytes would destroy the alert on its way.
        stream.shutdown(Shutdown::Write);
        stream.linger(&resources.pool, limits.linger_time_max, limits.linger_time_max).await;
    }
}
