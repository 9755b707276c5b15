//! One device: what it sends, without waiting, and what it receives.
//!
//! **Invariants.** Its messages have the numbers 0, 1, 2 …, and each keeps the time that it was due however late it
//! leaves. What the socket did not take of a send leaves before anything else.
//! **Not here.** When a message is due (`worker`).

use crate::check::{self, Check, Fault};
use crate::payload::Head;
use crate::plan::Flow;
use crate::work::Work;
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use uring_dispatch::policy::port_id::Transport;

/// How long a connect may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Messages that wait for room at most; beyond it the rate is not held and the device is behind for good.
const DUE_MAX: usize = 1 << 16;

/// Why a device ends before the run does.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The socket says so.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// The other end closed.
    #[error("the daemon closed it")]
    Eof,
    /// What came is not what was sent.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It should receive nothing.
    #[error("{0} bytes came, though nobody writes to it")]
    Unasked(usize),
    /// Too many of its messages wait.
    #[error("{DUE_MAX} messages wait for room: the rate is far beyond what the daemon takes")]
    Behind,
}

#[derive(Debug)]
enum Socket {
    Connected(TcpStream),
    Datagrams(UdpSocket),
}

/// One device.
#[derive(Debug)]
pub struct Device {
    socket: Socket,
    flow: Flow,
    stream: u32,
    next: u64,
    due: VecDeque<u64>,
    unsent: Vec<u8>,
    unsent_at: usize,
    check: Check,
    /// Whether room is waited for at present.
    pub waits_for_room: bool,
}

/// Where a device sends to and comes from, and which it is.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// How it reaches the port.
    pub transport: Transport,
    /// The port.
    pub to: SocketAddr,
    /// Its own address, where there are several.
    pub from: Option<IpAddr>,
    /// Its number.
    pub stream: u32,
    /// Which way its messages go.
    pub flow: Flow,
}

impl Device {
    /// Connects a device whose first message has the number `next`.
    ///
    /// # Errors
    /// What socket(2), bind(2) and connect(2) say; `TimedOut` after 10 s.
    pub fn connect(route: &Route, next: u64) -> io::Result<Device> {
        let kind = if route.transport == Transport::Tcp { Type::STREAM } else { Type::DGRAM };
        let protocol = if route.transport == Transport::Tcp { Protocol::TCP } else { Protocol::UDP };
        let socket = socket2::Socket::new(Domain::for_address(route.to), kind, Some(protocol))?;
        if let Some(from) = route.from {
            socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
        }
        socket.connect_timeout(&SockAddr::from(route.to), CONNECT_TIME_MAX)?;
        socket.set_nonblocking(true)?;
        let socket = if route.transport == Transport::Tcp {
            socket.set_tcp_nodelay(true)?;
            Socket::Connected(socket.into())
        } else {
            Socket::Datagrams(socket.into())
        };
        Ok(Device {
            socket,
            flow: route.flow,
            stream: route.stream,
            next,
            due: VecDeque::new(),
            unsent: Vec::new(),
            unsent_at: 0,
            check: Check::new(),
            waits_for_room: false,
        })
    }

    /// Messages that were sent or are due.
    pub fn begun(&self) -> u64 {
        self.next + self.due.len() as u64
    }

    /// One more message is due.
    ///
    /// # Errors
    /// [`Lost::Behind`].
    pub fn add_due(&mut self, intended_ns: u64) -> Result<(), Lost> {
        self.due.push_back(intended_ns);
        if self.due.len() > DUE_MAX { Err(Lost::Behind) } else { Ok(()) }
    }

    /// Forgets what is due and not begun.
    pub fn forget_due(&mut self) {
        self.due.clear();
    }

