//! Proves that a balancer's header comes before the handshake, of drivers and of devices, and says whose it is.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::tls::{Authority, TlsDevice};
use crate::harness::{Addr, BASES, Driver, PATIENCE, Transport, UPGRADE, free_port, join_target};

scenarios! {
    a_driver_with_tls_comes_by_way_of_a_balancer,
    a_device_with_tls_comes_by_way_of_a_balancer,
}

const BALANCER: &str = "127.0.0.9";

/// A connection of the balancer.
fn balanced(port: u16) -> TcpStream {
    let address = |ip: &str, port| SockAddr::from(SocketAddr::new(ip.parse().unwrap(), port));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address(BALANCER, 0)).unwrap();
    socket.connect_timeout(&address("127.0.0.1", port), PATIENCE).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The same, which begins with the header.
fn proxied(port: u16) -> TcpStream {
    proxied_for("192.0.2.9", port)
}

/// The same for another source.
pub fn proxied_for(source: &str, port: u16) -> TcpStream {
    let mut stream = balanced(port);
    write!(stream, "PROXY TCP4 {source} 192.0.2.1 4000 443\r\n").unwrap();
    stream
}

fn a_driver_with_tls_comes_by_way_of_a_balancer(shards: usize) {
    let authority = Authority::new();
    let (setup, tls_port) = authority.daemon(shards);
    setup.flag("proxy-from", BALANCER).run(|daemon| {
        let client = authority.client();
        let stream = client.shake_hands(proxied(tls_port)).unwrap();
        let driver = client.join_over(stream, free_port(), "127.0.0.1");
        daemon.until_logged("driver joined");
        let is_it = |line: &&str| line.contains("driver joined") && line.contains("192.0.2.9");
        assert_eq!(daemon.log().lines().filter(is_it).count(), 1, "{}", daemon.log());
        // Without a header there is no handshake.
        assert!(client.shake_hands(balanced(tls_port)).is_err());
        driver.leave();
    });
}

fn a_device_with_tls_comes_by_way_of_a_balancer(shards: usize) {
    let authority = Authority::new();
    let (setup, _) = authority.daemon(shards);
    setup.flag("device-proxy-from", BALANCER).run(|daemon| {
        let port = free_port();
        let target = join_target(BASES[1], Transport::Tcp, &port.to_string(), "192.0.2.9");
        let target = target.replace("tcp_dispatch", "tls_dispatch");
        let mut connection = daemon.connection();
        let response = connection.request("GET", &target, &format!("Authorization: Bearer testing\r\n{UPGRADE}"));
        assert_eq!(response.status, 101);
        let (stream, pending) = connection.into_parts();
        let mut driver = Driver::new(stream, pending);
        let mut device = TlsDevice::over(proxied(port), rustls::ALL_VERSIONS);
        device.send(b"through a balancer");
        let addr = Addr::new("192.0.2.9", 0);
        assert_eq!(driver.opened(), addr);
        driver.received(&addr, b"through a balancer");
        driver.write(&addr, b"and back");
        device.expect(b"and back");
    });
}
