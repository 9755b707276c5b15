//! A driver's websocket: its socket, what came and what leaves.
//!
//! **Invariants.** Whole frames are appended, so that no control frame stands inside a message. A session stays in the
//! table until its receiving has ended, so that no event can meet another session in its place.
//! **Not here.** What frames mean (`relay`).

use crate::frames::Inbound;
use crate::key::{PortKey, SessionKey};
use crate::outbound::{Flushed, Outbound};
use slab::Slab;
use std::net::{Shutdown, TcpStream};
use uring_dispatch::protocol::frame;
use uring_dispatch::protocol::message::ToDriver;

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The request has not come whole.
    Handshake,
    /// It is on a port.
    Joined(PortKey),
    /// It has left or was refused; what waits for it goes out, then its writing side ends.
    Leaving,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The driver's socket.
    pub socket: TcpStream,
    /// What came and is not taken.
    pub inbound: Inbound,
    /// What is to leave.
    pub outbound: Outbound,
    /// How far it has come.
    pub stage: Stage,
}

/// All sessions, and those that are to be flushed at the end of the turn.
#[derive(Debug, Default)]
pub struct Sessions {
    table: Slab<Session>,
    touched: Vec<SessionKey>,
}

impl Sessions {
    /// Takes a connection in.
    pub fn insert(&mut self, socket: TcpStream) -> SessionKey {
        let (inbound, outbound) = (Inbound::default(), Outbound::default());
        SessionKey(self.table.insert(Session { socket, inbound, outbound, stage: Stage::Handshake }) as u32)
    }

    /// Takes a session out; its socket closes.
    pub fn remove(&mut self, key: SessionKey) {
        self.table.try_remove(key.0 as usize);
    }

    /// A session.
    pub fn find(&self, key: SessionKey) -> Option<&Session> {
        self.table.get(key.0 as usize)
    }

    /// A session, to be changed.
    pub fn find_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.table.get_mut(key.0 as usize)
    }

    /// Sends what was appended to a session at the end of the turn.
    pub fn touch(&mut self, key: SessionKey) {
        if self.table.get_mut(key.0 as usize).is_some_and(|session| session.outbound.touch()) {
            self.touched.push(key);
        }
    }

    /// Appends a message, which leaves at the end of the turn.
    pub fn deliver(&mut self, key: SessionKey, message: &ToDriver) {
        let Some(session) = self.table.get_mut(key.0 as usize) else { return };
        frame::append(session.outbound.tail(), message);
        if session.outbound.touch() {
            self.touched.push(key);
        }
    }

    /// A session's socket may have room.
    pub fn room(&mut self, key: SessionKey) {
        if self.table.get_mut(key.0 as usize).is_some_and(|session| session.outbound.room()) {
            self.touched.push(key);
        }
    }

    /// Flushes the next session that was touched; whether its socket is full.
    pub fn flush_next(&mut self) -> Option<(SessionKey, bool)> {
        let key = self.touched.pop()?;
        Some((key, self.table.get_mut(key.0 as usize).is_some_and(Session::flush)))
    }
}

impl Session {
    /// Sends what the socket takes; whether it is full.
    fn flush(&mut self) -> bool {
        match self.outbound.flush(&self.socket) {
            Ok(Flushed::Waiting) => return true,
            Ok(Flushed::Whole) if self.stage != Stage::Leaving => {}
            // A shutdown fails where the driver has gone already; the receiving tells that.
            Ok(Flushed::Whole) => drop(self.socket.shutdown(Shutdown::Write)),
            Err(_) => {
                self.outbound.clear();
                let _ = self.socket.shutdown(Shutdown::Both);
            }
        }
        false
    }
}
