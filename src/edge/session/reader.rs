//! The reader of a session: a driver's messages become commands, which pay with credit and go to the port's home.
//!
//! **Invariants.** What is paid is sent before the reader waits. Commands leave in the order of their messages. The socket
//! is left unread for the credit wait at most. A large message reserves its bytes as they come.
//! **Not here.** Frames and protocol errors (`websocket`).

use super::Session;
use crate::edge::websocket::{Incoming, LARGE_MESSAGE_BYTES};
use crate::policy::budget::Reservation;
use crate::policy::counts::Count;
use crate::policy::ending::SessionEnd;
use crate::protocol::message::FromDriver;
use crate::shard::cipher::Last;
use crate::shard::commands::Commands;
use crate::shard::mailbox::Request;
use crate::shard::resources::READ_ON_BYTES;
use crate::shard::ring::Receipt;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Reads without waiting whose commands are gathered.
const GATHERED_READS_MAX: usize = 16;
/// Commands that are gathered before the others of the shard have their turn.
const GATHERED_COMMANDS_MAX: usize = 512;
/// How often a wait looks again at what it waits for.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// What a read came to: how the session ends, if it does.
type Read = Result<(), SessionEnd>;

impl Session {
    /// Reads the driver's socket until the session ends.
    pub(super) async fn read(self: Rc<Self>, first: Vec<u8>) {
        let _reading = Reading(self.clone());
        let mut gathering = Gathering::default();
        let read = if first.is_empty() { Ok(()) } else { self.decode_opened(&first, &mut gathering) };
        // TLS may have ended behind what came with the request.
        let mut next = Some(read.and_then(|()| self.went_on(self.cipher.open(&[]).last)));
        while self.reads_on() {
            let read = match next.take().or_else(|| self.read_more(&mut gathering)) {
                Some(read) => Some(read),
                None => {
                    self.send_commands(gathering.take()).await;
                    self.read_next(&mut gathering).await
                }
            };
            match read {
                Some(Err(end)) => return self.request_last(end, gathering).await,
                Some(Ok(())) => self.pay(&mut gathering).await,
                None if self.end.get().is_some() => break,
                None => {}
            }
        }
        self.send_commands(gathering.take()).await;
    }

    /// Waits for the next bytes of the driver; `None` where an interrupt came instead.
    async fn read_next(&self, gathering: &mut Gathering) -> Option<Read> {
        if !self.reserve_for_next_read().await {
            return None;
        }
        self.is_reading.set(true);
        let received = self.stream.receive(&self.resources.pool).await;
        self.is_reading.set(false);
        match received {
            Ok(Receipt::Data(bytes)) => {
                gathering.may_go_on = bytes.has_more();
                if !self.resources.settling.is_held() {
                    return Some(self.decode(&bytes, gathering));
                }
                // Others need the buffer meanwhile.
                let kept = bytes.to_vec();
                drop(bytes);
                self.resources.settling.pass().await;
                Some(self.decode(&kept, gathering))
            }
            Ok(Receipt::Interrupted) => None,
            Ok(Receipt::End) => Some(Err(SessionEnd::DriverGone)),
            Err(error) => Some(Err(SessionEnd::Io(error.kind()))),
        }
    }

    /// Reads on without waiting, where there is more: what a driver has sent together goes to its port
    /// together, and from there in one send to each device.
    fn read_more(&self, gathering: &mut Gathering) -> Option<Read> {
        let has_room = gathering.reads < GATHERED_READS_MAX && gathering.paid.len() < GATHERED_COMMANDS_MAX;
        let gathers = gathering.may_go_on && has_room && !self.resources.settling.is_held();
        if !gathers || !self.try_reserve_for_next_read() {
            return None;
        }
        gathering.reads += 1;
        let mut bytes = self.resources.scratch.borrow_mut();
        match self.stream.receive_now(&mut bytes) {
            Ok(0) => Some(Err(SessionEnd::DriverGone)),
            Ok(count) => {
                gathering.may_go_on = count == bytes.len();
                Some(self.decode(&bytes[..count], gathering))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(SessionEnd::Io(error.kind()))),
        }
    }

    /// Adds the commands in the next bytes of the driver's socket.
    fn decode(&self, bytes: &[u8], gathering: &mut Gathering) -> Read {
        let opened = self.cipher.open(bytes);
        self.decode_opened(&opened.data, gathering)?;
        self.went_on(opened.last)
    }

    /// How the session ends by what stands behind the driver's bytes, if it does.
    fn went_on(&self, last: Option<Last>) -> Read {
        match last {
            None => Ok(()),
            Some(Last::Farewell) => Err(SessionEnd::DriverGone),
            Some(Last::Fault(error)) => {
                // An alert cannot stand amid what the writer sends.
                if !self.is_sending.get() {
                    let _ = self.stream.send_now(&self.cipher.pending());
                }
                Err(SessionEnd::Io(error.kind()))
            }
        }
    }

    /// Adds the commands in the next bytes of the driver.
    fn decode_opened(&self, bytes: &[u8], gathering: &mut Gathering) -> Read {
        self.is_alive.set(true);
        self.count_bytes(Count::DriverBytesReceived, bytes.len());
        self.presence.received(bytes.len(), self.resources.clock_s.get());
        let mut websocket = self.websocket.borrow_mut();
        let read = websocket.receive(bytes, |incoming| {
            if self.place.is_tap() {
                self.ignore("a message of a tap");
                return Ok(());
            }
            let Incoming::Binary(message) = incoming else {
                self.ignore("a text message");
                return Ok(());
            };
            self.resources.counts.one(Count::MessagesFromDrivers);
            let memory = self.take_large_memory();
            match FromDriver::decode(&message).map_err(SessionEnd::Undecodable)? {
                FromDriver::WrongDirection => self.ignore("a message that only the daemon sends"),
                FromDriver::Close { device } => gathering.unpaid.close(&self.window, device),
                FromDriver::Write { device, data } => {
                    gathering.unpaid.write(&self.window, device, &message, data, memory);
                }
            }
            Ok(())
        });
        if websocket.has_control() {
            self.control_due.notify_one();
        }
        read
    }

