//! Waits for sockets: epoll, level-triggered, with waits in nanoseconds.
//!
//! **Invariants.** A wait is always bounded.
//! **Not here.** What a token stands for (`worker`).

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Events of one wait at most.
const EVENTS_MAX: usize = 1_024;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes.
    Read,
    /// Room.
    Write,
    /// Both.
    Both,
}

/// What happened to one socket.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The token that it was added with.
    pub token: u64,
    /// There are bytes, or it has ended.
    pub is_readable: bool,
    /// There is room, or it has ended.
    pub is_writable: bool,
}

/// The sockets of one thread.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// What one wait brought; it stays on the thread that made it.
pub struct Events {
    events: Vec<Event>,
}

impl Events {
    /// With room for what one wait brings.
    pub fn new() -> Self {
        Events { events: Vec::with_capacity(EVENTS_MAX) }
    }

    /// What is ready.
    pub fn iter(&self) -> impl Iterator<Item = Ready> {
        let ended = EventFlags::ERR | EventFlags::HUP;
        self.events.iter().map(move |event| {
            let flags = event.flags;
            Ready {
                token: event.data.u64(),
                is_readable: flags.intersects(EventFlags::IN | ended),
                is_writable: flags.intersects(EventFlags::OUT | ended),
            }
        })
    }
}

impl Poller {
    /// No sockets yet.
    ///
    /// # Errors
    /// What epoll_create1(2) says.
    pub fn new() -> io::Result<Self> {
        Ok(Poller { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Adds a socket. It is gone from here once it is closed.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags(interest))?)
    }

    /// Waits for something else.
    ///
    /// # Errors
    /// What epoll_ctl(2) says.
    pub fn change(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(token), flags(interest))?)
    }

    /// Waits for `wait_ns` at most.
    ///
    /// # Errors
    /// What epoll_pwait2(2) says; an interrupted wait is an empty one.
    pub fn wait(&self, wait_ns: u64, events: &mut Events) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let wait = Timespec { tv_sec: (wait_ns / SECOND) as i64, tv_nsec: (wait_ns % SECOND) as _ };
        let events = &mut events.events;
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        Interest::Read => EventFlags::IN,
        Interest::Write => EventFlags::OUT,
        Interest::Both => EventFlags::IN | EventFlags::OUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn a_socket_with_bytes_is_ready_until_they_are_taken() {
        let (mut one, other) = UnixStream::pair().expect("a pair");
        let (poller, mut events) = (Poller::new().expect("a poller"), Events::new());
        poller.add(&other, 7, Interest::Read).expect("added");
        let started = Instant::now();
        poller.wait(2_000_000, &mut events).expect("a wait");
        assert!(events.iter().next().is_none() && started.elapsed() >= Duration::from_millis(2));
        one.write_all(b"x").expect("written");
        for _ in 0..2 {
            poller.wait(1_000_000_000, &mut events).expect("a wait");
            let ready: Vec<Ready> = events.iter().collect();
            assert!(matches!(ready[..], [Ready { token: 7, is_readable: true, is_writable: false }]), "{ready:?}");
        }
    }
}
