//! The loop of `baseline tcp`: one wait of the ring a turn.
//!
//! **Invariants.** A receive is pending for every session and device until it has ended. Buffers go back as soon as their
//! bytes are appended.
//! **Not here.** What bytes mean (`relay`).

use crate::kernel::{Event, Group, Ring};
use crate::key::PortKey;
use crate::port::PortSocket;
use crate::relay::{Relay, Waiter};
use crate::token::Token;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use uring_dispatch::policy::port_id::Transport;

/// Serves until the process is ended.
///
/// # Errors
/// What the ring says, and what accepting says where there is no hope in another try.
pub fn run(api: &TcpListener) -> io::Result<()> {
    let mut turns = Turns { api, ring: Ring::new()?, relay: Relay::new(Transport::Tcp), is_more: false };
    turns.ring.accept(api.as_fd(), Token::Api.into())?;
    let mut events = Vec::new();
    let mut waiting = Vec::new();
    loop {
        turns.ring.wait(&mut events)?;
        turns.take_all(&mut events)?;
        // What a driver sent at once is decoded as a whole, so that each device is written to once for all of it.
        while std::mem::take(&mut turns.is_more) {
            turns.ring.gather(&mut events)?;
            turns.take_all(&mut events)?;
        }
        turns.relay.flush(&mut waiting);
        for waiter in waiting.drain(..) {
            turns.wait_for_room(waiter)?;
        }
        while let Some(port) = turns.relay.ports.opened_next() {
            turns.accept_at(port)?;
        }
    }
}

/// What the loop has from turn to turn.
struct Turns<'a> {
    api: &'a TcpListener,
    ring: Ring,
    relay: Relay,
    /// A driver's bytes filled a buffer, and more are to be expected.
    is_more: bool,
}

impl Turns<'_> {
    fn take_all(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        events.drain(..).try_for_each(|event| self.take(event))
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Received { token, group, buffer, is_last } => {
                let bytes = self.ring.bytes(group, &buffer);
                match Token::from(token) {
                    Token::Device(key) => self.relay.device_bytes(key, bytes),
                    Token::Session(key) => {
                        self.is_more |= Ring::is_full(group, bytes);
                        self.relay.session_bytes(key, bytes);
                    }
                    Token::Api | Token::Port(_) => {}
                }
                self.ring.give_back(group, buffer);
                if is_last { self.receive(Token::from(token), group) } else { Ok(()) }
            }
            Event::NoBuffers { token, group } => self.receive(Token::from(token), group),
            Event::Accepted { token, socket, is_last } => {
                let token = Token::from(token);
                match socket {
                    Ok(socket) => self.admit(token, socket)?,
                    Err(error) => self.mend_accept(token, error)?,
                }
                if is_last { self.accept(token) } else { Ok(()) }
            }
            Event::Ended { token } => {
                match Token::from(token) {
                    Token::Device(key) => self.relay.device_ended(key),
                    Token::Session(key) => self.relay.session_ended(key),
                    Token::Api | Token::Port(_) => {}
                }
                Ok(())
            }
            Event::Room { token } => {
                match Token::from(token) {
                    Token::Device(key) => self.relay.room(Waiter::Device(key)),
                    Token::Session(key) => self.relay.room(Waiter::Session(key)),
                    Token::Api | Token::Port(_) => {}
                }
                Ok(())
            }
        }
    }

    /// Takes a connection in and begins to receive.
    fn admit(&mut self, token: Token, socket: OwnedFd) -> io::Result<()> {
        let socket = TcpStream::from(socket);
        match token {
            Token::Port(port) => {
                // One that has gone again has no address, and nobody has heard of it.
                let Ok(peer) = socket.peer_addr() else { return Ok(()) };
                match self.relay.device_connected(port, socket, peer.ip()) {
                    Some(key) => self.receive(Token::Device(key), Group::Devices),
                    None => Ok(()),
                }
            }
            _ => {
                let key = self.relay.sessions.insert(socket);
                self.receive(Token::Session(key), Group::Drivers)
            }
        }
    }

    fn receive(&mut self, token: Token, group: Group) -> io::Result<()> {
        let socket = match token {
            Token::Device(key) => self.relay.devices.find(key).map(|device| device.socket.as_fd()),
            Token::Session(key) => self.relay.sessions.find(key).map(|session| session.socket.as_fd()),
            Token::Api | Token::Port(_) => None,
        };
        socket.map_or(Ok(()), |socket| self.ring.receive(socket, group, token.into()))
    }

    fn wait_for_room(&mut self, waiter: Waiter) -> io::Result<()> {
        let (socket, token) = match waiter {
            Waiter::Session(key) => (self.relay.sessions.find(key).map(|session| &session.socket), Token::Session(key)),
            Waiter::Device(key) => (self.relay.devices.find(key).map(|device| &device.socket), Token::Device(key)),
        };
        socket.map_or(Ok(()), |socket| self.ring.poll_room(socket.as_fd(), token.into()))
    }

    fn accept(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Port(port) => self.accept_at(port),
            _ => self.ring.accept(self.api.as_fd(), token.into()),
        }
    }

    fn accept_at(&mut self, key: PortKey) -> io::Result<()> {
        match self.relay.ports.find(key).map(|port| &port.socket) {
            Some(PortSocket::Listener(listener)) => self.ring.accept(listener.as_fd(), Token::Port(key).into()),
            _ => Ok(()),
        }
    }

    /// Passes over what ends with its connection or with its port; anything else would fail again for ever.
    fn mend_accept(&self, token: Token, error: io::Error) -> io::Result<()> {
        let is_open = match token {
            Token::Port(port) => self.relay.ports.find(port).is_some(),
            _ => true,
        };
        if is_open && error.kind() != io::ErrorKind::ConnectionAborted { Err(error) } else { Ok(()) }
    }
}
