//! Who is told what: sessions, ports and devices joined, without a word about how events come.
//!
//! **Invariants.** For each driver: OPENED of a device, its RECEIVED in order, CLOSED once. What a turn appends leaves when
//! the turn ends, once a driver and once a device.
//! **Not here.** Waiting for events (`epoll`, `ring`).

use crate::device::{Device, Devices, Step};
use crate::frames::{self, Frame};
use crate::handshake;
use crate::key::{DeviceKey, PortKey, SessionKey};
use crate::port::{Port, PortSocket, Ports};
use crate::session::{Sessions, Stage};
use std::net::{IpAddr, SocketAddrV4, TcpStream};
use uring_dispatch::policy::port_id::Transport;
use uring_dispatch::protocol::message::{DeviceAddr, DeviceName, FromDriver, IpText, ToDriver};

/// The payload of the close frame that ends a session whose bytes are not understood: 1002.
const PROTOCOL_ERROR: [u8; 2] = 1002u16.to_be_bytes();

/// Who waits for room in its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiter {
    /// A driver.
    Session(SessionKey),
    /// A device.
    Device(DeviceKey),
}

/// All that is joined and connected.
#[derive(Debug)]
pub struct Relay {
    /// What ports carry.
    transport: Transport,
    /// Drivers' sockets.
    pub sessions: Sessions,
    /// Open ports.
    pub ports: Ports,
    /// Devices' sockets.
    pub devices: Devices,
}

impl Relay {
    /// A relay without anyone.
    pub fn new(transport: Transport) -> Self {
        Relay { transport, sessions: Sessions::default(), ports: Ports::default(), devices: Devices::default() }
    }

    /// Bytes of a driver.
    pub fn session_bytes(&mut self, key: SessionKey, bytes: &[u8]) {
        let Some(session) = self.sessions.find_mut(key) else { return };
        if session.stage != Stage::Leaving {
            session.inbound.push(bytes);
        }
        if session.stage == Stage::Handshake {
            self.shake_hands(key);
        }
        if let Some(Stage::Joined(port)) = self.sessions.find(key).map(|session| session.stage) {
            self.take_frames(key, port);
        }
    }

    /// A driver's receiving has ended.
    pub fn session_ended(&mut self, key: SessionKey) {
        self.leave(key);
        self.sessions.remove(key);
    }

    /// A device connected; `None` where its port was closed.
    pub fn device_connected(&mut self, port_key: PortKey, socket: TcpStream, ip: IpAddr) -> Option<DeviceKey> {
        let port = self.ports.find_mut(port_key)?;
        let name = DeviceName { ip: IpText::new(ip), id_or_port: port.devices.len() as u64 };
        let key = self.devices.insert(Device::new(socket, port_key, name));
        port.devices.push(Some(key));
        for &session in &port.sessions {
            self.sessions.deliver(session, &ToDriver::Opened { device: name });
        }
        Some(key)
    }

    /// Bytes of a device.
    pub fn device_bytes(&mut self, key: DeviceKey, data: &[u8]) {
        let Some(device) = self.devices.find(key).filter(|device| device.is_heard()) else { return };
        let Some(port) = self.ports.find(device.port) else { return };
        for &session in &port.sessions {
            self.sessions.deliver(session, &ToDriver::Received { device: device.name, data });
        }
    }

    /// A device's receiving has ended.
    pub fn device_ended(&mut self, key: DeviceKey) {
        if let Some(device) = self.devices.find_mut(key) {
            let step = device.receive_ended();
            self.follow(key, step);
        }
    }

    /// A datagram came to a port.
    pub fn datagram(&mut self, key: PortKey, from: SocketAddrV4, data: &[u8]) {
        let Some(port) = self.ports.find(key) else { return };
        let device = DeviceName { ip: IpText::new((*from.ip()).into()), id_or_port: from.port().into() };
        for &session in &port.sessions {
            self.sessions.deliver(session, &ToDriver::Received { device, data });
        }
    }

