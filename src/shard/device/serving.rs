//! A device's task: it reads the device until it has ended, and ends it.
//!
//! **Invariants.** Its drivers are told CLOSED once, also where the task fails, and behind all that was read. A receive that is
//! pending as the device ends stays so, and what it brings is dropped as it comes, also while a slow driver is being told:
//! ending very many devices at once cancels nothing, and keeps no receive buffer from others.
//! **Not here.** What becomes of what was read (`device`), and of what is queued (`writing`).

use super::Device;
use crate::policy::counts::Count;
use crate::policy::ending::DeviceEnd;
use crate::protocol::message::ToDriver;
use crate::protocol::tapped::TapEvent;
use crate::shard::outbox::Subscription;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Receipt};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;

/// A device's task: hands what it sends to its drivers until it has ended, and ends it.
pub async fn serve(device: Rc<Device>) {
    Leaving::of(device).read().await;
}

/// The task of a device that `unopened` have to be told of first, or of which `first` has been read before.
pub async fn serve_late(device: Rc<Device>, unopened: Vec<Rc<Subscription>>, first: Vec<u8>) {
    let leaving = Leaving::of(device);
    leaving.device.tell_opened(unopened).await;
    if !first.is_empty() {
        leaving.device.deliver_first(first).await;
    }
    leaving.read().await;
}

/// Takes the device out of its port's table and tells its drivers CLOSED, also where its task fails.
struct Leaving {
    device: Rc<Device>,
    stage: Cell<Stage>,
}

/// How far a device has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is there.
    Listed,
    /// It is in no table, and its source may have another.
    Forgotten,
    /// Its drivers have been told.
    Announced,
}

impl Leaving {
    fn of(device: Rc<Device>) -> Self {
        Leaving { device, stage: Cell::new(Stage::Listed) }
    }

    async fn read(&self) {
        // One that has come to say one thing has often said it by now, and closed.
        let mut end = self.device.read_on();
        loop {
            if let Some(end) = end {
                return Box::pin(self.announce(end)).await;
            }
            let mut receive = pin!(self.device.stream.receive(&self.device.resources().pool));
            let (waiting, ended) =
                match self.device.stream.receive_unless(receive.as_mut(), || self.device.is_over()).await {
                    Some(receipt) => self.device.take(receipt),
                    None => return Box::pin(self.leave(receive)).await,
                };
            if let Some(waiting) = waiting {
                // What is rare is boxed, here as elsewhere: an idle device is its reading alone.
                Box::pin(self.device.deliver_waiting(waiting)).await;
            }
            end = ended;
        }
    }

    /// Those who know the device, which is in no table from here on.
    fn forget(&self) -> Vec<Rc<Subscription>> {
        if self.stage.get() == Stage::Listed {
            self.stage.set(Stage::Forgotten);
            if self.device.ledger.counts_sources() {
                self.device.resources().shared.gate.leaves(self.device.source());
            }
        }
        if let Some(port) = self.device.port.upgrade() {
            port.forget(&self.device);
        }
        self.device.tap(|device| TapEvent::Closed { device });
        let subscribers = self.device.audience.subscribers();
        let knowing = subscribers.iter().filter(|(_, subscription)| subscription.knows(self.device.id));
        knowing.map(|(_, subscription)| subscription.clone()).collect()
    }

    /// What comes after the last read: the flush, and CLOSED. Where the device was ending already, that is how it ends.
    async fn announce(&self, end: DeviceEnd) {
        let device = &self.device;
        if device.ending.get().is_none() {
            if end == DeviceEnd::DeviceClosed {
                device.end(end);
            } else {
                device.abort(end);
            }
        }
        device.flushed().await;
        for subscription in self.forget() {
            device.tell(&subscription, &ToDriver::Closed { device: device.name() }).await;
        }
        self.has_left(device.ending.get().unwrap_or(end));
    }

    /// Leaves while the device's end is open, and `receive` pending. What it still sends is dropped: unread input would make
    /// the close a reset, which destroys what was just written.
    async fn leave<F: Future<Output = io::Result<Receipt>>>(&self, mut receive: Pin<&mut F>) {
        let device = &self.device;
        let Some(end) = device.ending.get() else { return };
        let Resources { pool, .. } = &**device.resources();
        let limits = device.resources().limits();
        // What has come before this end, and was not looked at yet.
        ring::turn().await;
        if let Some(receipt) = device.stream.receive_unless(receive.as_mut(), || true).await {
            if let (Some(waiting), _) = device.take(receipt) {
                device.deliver_waiting(waiting).await;
            }
            self.announce(end).await;
            device.stream.linger(pool, limits.linger_time_max, limits.flush_time_max).await;
            return;
        }
        let mut announced = pin!(self.announce(end));
        let has_come = tokio::select! {
            _ = receive.as_mut() => true,
            () = announced.as_mut() => false,
        };
        if has_come {
            announced.await;
            device.stream.linger(pool, limits.linger_time_max, limits.flush_time_max).await;
        } else {
            device.stream.linger_behind(receive, pool, limits.linger_time_max, limits.flush_time_max).await;
        }
    }

    fn has_left(&self, end: DeviceEnd) {
        self.stage.set(Stage::Announced);
        self.device.log_ended(end);
        if let Some(port) = self.device.port.upgrade() {
            port.device_announced(&self.device);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.stage.get() != Stage::Announced {
            self.device.resources().counts.one(Count::TasksFailed);
            self.device.abort(DeviceEnd::Failed);
            for subscription in self.forget() {
                subscription.append_anyway(&ToDriver::Closed { device: self.device.name() });
                self.device.resources().counts.one(Count::MessagesToDrivers);
            }
            self.has_left(DeviceEnd::Failed);
        }
    }
}
