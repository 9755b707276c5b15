//! Bytes on their way to one stream socket.
//!
//! **Invariants.** Bytes leave in order, each once. Nothing is tried while the socket has no room.
//! **Not here.** Bounds: what a slow reader does not take is kept. Who is told when there is room (`epoll`, `ring`).

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::io;
use std::os::fd::AsFd;

/// How far a queue is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is to be done at the end of the turn.
    #[default]
    Idle,
    /// To be flushed at the end of the turn.
    Touched,
    /// The socket is full: to be touched when it has room.
    Waiting,
}

/// What a flush came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// The queue is empty.
    Whole,
    /// The socket is full.
    Waiting,
}

/// The queue of one socket.
#[derive(Debug, Default)]
pub struct Outbound {
    bytes: Vec<u8>,
    sent: usize,
    stage: Stage,
}

impl Outbound {
    /// Where to append what is to be sent.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Asks for a flush at the end of the turn; whether the caller has to see to it, as nobody does yet.
    pub fn touch(&mut self) -> bool {
        let is_first = self.stage == Stage::Idle;
        if is_first {
            self.stage = Stage::Touched;
        }
        is_first
    }

    /// The socket may have room; whether there was a wait for it, and the caller now has to flush.
    pub fn room(&mut self) -> bool {
        let has_waited = self.stage == Stage::Waiting;
        if has_waited {
            self.stage = Stage::Touched;
        }
        has_waited
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives up what is not sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Sends what the socket takes, with one call where it takes all.
    ///
    /// # Errors
    /// What send(2) says; nothing can be sent after it.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<Flushed> {
        self.stage = Stage::Idle;
        while self.sent < self.bytes.len() {
            match send(&socket, &self.bytes[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.stage = Stage::Waiting;
                    self.compact();
                    return Ok(Flushed::Waiting);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.clear();
        Ok(Flushed::Whole)
    }

    /// Drops what is sent once it is the larger part, so that a byte is moved about once.
    fn compact(&mut self) {
        if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_arrive_in_order_through_a_socket_that_is_full_most_of_the_time() {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let mut outbound = Outbound::default();
        let mut expected = Vec::new();
        let mut arrived = Vec::new();
        let mut piece = vec![0; 50_000];
        for round in 0..200u32 {
            let bytes: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(31) ^ round) as u8).collect();
            outbound.tail().extend_from_slice(&bytes);
            expected.extend_from_slice(&bytes);
            if outbound.touch() || outbound.room() {
                outbound.flush(&near).expect("a flush");
            }
            if round % 4 == 3 {
                let count = far.read(&mut piece).expect("bytes");
                arrived.extend_from_slice(&piece[..count]);
            }
        }
        while arrived.len() < expected.len() {
            let count = far.read(&mut piece).expect("bytes");
            arrived.extend_from_slice(&piece[..count]);
            outbound.flush(&near).expect("a flush");
        }
        assert!(arrived == expected);
        assert!(outbound.is_empty());
    }

    #[test]
    fn the_first_touch_of_a_turn_asks_for_a_flush() {
        let (near, _far) = UnixStream::pair().expect("a pair");
        let mut outbound = Outbound::default();
        assert!(outbound.touch());
        assert!(!outbound.touch());
        assert!(!outbound.room());
        assert_eq!(outbound.flush(&near).expect("a flush"), Flushed::Whole);
        assert!(outbound.touch());
    }
}
