//! Many datagrams a call: received into a batch, sent from a queue (recvmmsg(2), sendmmsg(2)).
//!
//! **Invariants.** A datagram is whole: a buffer takes the largest there is. Datagrams leave in order.
//! **Not here.** Waiting for datagrams.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::ptr;

/// Datagrams a call.
const BATCH: usize = 64;
/// The largest datagram, and what keeps the buffers' first bytes out of each other's set of a cache.
const BUFFER_BYTES: usize = 65_536 + 64;

/// Buffers for one call of recvmmsg, used again for every call.
#[derive(Debug)]
pub struct DatagramBatch {
    /// Leaked, and so are `names` and `slices`: the headers point to them.
    headers: &'static mut [libc::mmsghdr],
    names: *const libc::sockaddr_in,
    bytes: *const u8,
    count: usize,
}

impl DatagramBatch {
    /// An empty batch. Its memory is never freed.
    pub fn new() -> Self {
        let names = Box::leak(vec![no_name(); BATCH].into_boxed_slice()).as_mut_ptr();
        let bytes = Box::leak(vec![0u8; BATCH * BUFFER_BYTES].into_boxed_slice()).as_mut_ptr();
        let slice =
            |at: usize| libc::iovec { iov_base: bytes.wrapping_add(at * BUFFER_BYTES).cast(), iov_len: BUFFER_BYTES };
        let slices: Vec<libc::iovec> = (0..BATCH).map(slice).collect();
        let slices = Box::leak(slices.into_boxed_slice()).as_mut_ptr();
        let header = |at: usize| header(names.wrapping_add(at), slices.wrapping_add(at));
        let headers: Vec<libc::mmsghdr> = (0..BATCH).map(header).collect();
        DatagramBatch { headers: Box::leak(headers.into_boxed_slice()), names, bytes, count: 0 }
    }

    /// Receives what there is, a batch at most; whether there may be more.
    ///
    /// # Errors
    /// What recvmmsg(2) says; that nothing is there is none.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.count = 0;
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT);
        // SAFETY: there are `BATCH` headers, and what they point to is leaked and of the lengths that they say.
        let count = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as u32, flags, ptr::null_mut()) };
        match usize::try_from(count) {
            Ok(count) => self.count = count,
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                error => return Err(error),
            },
        }
        Ok(self.count == BATCH)
    }

    /// What the last call received: from whom, and what.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddrV4, &[u8])> {
        (0..self.count).map(|at| {
            let len = (self.headers[at].msg_len as usize).min(BUFFER_BYTES);
            // SAFETY: `at` is below `BATCH`; no call of the kernel runs while the batch is borrowed.
            let name = unsafe { &*self.names.add(at) };
            // SAFETY: as above, and `len` bytes lie in one buffer.
            let bytes = unsafe { std::slice::from_raw_parts(self.bytes.add(at * BUFFER_BYTES), len) };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            (SocketAddrV4::new(ip, u16::from_be(name.sin_port)), bytes)
        })
    }
}

/// Datagrams that are to be sent from one socket.
#[derive(Debug, Default)]
pub struct DatagramQueue {
    bytes: Vec<u8>,
    /// To whom, and where its bytes end.
    entries: Vec<(libc::sockaddr_in, usize)>,
    sent: usize,
}

impl DatagramQueue {
    /// Appends a datagram.
    pub fn push(&mut self, to: SocketAddrV4, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        let name = libc::sockaddr_in {
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
            ..no_name()
        };
        self.entries.push((name, self.bytes.len()));
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sends all, waiting where the socket is full: it soon has room, as no receiver holds a datagram back. One that
    /// cannot be sent at all is dropped.
    pub fn flush(&mut self, socket: &UdpSocket) {
        while self.sent < self.entries.len() {
            match self.send_batch(socket) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // An error of the wait shows at the next try.
                    let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], None);
                }
                Err(_) => self.sent += 1,
            }
        }
        self.bytes.clear();
        self.entries.clear();
        self.sent = 0;
    }

    fn send_batch(&mut self, socket: &UdpSocket) -> Result<usize, Errno> {
        let mut slices = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut headers = [header(ptr::null_mut(), ptr::null_mut()); BATCH];
        let mut begin = self.sent.checked_sub(1).map_or(0, |before| self.entries[before].1);
        let batch = self.entries[self.sent..].iter_mut().zip(&mut slices).zip(&mut headers);
        let mut count = 0;
        for (((name, end), slice), place) in batch {
            *slice = libc::iovec { iov_base: self.bytes[begin..*end].as_mut_ptr().cast(), iov_len: *end - begin };
            *place = header(name, slice);
            begin = *end;
            count += 1;
        }
        // SAFETY: `count` headers point to names and bytes of this queue, which outlive the call; it writes lengths only.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// A header for one datagram with its name and one slice.
fn header(name: *mut libc::sockaddr_in, slice: *mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: all zero is a valid header: no pointers and no lengths.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = name.cast();
    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    header.msg_hdr.msg_iov = slice;
    header.msg_hdr.msg_iovlen = 1;
    header
}

fn no_name() -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    }
}
