//! One TCP device: a task that reads it and ends it, and a writer that exists only while something is queued for it.
//!
//! **Invariants.** Its drivers get OPENED first, then every RECEIVED in order, then CLOSED, once. It is read only while
//! its drivers have room. Once it is ending nothing is queued for it, and what was queued before still leaves, unless
//! it makes no progress.
//! **Not here.** Its queue (`queue`) and its writer (`writing`), who its drivers are (`policy::roster`), and the table it
//! stands in (`port`).

mod entering;
mod queue;
mod serving;
mod writing;

pub use entering::shake_hands;
pub use queue::WriteQueue;
pub use serving::{serve, serve_late};
pub use writing::{send_unsent, watch_under_way};

use crate::policy::counts::Count;
use crate::policy::ending::DeviceEnd;
use crate::policy::listing::{DeviceRow, Remote};
use crate::policy::port_id::PortId;
use crate::policy::roster::{Audience, SessionId};
use crate::protocol::message::{DeviceName, ToDriver};
use crate::protocol::tapped::TapEvent;
use crate::shard::cipher::Last;
use crate::shard::ledger::Ledger;
use crate::shard::outbox::{Appended, Subscription};
use crate::shard::port::Port;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Receipt, Stream, Timer};
use crate::shard::slots::Slot;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::num::NonZeroU32;
use std::rc::{Rc, Weak};
use writing::FlushFor;

/// Reads without the ring before the others of the shard have their turn.
const READS_ON_MAX: usize = 4;

/// One connected device.
pub struct Device {
    id: u64,
    stream: Stream,
    audience: Rc<Audience<Rc<Subscription>>>,
    ending: Cell<Option<DeviceEnd>>,
    queue: RefCell<Option<Box<WriteQueue>>>,
    has_user_timeout: Cell<bool>,
    remote_port: u16,
    /// In seconds since the start of the process, as is the next.
    since_s: u32,
    seen_s: Cell<u32>,
    /// When it last took anything.
    taken_s: Cell<u32>,
    received_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    port: Weak<Port>,
    ledger: Rc<Ledger>,
}

/// A device and its two counts are then 104 bytes, which the allocator fits into the gap that the alignment of a task
/// leaves; with 16 bytes more an idle device cost 91 more (seen).
const DEVICE_BYTES_MAX: usize = 88;
const _: () = assert!(size_of::<Device>() <= DEVICE_BYTES_MAX);

/// What a device takes at most beside the buffers of what waits: an idle one 603 bytes in all (seen), and one that is
/// being written to a queue and a second task as well.
pub const RESIDENT_BYTES_MAX: usize = 2 << 10;

/// Bytes of a device, and the drivers that had no room for them.
type Waiting = (Vec<u8>, Vec<Rc<Subscription>>);

impl Device {
    /// A device that has just been accepted. [`serve`] is its task.
    pub fn new(
        id: u64,
        stream: Stream,
        remote_port: u16,
        audience: Rc<Audience<Rc<Subscription>>>,
        port: &Rc<Port>,
        ledger: &Rc<Ledger>,
        slot: Slot,
    ) -> Rc<Self> {
        let Resources { devices, clock_s, .. } = &*ledger.resources;
        devices.set(devices.get() + 1);
        let now_s = clock_s.get();
        // Given back by hand when this drops, as it takes room: see `DEVICE_BYTES_MAX`.
        slot.hold();
        Rc::new(Device {
            id,
            stream,
            audience,
            ending: Cell::new(None),
            queue: RefCell::new(None),
            has_user_timeout: Cell::new(false),
            remote_port,
            since_s: now_s,
            seen_s: Cell::new(now_s),
            taken_s: Cell::new(now_s),
            received_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            port: Rc::downgrade(port),
            ledger: ledger.clone(),
        })
    }

