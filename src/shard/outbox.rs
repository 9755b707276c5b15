//! The outbox: what ties a session to a port. Frames gather in an open chunk at the port and travel as whole chunks to
//! the session, wherever it lives; each end sees when the other lets go.
//!
//! **Invariants.** At most three chunks exist of an outbox: one open, one in the channel, one with the session; none is
//! larger than a third of the bound, or than one message where that alone is larger. Chunks hold whole frames. A
//! message is appended to an outbox once or not at all. Whoever waits for room gets it in the order of asking.
//! **Not here.** Which messages a subscriber gets (`port`), and how a chunk is sent (`edge::session`).

use crate::policy::roster::SessionId;
use crate::protocol::frame;
use crate::protocol::message::Encode;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Chunks of an outbox: the open one, one in the channel, one being sent.
const CHUNKS: usize = 3;
/// What a chunk starts with.
const CHUNK_BYTES_MIN: usize = 256;

/// The port's end on its way to the port.
#[derive(Debug)]
pub struct Outbox {
    chunks: mpsc::Sender<Vec<u8>>,
    chunk_bytes_max: usize,
    backlog: Backlog,
}

/// The session's end. Dropping it makes the port forget the session.
#[derive(Debug)]
pub struct Inbox {
    chunks: mpsc::Receiver<Vec<u8>>,
    backlog: Backlog,
}

/// Bytes of the chunks that have left the port and that the session has not sent, and whether and how often there was no
/// room.
/// Clones are the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Backlog(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    is_full: AtomicBool,
    times: AtomicU64,
}

impl Backlog {
    /// The number at this moment.
    pub fn bytes(&self) -> usize {
        // Relaxed, here and below: the numbers guard no other memory.
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether there was no room since a chunk last left the port.
    pub fn is_full(&self) -> bool {
        self.0.is_full.load(Ordering::Relaxed)
    }

    /// How often something had to wait, or was dropped, as the outbox was full.
    pub fn waits(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    /// A chunk of so many bytes has been sent.
    pub fn sent(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn left_port(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.is_full.store(false, Ordering::Relaxed);
    }

    fn had_no_room(&self) {
        self.0.times.fetch_add(1, Ordering::Relaxed);
        self.0.is_full.store(true, Ordering::Relaxed);
    }
}

/// The most that a [`Backlog`] usually is: an outbox of `bytes_max` but for its open chunk, which is the port's.
pub fn backlog_bytes_max(bytes_max: usize) -> usize {
    bytes_max / CHUNKS * (CHUNKS - 1)
}

/// Both ends of an outbox that holds about `bytes_max` at most.
pub fn link(bytes_max: usize) -> (Outbox, Inbox) {
    let (chunks, inbox) = mpsc::channel(CHUNKS - 2);
    let backlog = Backlog::default();
    let outbox = Outbox { chunks, chunk_bytes_max: bytes_max / CHUNKS, backlog: backlog.clone() };
    (outbox, Inbox { chunks: inbox, backlog })
}

impl Inbox {
    /// Waits for the next chunk; `None` once the port has let go and everything was taken. May be raced.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.chunks.recv().await
    }

    /// What has left the port and is not sent; whoever sends a chunk says so there.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }
}

/// The port's end in use: one for each joined session.
#[derive(Debug)]
pub struct Subscription {
    session: SessionId,
    module: Option<Arc<str>>,
    backlog: Backlog,
    chunk_bytes_max: usize,
    open: RefCell<Vec<u8>>,
    /// Bytes of the chunk before, which the next is made as large as.
    chunk_bytes_before: Cell<usize>,
    flush_due: Notify,
    /// Whoever waits for room holds the one turn, and waits on `room`; others wait for the turn.
    turn: Semaphore,
    room: Notify,
    waiting: Cell<usize>,
    /// Whether the one whose turn it is has found no room.
    wants_room: Cell<bool>,
    phase: Cell<Phase>,
    /// Ids of devices that the session has not been told of: from, below.
    strangers: Cell<(u64, u64)>,
    met: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The port has let go; what is in the open chunk still leaves.
    Finishing,
    /// Nothing is taken any more.
    Closed,
}

/// What an append without waiting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the open chunk.
    Yes,
    /// There is no room, or others wait for it already.
    Full,
    /// The session has left.
    Closed,
}

impl Subscription {
    /// A subscription of `session`, and what [`Flusher::run`] needs to serve it.
    pub fn new(session: SessionId, module: Option<Arc<str>>, outbox: Outbox) -> (std::rc::Rc<Self>, Flusher) {
        let subscription = std::rc::Rc::new(Subscription {
            session,
            module,
            backlog: outbox.backlog.clone(),
            chunk_bytes_max: outbox.chunk_bytes_max,
            open: RefCell::new(Vec::new()),
            chunk_bytes_before: Cell::new(CHUNK_BYTES_MIN),
            flush_due: Notify::new(),
            turn: Semaphore::new(1),
            room: Notify::new(),
            waiting: Cell::new(0),
            wants_room: Cell::new(false),
            phase: Cell::new(Phase::Open),
            strangers: Cell::new((0, 0)),
            met: Notify::new(),
        });
        (subscription.clone(), Flusher { subscription, chunks: outbox.chunks, backlog: outbox.backlog })
    }

