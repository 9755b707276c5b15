//! The sockets that the service manager hands over (`LISTEN_FDS`): listeners of the API, from its .socket unit, and what an
//! earlier daemon left in its store.
//!
//! **Invariants.** As the API's are taken listening TCP sockets alone, all on one port, or on that of TLS; each socket once,
//! though it may be both the unit's and in the store. The unit's go before those of the store, which are taken only where
//! the settings still have the API.
//! **Not here.** Taking the descriptors over (`shard::ring`), and leaving them in the store (`service`).

use super::{STORED_API, STORED_PORT, STORED_TLS};
use crate::shard::handover::Handed;
use crate::shard::ring;
use rustix::net::sockopt::socket_cookie;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

/// What a .socket unit may call its listeners for TLS, whichever port they have.
const UNIT_TLS: &str = "api-tls";

/// What a daemon starts with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listeners of the API.
    pub api: Vec<Socket>,
    /// Those where it speaks TLS.
    pub tls: Vec<Socket>,
    /// Sockets of device ports.
    pub ports: Vec<Handed>,
    /// Whether the manager's store has had some, and has them still, taken or not.
    pub was_stored: bool,
    /// Whether listeners of the API are among those that are not taken.
    pub is_stale: bool,
}

/// Why what was handed over is not taken.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// The variables that tell of the sockets, or a descriptor that they name.
    #[error("what the service manager hands over cannot be taken (LISTEN_FDS, LISTEN_FDNAMES): {0}")]
    Descriptors(io::Error),
    /// One that no API can listen on, or no port.
    #[error("the service manager hands over {name:?}, which is no listening TCP socket: look at its .socket unit")]
    NoListener {
        /// Its name in the unit (`FileDescriptorName`), which is the unit's own unless set.
        name: String,
    },
    /// Listeners on more than one port beside that of TLS.
    #[error(
        "the service manager hands over listeners on {0} and on {1}: the API is on one port, and with TLS on --tls-port"
    )]
    Ports(SocketAddr, SocketAddr),
}

/// What was handed over, where the settings have the API at `api`, and with TLS at `tls`, if at all. To be asked once,
/// before anything else is opened.
///
/// # Errors
/// Why one of them is not taken.
pub fn inherited(api: SocketAddr, tls: Option<SocketAddr>) -> Result<Inherited, HandedError> {
    let handed = ring::handed_over().map_err(HandedError::Descriptors)?;
    let (mut units, mut stored, mut known) = (Inherited::default(), Inherited::default(), HashSet::new());
    let mut first: Option<SocketAddr> = None;
    for (name, socket) in handed {
        let is_stored = [STORED_API, STORED_TLS, STORED_PORT].contains(&&*name);
        units.was_stored |= is_stored;
        if socket_cookie(&socket).is_ok_and(|cookie| !known.insert(cookie)) {
            continue;
        }
        if name == STORED_PORT {
            units.ports.push(Handed::of_port(socket).ok_or(HandedError::NoListener { name })?);
            continue;
        }
        let is_named_tls = name == UNIT_TLS;
        let address = listening_on(&socket).ok_or(HandedError::NoListener { name })?;
        if is_stored {
            // Elsewhere than the settings say, it is closed.
            if address == api {
                stored.api.push(socket);
            } else if Some(address) == tls {
                stored.tls.push(socket);
            } else {
                units.is_stale = true;
            }
            continue;
        }
        if is_named_tls || tls.is_some_and(|tls| tls.port() == address.port()) {
            units.tls.push(socket);
            continue;
        }
        let first = *first.get_or_insert(address);
        if first.port() != address.port() {
            return Err(HandedError::Ports(first, address));
        }
        units.api.push(socket);
    }
    for (unit, stored) in [(&mut units.api, stored.api), (&mut units.tls, stored.tls)] {
        if unit.is_empty() {
            *unit = stored;
        } else {
            units.is_stale |= !stored.is_empty();
        }
    }
    Ok(units)
}

/// Where a socket listens for TCP; `None` where it is another.
pub fn listening_on(socket: &Socket) -> Option<SocketAddr> {
    let is_tcp = matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6))
        && matches!(socket.r#type(), Ok(Type::STREAM))
        && matches!(socket.protocol(), Ok(Some(Protocol::TCP | Protocol::MPTCP)));
    let listens = is_tcp && matches!(socket.is_listener(), Ok(true));
    listens.then(|| socket.local_addr().ok()?.as_socket()).flatten()
}