    fn resources(&self) -> &Rc<Resources> {
        &self.ledger.resources
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

    /// As a list shows it.
    pub fn row(&self) -> DeviceRow {
        let remote = Remote {
            port: self.ledger.port,
            address: SocketAddr::new(self.source(), self.remote_port),
            since_s: self.since_s,
            seen_s: self.seen_s.get(),
            received_bytes: self.received_bytes.get(),
            written_bytes: self.written_bytes.get(),
            backlog_bytes: self.queue.borrow().as_ref().map_or(0, |queue| queue.bytes()),
        };
        DeviceRow { id: self.id, remote }
    }

    /// When it ends by itself if nothing comes or goes meanwhile, in seconds since the start, and how; `None` where its
    /// port sets no bound.
    pub fn due(&self) -> Option<(u32, DeviceEnd)> {
        // A second more, as times are rounded down.
        let after = |from_s: u32, time_s: NonZeroU32| from_s.saturating_add(time_s.get()).saturating_add(1);
        let active_s = self.seen_s.get().max(self.taken_s.get());
        let idle = self.ledger.idle_s_max().map(|time_s| (after(active_s, time_s), DeviceEnd::Idle));
        let aged = self.ledger.age_s_max().map(|time_s| (after(self.since_s, time_s), DeviceEnd::Aged));
        idle.into_iter().chain(aged).min_by_key(|(at_s, _)| *at_s)
    }

    /// Whether it has sent bytes that wait, as its drivers have no room for them.
    pub fn is_held_back(&self) -> bool {
        self.stream.has_unread()
    }

    /// Whether a driver with this module id accepts it.
    pub fn has_module(&self, module: &str) -> bool {
        self.audience.subscribers().iter().any(|(_, subscription)| subscription.module() == Some(module))
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
        self.queue.borrow().as_ref().map_or(0, |queue| queue.credit_of(session))
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
            queue.clear();
        }
        // What the kernel holds for it goes, too.
        self.stream.reset_on_close();
        // Ends the pending send and the pending receive.
        self.stream.shutdown(Shutdown::Both);
    }

    /// Nothing more is written: the device sees the end at once, also while its reader waits for a driver.
    fn finish_writing(self: &Rc<Self>) {
        let farewell = self.ledger.secured.as_ref().map_or_else(Bytes::new, |secured| secured.farewell(self.id));
        if farewell.is_empty() {
            self.close_sending_side();
        } else {
            ring::spawn(say_farewell(self.clone(), farewell));
        }
    }

    fn close_sending_side(&self) {
        self.stream.shutdown(Shutdown::Write);
        self.stream.wake();
    }

    /// Whether nothing more is read for its drivers.
    fn is_over(&self) -> bool {
        self.ending.get().is_some() && self.is_flushed()
    }

    fn log_ended(&self, end: DeviceEnd) {
        self.resources().counts.device_ended(end);
        let PortId { transport, number } = self.ledger.port;
        tracing::debug!(
            server_protocol = transport.name(), server_port = number.get(), remote_ip = %self.source(),
            device = self.id, end = end.name(), reason = %end.reason(),
            "device ended"
        );
    }

    fn is_flushed(&self) -> bool {
        self.queue.borrow().is_none()
    }

    /// Waits until the writer has ended.
    async fn flushed(&self) {
        let emptied = self.queue.borrow_mut().as_mut().map(|queue| queue.emptied());
        if let Some(emptied) = emptied {
            emptied.notified().await;
        }
    }

    /// Hands what was received to its drivers. Where some have no room, a copy comes back and who waits for it; and how the
    /// device ends behind it, if it does.
    fn take(&self, receipt: io::Result<Receipt>) -> (Option<Waiting>, Option<DeviceEnd>) {
        match receipt {
            // The buffer goes back before a wait: a slow driver must not keep the shard's buffers from others.
            Ok(Receipt::Data(data)) => match self.open(&data) {
                (None, None) if data.has_more() => (None, self.read_on()),
                opened => opened,
            },
            Ok(Receipt::End) => (None, Some(DeviceEnd::DeviceClosed)),
            // Meant for what was received before it was a device.
            Ok(Receipt::Interrupted) => (None, None),
            Err(error) => (None, Some(DeviceEnd::from_io(&error))),
        }
    }

    /// Hands the bytes to its drivers, opened where they are sealed. Where some have no room, a copy of the bytes comes back
    /// and who waits for them; and how the device ends behind them.
    fn open(&self, data: &[u8]) -> (Option<Waiting>, Option<DeviceEnd>) {
        let Some(secured) = &self.ledger.secured else { return (self.deliver(data), None) };
        let opened = secured.open(self.id, data);
        let waiting = if opened.data.is_empty() { None } else { self.deliver(&opened.data) };
        let end = opened.last.map(|last| match last {
            Last::Farewell => DeviceEnd::DeviceClosed,
            Last::Fault(error) => {
                self.send_alert();
                DeviceEnd::from_io(&error)
            }
        });
        (waiting, end)
    }

