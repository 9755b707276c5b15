//! Remotes that mean harm: each is bounded in what it costs, and the others keep their service.

mod connections;
mod http;
mod websocket;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::{Daemon, PATIENCE};

/// The head of a request that is authorised, without its last line.
const AUTHORISED: &str = "Host: test\r\nAuthorization: Bearer testing\r\n";

/// A connection to the daemon from an address of this host's network.
fn connect_from(source: &str, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&format!("{source}:0").parse::<SocketAddr>().unwrap().into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// The same from the address of most tests.
fn connect(daemon: &Daemon) -> TcpStream {
    connect_from("127.0.0.1", daemon.api()).unwrap()
}

/// Sends until all is sent, the daemon ends the connection, or it takes nothing for two seconds; says how much was sent.
fn pour(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(size) => sent += size,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sent
}

/// The status of the next answer; none where the connection has ended without one. Fails where neither comes in time.
fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut answer = [0; 12];
    match stream.read_exact(&mut answer) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
        Err(error) => panic!("neither an answer nor the end: {error}"),
    }
    std::str::from_utf8(&answer).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// Reads and drops until the daemon ends the connection; fails unless it does so in time.
fn ends(stream: &mut TcpStream) {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 16 * 1024];
    loop {
        match crate::harness::read(stream, &mut buffer) {
            Ok(0) => return,
            Ok(_) => assert!(Instant::now() < deadline, "the daemon goes on and on"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the daemon does not end the connection: {error}"),
        }
    }
}

/// Bytes without any meaning, the same in each run.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    crate::harness::pattern(seed, 0, size)
}
