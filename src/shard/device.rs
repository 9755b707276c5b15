//! One TCP device: a task that reads it and ends it, and a writer that exists only while something is queued for it.
//!
//! **Invariants.** Its drivers get OPENED first, then every RECEIVED in order, then CLOSED, once. It is read only while
//! its drivers have room. Once it is ending nothing is queued for it, and what was queued before still leaves, unless
//! it makes no progress. The credit of a write is held until the kernel has its bytes, or it is dropped.
//! **Not here.** Who its drivers are (`policy::roster`), and the table it stands in (`port`).

use crate::policy::counts::Count;
use crate::policy::ending::DeviceEnd;
use crate::policy::roster::{Audience, SessionId};
use crate::protocol::message::{DeviceName, ToDriver};
use crate::shard::credit::Credit;
use crate::shard::outbox::{Appended, Subscription};
use crate::shard::port::Port;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Buffer, Receipt, Sent, Stream};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Small writes are gathered up to this size into one send.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// Devices that are looked at in one go for bytes under way.
const UNDER_WAY_BATCH: usize = 256;

/// One connected device.
pub struct Device {
    id: u64,
    stream: Stream,
    audience: Rc<Audience<Rc<Subscription>>>,
    ending: Cell<Option<DeviceEnd>>,
    queue: RefCell<Option<Box<WriteQueue>>>,
    has_user_timeout: Cell<bool>,
    port: Weak<Port>,
    resources: Rc<Resources>,
    _slot: OwnedSemaphorePermit,
}

/// What waits for a device; it exists while its writer runs.
struct WriteQueue {
    writes: VecDeque<Write>,
    /// How many of them the pending send holds.
    sending: usize,
    /// Bytes that the kernel has taken in all.
    taken_bytes: i64,
    emptied: Rc<Notify>,
}

struct Write {
    session: SessionId,
    data: Bytes,
    credit: Credit,
}

impl Device {
    /// A device that has just been accepted. [`serve`] is its task.
    pub fn new(
        id: u64,
        stream: Stream,
        audience: Rc<Audience<Rc<Subscription>>>,
        port: &Rc<Port>,
        resources: &Rc<Resources>,
        slot: OwnedSemaphorePermit,
    ) -> Rc<Self> {
        resources.devices.set(resources.devices.get() + 1);
        Rc::new(Device {
            id,
            stream,
            audience,
            ending: Cell::new(None),
            queue: RefCell::new(None),
            has_user_timeout: Cell::new(false),
            port: Rc::downgrade(port),
            resources: resources.clone(),
            _slot: slot,
        })
    }

    /// Its id on its port.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its address.
    pub fn source(&self) -> IpAddr {
        self.audience.source()
    }

    /// Its name in messages to drivers.
    pub fn name(&self) -> DeviceName {
        DeviceName { ip: self.audience.text(), id_or_port: self.id }
    }

    /// Whether this session's driver accepts it.
    pub fn is_accepted_by(&self, session: SessionId) -> bool {
        self.audience.has(session)
    }

    /// Whether no driver accepts it any more.
    pub fn is_orphan(&self) -> bool {
        self.audience.is_empty()
    }

    /// Bytes of a session's credit that wait for this device.
    pub fn credit_of(&self, session: SessionId) -> usize {
        let queue = self.queue.borrow();
        let writes = queue.iter().flat_map(|queue| &queue.writes);
        writes.filter(|write| write.session == session).map(|write| write.credit.bytes()).sum()
    }

    /// Queues bytes of a session; false where the device is ending. Never waits: the credit is the bound.
    pub fn write(self: &Rc<Self>, session: SessionId, data: Bytes, credit: Credit) -> bool {
        if self.ending.get().is_some() {
            return false;
        }
        if data.is_empty() {
            return true;
        }
        let write = Write { session, data, credit };
        let mut queue = self.queue.borrow_mut();
        if let Some(queue) = &mut *queue {
            queue.writes.push_back(write);
        } else {
            let writes = VecDeque::from([write]);
            *queue = Some(Box::new(WriteQueue { writes, sending: 0, taken_bytes: 0, emptied: Rc::default() }));
            drop(queue);
            self.watch_acknowledgement();
            ring::spawn(write_queued(self.clone()));
        }
        true
    }

