//! A TCP port without sockets: the roster and the subscriptions that the daemon has, around them the steps of
//! `shard::port` and `shard::device`, with a channel in place of each device's stream.
//!
//! **Not here.** What should come of it (`journal`).

#![expect(clippy::disallowed_methods, reason = "there is no ring here, and no shard whose tasks are counted")]

use super::journal::Journal;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use uring_dispatch::policy::roster::{Audience, Roster, SessionId};
use uring_dispatch::policy::sources::Sources;
use uring_dispatch::protocol::message::{DeviceName, ToDriver};
use uring_dispatch::shard::outbox::{Appended, Outbox, Served, Subscription};

/// The port.
#[derive(Default)]
pub struct Port {
    roster: RefCell<Roster<Rc<Subscription>>>,
    devices: RefCell<BTreeMap<u64, Rc<Device>>>,
    next_device: Cell<u64>,
    unannounced: Cell<usize>,
    draining: Cell<bool>,
    /// What is expected of it, told where the real port decides.
    pub journal: RefCell<Journal>,
}

/// A device that is connected.
pub struct Device {
    id: u64,
    audience: Rc<Audience<Rc<Subscription>>>,
    /// What it sends; `None` is its end.
    stream: mpsc::UnboundedSender<Option<Vec<u8>>>,
    interrupted: Cell<bool>,
    port: Weak<Port>,
}

impl Port {
    /// A session joins.
    pub fn join(self: &Rc<Self>, session: SessionId, sources: Sources, outbox: Outbox) {
        let (subscription, flusher) = Subscription::new(session, None, outbox);
        let port = Rc::downgrade(self);
        spawn_local(async move {
            if flusher.run().await == Served::Left
                && let Some(port) = port.upgrade()
            {
                port.leave(session);
            }
        });
        if self.devices.borrow().values().any(|device| sources.accepts(device.audience.source())) {
            subscription.introduce_below(self.next_device.get());
            spawn_local(introduce(Rc::downgrade(self), subscription.clone()));
        }
        self.roster.borrow_mut().join(session, sources, subscription);
    }

    fn leave(&self, session: SessionId) {
        assert!(self.roster.borrow_mut().leave(session).is_some() || self.draining.get(), "a session left twice");
        for device in self.devices.borrow().values().filter(|device| device.audience.is_empty()) {
            device.interrupt();
        }
    }

    /// A device connects; `None` where no driver accepts it.
    pub fn admit(self: &Rc<Self>, source: IpAddr) -> Option<Rc<Device>> {
        let audience = self.roster.borrow_mut().audience(source)?;
        let id = self.next_device.replace(self.next_device.get() + 1);
        let (stream, input) = mpsc::unbounded_channel();
        let interrupted = Cell::new(false);
        let device = Rc::new(Device { id, audience: audience.clone(), stream, interrupted, port: Rc::downgrade(self) });
        self.devices.borrow_mut().insert(id, device.clone());
        self.unannounced.set(self.unannounced.get() + 1);
        self.journal.borrow_mut().connected(id, source);
        let opened = ToDriver::Opened { device: device.name() };
        let mut unopened = Vec::new();
        for (_, subscription) in audience.subscribers().iter() {
            if subscription.try_append(&opened) == Appended::Full {
                unopened.push(subscription.clone());
            }
        }
        spawn_local(serve(device.clone(), unopened, input));
        Some(device)
    }

    /// Ends every device, and lets the sessions go when all are told.
    pub fn drain(&self) {
        self.draining.set(true);
        self.devices.borrow().values().for_each(|device| device.interrupt());
        self.finish_when_drained();
    }

    /// The devices that are connected.
    pub fn devices(&self) -> Vec<Rc<Device>> {
        self.devices.borrow().values().cloned().collect()
    }

    /// The sessions that accept a source.
    pub fn accepting(&self, source: IpAddr) -> Vec<SessionId> {
        self.roster.borrow().accepting(source).map(|(session, _)| session).collect()
    }