    /// Sends on what came before an ending. The driver is told goodbye, or has its close frame answered, when that is done:
    /// so it knows that its writes are on their way.
    async fn request_last(&self, end: SessionEnd, mut gathering: Gathering) {
        if matches!(end, SessionEnd::DriverGone | SessionEnd::Io(_)) {
            self.set_end(end);
            // Ends a send that nobody will take.
            self.stream.shutdown(Shutdown::Both);
        } else {
            self.goodbye_waits.set(true);
        }
        self.pay(&mut gathering).await;
        self.send_commands(gathering.take()).await;
        self.set_end(end);
    }

    /// What was reserved for the large message that has just come whole, if it was one.
    fn take_large_memory(&self) -> Option<Reservation> {
        let mut memory = self.memory.borrow_mut();
        (memory.amount() > self.memory_bytes_min).then(|| memory.split_above(self.memory_bytes_min))
    }

    fn ignore(&self, what: &'static str) {
        self.resources.counts.one(Count::DriverMessagesIgnored);
        if let Some(left_out) = self.ignored_log.pass() {
            self.span.in_scope(|| tracing::warn!(left_out, "{what} was ignored"));
        }
    }

    /// Pays for what was read as credit comes. Before a wait all that is paid is sent to the port's home.
    async fn pay(&self, gathering: &mut Gathering) {
        let _owing = self.resources.settling.owe();
        let mut waited = Duration::ZERO;
        loop {
            gathering.unpaid.pay(&self.window, &mut gathering.paid);
            let Some(cost) = gathering.unpaid.first_cost() else { return };
            // What is paid must be on its way, or its credit never comes back.
            self.send_commands(std::mem::take(&mut gathering.paid)).await;
            self.wait_for_credit(cost, &mut waited).await;
            // A goodbye, or a connection that failed, comes after what was sent before it.
            if matches!(
                self.end.get(),
                Some(SessionEnd::Stalled | SessionEnd::Silent | SessionEnd::Failed | SessionEnd::Operator)
            ) {
                return;
            }
        }
    }

    async fn send_commands(&self, commands: Commands) {
        if !commands.is_empty() {
            let _owing = self.resources.settling.owe();
            let request = Request::Commands { port: self.port, session: self.id, commands };
            self.resources.shared.peers.ask_home(self.port, request).await;
        }
    }

    /// Waits a step for credit. When the driver has waited for its limit in one go, the device that holds most of its
    /// credit is let go, and after a step more the next. Steps are counted, so that a pause of the process is one.
    async fn wait_for_credit(&self, cost: u32, waited: &mut Duration) {
        let limit = self.resources.limits().credit_wait_max;
        if waited.is_zero() {
            self.resources.counts.one(Count::CreditWaits);
            self.presence.waited_for_credit();
        }
        let began_at = Instant::now();
        let free = tokio::time::timeout(WAIT_STEP, self.window.freed(cost)).await;
        *waited += began_at.elapsed().min(WAIT_STEP);
        if free.is_err() && *waited >= limit {
            let (reply, done) = oneshot::channel();
            let (credit_bytes, window_bytes) = (cost as usize, self.window.bytes_max());
            let request = Request::LetGo { port: self.port, session: self.id, credit_bytes, window_bytes, reply };
            self.resources.shared.peers.ask_home(self.port, request).await;
            // Before credit is looked for again: one device is enough, if it is.
            let _ = done.await;
        }
    }

    /// Makes sure that what the next read may add to a large message is reserved; false where the session has ended.
    async fn reserve_for_next_read(&self) -> bool {
        let since = Instant::now();
        while !self.try_reserve_for_next_read() {
            if since.elapsed() >= self.resources.limits().credit_wait_max {
                self.set_end(SessionEnd::NoMemory);
                return false;
            }
            tokio::time::sleep(WAIT_STEP).await;
            if !self.reads_on() {
                return false;
            }
        }
        true
    }

    fn try_reserve_for_next_read(&self) -> bool {
        let message_bytes = self.websocket.borrow().message_bytes();
        let next_bytes = self.resources.pool.buffer_bytes().max(READ_ON_BYTES) + self.cipher.held_bytes_max();
        let above = (message_bytes + next_bytes).saturating_sub(LARGE_MESSAGE_BYTES);
        if above == 0 {
            // A large message that was none of devices' has given its memory up.
            self.take_large_memory();
            return true;
        }
        let needed = self.memory_bytes_min + above.next_multiple_of(LARGE_MESSAGE_BYTES);
        let reserved = self.memory.borrow().amount();
        reserved >= needed || self.memory.borrow_mut().grow(needed - reserved)
    }
}

/// What has been read of a driver since it last waited.
#[derive(Default)]
struct Gathering {
    unpaid: Commands,
    /// Paid for, and not sent to the port yet.
    paid: Commands,
    reads: usize,
    /// The last read was full: more may be there.
    may_go_on: bool,
}

impl Gathering {
    /// What was paid for; a new one begins.
    fn take(&mut self) -> Commands {
        std::mem::take(self).paid
    }
}

/// The reader while it runs: its end, also by a panic, ends the session.
struct Reading(Rc<Session>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set_end(SessionEnd::Failed);
    }
}
