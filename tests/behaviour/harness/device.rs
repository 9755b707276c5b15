//! Devices: TCP connections and UDP sockets with a source address of their own.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{PATIENCE, read};

/// The address of this host in the family of a source.
fn target_of(source: &str) -> IpAddr {
    match source.parse().unwrap() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A TCP device; every wait on it is bounded.
pub struct Device {
    stream: TcpStream,
}

impl Device {
    /// Connects from `source` to a port of this host in the same family.
    pub fn connect(source: &str, port: u16) -> Self {
        Self::try_connect(source, port).unwrap_or_else(|error| panic!("{source} to port {port}: {error}"))
    }

    /// The same, or why not.
    pub fn try_connect(source: &str, port: u16) -> io::Result<Self> {
        Self::with_receive_buffer(source, port, None)
    }

    /// Connects with a receive buffer of a fixed size, so that little of what it does not read is on its side.
    pub fn with_receive_buffer(source: &str, port: u16, bytes: Option<usize>) -> io::Result<Self> {
        let source: IpAddr = source.parse().unwrap();
        let target = SocketAddr::new(target_of(&source.to_string()), port);
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        if let Some(bytes) = bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        // The address that the kernel takes by itself is left to it, with a port that only this pair of addresses uses:
        // binding takes one of the host's, which others may have used up.
        if source != target.ip() {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&target.into(), PATIENCE)?;
        Self::over(TcpStream::from(socket))
    }

    /// A device over a connection that is there already.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// How soon the daemon probes this idle device, in hundredths of a second, by the kernel's table.
    pub fn probed_in_hundredths(&self) -> u64 {
        let [daemon, device] = [self.stream.peer_addr(), self.stream.local_addr()].map(|end| end.unwrap().port());
        // The daemon's end: local port, remote port, and the timer that runs.
        let ends = [format!(":{daemon:04X}"), format!(":{device:04X}")];
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let line = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words[1].ends_with(&ends[0]) && words[2].ends_with(&ends[1]))
            .expect("the daemon's end of the connection");
        let (timer, left) = line[5].split_once(':').unwrap();
        assert_eq!(timer, "02", "no keepalive timer: {line:?}");
        u64::from_str_radix(left, 16).unwrap()
    }

    pub fn send(&mut self, data: &[u8]) {
        self.try_send(data).unwrap();
    }

    /// Sends, or says why it could not.
    pub fn try_send(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data)
    }

    /// Sends the same again and again until the connection ends; fails unless it does in time.
    pub fn flood(&mut self, data: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_send(data).is_ok() && Instant::now() < deadline {}
        assert!(Instant::now() < deadline, "the connection goes on for {PATIENCE:?}");
    }

    /// Sends until nothing has been taken for `quiet`, or `size_max` bytes are gone; says how many are.
    pub fn send_until_blocked(&mut self, seed: u64, size_max: usize, quiet: Duration) -> usize {
        const CHUNK: usize = 64 * 1024;
        self.stream.set_write_timeout(Some(quiet)).unwrap();
        let mut sent = 0;
        while sent < size_max {
            let chunk = super::pattern(seed, sent, CHUNK.min(size_max - sent));
            match self.stream.write(&chunk) {
                Ok(size) => sent += size,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break;
                }
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    /// Reads exactly what is expected.
    pub fn expect(&mut self, data: &[u8]) {
        let read = self.take(data.len());
        if read != data {
            let at = read.iter().zip(data).position(|(one, other)| one != other).unwrap();
            let end = (at + 40).min(data.len());
            panic!("byte {at} of {}: {:?}, not {:?}", data.len(), &read[at..end], &data[at..end]);
        }
    }

    /// Reads this many bytes.
    pub fn take(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let mut taken = 0;
        while taken < size {
            match read(&mut self.stream, &mut bytes[taken..]) {
                Ok(0) => panic!("the end after {taken} bytes of {size}"),
                Ok(count) => taken += count,
                Err(error) => panic!("after {taken} bytes of {size}: {error}"),
            }
        }
        bytes
    }

    /// Reads this many bytes, or what comes before the end; or says what went wrong.
    pub fn try_take(&mut self, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        let mut taken = 0;
        while taken < size {
            match read(&mut self.stream, &mut bytes[taken..])? {
                0 => break,
                count => taken += count,
            }
        }
        bytes.truncate(taken);
        Ok(bytes)
    }

    /// Reads this many bytes at a time with pauses, this often at most, or until the daemon ends the connection.
    pub fn read_slowly(&mut self, bytes: usize, pause: Duration, times: usize) {
        let mut buffer = vec![0; bytes];
        for _ in 0..times {
            if !matches!(read(&mut self.stream, &mut buffer), Ok(1..)) {
                break;
            }
            std::thread::sleep(pause);
        }
    }

    /// Fails unless the daemon closes the connection in good order, with nothing more sent.
    pub fn ends(&mut self) {
        match read(&mut self.stream, &mut [0; 64]) {
            Ok(0) => {}
            other => panic!("the device's connection does not end: {other:?}"),
        }
    }

    /// Fails unless the daemon ends the connection, be it by a reset, with nothing more sent.
    pub fn is_disconnected(&mut self) {
        match read(&mut self.stream, &mut [0; 64]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the device is not disconnected: {other:?}"),
        }
    }

    /// Closes the sending side; nothing to do where the daemon has reset the connection.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes both sides, for every handle. The daemon may have reset the connection before.
    pub fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        let socket = Socket::from(self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Another handle of the same connection, to send while this one reads.
    pub fn another_handle(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap() }
    }

    /// Reads until the daemon ends the connection.
    pub fn drain(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        while matches!(read(&mut self.stream, &mut buffer), Ok(1..)) {}
    }

    /// The port that it is connected to.
    pub fn peer_port(&self) -> u16 {
        self.stream.peer_addr().unwrap().port()
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

/// A UDP device.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// Binds to a source address and any port.
    pub fn bind(source: &str) -> Self {
        let source: IpAddr = source.parse().unwrap();
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Its UDP port, by which messages name it.
    pub fn port(&self) -> u64 {
        u64::from(self.socket.local_addr().unwrap().port())
    }

    /// Sends a datagram to a port of this host in the same family.
    pub fn send(&self, port: u16, data: &[u8]) {
        let target = match self.socket.local_addr().unwrap().ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        self.send_to((target, port).into(), data);
    }

    /// Sends a datagram to any address.
    pub fn send_to(&self, target: SocketAddr, data: &[u8]) {
        assert_eq!(self.socket.send_to(data, target).unwrap(), data.len());
    }

    /// The next datagram and where it came from.
    pub fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 0x1_0000];
        let (size, from) = self.socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no datagram: {error}"));
        buffer.truncate(size);
        (buffer, from)
    }

    /// Fails unless the next datagram is this one.
    pub fn expect(&self, data: &[u8]) {
        let (received, _) = self.receive();
        assert!(received == data, "{} bytes instead of {}", received.len(), data.len());
    }
}