    fn finish_when_drained(&self) {
        if self.draining.get() && self.unannounced.get() == 0 {
            self.roster.borrow().subscribers().for_each(|subscription| subscription.finish());
            self.roster.borrow_mut().clear();
        }
    }

    fn next_stranger(&self, subscription: &Subscription) -> Option<DeviceName> {
        let devices = self.devices.borrow();
        let strangers = devices.range(subscription.strangers()).map(|(_, device)| device);
        let mut accepted = strangers.filter(|device| device.audience.has(subscription.session()));
        accepted.next().map(|device| device.name())
    }
}

impl Device {
    /// The device sends these bytes.
    pub fn send(&self, bytes: Vec<u8>) {
        // A device whose task has ended sends to nobody.
        let _ = self.stream.send(Some(bytes));
    }

    /// The device closes.
    pub fn close(&self) {
        let _ = self.stream.send(None);
    }

    /// Its id on the port.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn interrupt(&self) {
        self.interrupted.set(true);
        self.close();
    }

    fn name(&self) -> DeviceName {
        DeviceName { ip: self.audience.text(), id_or_port: self.id }
    }

    async fn deliver(&self, data: &[u8]) {
        let message = ToDriver::Received { device: self.name(), data };
        let mut waiting = Vec::new();
        for (_, subscription) in self.audience.subscribers().iter() {
            let known = subscription.knows(self.id);
            if !known || subscription.try_append(&message) == Appended::Full {
                waiting.push(subscription.clone());
            }
        }
        for subscription in waiting {
            self.tell(&subscription, &message).await;
        }
    }

    async fn tell(&self, subscription: &Subscription, message: &ToDriver<'_>) {
        subscription.meet(self.id).await;
        subscription.append(message).await;
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(port) = self.port.upgrade() {
            port.roster.borrow_mut().release(&self.audience);
        }
    }
}

/// A device's task.
async fn serve(
    device: Rc<Device>,
    unopened: Vec<Rc<Subscription>>,
    mut input: mpsc::UnboundedReceiver<Option<Vec<u8>>>,
) {
    for subscription in unopened {
        device.tell(&subscription, &ToDriver::Opened { device: device.name() }).await;
    }
    while let Some(Some(data)) = input.recv().await {
        if device.interrupted.get() {
            break;
        }
        if let Some(port) = device.port.upgrade() {
            port.journal.borrow_mut().delivered(device.id, device.audience.source(), &data);
        }
        device.deliver(&data).await;
    }
    if let Some(port) = device.port.upgrade() {
        port.devices.borrow_mut().remove(&device.id);
        port.journal.borrow_mut().ended(device.id);
    }
    let subscribers: Vec<_> =
        device.audience.subscribers().iter().map(|(_, subscription)| subscription.clone()).collect();
    for subscription in subscribers.into_iter().filter(|subscription| subscription.knows(device.id)).collect::<Vec<_>>()
    {
        device.tell(&subscription, &ToDriver::Closed { device: device.name() }).await;
    }
    if let Some(port) = device.port.upgrade() {
        port.unannounced.set(port.unannounced.get() - 1);
        port.finish_when_drained();
    }
}

/// Tells a session of the devices that were there before it.
async fn introduce(port: Weak<Port>, subscription: Rc<Subscription>) {
    let next = || port.upgrade()?.next_stranger(&subscription);
    loop {
        while let Some(device) = next() {
            if subscription.try_append(&ToDriver::Opened { device }) != Appended::Yes {
                break;
            }
            subscription.introduced(Some(device.id_or_port));
        }
        subscription.wake_strangers();
        let last = Cell::new(None);
        let opened = || {
            let device = next()?;
            last.set(Some(device.id_or_port));
            Some(ToDriver::Opened { device })
        };
        if !subscription.append_with(opened).await {
            break;
        }
        subscription.introduced(last.get());
    }
    subscription.introduced(None);
    subscription.wake_strangers();
}