    /// Whose it is.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Its driver's module id.
    pub fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }

    /// Bytes in its open chunk.
    pub fn open_bytes(&self) -> usize {
        self.open.borrow().len()
    }

    /// Appends `message` if there is room and nobody waits for room.
    pub fn try_append(&self, message: &impl Encode) -> Appended {
        if self.phase.get() != Phase::Open {
            return Appended::Closed;
        }
        if self.waiting.get() == 0 && self.put(message) {
            return Appended::Yes;
        }
        self.backlog.had_no_room();
        Appended::Full
    }

    /// Appends `message`, waiting for room in the order of asking. False once the session has left.
    pub async fn append(&self, message: &(impl Encode + Copy)) -> bool {
        self.append_with(|| Some(*message)).await
    }

    /// Appends what `make` gives once there is room for it; `make` is asked again each time that there may be. False
    /// where it gives nothing, or once the session has left.
    pub async fn append_with<M: Encode>(&self, mut make: impl FnMut() -> Option<M>) -> bool {
        self.waiting.set(self.waiting.get() + 1);
        // In the order of asking. Never closed, so there is always a turn.
        let turn = self.turn.acquire().await;
        let appended = loop {
            if self.is_closed() {
                break false;
            }
            match make() {
                None => break false,
                Some(message) if self.put(&message) => break true,
                Some(_) => {
                    self.wants_room.set(true);
                    self.flush_due.notify_one();
                    self.room.notified().await;
                    self.wants_room.set(false);
                }
            }
        };
        drop(turn);
        self.waiting.set(self.waiting.get() - 1);
        // The flusher has waited for this.
        self.flush_due.notify_one();
        appended
    }

    /// Makes the devices with ids below `below`, which were there before this session, unknown to it: each is told of
    /// by [`introduced`](Self::introduced), in the order of ids.
    pub fn introduce_below(&self, below: u64) {
        self.strangers.set((0, below));
    }

    /// The ids that are yet to be told of; a device that is not there any more is passed over.
    pub fn strangers(&self) -> std::ops::Range<u64> {
        let (from, below) = self.strangers.get();
        from..below
    }

    /// Says that devices up to and with `id` have been told of, or that all have.
    pub fn introduced(&self, id: Option<u64>) {
        let (_, below) = self.strangers.get();
        self.strangers.set((id.map_or(below, |id| id + 1), below));
    }

    /// Whether this session has been told of the device.
    pub fn knows(&self, id: u64) -> bool {
        !self.strangers().contains(&id)
    }

