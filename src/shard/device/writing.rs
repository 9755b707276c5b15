//! Writing to a device: its queue's writer, and what becomes of a queue that makes no progress.
//!
//! **Invariants.** What is queued in one turn leaves in one send, and with TLS in pieces, one a turn. A writer exists only
//! while the socket has no room, or more is to be sealed.
//! Progress is what the device has acknowledged.
//! TCP_USER_TIMEOUT is set only while bytes are under way, as it takes the place of the keepalive's count.
//! **Not here.** The queue itself (`queue`), and why a device ends (`device`).

use super::{Device, WriteQueue};
use crate::policy::counts::Count;
use crate::policy::ending::DeviceEnd;
use crate::policy::roster::SessionId;
use crate::shard::cipher::SealFault;
use crate::shard::commands::{Action, Payload};
use crate::shard::credit::{Paid, Returning};
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Sent};
use crate::shard::secured_port::SecuredPort;
use bytes::Bytes;
use std::io::{self, ErrorKind};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Looks at a queue without progress before it is given up.
const FLUSH_STEPS: u32 = 8;
/// Queues that a shard keeps for the next device that is written to.
const SPARE_QUEUES_MAX: usize = 64;
/// Devices that are looked at in one go for bytes under way.
const UNDER_WAY_BATCH: usize = 256;

/// What waits for a device's queue.
#[derive(Debug, Clone, Copy)]
pub enum FlushFor {
    /// The device's end.
    End,
    /// The writes of a session that has left.
    Left(SessionId),
}

impl Device {
    /// Does what a session's driver asks; false where the device is ending. Never waits: the credit is the bound.
    pub fn carry_out(self: &Rc<Self>, session: SessionId, action: Action<'_>, paid: Paid<'_>) -> bool {
        if self.ending.get().is_some() {
            return false;
        }
        match action {
            Action::Write(payload) if payload.bytes().is_empty() => {}
            Action::Write(payload) => self.queue_write(session, payload, paid),
            Action::Close => self.end(DeviceEnd::DriverClosed),
        }
        true
    }

    fn queue_write(self: &Rc<Self>, session: SessionId, payload: Payload<'_>, paid: Paid<'_>) {
        let mut queue = self.queue.borrow_mut();
        let resources = self.resources();
        let is_first = queue.is_none();
        queue
            .get_or_insert_with(|| resources.spare_queues.borrow_mut().pop().unwrap_or_default())
            .push(session, payload, paid);
        if is_first {
            self.watch_acknowledgement();
            resources.unsent.borrow_mut().push(self.clone());
        }
    }

    /// Sends what is queued as far as it fits; a writer goes on with the rest.
    fn send_queued(self: Rc<Self>, scratch: &mut Vec<u8>, returning: &mut Returning) {
        let writing = Writing(self);
        if let Some(rest) = writing.0.send_what_fits(scratch, returning) {
            ring::spawn(write_queued(writing, rest));
        }
    }

    /// Gives back what is to be sent next and did not fit. A failed send drops what is queued: the reader meets the same
    /// error behind the bytes that the device sent before.
    fn send_what_fits(&self, scratch: &mut Vec<u8>, returning: &mut Returning) -> Option<Bytes> {
        let mut queue = self.queue.borrow_mut();
        let queue = queue.as_mut()?;
        if let Some(secured) = &self.ledger.secured {
            return self.send_sealed(secured, queue, scratch, returning);
        }
        while let Some(bytes) = queue.gather(scratch) {
            let bytes_len = bytes.len();
            match self.send_some(bytes) {
                Err(_) => queue.clear(),
                Ok(count) => {
                    queue.taken(count);
                    if count < bytes_len {
                        return Some(queue.rest(scratch, count));
                    }
                    queue.sent(returning);
                }
            }
        }
        None
    }

    /// The same where the port's devices speak TLS: a piece at most, as others have their turn before more is sealed.
    fn send_sealed(
        &self,
        secured: &SecuredPort,
        queue: &mut WriteQueue,
        scratch: &mut Vec<u8>,
        returning: &mut Returning,
    ) -> Option<Bytes> {
        let sealed = self.seal_next(secured, queue, scratch)?;
        match self.send_some(&sealed) {
            Err(_) => {
                queue.clear();
                None
            }
            Ok(count) => {
                queue.taken(count);
                if count < sealed.len() {
                    return Some(sealed.slice(count..));
                }
                queue.sent(returning);
                self.seal_next(secured, queue, scratch)
            }
        }
    }

