//! The loop of `baseline epoll` and `baseline udp`: one epoll_wait a turn, each socket registered once.
//!
//! **Invariants.** Streams are edge-triggered, and read until they give less than was asked for, or until their end where
//! that is announced: no edge is missed.
//! **Not here.** What bytes mean (`relay`).

use crate::kernel::DatagramBatch;
use crate::key::{DeviceKey, PortKey, SessionKey};
use crate::port::PortSocket;
use crate::relay::{Relay, Waiter};
use crate::token::Token;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use uring_dispatch::policy::port_id::Transport;

const EVENTS_MAX: usize = 1024;
const READ_BYTES: usize = 65_536;
/// What is watched of a stream.
const STREAM: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);
/// What a stream says when the other end will send nothing more.
const END: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// Serves until the process is ended.
///
/// # Errors
/// What epoll says, and what accepting says where there is no hope in another try.
pub fn run(api: &TcpListener, transport: Transport) -> io::Result<()> {
    api.set_nonblocking(true)?;
    let mut turns = Turns {
        api,
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        relay: Relay::new(transport),
        bytes: vec![0; READ_BYTES],
        datagrams: DatagramBatch::new(),
    };
    watch(&turns.epoll, api, Token::Api, EventFlags::IN)?;
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    // Edges tell when a socket has room: nothing is to be asked for.
    let mut waiting = Vec::new();
    loop {
        events.clear();
        match epoll::wait(&turns.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            turns.take(Token::from(event.data.u64()), event.flags)?;
        }
        turns.relay.flush(&mut waiting);
        waiting.clear();
        while let Some(port) = turns.relay.ports.opened_next() {
            turns.watch_port(port)?;
        }
    }
}

/// What the loop has from turn to turn.
struct Turns<'a> {
    api: &'a TcpListener,
    epoll: OwnedFd,
    relay: Relay,
    bytes: Vec<u8>,
    datagrams: DatagramBatch,
}

/// What one call brought from a stream.
enum Piece {
    /// So many bytes.
    Bytes(usize),
    /// Nothing is there.
    Nothing,
    /// Nothing more comes.
    End,
}

impl Turns<'_> {
    fn take(&mut self, token: Token, flags: EventFlags) -> io::Result<()> {
        match token {
            Token::Device(key) => {
                if flags.contains(EventFlags::OUT) {
                    self.relay.room(Waiter::Device(key));
                }
                self.read_device(key, flags.intersects(END));
                Ok(())
            }
            Token::Session(key) => {
                if flags.contains(EventFlags::OUT) {
                    self.relay.room(Waiter::Session(key));
                }
                self.read_session(key, flags.intersects(END));
                Ok(())
            }
            Token::Api => self.accept_drivers(),
            Token::Port(key) => self.take_port(key),
        }
    }

    fn read_device(&mut self, key: DeviceKey, is_ending: bool) {
        while let Some(device) = self.relay.devices.find(key) {
            match read(&device.socket, &mut self.bytes) {
                Piece::Bytes(count) => {
                    self.relay.device_bytes(key, &self.bytes[..count]);
                    if count < READ_BYTES && !is_ending {
                        return;
                    }
                }
                Piece::Nothing => return,
                Piece::End => return self.relay.device_ended(key),
            }
        }
    }

    fn read_session(&mut self, key: SessionKey, is_ending: bool) {
        while let Some(session) = self.relay.sessions.find(key) {
            match read(&session.socket, &mut self.bytes) {
                Piece::Bytes(count) => {
                    self.relay.session_bytes(key, &self.bytes[..count]);
                    if count < READ_BYTES && !is_ending {
                        return;
                    }
                }
                Piece::Nothing => return,
                Piece::End => return self.relay.session_ended(key),
            }
        }
    }

    fn accept_drivers(&mut self) -> io::Result<()> {
        while let Some((socket, _)) = accept(self.api)? {
            let key = self.relay.sessions.insert(socket);
            if let Some(session) = self.relay.sessions.find(key) {
                watch(&self.epoll, &session.socket, Token::Session(key), STREAM)?;
            }
        }
        Ok(())
    }

    fn take_port(&mut self, key: PortKey) -> io::Result<()> {
        while let Some(port) = self.relay.ports.find(key) {
            match &port.socket {
                PortSocket::Listener(listener) => {
                    let Some((socket, peer)) = accept(listener)? else { return Ok(()) };
                    if let Some(device) = self.relay.device_connected(key, socket, peer.ip())
                        && let Some(found) = self.relay.devices.find(device)
                    {
                        watch(&self.epoll, &found.socket, Token::Device(device), STREAM)?;
                    }
                }
                PortSocket::Datagrams(socket, _) => {
                    // An error is of one datagram that was sent; the next call goes on behind it.
                    let is_more = self.datagrams.receive(socket).unwrap_or(true);
                    for (from, data) in self.datagrams.datagrams() {
                        self.relay.datagram(key, from, data);
                    }
                    if !is_more {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn watch_port(&self, key: PortKey) -> io::Result<()> {
        match self.relay.ports.find(key).map(|port| &port.socket) {
            Some(PortSocket::Listener(listener)) => {
                listener.set_nonblocking(true)?;
                watch(&self.epoll, listener, Token::Port(key), EventFlags::IN)
            }
            Some(PortSocket::Datagrams(socket, _)) => watch(&self.epoll, socket, Token::Port(key), EventFlags::IN),
            None => Ok(()),
        }
    }
}

/// Registers a socket for as long as it is open.
fn watch(epoll: &OwnedFd, socket: impl AsFd, token: Token, flags: EventFlags) -> io::Result<()> {
    Ok(epoll::add(epoll, socket, EventData::new_u64(token.into()), flags)?)
}

/// A connection that waits; `None` where there is none.
fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    loop {
        match listener.accept() {
            Ok(accepted) => return Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read(socket: &TcpStream, bytes: &mut [u8]) -> Piece {
    loop {
        match recv(socket, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Piece::End,
            Ok((_, count)) => return Piece::Bytes(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Piece::Nothing,
            Err(_) => return Piece::End,
        }
    }
}
