//! One driver's session: a writer that takes chunks from the inbox to the socket, a reader that turns messages into
//! commands, and a keeper that watches for stalls and silence.
//!
//! **Invariants.** Chunks and control frames leave whole and one after the other. The first ending stands. The inbox is
//! let go after the last command was sent, so that the port sees the commands first. The socket is left unread for the
//! credit wait at most. What the session may use is reserved; a large message reserves its bytes as they come.
//! **Not here.** Frames and protocol errors (`websocket`), and the join (`api`).

use crate::edge::websocket::{Incoming, LARGE_MESSAGE_BYTES, WebSocket};
use crate::policy::budget::Reservation;
use crate::policy::counts::Count;
use crate::policy::ending::SessionEnd;
use crate::policy::limits::Limits;
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::protocol::frame::FrameWalk;
use crate::protocol::message::{DeviceAddr, FromDriver};
use crate::shard::credit::Window;
use crate::shard::log_gate::LogGate;
use crate::shard::mailbox::{Action, Command, Request};
use crate::shard::outbox::Inbox;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Receipt, Sent, Stream, Timer};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tracing::{Level, Span};

/// Payloads below this are copied: a slice would keep the whole read buffer alive.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// How often a wait looks again at what it waits for.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// How often the keeper looks, at most and at least.
const KEEPER_STEP_MAX: Duration = Duration::from_secs(5);
const KEEPER_STEP_MIN: Duration = Duration::from_millis(50);
/// What a session uses beside outbox and window: its WebSocket's buffers and the message under way.
const OWN_BYTES_MAX: usize = LARGE_MESSAGE_BYTES + (32 << 10);

/// What a session may use at most without a large message: the amount that a join reserves.
pub fn session_bytes_max(limits: &Limits) -> usize {
    limits.outbox_bytes_max + limits.write_window_bytes_max + OWN_BYTES_MAX
}

/// One session.
pub struct Session {
    id: SessionId,
    port: PortId,
    /// Who it is, for log lines.
    span: Span,
    stream: Stream,
    resources: Rc<Resources>,
    window: Window,
    memory: RefCell<Reservation>,
    /// What is reserved while no large message is under way.
    memory_bytes_min: usize,
    websocket: RefCell<WebSocket>,
    control_due: Notify,
    end: Cell<Option<SessionEnd>>,
    alive_at: Cell<Instant>,
    pinged_at: Cell<Instant>,
    is_sending: Cell<bool>,
    /// Bytes that the kernel has taken in all.
    taken_bytes: Cell<u64>,
    _place: Place,
    ignored_log: LogGate,
}

/// A command that has not paid yet, and the memory of its large message.
type Unpaid = (DeviceAddr, Action, Option<Reservation>);

impl Session {
    /// A session that has joined `port`; [`serve`](Self::serve) answers the driver from then on. `memory` is at least
    /// [`session_bytes_max`].
    pub fn new(
        id: SessionId,
        port: PortId,
        span: Span,
        stream: Stream,
        resources: Rc<Resources>,
        place: Place,
        mut memory: Reservation,
    ) -> Rc<Self> {
        let limits = *resources.limits();
        resources.counts.one(Count::SessionsJoined);
        let memory_bytes_min = memory.amount() - limits.write_window_bytes_max;
        let window_memory = memory.split_above(memory_bytes_min);
        Rc::new(Session {
            id,
            port,
            span,
            stream,
            window: Window::new(limits.write_window_bytes_max, window_memory),
            memory: RefCell::new(memory),
            memory_bytes_min,
            websocket: RefCell::new(WebSocket::new(limits.message_bytes_max)),
            control_due: Notify::new(),
            end: Cell::new(None),
            alive_at: Cell::new(Instant::now()),
            pinged_at: Cell::new(Instant::now()),
            is_sending: Cell::new(false),
            taken_bytes: Cell::new(0),
            _place: place,
            ignored_log: LogGate::default(),
            resources,
        })
    }

    /// Runs the session to its end. `first` is what the driver sent behind its request.
    pub async fn serve(self: Rc<Self>, mut inbox: Inbox, first: Vec<u8>) {
        self.span.in_scope(|| tracing::info!("driver joined"));
        let serving = Serving { session: self.clone(), _keeper: Timer::spawn(self.clone().keep()) };
        let reader = ring::spawn(self.clone().read(first));
        self.write(&mut inbox).await;
        // After a failed send the reader takes what the driver had sent before, and then meets the error itself.
        if !matches!(self.end.get(), Some(SessionEnd::Io(_) | SessionEnd::DriverGone)) && !reader.is_finished() {
            self.stream.interrupt();
        }
        if reader.await.is_err() {
            self.resources.counts.one(Count::TasksFailed);
        }
        drop(inbox);
        let end = self.end.get().unwrap_or(SessionEnd::Failed);
        drop(serving);
        self.log_left(end);
        if !matches!(end, SessionEnd::DriverGone | SessionEnd::Io(_)) {
            let limits = self.resources.limits();
            self.stream.linger(&self.resources.pool, limits.linger_time_max, limits.flush_time_max).await;
        }
    }