    /// Reads what is there without the ring, as long as its drivers have room for it: what comes in bulk goes in larger
    /// messages, and an end leaves with what came before it.
    fn read_on(&self) -> Option<DeviceEnd> {
        // What is sealed may be more than was read, and find no room. Its end may have come with the handshake.
        if self.ledger.secured.is_some() {
            return self.open(&[]).1;
        }
        let mut bytes = self.resources().scratch.borrow_mut();
        for _ in 0..READS_ON_MAX {
            if !self.audience.subscribers().iter().all(|(_, s)| s.knows(self.id) && s.has_room(bytes.len())) {
                break;
            }
            match self.stream.receive_now(&mut bytes) {
                Ok(0) => return Some(DeviceEnd::DeviceClosed),
                Ok(count) => {
                    let waiting = self.deliver(&bytes[..count]);
                    debug_assert!(waiting.is_none());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Some(DeviceEnd::from_io(&error)),
            }
        }
        None
    }

    /// Hands the bytes to its drivers. Where some have no room, a copy of the bytes comes back and who waits for them.
    fn deliver(&self, data: &[u8]) -> Option<Waiting> {
        let counts = &self.resources().counts;
        self.received(data.len() as u64);
        self.tap(|device| TapEvent::Received { device, data });
        let message = ToDriver::Received { device: self.name(), data };
        let mut waiting = Vec::new();
        for (_, subscription) in self.audience.subscribers().iter() {
            match self.try_tell(subscription, &message) {
                Appended::Yes => counts.one(Count::MessagesToDrivers),
                Appended::Full => waiting.push(subscription.clone()),
                Appended::Closed => {}
            }
        }
        if waiting.is_empty() {
            return None;
        }
        self.ledger.waited();
        Some((data.to_vec(), waiting))
    }

    fn received(&self, bytes: u64) {
        self.ledger.received(bytes);
        self.received_bytes.set(self.received_bytes.get() + bytes);
        self.seen_s.set(self.resources().clock_s.get());
    }

    /// Gives those who tap its port a copy; one look at a number where there are none. Its end may come after the last of
    /// its drivers has left: then all are told.
    #[inline]
    pub fn tap<'a>(&self, event: impl FnOnce(DeviceName) -> TapEvent<'a>) {
        let Resources { taps, counts, .. } = &**self.resources();
        if !taps.is_empty() {
            taps.tell(counts, self.ledger.port, event(self.name()), |module| {
                self.is_orphan() || self.has_module(module)
            });
        }
    }

    async fn tell_opened(&self, unopened: Vec<Rc<Subscription>>) {
        for subscription in unopened {
            self.tell(&subscription, &ToDriver::Opened { device: self.name() }).await;
        }
    }

    /// Hands on what was read before it was a device.
    async fn deliver_first(&self, first: Vec<u8>) {
        self.received(first.len() as u64);
        self.tap(|device| TapEvent::Received { device, data: &first });
        let drivers = self.audience.subscribers().iter().map(|(_, subscription)| subscription.clone()).collect();
        self.deliver_waiting((first, drivers)).await;
    }

    async fn deliver_waiting(&self, (data, waiting): Waiting) {
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
            self.resources().counts.one(Count::MessagesToDrivers);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(port) = self.port.upgrade() {
            port.release(&self.audience);
        }
        let resources = self.resources();
        resources.devices.set(resources.devices.get() - 1);
        resources.shared.device_slots.give_back();
        self.ledger.secured.iter().for_each(|secured| secured.forget(self.id));
    }
}

/// Tells a device in TLS that nothing follows, then in TCP. Bounded as what was queued before it.
async fn say_farewell(device: Rc<Device>, farewell: Bytes) {
    let _limit = Timer::abandon_after(device.resources().limits().flush_time_max, &device.stream);
    // Where it was not taken, the end of the connection alone says it.
    let _ = device.stream.send_all(farewell, |_| {}).await;
    device.close_sending_side();
}
