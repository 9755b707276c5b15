//! One session, a driver's or a tap's: a writer that takes chunks from the inbox to the socket, a reader that turns
//! messages into commands (a tap has none), and a keeper that watches for stalls and silence.
//!
//! **Invariants.** The first ending stands. The inbox is let go after the last command was sent, so that the port sees the
//! commands first. What the session may use is reserved.
//! **Not here.** Its parts (`writer`, `reader`, `keeper`), WebSocket's frames and errors (`websocket`), the join (`api`).

mod keeper;
mod place;
mod reader;
mod writer;

pub use place::Place;

use crate::edge::line::Line;
use crate::edge::websocket::{LARGE_MESSAGE_BYTES, WebSocket};
use crate::policy::budget::Reservation;
use crate::policy::counts::Count;
use crate::policy::ending::SessionEnd;
use crate::policy::limits::Limits;
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::shard::cipher::Cipher;
use crate::shard::credit::Window;
use crate::shard::log_gate::LogGate;
use crate::shard::outbox::Inbox;
use crate::shard::presence::Presence;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Stream, Timer};
use std::cell::{Cell, OnceCell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use tracing::{Level, Span};

/// What a session uses beside outbox and window: its WebSocket's buffers and the message under way.
const OWN_BYTES_MAX: usize = LARGE_MESSAGE_BYTES + (32 << 10);

/// What a session may use at most without a large message: the amount that a join reserves.
pub fn session_bytes_max(limits: &Limits) -> usize {
    limits.outbox_bytes_max + limits.write_window_bytes_max + OWN_BYTES_MAX
}

/// A driver that has joined a port.
pub struct Joined {
    /// Its session.
    pub id: SessionId,
    /// The port.
    pub port: PortId,
    /// Its `X-Module-ID`.
    pub module: Option<Arc<str>>,
    /// Its accept list; cut where it is long.
    pub accepted: Arc<str>,
    /// Who it is, for log lines.
    pub span: Span,
    /// Its place among the sessions.
    pub place: Place,
    /// The bounds under which it joined.
    pub limits: Limits,
    /// What it may use; at least [`session_bytes_max`] of them, and what its line's cipher takes.
    pub memory: Reservation,
}

/// One session.
pub struct Session {
    id: SessionId,
    port: PortId,
    /// Who it is, for log lines.
    span: Span,
    stream: Stream,
    /// What the socket's bytes are wrapped in. The writer seals.
    cipher: Cipher,
    resources: Rc<Resources>,
    window: Window,
    presence: Rc<Presence>,
    memory: RefCell<Reservation>,
    /// What is reserved while no large message is under way.
    memory_bytes_min: usize,
    websocket: RefCell<WebSocket>,
    control_due: Notify,
    end: Cell<Option<SessionEnd>>,
    /// The driver has shown life since the keeper looked.
    is_alive: Cell<bool>,
    /// Where the first message ends that was sent and is not known to have arrived, counted as `taken_bytes` is.
    message_under_way: Cell<Option<u64>>,
    is_sending: Cell<bool>,
    /// The reader sends on what came before the ending that it has met; no control frame leaves meanwhile.
    goodbye_waits: Cell<bool>,
    /// The driver's socket is being read, and not left until credit or memory is free.
    is_reading: Cell<bool>,
    /// Bytes that the kernel has taken in all.
    taken_bytes: Cell<u64>,
    place: Place,
    ignored_log: LogGate,
}

impl Session {
    /// A session that has joined; [`serve`](Self::serve) answers the driver from then on.
    pub fn new(joined: Joined, line: Line, resources: Rc<Resources>, inbox: &Inbox) -> Rc<Self> {
        let Line { stream, cipher, remote, .. } = line;
        let Joined { id, port, module, accepted, span, place, limits, mut memory } = joined;
        let memory_bytes_min = memory.amount() - limits.write_window_bytes_max;
        let window = Window::new(limits.write_window_bytes_max, memory.split_above(memory_bytes_min));
        let now_s = resources.clock_s.get();
        let presence = Rc::new(Presence {
            id,
            port,
            remote,
            module,
            accepted,
            since_s: now_s,
            seen_s: Cell::new(now_s),
            received_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            window: window.clone(),
            backlog: inbox.backlog().clone(),
            credit_waits: Cell::new(0),
            end: OnceCell::new(),
        });
        if !place.is_tap() {
            resources.counts.one(Count::SessionsJoined);
            resources.presences.borrow_mut().insert(id, presence.clone());
        }
        let session = Rc::new(Session {
            id,
            port,
            span,
            stream,
            cipher,
            window,
            presence,
            memory: RefCell::new(memory),
            memory_bytes_min,
            websocket: RefCell::new(WebSocket::new(limits.message_bytes_max)),
            control_due: Notify::new(),
            end: Cell::new(None),
            is_alive: Cell::new(true),
            message_under_way: Cell::new(None),
            is_sending: Cell::new(false),
            goodbye_waits: Cell::new(false),
            is_reading: Cell::new(false),
            taken_bytes: Cell::new(0),
            place,
            ignored_log: LogGate::default(),
            resources,
        });
        let weak = Rc::downgrade(&session);
        let end = move || weak.upgrade().iter().for_each(|session| session.disconnect());
        // It is not set yet.
        let _ = session.presence.end.set(Box::new(end));
        session
    }

    /// Runs the session to its end. `first` is what the driver sent behind its request.
    pub async fn serve(self: Rc<Self>, mut inbox: Inbox, first: Vec<u8>) {
        self.span.in_scope(|| tracing::info!("{} joined", self.place.owner()));
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
            let _bound = Timer::shut_down_after(limits.stall_time_max, &self.stream);
            self.stream.linger(&self.resources.pool, limits.linger_time_max, limits.flush_time_max).await;
        }
    }

    fn set_end(&self, end: SessionEnd) {
        if self.end.get().is_none() {
            self.end.set(Some(end));
            self.control_due.notify_one();
        }
    }

    /// Ends the session for the operator, also while its driver takes nothing.
    fn disconnect(&self) {
        self.set_end(SessionEnd::Operator);
        if self.is_sending.get() {
            self.stream.abandon_send();
        }
    }

    /// Whether reading goes on: while the daemon drains, and after a failed send, the driver's socket is still read.
    fn reads_on(&self) -> bool {
        matches!(self.end.get(), None | Some(SessionEnd::Drained | SessionEnd::Io(_)))
    }

    /// Counts what is on its way between daemon and driver; what a tap gets is none of it.
    fn count_bytes(&self, count: Count, bytes: usize) {
        if !self.place.is_tap() {
            self.resources.counts.add(count, bytes as u64);
        }
    }

    fn log_left(&self, end: SessionEnd) {
        let (end_name, close_code, reason, who) = (end.name(), end.close_code(), end.reason(), self.place.owner());
        self.span.in_scope(|| match end.level() {
            Level::ERROR => tracing::error!(end = end_name, close_code, %reason, "{who} left"),
            Level::WARN => tracing::warn!(end = end_name, close_code, %reason, "{who} left"),
            _ => tracing::info!(end = end_name, close_code, %reason, "{who} left"),
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.place.is_tap() {
            self.resources.presences.borrow_mut().remove(&self.id);
            self.resources.counts.session_ended(self.end.get().unwrap_or(SessionEnd::Failed));
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
