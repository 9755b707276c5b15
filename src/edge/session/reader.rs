//! The reader of a session: a driver's messages become commands, which pay with credit and go to the port's home.
//!
//! **Invariants.** Commands leave in the order of their messages. The socket is left unread for the credit wait at most. A
//! large message reserves its bytes as they come.
//! **Not here.** Frames and protocol errors (`websocket`).

use super::Session;
use crate::edge::websocket::{Incoming, LARGE_MESSAGE_BYTES};
use crate::policy::budget::Reservation;
use crate::policy::counts::Count;
use crate::policy::ending::SessionEnd;
use crate::protocol::message::{DeviceAddr, FromDriver};
use crate::shard::mailbox::{Action, Command, Request};
use crate::shard::ring::Receipt;
use bytes::Bytes;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Payloads below this are copied: a slice would keep the whole read buffer alive.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// How often a wait looks again at what it waits for.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// A command that has not paid yet, and the memory of its large message.
type Unpaid = (DeviceAddr, Action, Option<Reservation>);

impl Session {
    /// Reads the driver's socket until the session ends.
    pub(super) async fn read(self: Rc<Self>, first: Vec<u8>) {
        let _reading = Reading(self.clone());
        let mut next = (!first.is_empty()).then(|| self.decode(&first));
        while self.reads_on() {
            let (unpaid, end) = match next.take() {
                Some(decoded) => decoded,
                None if self.reserve_for_next_read().await => match self.receive().await {
                    Ok(Receipt::Data(bytes)) => {
                        self.resources.settling.pass().await;
                        self.decode(&bytes)
                    }
                    Ok(Receipt::End) => (Vec::new(), Some(SessionEnd::DriverGone)),
                    Ok(Receipt::Interrupted) if self.end.get().is_some() => return,
                    Ok(Receipt::Interrupted) => continue,
                    Err(error) => (Vec::new(), Some(SessionEnd::Io(error.kind()))),
                },
                None => return,
            };
            if let Some(end) = end {
                return self.request_last(unpaid, end).await;
            }
            self.request(unpaid).await;
        }
    }

    async fn receive(&self) -> io::Result<Receipt> {
        self.is_reading.set(true);
        let received = self.stream.receive(&self.resources.pool).await;
        self.is_reading.set(false);
        received
    }

    /// The commands in the next bytes of the driver, and how the session ends over them.
    fn decode(&self, bytes: &[u8]) -> (Vec<Unpaid>, Option<SessionEnd>) {
        self.is_alive.set(true);
        self.resources.counts.add(Count::DriverBytesReceived, bytes.len() as u64);
        self.presence.received(bytes.len(), self.resources.clock_s.get());
        let mut unpaid = Vec::new();
        let mut websocket = self.websocket.borrow_mut();
        let result = websocket.receive(bytes, |incoming| {
            let Incoming::Binary(message) = incoming else {
                self.ignore("a text message");
                return Ok(());
            };
            self.resources.counts.one(Count::MessagesFromDrivers);
            let (device, action) = match FromDriver::decode(&message).map_err(SessionEnd::Undecodable)? {
                FromDriver::WrongDirection => {
                    self.ignore("a message that only the daemon sends");
                    return Ok(());
                }
                FromDriver::Close { device } => (device, Action::Close),
                FromDriver::Write { device, data } => (device, Action::Write(own(&message, data))),
            };
            unpaid.push((device, action, self.take_large_memory()));
            Ok(())
        });
        self.control_due.notify_one();
        (unpaid, result.err())
    }

    /// Sends on what came before an ending. The driver is told goodbye, or has its close frame answered, when that is done:
    /// so it knows that its writes are on their way.
    async fn request_last(&self, unpaid: Vec<Unpaid>, end: SessionEnd) {
        if matches!(end, SessionEnd::DriverGone | SessionEnd::Io(_)) {
            self.set_end(end);
            // Ends a send that nobody will take.
            self.stream.shutdown(Shutdown::Both);
            return self.request(unpaid).await;
        }
        self.goodbye_waits.set(true);
        self.request(unpaid).await;
        self.set_end(end);
    }

