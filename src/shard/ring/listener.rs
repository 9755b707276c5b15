//! A TCP socket that accepts, for devices or for drivers.
//!
//! **Invariants.** Once stopped, no accept is posted any more and the pending one ends.
//! **Not here.** Binding (`shard::sockets`), and who is let in.

use super::{Stream, cancel, fd, submit};
use io_uring::opcode;
use socket2::{SockAddr, SockAddrStorage, Socket};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

/// A listening socket. It closes when it and its pending accept are done with.
pub struct Listener {
    fd: Rc<OwnedFd>,
    stopped: Cell<bool>,
}

/// What an accept came to.
pub enum Accepted {
    /// A connection, and who is at its other end.
    Stream(Stream, SocketAddr),
    /// The listener was stopped.
    Stopped,
}

impl Listener {
    /// Takes over a socket that listens.
    pub fn new(socket: Socket) -> Self {
        Listener { fd: Rc::new(OwnedFd::from(socket)), stopped: Cell::new(false) }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What accept(2) says; `EMFILE` and its like pass when descriptors or memory are back.
    pub async fn accept(&self) -> io::Result<Accepted> {
        if self.stopped.get() {
            return Ok(Accepted::Stopped);
        }
        let mut peer = Box::new((SockAddrStorage::zeroed(), SockAddrStorage::zeroed().size_of()));
        // SAFETY: any address fits into the storage, whose size is what the kernel is told.
        let address = unsafe { peer.0.view_as::<libc::sockaddr>() } as *mut libc::sockaddr;
        let entry = opcode::Accept::new(fd(&self.fd), address, &mut peer.1).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the box owns the address and its length, and stays where it is.
        let accepted = unsafe { submit((self.fd.clone(), peer), entry) }.await;
        match accepted.outcome() {
            Ok(descriptor) => {
                // SAFETY: the kernel has just made this descriptor for us alone.
                let stream = Stream::new(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
                let (storage, len) = *accepted.data.1;
                // SAFETY: the kernel has written an address of this length.
                let peer = unsafe { SockAddr::new(storage, len) }.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok(Accepted::Stream(stream, peer))
            }
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(Accepted::Stopped),
            Err(error) => Err(error),
        }
    }

    /// Ends the pending accept and every later one; the descriptor closes soon after.
    pub fn stop(&self) {
        if !self.stopped.replace(true) {
            cancel(&self.fd);
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }
}
