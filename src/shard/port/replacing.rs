//! Where a new connection of a source takes the place of its old one: a device that lost power comes back before it is
//! missed, and its old connection would be in its way.
//!
//! **Invariants.** A source has one device. The old one's drivers have been told CLOSED before the new one is let in, and
//! what waits for the old one is dropped, as it is most likely dead. Of several that wait for the same old one the newest
//! is let in, and the others are refused.
//! **Not here.** On which ports this is so (`policy::port_rules`), and the other limits (`admission`).

use super::{Arrival, Port};
use crate::policy::ending::{DeviceEnd, DeviceRefusal};
use crate::shard::device::Device;
use crate::shard::ring;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use tokio::sync::Notify;

/// The devices of a port by source, and who waits to take their place.
#[derive(Debug, Default)]
pub struct Replacing {
    /// Ids of devices whose drivers have not all been told CLOSED.
    devices: RefCell<HashMap<IpAddr, u64>>,
    /// The number of the newest arrival of each source that waits.
    waiting: RefCell<HashMap<IpAddr, u64>>,
    next: Cell<u64>,
    is_on: Cell<bool>,
    changed: Notify,
}

/// What is to be done with one that waits.
enum Turn {
    /// Its source's device is still there.
    Wait,
    /// The place is free.
    Enter,
    /// A newer one has come.
    GiveWay,
}

impl Replacing {
    /// Whether a new connection takes the place of its source's old one.
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Whether a new connection of this source has a device to take the place of.
    pub fn makes_way(&self, source: IpAddr) -> bool {
        self.is_on.get() && self.devices.borrow().contains_key(&source)
    }

    /// From here on new connections take the places of the last of these devices of their sources.
    pub fn begin<'a>(&self, devices: impl Iterator<Item = &'a Rc<Device>>) {
        if !self.is_on.replace(true) {
            self.devices.borrow_mut().extend(devices.map(|device| (device.source(), device.id())));
        }
    }

    /// From here on each comes in beside the old ones; those that wait go on waiting.
    pub fn end(&self) {
        self.is_on.set(false);
    }

    /// The drivers of a device have been told CLOSED.
    pub fn is_gone(&self, device: &Device) {
        let mut devices = self.devices.borrow_mut();
        if devices.get(&device.source()) == Some(&device.id()) {
            devices.remove(&device.source());
            self.wake();
        }
    }

    /// Has those that wait look again.
    pub fn wake(&self) {
        self.changed.notify_waiters();
    }

    fn turn_of(&self, source: IpAddr, number: u64) -> Turn {
        if self.waiting.borrow().get(&source) != Some(&number) {
            Turn::GiveWay
        } else if self.devices.borrow().contains_key(&source) {
            Turn::Wait
        } else {
            Turn::Enter
        }
    }

    fn let_in(&self, port: &Rc<Port>, arrival: Arrival) {
        if let Some(device) = port.let_in(arrival) {
            self.devices.borrow_mut().insert(device.source(), device.id());
        }
    }
}

/// Lets a device in, at once where its source has none.
pub fn admit(port: &Rc<Port>, arrival: Arrival) {
    let replacing = &port.replacing;
    let source = arrival.remote.ip();
    if !replacing.devices.borrow().contains_key(&source) {
        // One that waits may not have seen yet that the place is free: it gives way, as any older one does.
        if replacing.waiting.borrow_mut().remove(&source).is_some() {
            replacing.wake();
        }
        return replacing.let_in(port, arrival);
    }
    let number = replacing.next.replace(replacing.next.get() + 1);
    replacing.waiting.borrow_mut().insert(source, number);
    // An older one that waits gives way.
    replacing.wake();
    ring::spawn(wait(Rc::downgrade(port), replacing.clone(), arrival, number));
}

/// Waits for as long as the old device's drivers take to be told, which their stall limit bounds.
async fn wait(port: Weak<Port>, replacing: Rc<Replacing>, arrival: Arrival, number: u64) {
    let source = arrival.remote.ip();
    loop {
        // From here on no wake-up is missed.
        let changed = replacing.changed.notified();
        {
            let Some(port) = port.upgrade() else { return };
            match replacing.turn_of(source, number) {
                Turn::GiveWay => return port.refuse(source, DeviceRefusal::Replaced),
                Turn::Enter => {
                    replacing.waiting.borrow_mut().remove(&source);
                    return replacing.let_in(&port, arrival);
                }
                Turn::Wait => {
                    let old = replacing.devices.borrow().get(&source).and_then(|id| port.device(*id));
                    old.iter().for_each(|old| old.abort(DeviceEnd::Replaced));
                }
            }
        }
        changed.await;
    }
}