    fn set_end(&self, end: SessionEnd) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.control_due.notify_one();
        }
    }

    /// Whether reading goes on: while the daemon drains, and after a failed send, the driver's socket is still read.
    fn reads_on(&self) -> bool {
        matches!(self.end.get(), None | Some(SessionEnd::Drained | SessionEnd::Io(_)))
    }

    // The writer.

    async fn write(&self, inbox: &mut Inbox) {
        while self.end.get().is_none() {
            let chunk = tokio::select! {
                () = self.control_due.notified() => None,
                chunk = inbox.next() => Some(chunk),
            };
            match chunk {
                None => {}
                Some(Some(chunk)) => {
                    let sent = self.send(Bytes::from(chunk)).await;
                    self.alive_at.set(if sent { Instant::now() } else { self.alive_at.get() });
                }
                Some(None) => self.set_end(SessionEnd::Drained),
            }
            if self.end.get().is_none() {
                self.send_control().await;
            }
        }
        self.say_goodbye().await;
    }

    async fn send_control(&self) {
        loop {
            let control = self.websocket.borrow_mut().take_control();
            if self.websocket.borrow().is_closed() {
                self.set_end(SessionEnd::DriverClosed);
            }
            if control.is_empty() || !self.send(Bytes::from(control)).await {
                return;
            }
        }
    }

    /// Sends whole frames; false where the session has ended over it.
    async fn send(&self, frames: Bytes) -> bool {
        let before_bytes = self.taken_bytes.get();
        self.is_sending.set(true);
        let taken = |count: usize| self.taken_bytes.set(self.taken_bytes.get() + count as u64);
        let sent = self.stream.send_all(frames.clone(), taken).await;
        self.is_sending.set(false);
        let sent_bytes = self.taken_bytes.get() - before_bytes;
        self.resources.counts.add(Count::DriverBytesWritten, sent_bytes);
        match sent {
            Ok(Sent::Whole) => true,
            Ok(Sent::Abandoned) => {
                self.set_end(SessionEnd::Stalled);
                self.abandon(&frames[..sent_bytes as usize]);
                false
            }
            Err(error) => {
                self.set_end(SessionEnd::Io(error.kind()));
                false
            }
        }
    }

    /// Ends a stalled driver's stream: by a close frame where one fits whole behind `sent`, else by a reset.
    fn abandon(&self, sent: &[u8]) {
        let mut walk = FrameWalk::default();
        walk.advance(sent);
        if walk.between_frames() {
            let mut websocket = self.websocket.borrow_mut();
            websocket.take_control();
            let end = SessionEnd::Stalled;
            websocket.close(end.close_code().unwrap_or_default(), end.reason());
            let close = websocket.take_control();
            if self.stream.send_now(&close).is_ok_and(|count| count == close.len()) {
                return self.stream.shutdown(Shutdown::Write);
            }
        }
        self.stream.reset_on_close();
        self.stream.shutdown(Shutdown::Both);
    }

    /// The last frames, then the end of this side. What was abandoned sends no more.
    async fn say_goodbye(&self) {
        match self.end.get() {
            Some(SessionEnd::Io(_)) => {}
            Some(SessionEnd::DriverGone) => self.stream.shutdown(Shutdown::Both),
            end => {
                if let Some(code) = end.and_then(SessionEnd::close_code) {
                    let reason = end.map(SessionEnd::reason).unwrap_or_default();
                    self.websocket.borrow_mut().close(code, reason);
                }
                self.send_control().await;
                self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    // The reader.

    async fn read(self: Rc<Self>, first: Vec<u8>) {
        let _reading = Reading(self.clone());
        let mut next = (!first.is_empty()).then(|| self.decode(&first));
        while self.reads_on() {
            let (unpaid, end) = match next.take() {
                Some(decoded) => decoded,
                None if self.reserve_for_next_read().await => match self.stream.receive(&self.resources.pool).await {
                    Ok(Receipt::Data(bytes)) => self.decode(&bytes),
                    Ok(Receipt::End) => (Vec::new(), Some(SessionEnd::DriverGone)),
                    Ok(Receipt::Interrupted) if self.end.get().is_some() => return,
                    Ok(Receipt::Interrupted) => continue,
                    Err(error) => (Vec::new(), Some(SessionEnd::Io(error.kind()))),
                },
                None => return,
            };
            self.request(unpaid).await;
            if let Some(end) = end {
                self.set_end(end);
                if matches!(end, SessionEnd::DriverGone | SessionEnd::Io(_)) {
                    // Ends a send that nobody will take.
                    self.stream.shutdown(Shutdown::Both);
                }
                return;
            }
        }
    }

    /// The commands in the next bytes of the driver, and how the session ends over them.
    fn decode(&self, bytes: &[u8]) -> (Vec<Unpaid>, Option<SessionEnd>) {
        self.alive_at.set(Instant::now());
        self.resources.counts.add(Count::DriverBytesReceived, bytes.len() as u64);
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
        let mut commands = Vec::with_capacity(unpaid.len());
        let mut waiting_since = None;
        for (device, action, mut large) in unpaid {
            let data_bytes = if let Action::Write(data) = &action { data.len() } else { 0 };
            let credit = loop {
                match self.window.try_take(data_bytes, large) {
                    Ok(credit) => break credit,
                    Err(unused) => large = unused,
                }
                // What is paid must be on its way, or its credit never comes back.
                self.send_commands(std::mem::take(&mut commands)).await;
                self.wait_for_credit(data_bytes, &mut waiting_since).await;
                if !self.reads_on() {
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

    /// Waits a while for credit. When the driver has waited for its limit in one go, the device that holds most of its
    /// credit is let go, and then the next.
    async fn wait_for_credit(&self, data_bytes: usize, waiting_since: &mut Option<Instant>) {
        let limit = self.resources.limits().credit_wait_max;
        let since = *waiting_since.get_or_insert_with(|| {
            self.resources.counts.one(Count::CreditWaits);
            Instant::now()
        });
        let step = limit.saturating_sub(since.elapsed()).clamp(KEEPER_STEP_MIN, WAIT_STEP);
        let free = tokio::time::timeout(step, self.window.free_for(data_bytes)).await;
        if free.is_err() && since.elapsed() >= limit {
            let (reply, done) = oneshot::channel();
            let request = Request::LetGo { port: self.port, session: self.id, reply };
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

    // The keeper.

    async fn keep(self: Rc<Self>) {
        let limits = *self.resources.limits();
        let shortest = limits.stall_time_max.min(limits.ping_interval).min(limits.driver_silence_max);
        let step = (shortest / 4).clamp(KEEPER_STEP_MIN, KEEPER_STEP_MAX);
        let mut arrived_bytes = 0;
        let mut progressed_at = Instant::now();
        loop {
            tokio::time::sleep(step).await;
            let now = Instant::now();
            // What the driver takes, not what the kernel takes, which wakes a send by the third of its buffer.
            let arrived_now = self.taken_bytes.get().saturating_sub(self.stream.unacknowledged_bytes() as u64);
            if arrived_now > arrived_bytes || !self.is_sending.get() {
                arrived_bytes = arrived_now;
                progressed_at = now;
            }
            if now - progressed_at >= limits.stall_time_max {
                self.set_end(SessionEnd::Stalled);
                self.stream.abandon_send();
            } else if now - self.alive_at.get() >= limits.driver_silence_max {
                self.set_end(SessionEnd::Silent);
            } else if now - self.alive_at.get().max(self.pinged_at.get()) >= limits.ping_interval {
                self.pinged_at.set(now);
                self.websocket.borrow_mut().ping();
                self.control_due.notify_one();
            }
        }
    }

    fn log_left(&self, end: SessionEnd) {
        let (end_name, close_code, reason) = (end.name(), end.close_code(), end.reason());
        self.span.in_scope(|| match end.level() {
            Level::ERROR => tracing::error!(end = end_name, close_code, %reason, "driver left"),
            Level::WARN => tracing::warn!(end = end_name, close_code, %reason, "driver left"),
            _ => tracing::info!(end = end_name, close_code, %reason, "driver left"),
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let counts = &self.resources.counts;
        counts.one(Count::SessionsEnded);
        match self.end.get() {
            Some(SessionEnd::Stalled) => counts.one(Count::SessionsStalled),
            Some(SessionEnd::Silent) => counts.one(Count::SessionsSilent),
            _ => {}
        }
    }
}

/// The task that serves a session, while it does: its end, also by a panic, ends the others.
struct Serving {
    session: Rc<Session>,
    _keeper: Timer,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.session.set_end(SessionEnd::Failed);
            self.session.stream.shutdown(Shutdown::Both);
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

/// A session's place among those of its shard and of the process, from before its join.
pub struct Place {
    resources: Rc<Resources>,
    _place: Reservation,
}

impl Place {
    /// Takes a place, if there is one.
    pub fn take(resources: &Rc<Resources>) -> Option<Self> {
        let place = resources.shared.sessions.reserve(1)?;
        resources.sessions.set(resources.sessions.get() + 1);
        Some(Place { resources: resources.clone(), _place: place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.resources.sessions.set(self.resources.sessions.get() - 1);
    }
}

/// A payload that does not keep more alive than itself.
fn own(message: &Bytes, data: &[u8]) -> Bytes {
    if data.len() < COPIED_BYTES_MAX { Bytes::copy_from_slice(data) } else { message.slice_ref(data) }
}