    /// A socket that was full may have room.
    pub fn room(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Session(key) => self.sessions.room(key),
            Waiter::Device(key) => self.devices.room(key),
        }
    }

    /// Ends a turn: sends all that it appended, and names those whose socket is full.
    pub fn flush(&mut self, waiting: &mut Vec<Waiter>) {
        while self.ports.flush_next().is_some() {}
        while let Some((key, step)) = self.devices.flush_next() {
            if step == Step::Wait {
                waiting.push(Waiter::Device(key));
            }
            self.follow(key, step);
        }
        while let Some((key, is_full)) = self.sessions.flush_next() {
            if is_full {
                waiting.push(Waiter::Session(key));
            }
        }
    }

    /// Carries out what is to be done about a device.
    fn follow(&mut self, key: DeviceKey, step: Step) {
        if matches!(step, Step::Tell | Step::TellAndRemove)
            && let Some(device) = self.devices.find(key)
            && let Some(port) = self.ports.find_mut(device.port)
        {
            port.devices[device.name.id_or_port as usize] = None;
            for &session in &port.sessions {
                self.sessions.deliver(session, &ToDriver::Closed { device: device.name });
            }
        }
        if matches!(step, Step::Remove | Step::TellAndRemove) {
            self.devices.remove(key);
        }
    }

    /// Answers a request once it is whole, and opens its port.
    fn shake_hands(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.find_mut(key) else { return };
        let joined = match handshake::read(session.inbound.rest(), self.transport) {
            Ok(None) => return,
            Ok(Some(join)) => match self.ports.join(self.transport, join.number, key) {
                Ok(port) => Ok((join, port)),
                Err(_) => Err(409),
            },
            Err(status) => Err(status),
        };
        match joined {
            Ok((join, port)) => {
                session.inbound.take(join.head_bytes);
                session.stage = Stage::Joined(port);
                handshake::append_upgrade(session.outbound.tail(), &join);
                self.introduce(key, port);
            }
            Err(status) => {
                session.stage = Stage::Leaving;
                handshake::append_answer(session.outbound.tail(), status);
            }
        }
        self.sessions.touch(key);
    }

    /// Tells a driver of the devices that were there before it.
    fn introduce(&mut self, key: SessionKey, port: PortKey) {
        let Some(port) = self.ports.find(port) else { return };
        for device in port.devices.iter().flatten().filter_map(|device| self.devices.find(*device)) {
            self.sessions.deliver(key, &ToDriver::Opened { device: device.name });
        }
    }

    /// Takes the frames of a driver that have come whole.
    fn take_frames(&mut self, key: SessionKey, port_key: PortKey) {
        let Some(session) = self.sessions.find_mut(key) else { return };
        let Some(port) = self.ports.find_mut(port_key) else { return };
        let had_datagrams = has_datagrams(port);
        let end = loop {
            match session.inbound.next_frame() {
                Ok(None) => break None,
                Ok(Some(Frame::Binary(message))) => {
                    if take_message(&mut self.devices, port, message).is_none() {
                        break Some(PROTOCOL_ERROR.to_vec());
                    }
                }
                Ok(Some(Frame::Ping(payload))) => frames::append_pong(session.outbound.tail(), payload),
                Ok(Some(Frame::Close(payload))) => break Some(payload.to_vec()),
                Ok(Some(Frame::Ignored)) => {}
                Err(_) => break Some(PROTOCOL_ERROR.to_vec()),
            }
        };
        if let Some(payload) = &end {
            frames::append_close(session.outbound.tail(), payload);
        }
        if !session.outbound.is_empty() {
            self.sessions.touch(key);
        }
        if !had_datagrams && has_datagrams(port) {
            self.ports.touch(port_key);
        }
        if end.is_some() {
            self.leave(key);
        }
    }

    /// Takes a driver off its port; what waits for it still goes out.
    fn leave(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.find_mut(key) else { return };
        if let Stage::Joined(port) = std::mem::replace(&mut session.stage, Stage::Leaving) {
            while self.ports.flush_next().is_some() {}
            for device in self.ports.leave(port, key) {
                self.devices.close(device);
            }
        }
    }
}

fn has_datagrams(port: &Port) -> bool {
    matches!(&port.socket, PortSocket::Datagrams(_, queue) if !queue.is_empty())
}

/// Carries out a message of a driver; `None` where it cannot be decoded.
fn take_message(devices: &mut Devices, port: &mut Port, message: &[u8]) -> Option<()> {
    match FromDriver::decode(message).ok()? {
        FromDriver::Write { device, data } => match &mut port.socket {
            PortSocket::Listener(_) => {
                if let Some(key) = port.device(device.id_or_port) {
                    devices.write(key, data);
                }
            }
            PortSocket::Datagrams(_, queue) => {
                if let Some(to) = datagram_target(device) {
                    queue.push(to, data);
                }
            }
        },
        FromDriver::Close { device } => {
            if let Some(key) = port.device(device.id_or_port) {
                devices.close(key);
            }
        }
        FromDriver::WrongDirection => {}
    }
    Some(())
}

fn datagram_target(device: DeviceAddr) -> Option<SocketAddrV4> {
    match device.ip? {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, u16::try_from(device.id_or_port).ok()?)),
        IpAddr::V6(_) => None,
    }
}