    /// Ends the device once what is queued for it has left, or has made no progress for the flush limit. The first
    /// reason stands.
    pub fn end(self: &Rc<Self>, why: DeviceEnd) {
        if self.ending.get().is_some() {
            return;
        }
        self.ending.set(Some(why));
        if self.is_flushed() {
            self.finish_writing();
        } else {
            self.watch_flush(FlushFor::End);
        }
    }

    /// A session has left that may have writes queued here: they still leave, unless they make no progress for the flush
    /// limit.
    pub fn flush_for_left(self: &Rc<Self>, session: SessionId) {
        if self.credit_of(session) > 0 {
            self.watch_flush(FlushFor::Left(session));
        }
    }

    /// Ends the device at once: what is queued for it is dropped, and its credit comes back.
    pub fn abort(&self, why: DeviceEnd) {
        if self.ending.get().is_none() {
            self.ending.set(Some(why));
        }
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            queue.writes.clear();
        }
        // What the kernel holds for it goes, too.
        self.stream.reset_on_close();
        // Ends the pending send and the pending receive.
        self.stream.shutdown(Shutdown::Both);
    }

    /// Whether all that was queued has been acknowledged; if so, the idle connection is left to keepalive.
    pub fn is_acknowledged(&self) -> bool {
        let acknowledged = self.is_flushed() && self.stream.unacknowledged_bytes() == 0;
        if acknowledged {
            self.stream.set_user_timeout(None);
            self.has_user_timeout.set(false);
        }
        acknowledged
    }

    fn watch_acknowledgement(self: &Rc<Self>) {
        let time = self.resources.limits().device_user_timeout;
        if !time.is_zero() && !self.has_user_timeout.replace(true) {
            self.stream.set_user_timeout(Some(time));
            self.resources.under_way.borrow_mut().push(Rc::downgrade(self));
        }
    }

    fn watch_flush(self: &Rc<Self>, flush: FlushFor) {
        ring::spawn(watch_flush(Rc::downgrade(self), self.resources.limits().flush_time_max, flush));
    }

    /// What has arrived at the device of what is queued, to tell progress by; `None` once nothing is left of it.
    fn flush_progress(&self, flush: FlushFor) -> Option<i64> {
        if let FlushFor::Left(session) = flush
            && self.credit_of(session) == 0
        {
            return None;
        }
        let queue = self.queue.borrow();
        let unacknowledged_bytes = i64::try_from(self.stream.unacknowledged_bytes()).unwrap_or(i64::MAX);
        queue.as_ref().map(|queue| queue.taken_bytes.saturating_sub(unacknowledged_bytes))
    }

    /// Drops what a session has queued, but for what the pending send holds.
    fn drop_queued(&self, session: SessionId) {
        let mut queue = self.queue.borrow_mut();
        let Some(queue) = &mut *queue else { return };
        let (before, mut at) = (queue.writes.len(), 0);
        queue.writes.retain(|write| {
            at += 1;
            at <= queue.sending || write.session != session
        });
        self.resources.counts.add(Count::WritesDropped, (before - queue.writes.len()) as u64);
    }

    /// Nothing more is written: the device sees the end at once, also while its reader waits for a driver.
    fn finish_writing(&self) {
        self.stream.shutdown(Shutdown::Write);
        self.stream.interrupt();
    }

    fn is_flushed(&self) -> bool {
        self.queue.borrow().is_none()
    }

    /// Waits until the writer has ended.
    async fn flushed(&self) {
        let emptied = self.queue.borrow().as_ref().map(|queue| queue.emptied.clone());
        if let Some(emptied) = emptied {
            emptied.notified().await;
        }
    }

    /// Hands what the device sends to its drivers until it has ended.
    async fn read(&self) -> DeviceEnd {
        loop {
            match self.stream.receive(&self.resources.pool).await {
                Ok(Receipt::Data(data)) => self.deliver(data).await,
                Ok(Receipt::End) => return self.ending.get().unwrap_or(DeviceEnd::DeviceClosed),
                Ok(Receipt::Interrupted) => {
                    if let (Some(why), true) = (self.ending.get(), self.is_flushed()) {
                        return why;
                    }
                }
                Err(error) => return self.ending.get().unwrap_or(DeviceEnd::from_io(&error)),
            }
        }
    }

    async fn deliver(&self, data: Buffer) {
        let counts = &self.resources.counts;
        counts.add(Count::DeviceBytesReceived, data.len() as u64);
        let message = ToDriver::Received { device: self.name(), data: &data };
        let mut waiting = Vec::new();
        for (_, subscription) in self.audience.subscribers().iter() {
            match self.try_tell(subscription, &message) {
                Appended::Yes => counts.one(Count::MessagesToDrivers),
                Appended::Full => waiting.push(subscription.clone()),
                Appended::Closed => {}
            }
        }
        if !waiting.is_empty() {
            // The buffer goes back before the wait: a slow driver must not keep the shard's buffers from others.
            let copy = data.to_vec();
            drop(data);
            counts.one(Count::OutboxWaits);
            Box::pin(self.deliver_waiting(copy, waiting)).await;
        }
    }

    async fn deliver_waiting(&self, data: Vec<u8>, waiting: Vec<Rc<Subscription>>) {
        for subscription in waiting {
            self.tell(&subscription, &ToDriver::Received { device: self.name(), data: &data }).await;
        }
    }

    /// Appends a message of this device without waiting; [`Appended::Full`] also while the driver does not know it yet.
    fn try_tell(&self, subscription: &Subscription, message: &ToDriver) -> Appended {
        if subscription.knows(self.id) { subscription.try_append(message) } else { Appended::Full }
    }

    async fn tell(&self, subscription: &Subscription, message: &ToDriver<'_>) {
        subscription.meet(self.id).await;
        if subscription.append(message).await {
            self.resources.counts.one(Count::MessagesToDrivers);
        }
    }

    /// The next bytes to send; `None` when nothing is queued.
    fn gather(&self) -> Option<Bytes> {
        let mut queue = self.queue.borrow_mut();
        let queue = queue.as_mut()?;
        let first = queue.writes.front()?;
        if queue.writes.len() == 1 || first.data.len() >= GATHERED_BYTES_MAX {
            queue.sending = 1;
            return Some(first.data.clone());
        }
        let mut bytes = Vec::new();
        queue.sending = 0;
        for write in &queue.writes {
            if bytes.len() + write.data.len() > GATHERED_BYTES_MAX {
                break;
            }
            bytes.extend_from_slice(&write.data);
            queue.sending += 1;
        }
        Some(Bytes::from(bytes))
    }

    /// The pending send has ended: what it held is done with, and after an error all that is queued.
    fn sent(&self, result: io::Result<Sent>) {
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            // Fewer where an abort has cleared the queue.
            let done = if result.is_ok() { queue.sending.min(queue.writes.len()) } else { queue.writes.len() };
            queue.writes.drain(..done);
            queue.sending = 0;
        }
    }

    fn taken(&self, bytes: usize) {
        self.resources.counts.add(Count::DeviceBytesWritten, bytes as u64);
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            queue.taken_bytes += bytes as i64;
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(port) = self.port.upgrade() {
            port.release(&self.audience);
        }
        self.resources.devices.set(self.resources.devices.get() - 1);
    }
}