    /// Wakes the devices that wait in [`meet`](Self::meet).
    pub fn wake_strangers(&self) {
        self.met.notify_waiters();
    }

    /// Waits until this session has been told of the device, or has left.
    pub async fn meet(&self, id: u64) {
        while !self.knows(id) && !self.is_closed() {
            self.met.notified().await;
        }
    }

    /// Appends `message` whatever the bound: for the CLOSED of a device whose task has failed and cannot wait.
    pub fn append_anyway(&self, message: &impl Encode) {
        if self.phase.get() == Phase::Open {
            self.grow_and_append(message);
        }
    }

    /// Lets go: the session gets what was appended, then the end.
    pub fn finish(&self) {
        if self.phase.get() == Phase::Open {
            self.phase.set(Phase::Finishing);
            self.flush_due.notify_one();
            self.room.notify_one();
            self.met.notify_waiters();
        }
    }

    /// Whether someone is about to append, or to find that there is no room.
    fn is_being_filled(&self) -> bool {
        self.phase.get() == Phase::Open && self.waiting.get() > 0 && !self.wants_room.get()
    }

    /// Whether someone waits for room, or to be introduced.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.get() > 0 || !self.strangers().is_empty()
    }

    /// Whether the session has left or was let go.
    pub fn is_closed(&self) -> bool {
        self.phase.get() != Phase::Open
    }

    /// Whether a message with so much data is appended without waiting.
    pub fn has_room(&self, data_bytes: usize) -> bool {
        let framed_bytes = data_bytes + frame::OVERHEAD_BYTES_MAX;
        self.phase.get() == Phase::Open
            && self.waiting.get() == 0
            && self.open_bytes() + framed_bytes <= self.chunk_bytes_max
    }

    fn put(&self, message: &impl Encode) -> bool {
        let open_bytes = self.open.borrow().len();
        let fits = open_bytes == 0 || open_bytes + frame::framed_len(message) <= self.chunk_bytes_max;
        if fits {
            self.grow_and_append(message);
        }
        fits
    }

    /// A chunk doubles as it grows, up to its bound and not past it.
    fn grow_and_append(&self, message: &impl Encode) {
        let mut open = self.open.borrow_mut();
        let needed = open.len() + frame::framed_len(message);
        if needed > open.capacity() {
            let doubled = (open.capacity() * 2).max(self.chunk_bytes_before.get()).min(self.chunk_bytes_max);
            let more = needed.max(doubled) - open.len();
            open.reserve_exact(more);
        }
        frame::append(&mut open, message);
        self.flush_due.notify_one();
    }
}

/// How a subscription's service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// The session let go of its end: the port is to forget it.
    Left,
    /// The port let go, and everything has left.
    Finished,
}

/// Serves one subscription: flushes its open chunk once a turn, and holds the lease.
#[derive(Debug)]
pub struct Flusher {
    subscription: std::rc::Rc<Subscription>,
    chunks: mpsc::Sender<Vec<u8>>,
    backlog: Backlog,
}