    /// Sends all that is due; whether something is left for which there is no room.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send_due(&mut self, work: &mut Work<'_>, receivers: u64) -> io::Result<bool> {
        while self.unsent_at < self.unsent.len() {
            match self.send(|socket, device| send_bytes(socket, &device.unsent[device.unsent_at..]))? {
                Some(sent) => self.unsent_at += sent,
                None => return Ok(true),
            }
        }
        self.unsent.clear();
        self.unsent_at = 0;
        let transport = self.transport();
        while let Some(intended_ns) = self.due.front().copied() {
            let batch = if transport == Transport::Udp { 1 } else { work.plan.batch.min(self.due.len()) };
            let head = self.head(work, 0, intended_ns);
            let sent = if batch == 1 && transport == Transport::Tcp {
                // The body is where it is, and need not be copied.
                let (head_bytes, body) = (head.to_bytes(), work.pattern.body(&head));
                let sent =
                    self.send(|socket, _| send_parts(socket, &[IoSlice::new(&head_bytes), IoSlice::new(body)]))?;
                if sent.is_some_and(|sent| sent < head.size as usize) {
                    work.scratch.clear();
                    work.pattern.append(&head, work.scratch);
                }
                sent
            } else {
                self.fill_scratch(work, batch);
                self.send(|socket, _| send_bytes(socket, work.scratch))?
            };
            let Some(sent) = sent else { return Ok(true) };
            for intended_ns in self.due.drain(..batch) {
                work.tally.sent(transport, intended_ns, work.now_ns, receivers);
            }
            self.next += batch as u64;
            let whole = if batch == 1 { head.size as usize } else { work.scratch.len() };
            if sent < whole {
                self.unsent.extend_from_slice(&work.scratch[sent..]);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads once; whether the other end has closed.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn read(&mut self, work: &mut Work<'_>) -> Result<bool, Lost> {
        let read = match &mut self.socket {
            Socket::Connected(stream) => stream.read(work.read),
            Socket::Datagrams(socket) => socket.recv(work.read),
        };
        let read = match read {
            Ok(0) if self.transport() == Transport::Tcp => return Ok(true),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        work.now_ns = work.shared.now_ns();
        let transport = self.transport();
        let Work { shared, pattern, tally, now_ns, read: bytes, .. } = work;
        let bytes = &bytes[..read];
        let mut each = |head: &Head| {
            tally.arrived(transport, head, *now_ns);
            shared.note_arrived(head.stream, head.sequence + 1);
        };
        match (self.flow, transport) {
            (Flow::Echo, Transport::Udp) => each(&check::datagram(pattern, bytes)?),
            (Flow::Echo | Flow::Down, _) => self.check.take(pattern, bytes, each)?,
            _ => return Err(Lost::Unasked(read)),
        }
        Ok(false)
    }

    /// Closes the sending side.
    ///
    /// # Errors
    /// What shutdown(2) says.
    pub fn finish(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Connected(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Socket::Datagrams(_) => Ok(()),
        }
    }

    fn transport(&self) -> Transport {
        match self.socket {
            Socket::Connected(_) => Transport::Tcp,
            Socket::Datagrams(_) => Transport::Udp,
        }
    }

    fn head(&self, work: &Work<'_>, ahead: u64, intended_ns: u64) -> Head {
        let sequence = self.next + ahead;
        Head { stream: self.stream, size: work.plan.sizes.of(self.stream, sequence), sequence, intended_ns }
    }

    fn fill_scratch(&self, work: &mut Work<'_>, batch: usize) {
        work.scratch.clear();
        for (ahead, intended_ns) in self.due.iter().take(batch).enumerate() {
            let head = self.head(work, ahead as u64, *intended_ns);
            work.pattern.append(&head, work.scratch);
        }
    }

    /// What one send took; `None` where there is no room.
    fn send(&self, send: impl FnOnce(&Socket, &Device) -> io::Result<usize>) -> io::Result<Option<usize>> {
        match send(&self.socket, self) {
            Ok(sent) => Ok(Some(sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Connected(stream) => stream.as_fd(),
            Socket::Datagrams(socket) => socket.as_fd(),
        }
    }
}

fn send_bytes(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    match socket {
        Socket::Connected(stream) => { stream }.write(bytes),
        Socket::Datagrams(socket) => socket.send(bytes),
    }
}

fn send_parts(socket: &Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    match socket {
        Socket::Connected(stream) => { stream }.write_vectored(parts),
        Socket::Datagrams(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