    /// Sends what fits, and says how much that was.
    fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.send_now(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            sent => sent.inspect(|count| self.written(*count)),
        }
    }

    /// Seals what is to be sent next, which has to be sent. Where that fails what is queued is dropped: the reader has met
    /// the same fault, unless the keys are used up, which ends the device as well as its writes.
    fn seal_next(&self, secured: &SecuredPort, queue: &mut WriteQueue, scratch: &mut Vec<u8>) -> Option<Bytes> {
        let sealed = secured.seal(self.id, queue.gather_piece(scratch)?);
        if let Err(fault) = &sealed {
            queue.clear();
            if matches!(fault, SealFault::KeysUsedUp) && self.ending.get().is_none() {
                self.ending.set(Some(DeviceEnd::KeysUsedUp));
            }
        }
        sealed.ok()
    }

    /// Sends the alert that says what is wrong with the device's TLS, unless it would stand amid what is being written.
    pub(super) fn send_alert(&self) {
        if let Some(secured) = self.ledger.secured.as_ref().filter(|_| self.is_flushed()) {
            let _ = self.stream.send_now(&secured.pending(self.id));
        }
    }

    /// Gives up what is queued if it makes no progress for the flush limit. The watch does not keep the device.
    pub fn watch_flush(self: &Rc<Self>, flush: FlushFor) {
        ring::spawn(watch_flush(Rc::downgrade(self), self.resources().limits().flush_time_max, flush));
    }

    fn watch_acknowledgement(self: &Rc<Self>) {
        let time = self.resources().limits().device_user_timeout;
        if !time.is_zero() && !self.has_user_timeout.replace(true) {
            self.stream.set_user_timeout(Some(time));
            self.resources().under_way.borrow_mut().push(Rc::downgrade(self));
        }
    }

    /// Whether all that was queued has been acknowledged; if so, the idle connection is left to keepalive.
    fn is_acknowledged(&self) -> bool {
        let acknowledged = self.is_flushed() && self.stream.unacknowledged_bytes() == 0;
        if acknowledged {
            self.stream.set_user_timeout(None);
            self.has_user_timeout.set(false);
        }
        acknowledged
    }

    fn taken(&self, bytes: usize) {
        self.written(bytes);
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            queue.taken(bytes);
        }
    }

    fn written(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.ledger.written(bytes as u64);
        self.written_bytes.set(self.written_bytes.get() + bytes as u64);
        self.taken_s.set(self.resources().clock_s.get());
    }

    /// What has arrived at the device, to tell progress by; `None` once nothing is left of what is waited for.
    fn flush_progress(&self, flush: FlushFor) -> Option<i64> {
        let queue = self.queue.borrow();
        let queue = queue.as_ref()?;
        if let FlushFor::Left(session) = flush
            && queue.credit_of(session) == 0
        {
            return None;
        }
        let unacknowledged_bytes = i64::try_from(self.stream.unacknowledged_bytes()).unwrap_or(i64::MAX);
        Some(queue.taken_bytes().saturating_sub(unacknowledged_bytes))
    }

    fn give_up(&self, flush: FlushFor) {
        match flush {
            FlushFor::End => self.abort(DeviceEnd::Stalled),
            FlushFor::Left(session) => {
                let dropped = self.queue.borrow_mut().as_mut().map_or(0, |queue| queue.drop_writes_of(session));
                self.ledger.dropped(Count::WritesDropped, dropped as u64);
            }
        }
    }
}

/// Sends what was queued since the last call: each device's writes of one turn together.
pub fn send_unsent(resources: &Resources) {
    let mut devices = resources.unsent.take();
    let mut returning = Returning::default();
    let mut scratch = resources.gathered.borrow_mut();
    devices.drain(..).for_each(|device| device.send_queued(&mut scratch, &mut returning));
    resources.unsent.replace(devices);
}

/// The writer: sends the rest of a send, then what is queued until nothing is.
async fn write_queued(writing: Writing, rest: Bytes) {
    let Writing(device) = &writing;
    let secured = device.ledger.secured.as_ref();
    let mut next = Some(rest);
    while let Some(bytes) = next {
        if secured.is_some() {
            // A device may take all that is sealed at once, and for long.
            ring::turn().await;
        }
        let sent = device.stream.send_all(bytes, |taken| device.taken(taken)).await;
        let mut queue = device.queue.borrow_mut();
        let Some(queue) = &mut *queue else { return };
        match sent {
            Ok(Sent::Whole) => queue.sent(&mut Returning::default()),
            Ok(Sent::Abandoned) | Err(_) => queue.clear(),
        }
        let mut scratch = device.resources().gathered.borrow_mut();
        next = match secured {
            Some(secured) => device.seal_next(secured, queue, &mut scratch),
            None => queue.gather(&mut scratch).is_some().then(|| queue.rest(&scratch, 0)),
        };
    }
}

/// Writing's end, also by a panic: those who wait for the flush are told.
struct Writing(Rc<Device>);

impl Drop for Writing {
    fn drop(&mut self) {
        let Writing(device) = self;
        if std::thread::panicking() {
            device.resources().counts.one(Count::TasksFailed);
            device.abort(DeviceEnd::Failed);
        }
        let queue = device.queue.take();
        if device.ending.get().is_some() {
            device.finish_writing();
        }
        if let Some(mut queue) = queue {
            queue.end();
            let mut spare = device.resources().spare_queues.borrow_mut();
            if spare.len() < SPARE_QUEUES_MAX {
                spare.push(queue);
            }
        }
    }
}

async fn watch_flush(device: Weak<Device>, time: Duration, flush: FlushFor) {
    // In steps, so that a pause of the whole process is one, and not time that the device let pass.
    let mut stuck_steps = 0;
    let mut before = None;
    while let Some(progress) = device.upgrade().and_then(|device| device.flush_progress(flush)) {
        stuck_steps = if before == Some(progress) { stuck_steps + 1 } else { 0 };
        if stuck_steps == FLUSH_STEPS {
            return device.upgrade().iter().for_each(|device| device.give_up(flush));
        }
        before = Some(progress);
        tokio::time::sleep(time / FLUSH_STEPS).await;
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
