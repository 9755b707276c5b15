//! The listening sockets.
//!
//! **Invariants.** What is accepted from one has TCP_NODELAY, as it takes that over from its listener.
//! **Not here.** Who accepts.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;
/// So much may wait in a datagram socket, so far as the kernel allows it.
const DATAGRAM_QUEUE_BYTES: usize = 4 << 20;

/// Listens at `address`.
///
/// # Errors
/// What socket(2), bind(2) and listen(2) say.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens at a port of every IPv4 address.
///
/// # Errors
/// As [`listen`].
pub fn listen_for_devices(number: u16) -> io::Result<TcpListener> {
    listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, number)))
}

/// Opens a port for datagrams at every IPv4 address.
///
/// # Errors
/// What socket(2) and bind(2) say.
pub fn datagrams(number: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(DATAGRAM_QUEUE_BYTES)?;
    socket.set_send_buffer_size(DATAGRAM_QUEUE_BYTES)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, number)).into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn an_accepted_socket_sends_without_delay() {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a listener");
        let _device = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (accepted, _) = listener.accept().expect("a device");
        assert!(accepted.nodelay().expect("an option"));
    }
}
