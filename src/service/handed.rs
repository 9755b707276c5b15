//! The sockets that the service manager hands over (`LISTEN_FDS`): listeners of the API.
//!
//! **Invariants.** Nothing but listening TCP sockets, all on one port, is taken.
//! **Not here.** Taking the descriptors over (`shard::ring`), and dealing them out to shards (`shard::sockets`).

use crate::shard::ring;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// Why what was handed over is not taken.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// The variables that tell of the sockets, or a descriptor that they name.
    #[error("what the service manager hands over cannot be taken (LISTEN_FDS, LISTEN_FDNAMES): {0}")]
    Descriptors(io::Error),
    /// One that no API can listen on.
    #[error("the service manager hands over {name:?}, which is no listening TCP socket: look at its .socket unit")]
    NoListener {
        /// Its name in the unit (`FileDescriptorName`), which is the unit's own unless set.
        name: String,
    },
    /// Listeners on more than one port.
    #[error("the service manager hands over listeners on {0} and on {1}: the API is on one port")]
    Ports(SocketAddr, SocketAddr),
}

/// The API's listeners that were handed over, and where the first of them listens; `None` where none was. To be asked
/// once.
///
/// # Errors
/// Why one of them is not taken.
pub fn api_listeners() -> Result<Option<(SocketAddr, Vec<Socket>)>, HandedError> {
    let handed = ring::handed_over().map_err(HandedError::Descriptors)?;
    let mut first: Option<SocketAddr> = None;
    let mut listeners = Vec::with_capacity(handed.len());
    for (name, socket) in handed {
        let address = listening_on(&socket).ok_or(HandedError::NoListener { name })?;
        let first = *first.get_or_insert(address);
        if first.port() != address.port() {
            return Err(HandedError::Ports(first, address));
        }
        listeners.push(socket);
    }
    Ok(first.map(|address| (address, listeners)))
}

/// Where a socket listens for TCP; `None` where it is another.
fn listening_on(socket: &Socket) -> Option<SocketAddr> {
    let is_tcp = matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6))
        && matches!(socket.r#type(), Ok(Type::STREAM))
        && matches!(socket.protocol(), Ok(Some(Protocol::TCP | Protocol::MPTCP)));
    let listens = is_tcp && matches!(socket.is_listener(), Ok(true));
    listens.then(|| socket.local_addr().ok()?.as_socket()).flatten()
}
