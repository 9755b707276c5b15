//! A TCP device: its socket, what waits for it, and how it ends.
//!
//! **Invariants.** CLOSED is told once, after all that was received. What was written before CLOSE, or before the device
//! ended its side, goes out first. A device stays in the table until its receiving has ended, so that no event can
//! meet another device in its place.
//! **Not here.** Who is told (`relay`).

use crate::key::{DeviceKey, PortKey};
use crate::outbound::{Flushed, Outbound};
use slab::Slab;
use std::net::{Shutdown, TcpStream};
use uring_dispatch::protocol::message::DeviceName;

/// How far a device's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// A driver sent CLOSE; writes before it go first.
    CloseAsked,
    /// CLOSED is told; what the device still sends is dropped, until it ends its side.
    Told,
    /// The device has ended its side; what was written until then goes first.
    ReceiveEnded,
}

/// What is to be done about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Its socket is full: flush again when it has room.
    Wait,
    /// Tell CLOSED; it stays until its receiving has ended.
    Tell,
    /// Tell CLOSED and take it out of the table.
    TellAndRemove,
    /// Take it out of the table.
    Remove,
}

/// One device.
#[derive(Debug)]
pub struct Device {
    /// Its socket.
    pub socket: TcpStream,
    /// Where it came in.
    pub port: PortKey,
    /// How messages name it.
    pub name: DeviceName,
    outbound: Outbound,
    stage: Stage,
}

impl Device {
    /// A device that has just connected.
    pub fn new(socket: TcpStream, port: PortKey, name: DeviceName) -> Self {
        Device { socket, port, name, outbound: Outbound::default(), stage: Stage::Open }
    }

    /// Whether drivers are still told what it sends.
    pub fn is_heard(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::CloseAsked)
    }

    /// Its receiving has ended, by its own end or by an error.
    pub fn receive_ended(&mut self) -> Step {
        match self.stage {
            Stage::Told => Step::Remove,
            Stage::Open | Stage::CloseAsked if self.outbound.is_empty() => Step::TellAndRemove,
            Stage::Open | Stage::CloseAsked | Stage::ReceiveEnded => {
                self.stage = Stage::ReceiveEnded;
                Step::Stay
            }
        }
    }

    /// Sends what its socket takes.
    fn flush(&mut self) -> Step {
        match self.outbound.flush(&self.socket) {
            Ok(Flushed::Waiting) => return Step::Wait,
            Ok(Flushed::Whole) => {}
            Err(_) => {
                self.outbound.clear();
                // Ends the receiving, which is where a device is taken out. It fails where the device has gone already.
                let _ = self.socket.shutdown(Shutdown::Both);
            }
        }
        match self.stage {
            Stage::Open | Stage::Told => Step::Stay,
            Stage::ReceiveEnded => Step::TellAndRemove,
            Stage::CloseAsked => {
                let _ = self.socket.shutdown(Shutdown::Write);
                self.stage = Stage::Told;
                Step::Tell
            }
        }
    }
}

/// All devices, and those that are to be flushed at the end of the turn.
#[derive(Debug, Default)]
pub struct Devices {
    table: Slab<Device>,
    touched: Vec<DeviceKey>,
}

impl Devices {
    /// Takes a device in.
    pub fn insert(&mut self, device: Device) -> DeviceKey {
        DeviceKey(self.table.insert(device) as u32)
    }

    /// Takes a device out; its socket closes.
    pub fn remove(&mut self, key: DeviceKey) {
        self.table.try_remove(key.0 as usize);
    }

    /// A device.
    pub fn find(&self, key: DeviceKey) -> Option<&Device> {
        self.table.get(key.0 as usize)
    }

    /// A device, to be changed.
    pub fn find_mut(&mut self, key: DeviceKey) -> Option<&mut Device> {
        self.table.get_mut(key.0 as usize)
    }

    /// Bytes for a device, sent at the end of the turn.
    pub fn write(&mut self, key: DeviceKey, data: &[u8]) {
        let Some(device) = self.table.get_mut(key.0 as usize) else { return };
        if device.stage == Stage::Open {
            device.outbound.tail().extend_from_slice(data);
            if device.outbound.touch() {
                self.touched.push(key);
            }
        }
    }

    /// Ends a device after what was written to it.
    pub fn close(&mut self, key: DeviceKey) {
        let Some(device) = self.table.get_mut(key.0 as usize) else { return };
        if device.stage == Stage::Open {
            device.stage = Stage::CloseAsked;
            if device.outbound.touch() {
                self.touched.push(key);
            }
        }
    }

    /// A device's socket may have room.
    pub fn room(&mut self, key: DeviceKey) {
        if self.table.get_mut(key.0 as usize).is_some_and(|device| device.outbound.room()) {
            self.touched.push(key);
        }
    }

    /// Flushes the next device that was touched.
    pub fn flush_next(&mut self) -> Option<(DeviceKey, Step)> {
        let key = self.touched.pop()?;
        Some((key, self.table.get_mut(key.0 as usize).map_or(Step::Stay, Device::flush)))
    }
}