    /// What was reserved for the large message that has just come whole, if it was one.
    fn take_large_memory(&self) -> Option<Reservation> {
        let large = self.memory.borrow_mut().split_above(self.memory_bytes_min);
        (large.amount() > 0).then_some(large)
    }

    fn ignore(&self, what: &'static str) {
        self.resources.counts.one(Count::DriverMessagesIgnored);
        if let Some(left_out) = self.ignored_log.pass() {
            self.span.in_scope(|| tracing::warn!(left_out, "{what} was ignored"));
        }
    }

    /// Pays for commands as credit comes, and sends them to the port's home in order.
    async fn request(&self, unpaid: Vec<Unpaid>) {
        let _owing = self.resources.settling.owe();
        let mut commands = Vec::with_capacity(unpaid.len());
        let mut waited = Duration::ZERO;
        for (device, action, mut large) in unpaid {
            let data_bytes = if let Action::Write(data) = &action { data.len() } else { 0 };
            let credit = loop {
                match self.window.try_take(data_bytes, large) {
                    Ok(credit) => break credit,
                    Err(unused) => large = unused,
                }
                // What is paid must be on its way, or its credit never comes back.
                self.send_commands(std::mem::take(&mut commands)).await;
                self.wait_for_credit(data_bytes, &mut waited).await;
                // A goodbye, or a connection that failed, comes after what was sent before it.
                if matches!(
                    self.end.get(),
                    Some(SessionEnd::Stalled | SessionEnd::Silent | SessionEnd::Failed | SessionEnd::Operator)
                ) {
                    return;
                }
            };
            commands.push(Command { device, action, credit });
        }
        self.send_commands(commands).await;
    }

    async fn send_commands(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let request = Request::Commands { port: self.port, session: self.id, commands };
            self.resources.shared.peers.ask_home(self.port, request).await;
        }
    }

    /// Waits a step for credit. When the driver has waited for its limit in one go, the device that holds most of its
    /// credit is let go, and after a step more the next. Steps are counted, so that a pause of the process is one.
    async fn wait_for_credit(&self, data_bytes: usize, waited: &mut Duration) {
        let limit = self.resources.limits().credit_wait_max;
        if waited.is_zero() {
            self.resources.counts.one(Count::CreditWaits);
        }
        let began_at = Instant::now();
        let free = tokio::time::timeout(WAIT_STEP, self.window.free_for(data_bytes)).await;
        *waited += began_at.elapsed().min(WAIT_STEP);
        if free.is_err() && *waited >= limit {
            let (reply, done) = oneshot::channel();
            let credit_bytes = self.window.cost(data_bytes);
            let request = Request::LetGo { port: self.port, session: self.id, credit_bytes, reply };
            self.resources.shared.peers.ask_home(self.port, request).await;
            // Before credit is looked for again: one device is enough, if it is.
            let _ = done.await;
        }
    }

    /// Makes sure that what the next read may add to a large message is reserved; false where the session has ended.
    async fn reserve_for_next_read(&self) -> bool {
        let message_bytes = self.websocket.borrow().message_bytes();
        let above = (message_bytes + self.resources.pool.buffer_bytes()).saturating_sub(LARGE_MESSAGE_BYTES);
        if above == 0 {
            // A large message that was none of devices' has given its memory up.
            self.take_large_memory();
            return true;
        }
        let needed = self.memory_bytes_min + above.next_multiple_of(LARGE_MESSAGE_BYTES);
        let since = Instant::now();
        loop {
            let reserved = self.memory.borrow().amount();
            if reserved >= needed || self.memory.borrow_mut().grow(needed - reserved) {
                return true;
            }
            if since.elapsed() >= self.resources.limits().credit_wait_max {
                self.set_end(SessionEnd::NoMemory);
                return false;
            }
            tokio::time::sleep(WAIT_STEP).await;
            if !self.reads_on() {
                return false;
            }
        }
    }
}

/// The reader while it runs: its end, also by a panic, ends the session.
struct Reading(Rc<Session>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set_end(SessionEnd::Failed);
    }
}

/// A payload that does not keep more alive than itself.
fn own(message: &Bytes, data: &[u8]) -> Bytes {
    if data.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(data) } else { message.slice_ref(data) }
}
