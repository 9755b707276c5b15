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
/// Reads without waiting whose commands are gathered, each as large as a receive buffer.
const GATHERED_READS_MAX: usize = 64;
/// Commands that are gathered before the others of the shard have their turn.
const GATHERED_COMMANDS_MAX: usize = 512;
/// How often a wait looks again at what it waits for.
const WAIT_STEP: Duration = Duration::from_millis(200);

/// A command that has not paid yet, and the memory of its large message.
type Unpaid = (DeviceAddr, Action, Option<Reservation>);
/// The commands of one read, and how the session ends behind them.
type Decoded = (Vec<Unpaid>, Option<SessionEnd>);

impl Session {
    /// Reads the driver's socket until the session ends.
    pub(super) async fn read(self: Rc<Self>, first: Vec<u8>) {
        let _reading = Reading(self.clone());
        let mut next = (!first.is_empty()).then(|| self.decode(&first));
        let mut gathering = Gathering::default();
        while self.reads_on() {
            let decoded = match next.take().or_else(|| self.read_more(&mut gathering)) {
                Some(decoded) => Some(decoded),
                None => {
                    self.send_commands(gathering.take()).await;
                    self.read_next(&mut gathering).await
                }
            };
            match decoded {
                Some((unpaid, Some(end))) => return self.request_last(unpaid, end, gathering.take()).await,
                Some((unpaid, None)) => gathering.commands = self.pay(unpaid, gathering.commands).await,
                None if self.end.get().is_some() => break,
                None => {}
            }
        }
        self.send_commands(gathering.take()).await;
    }

    /// Waits for the next bytes of the driver; `None` where an interrupt came instead.
    async fn read_next(&self, gathering: &mut Gathering) -> Option<Decoded> {
        if !self.reserve_for_next_read().await {
            return None;
        }
        self.is_reading.set(true);
        let received = self.stream.receive(&self.resources.pool).await;
        self.is_reading.set(false);
        match received {
            Ok(Receipt::Data(bytes)) => {
                self.resources.settling.pass().await;
                gathering.may_go_on = bytes.len() == self.resources.pool.buffer_bytes();
                Some(self.decode(&bytes))
            }
            Ok(Receipt::Interrupted) => None,
            Ok(Receipt::End) => Some(ended(SessionEnd::DriverGone)),
            Err(error) => Some(ended(SessionEnd::Io(error.kind()))),
        }
    }

    /// Reads on without waiting, where the last read was full: what a driver has sent together goes to its port
    /// together, and from there in one send to each device.
    fn read_more(&self, gathering: &mut Gathering) -> Option<Decoded> {
        let has_room = gathering.reads < GATHERED_READS_MAX && gathering.commands.len() < GATHERED_COMMANDS_MAX;
        let gathers = gathering.may_go_on && has_room && !self.resources.settling.is_held();
        if !gathers || !self.try_reserve_for_next_read() {
            return None;
        }
        gathering.reads += 1;
        let mut bytes = self.resources.scratch.borrow_mut();
        match self.stream.receive_now(&mut bytes) {
            Ok(0) => Some(ended(SessionEnd::DriverGone)),
            Ok(count) => {
                gathering.may_go_on = count == bytes.len();
                Some(self.decode(&bytes[..count]))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(ended(SessionEnd::Io(error.kind()))),
        }
    }

    /// The commands in the next bytes of the driver, and how the session ends over them.
    fn decode(&self, bytes: &[u8]) -> Decoded {
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
        if websocket.has_control() {
            self.control_due.notify_one();
        }
        (unpaid, result.err())
    }

    /// Sends on what came before an ending. The driver is told goodbye, or has its close frame answered, when that is done:
    /// so it knows that its writes are on their way.
    async fn request_last(&self, unpaid: Vec<Unpaid>, end: SessionEnd, paid: Vec<Command>) {
        if matches!(end, SessionEnd::DriverGone | SessionEnd::Io(_)) {
            self.set_end(end);
            // Ends a send that nobody will take.
            self.stream.shutdown(Shutdown::Both);
        } else {
            self.goodbye_waits.set(true);
        }
        let commands = self.pay(unpaid, paid).await;
        self.send_commands(commands).await;
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

    /// Pays for commands as credit comes, and adds them to those that are paid. Before a wait all that is paid is sent to
    /// the port's home.
    async fn pay(&self, unpaid: Vec<Unpaid>, mut commands: Vec<Command>) -> Vec<Command> {
        let _owing = self.resources.settling.owe();
        commands.reserve(unpaid.len());
        let mut waited = Duration::ZERO;
        let mut together = self.window.try_take_together(unpaid.iter().map(|(_, action, _)| self.cost(action)).sum());
        for (device, action, mut large) in unpaid {
            if let Some(together) = &mut together {
                let credit = together.split(self.cost(&action), large);
                commands.push(Command { device, action, credit });
                continue;
            }
            let data_bytes = action.data_bytes();
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
                    return commands;
                }
            };
            commands.push(Command { device, action, credit });
        }
        commands
    }

    fn cost(&self, action: &Action) -> usize {
        self.window.cost(action.data_bytes())
    }

    async fn send_commands(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let _owing = self.resources.settling.owe();
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
        let above = (message_bytes + self.resources.pool.buffer_bytes()).saturating_sub(LARGE_MESSAGE_BYTES);
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
    /// Paid for, and not sent to the port yet.
    commands: Vec<Command>,
    reads: usize,
    /// The last read was full: more may be there.
    may_go_on: bool,
}

impl Gathering {
    /// What was gathered; a new one begins.
    fn take(&mut self) -> Vec<Command> {
        std::mem::take(self).commands
    }
}

/// The reader while it runs: its end, also by a panic, ends the session.
struct Reading(Rc<Session>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set_end(SessionEnd::Failed);
    }
}

/// A read that brought no command, but the end.
fn ended(end: SessionEnd) -> Decoded {
    (Vec::new(), Some(end))
}

/// A payload that does not keep more alive than itself.
fn own(message: &Bytes, data: &[u8]) -> Bytes {
    if data.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(data) } else { message.slice_ref(data) }
}
