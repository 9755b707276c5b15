//! A UDP socket: waiting until it is readable, then draining it without waiting.
//!
//! The wait is a poll through the ring, which pins no buffer; the drain is recvmmsg(2) into one batch of buffers that
//! all UDP ports of a shard share, as what it brings is copied on before the next drain.
//!
//! **Invariants.** Every datagram comes whole, as no buffer is smaller than the largest; an empty one is one.
//! **Not here.** Who gets a datagram (`shard::udp`).

use super::{cancel, fd, submit};
use io_uring::opcode;
use socket2::{SockAddr, SockAddrStorage, SockRef, Socket};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

/// Datagrams of one drain at most; more wait for the socket's next turn, so that its port cannot hold up the shard.
const BATCH_DATAGRAMS: usize = 16;
/// Room for one datagram: more than UDP carries over either family.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// A bound UDP socket. It closes when it and its pending poll are done with.
pub struct Datagrams {
    fd: Rc<OwnedFd>,
    stopped: Cell<bool>,
    /// Datagrams that the kernel had dropped when it was last asked.
    drops_seen: Cell<u32>,
}

/// What a wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A drain may find something.
    Readable,
    /// The socket was stopped.
    Stopped,
}

/// Buffers and heads for one drain: 1 MiB, of which only what datagrams have touched is resident.
pub struct DatagramBatch {
    buffers: Vec<u8>,
    addresses: Vec<SockAddrStorage>,
    slices: Vec<libc::iovec>,
    heads: Vec<libc::mmsghdr>,
}

impl Datagrams {
    /// Takes over a socket that is bound, of which so many [dropped] datagrams are known.
    pub fn new(socket: Socket, drops_seen: u32) -> Self {
        Datagrams { fd: Rc::new(OwnedFd::from(socket)), stopped: Cell::new(false), drops_seen: Cell::new(drops_seen) }
    }

    /// Waits until there is something to drain.
    ///
    /// # Errors
    /// What io_uring says of the poll.
    pub async fn readable(&self) -> io::Result<Readiness> {
        if self.stopped.get() {
            return Ok(Readiness::Stopped);
        }
        let entry = opcode::PollAdd::new(fd(&self.fd), libc::POLLIN as u32).build();
        // SAFETY: the entry points to no memory.
        let polled = unsafe { submit(self.fd.clone(), entry) }.await;
        match polled.outcome() {
            Ok(_) => Ok(Readiness::Readable),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(Readiness::Stopped),
            Err(error) => Err(error),
        }
    }

    /// Sends one datagram without waiting.
    ///
    /// # Errors
    /// What sendto(2) says; `WouldBlock` where the socket's buffer is full.
    pub fn send_to_now(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        SockRef::from(&*self.fd).send_to_with_flags(data, &SockAddr::from(to), flags).map(|_| ())
    }

    /// Datagrams that the kernel has dropped since this was last asked, as the socket's buffer was full.
    pub fn new_drops(&self) -> u32 {
        let Some(drops) = dropped(&*self.fd) else { return 0 };
        drops.wrapping_sub(self.drops_seen.replace(drops))
    }

    /// The same socket once more, to be handed over.
    ///
    /// # Errors
    /// That there is no descriptor left.
    pub fn duplicate(&self) -> io::Result<Socket> {
        self.fd.try_clone().map(Socket::from)
    }

    /// Ends the pending wait and every later one; the descriptor closes soon after.
    pub fn stop(&self) {
        if !self.stopped.replace(true) {
            cancel(&self.fd);
        }
    }
}

/// Datagrams that the kernel has dropped since the socket was made, whoever has had it; `None` where it does not tell.
pub fn dropped(socket: &impl AsRawFd) -> Option<u32> {
    /// Of `linux/sock_diag.h`: how many numbers there are, and which is that of the drops.
    const SK_MEMINFO_VARS: usize = 9;
    const SK_MEMINFO_DROPS: usize = 8;
    let mut numbers = [0u32; SK_MEMINFO_VARS];
    let mut len = std::mem::size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the kernel writes `len` bytes at most, which is the size of the array, and the new length.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, numbers.as_mut_ptr().cast(), &mut len)
    };
    (result == 0).then_some(numbers[SK_MEMINFO_DROPS])
}

impl Default for DatagramBatch {
    fn default() -> Self {
        DatagramBatch {
            buffers: vec![0; DatagramBatch::BYTES],
            addresses: (0..BATCH_DATAGRAMS).map(|_| SockAddrStorage::zeroed()).collect(),
            slices: Vec::with_capacity(BATCH_DATAGRAMS),
            heads: Vec::with_capacity(BATCH_DATAGRAMS),
        }
    }
}

impl DatagramBatch {
    /// What one takes.
    pub const BYTES: usize = BATCH_DATAGRAMS * DATAGRAM_BYTES;

    /// Takes what waits in the socket, a batch at most, and hands each datagram and its sender to `each`.
    ///
    /// # Errors
    /// What recvmmsg(2) says; `WouldBlock` where nothing waits.
    pub fn drain(&mut self, socket: &Datagrams, mut each: impl FnMut(SocketAddr, &[u8])) -> io::Result<()> {
        self.point_heads();
        // SAFETY: every head points to one slice and one address of ours, each slice into its own part of `buffers`; all
        // of them outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.fd.as_raw_fd(),
                self.heads.as_mut_ptr(),
                BATCH_DATAGRAMS as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let arrived = self.heads[..received].iter().zip(&mut self.addresses).zip(self.buffers.chunks(DATAGRAM_BYTES));
        for ((head, address), buffer) in arrived {
            debug_assert_eq!(head.msg_hdr.msg_flags & libc::MSG_TRUNC, 0, "a datagram larger than UDP carries");
            let address = std::mem::replace(address, SockAddrStorage::zeroed());
            // SAFETY: the kernel has written an address of this length into the storage.
            let sender = unsafe { SockAddr::new(address, head.msg_hdr.msg_namelen) };
            if let Some(sender) = sender.as_socket() {
                each(sender, &buffer[..head.msg_len as usize]);
            }
        }
        Ok(())
    }

    fn point_heads(&mut self) {
        self.slices.clear();
        self.heads.clear();
        for buffer in self.buffers.chunks_exact_mut(DATAGRAM_BYTES) {
            self.slices.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_BYTES });
        }
        for (slice, address) in self.slices.iter_mut().zip(&mut self.addresses) {
            // SAFETY: a message head of zero bytes is a valid, empty one.
            let mut head: libc::mmsghdr = unsafe { std::mem::zeroed() };
            head.msg_hdr.msg_iov = slice;
            head.msg_hdr.msg_iovlen = 1;
            head.msg_hdr.msg_namelen = address.size_of();
            head.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            self.heads.push(head);
        }
    }
}
