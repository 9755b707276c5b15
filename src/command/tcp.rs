//! A blocking TCP connection made within a time.
//!
//! **Invariants.** Trying every address of a name together takes no longer than the deadline.
//! **Not here.** What is said over it (`health`, `listen::join`).

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::config::HttpUrl;

/// Connects to the first address of the host that takes it in time. Looking up a name may take longer.
pub(super) fn connect(url: &HttpUrl, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (url.host.as_str(), url.port).to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What is left of the time; an error where nothing is, as a time-out of zero would mean none.
pub(super) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