impl Flusher {
    /// Runs until either end lets go. A task of its own: what arrives within one turn of the loop leaves as one chunk.
    pub async fn run(self) -> Served {
        let subscription = &self.subscription;
        let served = loop {
            tokio::select! {
                biased;
                () = subscription.flush_due.notified() => {}
                () = self.chunks.closed() => break Served::Left,
            }
            // A chunk leaves full where those who wait can fill it.
            if subscription.is_being_filled() {
                continue;
            }
            // The place in the channel first: the chunk grows while there is none.
            let Ok(place) = self.chunks.reserve().await else { break Served::Left };
            let chunk = std::mem::take(&mut *subscription.open.borrow_mut());
            if !chunk.is_empty() {
                self.backlog.left_port(chunk.len());
                subscription.chunk_bytes_before.set(chunk.len().max(CHUNK_BYTES_MIN));
                place.send(chunk);
                subscription.room.notify_one();
            }
            if subscription.phase.get() == Phase::Finishing {
                break Served::Finished;
            }
        };
        subscription.phase.set(Phase::Closed);
        subscription.room.notify_one();
        subscription.met.notify_waiters();
        served
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::protocol::message::{DeviceName, IpText, ToDriver};
    use std::rc::Rc;

    fn received(data: &[u8]) -> ToDriver<'_> {
        ToDriver::Received { device: DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 1 }, data }
    }

    fn run<F: Future<Output = ()>>(test: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn messages_of_one_turn_leave_as_one_chunk() {
        run(async {
            let (outbox, mut inbox) = link(30_000);
            let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
            tokio::task::spawn_local(flusher.run());
            for _ in 0..3 {
                assert_eq!(subscription.try_append(&received(b"abc")), Appended::Yes);
            }
            let chunk = inbox.next().await.unwrap();
            assert_eq!(chunk.len(), 3 * frame::framed_len(&received(b"abc")));
        });
    }

    #[test]
    fn waiting_appends_keep_their_order_and_the_bound_holds() {
        run(async {
            const BOUND: usize = 3_000;
            let (outbox, mut inbox) = link(BOUND);
            let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
            tokio::task::spawn_local(flusher.run());
            for id in 0..100u8 {
                let subscription = subscription.clone();
                tokio::task::spawn_local(async move { assert!(subscription.append(&received(&[id; 100])).await) });
            }
            let framed_bytes = frame::framed_len(&received(&[0; 100]));
            let mut bytes = Vec::new();
            while bytes.len() < 100 * framed_bytes {
                let chunk = inbox.next().await.unwrap();
                assert!(chunk.capacity() <= BOUND / CHUNKS);
                let is_last = bytes.len() + chunk.len() == 100 * framed_bytes;
                assert!(is_last || chunk.len() + framed_bytes > BOUND / CHUNKS, "a chunk leaves full");
                bytes.extend(chunk);
            }
            let ids: Vec<u8> = bytes.chunks(frame::framed_len(&received(&[0; 100]))).map(|f| f[f.len() - 1]).collect();
            assert_eq!(ids, (0..100).collect::<Vec<u8>>());
        });
    }

    #[test]
    fn a_message_larger_than_a_chunk_finds_room_when_the_chunk_is_empty() {
        run(async {
            let (outbox, mut inbox) = link(300);
            let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
            tokio::task::spawn_local(flusher.run());
            let large = [7; 5_000];
            assert!(subscription.append(&received(&large)).await);
            assert_eq!(subscription.try_append(&received(b"x")), Appended::Full);
            assert_eq!(inbox.next().await.unwrap().len(), frame::framed_len(&received(&large)));
        });
    }

    #[test]
    fn when_the_session_lets_go_those_who_wait_are_told() {
        run(async {
            let (outbox, inbox) = link(300);
            let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
            let served = tokio::task::spawn_local(flusher.run());
            let waiting: Vec<_> = (0..20)
                .map(|_| {
                    let subscription: Rc<Subscription> = subscription.clone();
                    tokio::task::spawn_local(async move { subscription.append(&received(&[1; 90])).await })
                })
                .collect();
            tokio::task::yield_now().await;
            drop(inbox);
            assert_eq!(served.await.unwrap(), Served::Left);
            let mut refused = 0;
            for append in waiting {
                refused += usize::from(!append.await.unwrap());
            }
            assert!(refused > 10);
            assert_eq!(subscription.try_append(&received(b"x")), Appended::Closed);
        });
    }

    #[test]
    fn when_the_port_lets_go_the_session_gets_the_rest_and_then_the_end() {
        run(async {
            let (outbox, mut inbox) = link(300);
            let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
            let served = tokio::task::spawn_local(flusher.run());
            assert!(subscription.append(&received(b"last")).await);
            subscription.finish();
            assert!(inbox.next().await.is_some());
            assert_eq!(inbox.next().await, None);
            assert_eq!(served.await.unwrap(), Served::Finished);
        });
    }
}
