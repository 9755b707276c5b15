//! A port: its socket, the drivers on it, and its devices by id.
//!
//! **Invariants.** Ids count up from 0 for each opening. A key names one opening and is never used again, so that no late
//! event of its socket can meet another port.
//! **Not here.** Sources: every driver on a port has every device.

use crate::kernel::{DatagramQueue, interrupt};
use crate::key::{DeviceKey, PortKey, SessionKey};
use crate::sockets;
use std::io;
use std::net::{TcpListener, UdpSocket};
use uring_dispatch::policy::port_id::Transport;

/// What a port is open with.
#[derive(Debug)]
pub enum PortSocket {
    /// Connections.
    Listener(TcpListener),
    /// Datagrams, and those that are to be sent.
    Datagrams(UdpSocket, DatagramQueue),
}

/// An open port.
#[derive(Debug)]
pub struct Port {
    /// Its socket.
    pub socket: PortSocket,
    /// The drivers on it, in the order of their joins.
    pub sessions: Vec<SessionKey>,
    /// Its devices by id; `None` for one that is gone.
    pub devices: Vec<Option<DeviceKey>>,
    number: u16,
}

impl Port {
    /// The device with this id, if it is there.
    pub fn device(&self, id: u64) -> Option<DeviceKey> {
        *self.devices.get(usize::try_from(id).ok()?)?
    }
}

/// All ports, and those that something is to be done about.
#[derive(Debug, Default)]
pub struct Ports {
    openings: Vec<Option<Port>>,
    opened: Vec<PortKey>,
    touched: Vec<PortKey>,
}

impl Ports {
    /// An open port.
    pub fn find(&self, key: PortKey) -> Option<&Port> {
        self.openings.get(key.0 as usize)?.as_ref()
    }

    /// An open port, to be changed.
    pub fn find_mut(&mut self, key: PortKey) -> Option<&mut Port> {
        self.openings.get_mut(key.0 as usize)?.as_mut()
    }

    /// Brings a driver onto the port with this number, which is opened where it is not.
    ///
    /// # Errors
    /// What opening it says.
    pub fn join(&mut self, transport: Transport, number: u16, session: SessionKey) -> io::Result<PortKey> {
        let is_named = |port: &Option<Port>| port.as_ref().is_some_and(|port| port.number == number);
        if let Some(at) = self.openings.iter().position(is_named) {
            let key = PortKey(at as u32);
            if let Some(port) = self.find_mut(key) {
                port.sessions.push(session);
            }
            return Ok(key);
        }
        let socket = match transport {
            Transport::Tcp => PortSocket::Listener(sockets::listen_for_devices(number)?),
            Transport::Udp => PortSocket::Datagrams(sockets::datagrams(number)?, DatagramQueue::default()),
        };
        let key = PortKey(self.openings.len() as u32);
        self.openings.push(Some(Port { socket, sessions: vec![session], devices: Vec::new(), number }));
        self.opened.push(key);
        Ok(key)
    }

    /// Takes a driver off a port; the devices that are left without one, as the port was closed.
    pub fn leave(&mut self, key: PortKey, session: SessionKey) -> Vec<DeviceKey> {
        let Some(port) = self.find_mut(key) else { return Vec::new() };
        port.sessions.retain(|joined| *joined != session);
        if !port.sessions.is_empty() {
            return Vec::new();
        }
        let Some(port) = self.openings[key.0 as usize].take() else { return Vec::new() };
        if let PortSocket::Listener(listener) = &port.socket {
            interrupt(listener);
        }
        port.devices.into_iter().flatten().collect()
    }

    /// The next port that was opened and whose socket nobody attends to yet.
    pub fn opened_next(&mut self) -> Option<PortKey> {
        self.opened.pop()
    }

    /// Sends a port's datagrams at the end of the turn.
    pub fn touch(&mut self, key: PortKey) {
        self.touched.push(key);
    }

    /// Sends the datagrams of the next port that was touched.
    pub fn flush_next(&mut self) -> Option<()> {
        let key = self.touched.pop()?;
        if let Some(Port { socket: PortSocket::Datagrams(socket, queue), .. }) = self.find_mut(key) {
            queue.flush(socket);
        }
        Some(())
    }
}
