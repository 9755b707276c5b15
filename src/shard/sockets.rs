//! Opening the sockets of ports and of the API, and what it means when that fails.
//!
//! **Invariants.** A port that another program holds is noticed, whichever reuse options that program has set; each
//! family has a socket of its own. What every device needs is set on its listener, of which it inherits it: that costs a
//! connection nothing. Drivers may have connected before the daemon had the API's listener, so each gets it itself.
//! **Not here.** What the sockets are used for (`ring`).

use crate::policy::ending::JoinRefusal;
use crate::policy::limits::Limits;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::sources::Family;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;
/// What is asked for as a UDP socket's receive buffer, so that a burst survives a busy turn of the loop; the kernel caps
/// it at `net.core.rmem_max`.
const DATAGRAM_RECEIVE_BYTES: usize = 1 << 20;
/// The same for a socket that was handed over.
const DATAGRAM_HELD_BYTES: usize = 8 << 20;
/// Keepalive probes that a device may leave without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// Opens a device port for one family: a listening socket or a bound one for datagrams.
///
/// # Errors
/// Why a join that needs it is refused.
pub fn open(port: PortId, family: Family, limits: &Limits) -> Result<Socket, JoinRefusal> {
    let any = match family {
        Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.number.get())),
        Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.number.get())),
    };
    match port.transport {
        Transport::Tcp => open_listener(any, limits),
        Transport::Udp => open_datagrams(any),
    }
    .map_err(|error| refusal(&error))
}

/// Opens the API's listeners, one for each of `shards`, all on `address`.
///
/// # Errors
/// What bind(2) and listen(2) say; `AddrInUse` also where another program listens there with SO_REUSEPORT.
pub fn open_api(address: SocketAddr, shards: usize) -> io::Result<Vec<Socket>> {
    let mut address = address;
    if address.port() != 0 {
        // Whether the port is free, in both families where the listeners are for both. It does not listen: a connection
        // that came to it would be reset with it.
        exclusive_listener(address)?.bind(&address.into())?;
    }
    let mut listeners = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        if let Some(bound) = socket.local_addr()?.as_socket() {
            address = bound;
        }
        listeners.push(socket);
    }
    for listener in &listeners {
        listener.listen(BACKLOG)?;
    }
    Ok(listeners)
}

/// Deals out listeners that were opened elsewhere, so that each shard has one at least and each listener is accepted on:
/// where there are fewer than shards, several accept on duplicates of one, of which a connection wakes one.
///
/// # Errors
/// What the kernel says of duplicates.
pub fn deal_api(listeners: &[Socket], shards: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut dealt: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for turn in 0..shards.max(listeners.len()) {
        let listener = &listeners[turn % listeners.len()];
        dealt[turn % shards].push(listener.try_clone()?);
    }
    Ok(dealt)
}

/// Sets the options of a device port's socket that was opened elsewhere. Datagrams may have to wait in it for their driver,
/// so it gets as much as the kernel gives.
///
/// # Errors
/// What setsockopt(2) says.
pub fn adopt(port: PortId, socket: &Socket, limits: &Limits) -> io::Result<()> {
    match port.transport {
        Transport::Tcp => prepare_for_devices(socket, limits),
        Transport::Udp => socket.set_recv_buffer_size(DATAGRAM_HELD_BYTES),
    }
}

/// Has the kernel end idle connections of `listener` that come from now on and whose other end is dead: three keepalive
/// probes, `interval` after the last byte and apart.
///
/// # Errors
/// What setsockopt(2) says.
pub fn set_keepalive(listener: &Socket, interval: Duration) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(KEEPALIVE_PROBES);
    listener.set_tcp_keepalive(&probes)
}

fn prepare_for_devices(listener: &Socket, limits: &Limits) -> io::Result<()> {
    set_keepalive(listener, limits.device_keepalive)?;
    prepare(listener, limits.socket_bytes)
}

/// Has connections send small messages at once, and bounds what the kernel keeps for each, each way; it doubles
/// `socket_bytes` for its own use. Zero leaves it to grow by itself, to several MiB for a peer that does not read, which a
/// container's limit counts.
///
/// # Errors
/// What setsockopt(2) says.
pub fn prepare(socket: &Socket, socket_bytes: usize) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if socket_bytes > 0 {
        socket.set_send_buffer_size(socket_bytes)?;
        socket.set_recv_buffer_size(socket_bytes)?;
    }
    Ok(())
}

fn open_listener(address: SocketAddr, limits: &Limits) -> io::Result<Socket> {
    let socket = bind_listener(address)?;
    prepare_for_devices(&socket, limits)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A socket that shares its port with nobody, once it is bound.
fn exclusive_listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    // A plain bind fails in TIME_WAIT, which every restart leaves; with SO_REUSEPORT it would share a taken port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bind_listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = exclusive_listener(address)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn open_datagrams(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    } else {
        socket.set_broadcast(true)?;
    }
    // Best effort: a smaller buffer drops more datagrams in a burst, and nothing else.
    let _ = socket.set_recv_buffer_size(DATAGRAM_RECEIVE_BYTES);
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refusal(error: &io::Error) -> JoinRefusal {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => JoinRefusal::InUse,
        Some(libc::EACCES | libc::EPERM) => JoinRefusal::NotAllowed,
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => JoinRefusal::NoFamily,
        _ => JoinRefusal::Io(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_inherits_what_its_listener_was_given() {
        let listener = bind_listener((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        set_keepalive(&listener, Duration::from_secs(7)).unwrap();
        prepare(&listener, 50_000).unwrap();
        listener.listen(1).unwrap();
        let device = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        device.connect(&listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        assert!(connection.tcp_nodelay().unwrap() && connection.keepalive().unwrap());
        assert_eq!(connection.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(connection.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(connection.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(connection.send_buffer_size().unwrap(), 100_000);
        assert_eq!(connection.recv_buffer_size().unwrap(), 100_000);
    }
}