/// A device's task: tells `unopened` that it is there, reads it, and ends it.
pub async fn serve(device: Rc<Device>, unopened: Vec<Rc<Subscription>>) {
    let mut leaving = Leaving { device: device.clone(), announced: false };
    for subscription in unopened {
        device.tell(&subscription, &ToDriver::Opened { device: device.name() }).await;
    }
    let end = device.read().await;
    if device.ending.get().is_none() {
        if end == DeviceEnd::DeviceClosed {
            device.end(end);
        } else {
            device.abort(end);
        }
    }
    device.flushed().await;
    leaving.announce().await;
    drop(leaving);
    tracing::debug!(
        server_port = device.port.upgrade().map(|port| port.id().number.get()),
        remote_ip = %device.source(), device = device.id, end = device.ending.get().map(DeviceEnd::name),
        "device ended"
    );
    if matches!(end, DeviceEnd::DriverClosed | DeviceEnd::Orphaned | DeviceEnd::Drained) {
        // Unread input would make the close a reset, which destroys what was just written.
        let limits = device.resources.limits();
        device.stream.linger(&device.resources.pool, limits.linger_time_max, limits.flush_time_max).await;
    }
}

/// Takes the device out of its port's table and tells its drivers CLOSED, also where its task fails.
struct Leaving {
    device: Rc<Device>,
    announced: bool,
}

