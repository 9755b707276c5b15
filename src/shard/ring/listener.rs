//! A TCP socket that accepts, for devices or for drivers.
//!
//! **Invariants.** Once stopped, no accept is posted any more and the pending one ends; the same while it is paused. What
//! was accepted in that moment comes as a result all the same.
//! **Not here.** Binding (`shard::sockets`), and who is let in.

use super::{Stream, cancel, fd, submit};
use io_uring::opcode;
use socket2::{SockAddr, SockAddrStorage, SockRef, Socket};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;
use tokio::sync::Notify;

/// A listening socket. It closes when it and its pending accept are done with.
pub struct Listener {
    fd: Rc<OwnedFd>,
    state: Cell<State>,
    changed: Notify,
    /// Whether an accept is pending.
    pending: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Paused,
    Stopped,
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
        Listener {
            fd: Rc::new(OwnedFd::from(socket)),
            state: Cell::new(State::Open),
            changed: Notify::new(),
            pending: Cell::new(false),
        }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What accept(2) says; `EMFILE` and its like pass when descriptors or memory are back.
    pub async fn accept(&self) -> io::Result<Accepted> {
        loop {
            match self.state.get() {
                State::Stopped => return Ok(Accepted::Stopped),
                State::Paused => self.changed.notified().await,
                State::Open => {
                    self.pending.set(true);
                    let accepted = self.accept_once().await;
                    self.pending.set(false);
                    match accepted {
                        // It was stopped or paused, which the next turn finds out.
                        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
                        accepted => return accepted,
                    }
                }
            }
        }
    }

    async fn accept_once(&self) -> io::Result<Accepted> {
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
            Err(error) => Err(error),
        }
    }

    /// Ends the pending accept and every later one; the descriptor closes soon after.
    pub fn stop(&self) {
        self.change(State::Stopped);
    }

    /// Ends the pending accept, and posts none until it is resumed: connections wait in the kernel's queue.
    pub fn pause(&self) {
        if self.state.get() == State::Open {
            self.change(State::Paused);
        }
    }

    /// Accepts again what it was paused for.
    pub fn resume(&self) {
        if self.state.get() == State::Paused {
            self.change(State::Open);
        }
    }

    fn change(&self, state: State) {
        let before = self.state.replace(state);
        if before == State::Open && state != State::Open {
            cancel(&self.fd);
        }
        self.changed.notify_waiters();
    }

    /// Whether an accept is pending, whose result may be a connection.
    pub fn is_accepting(&self) -> bool {
        self.pending.get()
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.state.get() == State::Stopped
    }

    /// Its options, which connections inherit as they come.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&self.fd)
    }

    /// The same socket once more, to be handed over.
    ///
    /// # Errors
    /// That there is no descriptor left.
    pub fn duplicate(&self) -> io::Result<Socket> {
        self.fd.try_clone().map(Socket::from)
    }
}
