//! The ring: multishot accept, multishot receive into its buffers, and a poll for room.
//!
//! **Invariants.** No entry points to memory of a caller, so a caller may drop a socket at any time: the kernel holds the
//! socket until its operations have ended. Every operation that can end by itself says so (`is_last`).
//! **Not here.** What an event means. Sends: they are plain calls that do not wait (`outbound`).

use super::buffers::{Buffer, Buffers};
use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const ENTRIES: u32 = 1024;
/// Room for a completion of every device in one turn, at any sensible count of them; the kernel keeps what is beyond.
const COMPLETIONS: u32 = 16_384;
const DEVICE_BUFFERS: u16 = 1024;
const DEVICE_BUFFER_BYTES: usize = 4096;
const DRIVER_BUFFERS: u16 = 64;
const DRIVER_BUFFER_BYTES: usize = 65_536;
/// Receives end with this where every buffer is in use, and are to be posted again.
const NO_BUFFERS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();

/// Where an entry's kind stands in its user data; the caller's token is below.
const KIND_SHIFT: u32 = 56;
const ACCEPT: u64 = 0;
const RECEIVE_FROM_DEVICE: u64 = 1;
const RECEIVE_FROM_DRIVER: u64 = 2;
const ROOM: u64 = 3;

/// Which buffers a receive uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Many and small.
    Devices,
    /// Few and large.
    Drivers,
}

/// What an operation came to; `token` is what it was posted with.
#[derive(Debug)]
pub enum Event {
    /// A connection, or why there is none.
    Accepted { token: u64, socket: io::Result<OwnedFd>, is_last: bool },
    /// Bytes, to be given back.
    Received { token: u64, group: Group, buffer: Buffer, is_last: bool },
    /// No buffer was free: post the receive again.
    NoBuffers { token: u64, group: Group },
    /// Nothing more comes, by the other end's will or by an error.
    Ended { token: u64 },
    /// A socket has room, or has failed.
    Room { token: u64 },
}

/// The ring and its buffers.
pub struct Ring {
    ring: IoUring,
    device_buffers: Buffers,
    driver_buffers: Buffers,
}

impl Ring {
    /// Sets the ring up.
    ///
    /// # Errors
    /// What io_uring_setup(2) and io_uring_register(2) say.
    pub fn new() -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_cqsize(COMPLETIONS);
        let ring: IoUring = builder.build(ENTRIES)?;
        let device_buffers = Buffers::register(&ring, Group::Devices as u16, DEVICE_BUFFERS, DEVICE_BUFFER_BYTES)?;
        let driver_buffers = Buffers::register(&ring, Group::Drivers as u16, DRIVER_BUFFERS, DRIVER_BUFFER_BYTES)?;
        Ok(Ring { ring, device_buffers, driver_buffers })
    }

    /// Accepts connections until the listener is interrupted.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), where entries have to be submitted first.
    pub fn accept(&mut self, listener: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC);
        self.post(entry.build(), ACCEPT, token)
    }

    /// Receives until the other end stops sending, an error, or a moment without buffers.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn receive(&mut self, socket: BorrowedFd<'_>, group: Group, token: u64) -> io::Result<()> {
        let kind = match group {
            Group::Devices => RECEIVE_FROM_DEVICE,
            Group::Drivers => RECEIVE_FROM_DRIVER,
        };
        self.post(opcode::RecvMulti::new(Fd(socket.as_raw_fd()), group as u16).build(), kind, token)
    }

    /// Waits once for room in a socket.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn poll_room(&mut self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.post(opcode::PollAdd::new(Fd(socket.as_raw_fd()), libc::POLLOUT as u32).build(), ROOM, token)
    }

    /// Submits what was posted, waits for an event, and appends all that there are.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; an interrupted wait is none.
    pub fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.enter(1, events)
    }

    /// Appends the events that came since the wait, without waiting.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn gather(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.enter(0, events)
    }

    fn enter(&mut self, count: usize, events: &mut Vec<Event>) -> io::Result<()> {
        match self.ring.submit_and_wait(count) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy) => {
                return Err(error);
            }
            _ => {}
        }
        let (device_buffers, driver_buffers) = (&self.device_buffers, &self.driver_buffers);
        events.extend(self.ring.completion().map(|entry| event(&entry, device_buffers, driver_buffers)));
        Ok(())
    }

    /// Whether a receive filled its buffer, so that there may be more.
    pub fn is_full(group: Group, bytes: &[u8]) -> bool {
        bytes.len()
            == match group {
                Group::Devices => DEVICE_BUFFER_BYTES,
                Group::Drivers => DRIVER_BUFFER_BYTES,
            }
    }

    /// The bytes that were received.
    pub fn bytes(&self, group: Group, buffer: &Buffer) -> &[u8] {
        match group {
            Group::Devices => self.device_buffers.bytes(buffer),
            Group::Drivers => self.driver_buffers.bytes(buffer),
        }
    }

    /// Gives a buffer back.
    pub fn give_back(&mut self, group: Group, buffer: Buffer) {
        match group {
            Group::Devices => self.device_buffers.give_back(buffer),
            Group::Drivers => self.driver_buffers.give_back(buffer),
        }
    }

    fn post(&mut self, entry: squeue::Entry, kind: u64, token: u64) -> io::Result<()> {
        let entry = entry.user_data(kind << KIND_SHIFT | token);
        loop {
            // SAFETY: the entries that are built here point to no memory but the registered buffers, which are never freed.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

fn event(entry: &cqueue::Entry, device_buffers: &Buffers, driver_buffers: &Buffers) -> Event {
    let token = entry.user_data() & ((1 << KIND_SHIFT) - 1);
    let is_last = !cqueue::more(entry.flags());
    let (group, buffers) = match entry.user_data() >> KIND_SHIFT {
        ACCEPT => {
            let socket = match entry.result() {
                // SAFETY: a completion of an accept hands over a new descriptor, and is seen once.
                fd @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
                error => Err(io::Error::from_raw_os_error(-error)),
            };
            return Event::Accepted { token, socket, is_last };
        }
        RECEIVE_FROM_DEVICE => (Group::Devices, device_buffers),
        RECEIVE_FROM_DRIVER => (Group::Drivers, driver_buffers),
        _ => return Event::Room { token },
    };
    match (entry.result(), cqueue::buffer_select(entry.flags())) {
        (len @ 1.., Some(id)) => {
            // SAFETY: the kernel has taken the buffer for this completion, which is seen once.
            let buffer = unsafe { buffers.filled(id, len as u32) };
            Event::Received { token, group, buffer, is_last }
        }
        (error, _) if error == -NO_BUFFERS => Event::NoBuffers { token, group },
        _ => Event::Ended { token },
    }
}