impl Leaving {
    /// Those who know the device, which is in no table from here on.
    fn forget(&self) -> Vec<Rc<Subscription>> {
        if let Some(port) = self.device.port.upgrade() {
            port.forget(&self.device);
        }
        let subscribers = self.device.audience.subscribers();
        let knowing = subscribers.iter().filter(|(_, subscription)| subscription.knows(self.device.id));
        knowing.map(|(_, subscription)| subscription.clone()).collect()
    }

    async fn announce(&mut self) {
        let knowing = self.forget();
        for subscription in knowing {
            self.device.tell(&subscription, &ToDriver::Closed { device: self.device.name() }).await;
        }
        self.announced = true;
        self.device.resources.counts.one(Count::DevicesEnded);
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.announced {
            self.device.resources.counts.one(Count::TasksFailed);
            self.device.abort(DeviceEnd::Failed);
            for subscription in self.forget() {
                subscription.append_anyway(&ToDriver::Closed { device: self.device.name() });
            }
        }
        if let Some(port) = self.device.port.upgrade() {
            port.device_announced();
        }
    }
}

/// The writer: sends what is queued until nothing is. A failed send ends the writer alone: the reader meets the same
/// error behind the bytes that the device sent before.
async fn write_queued(device: Rc<Device>) {
    let writing = Writing(device);
    while let Some(bytes) = writing.0.gather() {
        let result = writing.0.stream.send_all(bytes, |taken| writing.0.taken(taken)).await;
        writing.0.sent(result);
    }
}

/// The writer's end, also by a panic: those who wait for the flush are told.
struct Writing(Rc<Device>);

impl Drop for Writing {
    fn drop(&mut self) {
        let device = &self.0;
        if std::thread::panicking() {
            device.resources.counts.one(Count::TasksFailed);
            device.abort(DeviceEnd::Failed);
        }
        let queue = device.queue.take();
        if device.ending.get().is_some() {
            device.finish_writing();
        }
        if let Some(queue) = queue {
            queue.emptied.notify_waiters();
        }
    }
}

/// What waits for a device's queue.
#[derive(Debug, Clone, Copy)]
enum FlushFor {
    /// The device's end.
    End,
    /// The writes of a session that has left.
    Left(SessionId),
}

/// Gives up what makes no progress for `time`. It does not keep the device.
async fn watch_flush(device: Weak<Device>, time: Duration, flush: FlushFor) {
    let mut before = None;
    loop {
        let Some(progress) = device.upgrade().and_then(|device| device.flush_progress(flush)) else { return };
        if before == Some(progress)
            && let Some(device) = device.upgrade()
        {
            return match flush {
                FlushFor::End => device.abort(DeviceEnd::Stalled),
                FlushFor::Left(session) => device.drop_queued(session),
            };
        }
        before = Some(progress);
        tokio::time::sleep(time).await;
    }
}

/// Hands devices back to keepalive once what was under way to them is acknowledged. A task of each shard, for ever.
pub async fn watch_under_way(resources: Rc<Resources>) {
    loop {
        tokio::time::sleep(resources.limits().device_keepalive).await;
        let devices = resources.under_way.take();
        for some in devices.chunks(UNDER_WAY_BATCH) {
            let unacknowledged = |device: &Rc<Device>| !device.is_acknowledged();
            let still = some.iter().filter(|device| device.upgrade().as_ref().is_some_and(unacknowledged));
            resources.under_way.borrow_mut().extend(still.cloned());
            ring::turn().await;
        }
    }
}
