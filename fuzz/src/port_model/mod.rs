//! A port under random events: each driver gets OPENED, every RECEIVED in order and CLOSED of each device that it
//! accepts, whoever joins, leaves, reads slowly or late.
//!
//! The roster and the subscriptions are the daemon's; the steps around them (`port`) are those of `shard::port` and
//! `shard::device` without io. A naive model (`journal`) says what each driver must get.

#![expect(clippy::disallowed_methods, reason = "there is no ring here that a task could wait for")]

mod driver;
mod journal;
mod port;
mod script;

use driver::Driver;
use port::{Device, Port};
use script::{Event, SLOTS, SOURCES};
use std::net::IpAddr;
use std::rc::Rc;
use tokio::task::yield_now;
use uring_dispatch::policy::roster::SessionId;
use uring_dispatch::policy::sources::Sources;
use uring_dispatch::shard::outbox;

/// Turns without anything read after which nothing more comes.
const QUIET_TURNS: usize = 24;
/// Devices over a run; one more is not let in.
const DEVICES_MAX: u64 = 48;

/// Does to a port what `input` says.
pub fn check(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without io");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut world = World::default();
        for event in script::read(input) {
            world.happen(event).await;
        }
        world.settle().await;
        world.check();
        world.end().await;
    });
}

#[derive(Default)]
struct World {
    port: Rc<Port>,
    drivers: [Option<Driver>; SLOTS],
    next_session: u64,
    devices_connected: u64,
    /// Counts what devices send, so that no two are alike.
    sent: u32,
}

impl World {
    async fn happen(&mut self, event: Event) {
        match event {
            Event::Join { slot, sources, outbox_bytes } if self.drivers[slot].is_none() => {
                let session = SessionId(self.next_session);
                self.next_session += 1;
                let (outbox, inbox) = outbox::link(outbox_bytes);
                let list = Sources::parse(&sources.list()).expect("the lists of a script parse");
                self.port.journal.borrow_mut().joined(session, sources);
                self.port.join(session, list, outbox);
                self.drivers[slot] = Some(Driver::new(session, sources, inbox, outbox_bytes));
            }
            Event::Join { .. } => {}
            Event::Leave { slot } => {
                if let Some(driver) = self.drivers[slot].take() {
                    self.port.journal.borrow_mut().left(driver.session);
                }
            }
            Event::Connect { source } => self.connect(source),
            Event::Disconnect { device } => {
                if let Some(device) = self.device(device) {
                    device.close();
                }
            }
            Event::Send { device, times, bytes } => {
                for _ in 0..times {
                    self.send(device, bytes);
                }
            }
            Event::Take { slot, chunks } => {
                if let Some(driver) = &mut self.drivers[slot] {
                    for _ in 0..chunks {
                        driver.take(&self.port.journal).await;
                    }
                }
            }
            Event::Turns { turns } => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
        }
    }

    fn connect(&mut self, source: usize) {
        if self.devices_connected == DEVICES_MAX {
            return;
        }
        let device = self.port.admit(ip(source));
        // A driver that has left may not be forgotten yet, so more may be let in than the model says, but not fewer.
        assert!(device.is_some() || self.port.journal.borrow().accepting(source).is_empty(), "a device was refused");
        if let Some(device) = device {
            assert_eq!(device.id(), self.devices_connected, "ids count up from 0");
            self.devices_connected += 1;
        }
    }

    fn device(&self, at: usize) -> Option<Rc<Device>> {
        let devices = self.port.devices();
        devices.get(at % devices.len().max(1)).cloned()
    }

    fn send(&mut self, device: usize, bytes: usize) {
        if let Some(device) = self.device(device) {
            let mut data = self.sent.to_be_bytes().to_vec();
            data.resize(data.len() + bytes, device.id() as u8);
            self.sent += 1;
            device.send(data);
        }
    }

    /// Lets the tasks run and the drivers read until nothing more comes.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS {
            quiet += 1;
            for driver in self.drivers.iter_mut().flatten() {
                if driver.take(&self.port.journal).await {
                    quiet = 0;
                }
            }
            yield_now().await;
        }
    }

    fn check(&self) {
        let journal = self.port.journal.borrow();
        self.drivers.iter().flatten().for_each(|driver| driver.check(&journal));
        for source in 0..SOURCES.len() {
            assert_eq!(self.port.accepting(ip(source)), journal.accepting(source));
        }
        for device in self.port.devices() {
            assert!(!journal.accepting(journal.source_of(device.id())).is_empty(), "a device that nobody accepts");
        }
    }

    /// Drains the port: all devices end, then all drivers are let go, and nothing is left of it.
    async fn end(mut self) {
        self.port.drain();
        self.settle().await;
        let journal = self.port.journal.borrow();
        for driver in self.drivers.iter().flatten() {
            driver.check(&journal);
            assert!(driver.has_ended(), "a driver was not let go");
            assert!(journal.due(driver.session).all(|(_, due)| due.has_ended));
        }
        drop(journal);
        let port = Rc::downgrade(&self.port);
        drop(self);
        assert_eq!(port.strong_count(), 0, "a task holds the port");
    }
}

fn ip(source: usize) -> IpAddr {
    SOURCES[source].parse().expect("the sources are addresses")
}
