//! A device's sockets: from a chosen source address, with the ways to end that devices have.
//!
//! **Invariants.** Every connect is bounded in time.
//! **Not here.** What a device sends.

use socket2::SockRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// How long a connect may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Where a device at `source` reaches a port of the daemon on this host.
pub fn target(source: IpAddr, port: u16) -> SocketAddr {
    match source {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    }
}

/// Connects to `port` from `source`; a small `receive_bytes` makes a device that does not read felt soon.
///
/// # Errors
/// What connect(2) says; `TimedOut` after 10 s.
pub async fn connect(source: IpAddr, port: u16, receive_bytes: Option<u32>) -> io::Result<TcpStream> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(SocketAddr::new(source, 0))?;
    let connected = socket.connect(target(source, port));
    tokio::time::timeout(CONNECT_TIME_MAX, connected).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A socket for datagrams at `source`.
///
/// # Errors
/// What bind(2) says.
pub async fn datagrams(source: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(source, 0)).await
}

/// Makes closing the socket a reset.
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Closes the sending side.
///
/// # Errors
/// What shutdown(2) says.
pub fn half_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}
