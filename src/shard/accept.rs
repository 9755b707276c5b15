//! Accepting: devices on a port, drivers on the API. At a limit it pauses, and goes on when there is room.
//!
//! **Invariants.** A loop ends only when its listener is stopped or its port is gone; running out of descriptors or
//! memory never ends it and never spins.
//! **Not here.** Who is let in (`port`, `edge::api`).

use crate::policy::counts::Count;
use crate::shard::cipher::Cipher;
use crate::shard::port::{Arrival, Port};
use crate::shard::proxied;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Accepted, Listener, Stream};
use crate::shard::slots::Slot;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// How long a pause lasts before it is looked again.
const PAUSE: Duration = Duration::from_millis(50);

/// By which of the API's listeners a driver comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// As it is.
    Plain,
    /// With TLS.
    Tls,
}

/// Accepts devices for one port until its listener is stopped. A task of its own.
pub async fn devices(port: Weak<Port>, listener: Rc<Listener>) {
    let Some(resources) = port.upgrade().map(|port| port.resources().clone()) else { return };
    while let Some(slot_free) = wait_for_room(&resources, &listener).await {
        drop(slot_free);
        let Some((stream, peer)) = next(&listener, &resources).await else { return };
        // Another shard may have taken the last slot meanwhile; then the connection waits here.
        let Some(slot) = wait_for_room(&resources, &listener).await else { return };
        let Some(port) = port.upgrade() else { return };
        let remote = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if resources.rules().balancers.devices.has(remote.ip()) {
            let port = Rc::downgrade(&port);
            ring::spawn(proxied::admit(port, resources.clone(), stream, remote, slot));
        } else {
            port.admit(Arrival { stream, remote, slot, place: None, first: Vec::new(), cipher: Cipher::Plain });
        }
    }
}

/// The next connection of a listener, whatever passes meanwhile; `None` once it is stopped.
pub async fn next(listener: &Listener, resources: &Resources) -> Option<(Stream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Ok(Accepted::Stream(stream, peer)) => return Some((stream, peer)),
            Ok(Accepted::Stopped) => return None,
            // The connection was reset before it was accepted, or brought an error of its network (accept(2)).
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                resources.counts.one(Count::AcceptPauses);
                if let Some(left_out) = resources.accept_log.pass() {
                    tracing::warn!(%error, left_out, "accepting pauses");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Waits for room for one more device of the process; `None` once the listener is stopped.
async fn wait_for_room(resources: &Resources, listener: &Listener) -> Option<Slot> {
    let slots = &resources.shared.device_slots;
    if let Some(slot) = slots.take_now() {
        return Some(slot);
    }
    resources.counts.one(Count::AcceptPauses);
    if let Some(left_out) = resources.accept_log.pass() {
        let devices_max = resources.limits().devices_max;
        tracing::warn!(devices_max, left_out, "accepting pauses: no room for another device");
    }
    while !listener.is_stopped() {
        if let Ok(Some(slot)) = tokio::time::timeout(PAUSE, slots.take()).await {
            return Some(slot);
        }
    }
    None
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EINTR
                | libc::EAGAIN
        )
    )
}
