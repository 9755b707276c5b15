//! One device's connection as both sides know it: what it sent and how it ended, what each driver wrote to it and what of
//! that arrived. From this follows what must have arrived where.
//!
//! **Invariants.** A fact is recorded before the step that makes it true for the daemon, and its end after it: what a
//! judgement demands was surely so.
//! **Not here.** What a driver was told (`tcp_check`), and sockets (`tcp_device`).

use super::tally::{Count, Tally};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long before a device's own end a write must have been queued to be sure to be before it.
const READ_SLACK: Duration = Duration::from_millis(300);

/// One connection of a device.
#[derive(Debug)]
pub struct DeviceRecord {
    /// What its stream is made of.
    pub nonce: u64,
    /// The daemon's port.
    pub port: u16,
    /// Its address.
    pub source: IpAddr,
    /// What kind of device it is.
    pub kind: &'static str,
    /// Whether it always reads what comes at once.
    pub reads_at_once: bool,
    /// Whether a driver accepts it throughout.
    pub has_warden: bool,
    /// When it began to connect.
    pub connecting_at: Instant,
    /// Bytes that its socket was offered.
    pub offered: Cell<u64>,
    /// When it closed its sending side, everything sent.
    pub half_closed_at: Cell<Option<Instant>>,
    /// When its connection was over.
    pub ended_at: Cell<Option<Instant>>,
    /// Its id, once a driver knows it.
    pub id: Cell<Option<u64>>,
    /// When a driver first sent CLOSE for it.
    pub first_close_at: Cell<Option<Instant>>,
    /// Where its stream ended for the first driver that was told CLOSED.
    pub last_position: Cell<Option<u64>>,
    books: RefCell<BTreeMap<u64, Book>>,
}

/// What one driver wrote to one device.
#[derive(Debug, Default, Clone, Copy)]
struct Book {
    written: u64,
    received: u64,
    /// Of these the daemon is known to have queued: it has answered a ping that was sent after the answer to one that
    /// followed them.
    queued: u64,
    queued_at: Option<Instant>,
    /// Of these the daemon is known to have read: it has answered a ping that followed them.
    read: u64,
    read_at: Option<Instant>,
    /// What had been written when CLOSE was sent.
    closing: Option<u64>,
    /// When the daemon had confirmed that the driver has left.
    left_at: Option<Instant>,
}

impl DeviceRecord {
    /// A device that is about to connect.
    pub fn new(
        nonce: u64,
        port: u16,
        source: IpAddr,
        kind: &'static str,
        reads_at_once: bool,
        has_warden: bool,
    ) -> Self {
        DeviceRecord {
            nonce,
            port,
            source,
            kind,
            reads_at_once,
            has_warden,
            connecting_at: Instant::now(),
            offered: Cell::new(0),
            half_closed_at: Cell::new(None),
            ended_at: Cell::new(None),
            id: Cell::new(None),
            first_close_at: Cell::new(None),
            last_position: Cell::new(None),
            books: RefCell::default(),
        }
    }

    fn book<T>(&self, writer: u64, change: impl FnOnce(&mut Book) -> T) -> T {
        change(self.books.borrow_mut().entry(writer).or_default())
    }

    /// A driver is about to write; the write's number.
    pub fn write(&self, writer: u64) -> u64 {
        self.book(writer, |book| {
            book.written += 1;
            book.written - 1
        })
    }

    /// A driver is about to send CLOSE.
    pub fn close(&self, writer: u64) {
        if self.first_close_at.get().is_none() {
            self.first_close_at.set(Some(Instant::now()));
        }
        self.book(writer, |book| book.closing = book.closing.or(Some(book.written)));
    }

    /// The daemon has read the writer's first `count` writes.
    pub fn was_read(&self, writer: u64, count: u64) {
        self.book(writer, |book| (book.read, book.read_at) = (count, Some(Instant::now())));
    }

    /// The daemon has queued the writer's first `count` writes.
    pub fn was_queued(&self, writer: u64, count: u64) {
        self.book(writer, |book| (book.queued, book.queued_at) = (count, Some(Instant::now())));
    }

    /// The daemon has confirmed that the driver has left.
    pub fn left(&self, writer: u64) {
        self.book(writer, |book| book.left_at = Some(Instant::now()));
    }

    /// The device got a write whole.
    ///
    /// # Errors
    /// Where it is not the writer's next one.
    pub fn receive(&self, writer: u64, number: u64) -> Result<(), String> {
        self.book(writer, |book| {
            if number != book.received || number >= book.written {
                return Err(format!(
                    "write {number} of writer {writer:016x} arrived, due is {}, {book:?}",
                    book.received
                ));
            }
            book.received += 1;
            Ok(())
        })
    }

    /// What is wrong where the device saw the end of the daemon's stream, having read everything. `drained_at` is when
    /// the daemon was told to stop.
    pub fn judge_end(&self, drained_at: Option<Instant>, tally: &Tally) -> Vec<String> {
        let own = self.half_closed_at.get();
        let mut faults = self.judge_queued(own, drained_at, tally);
        faults.extend(self.judge_left(own, drained_at, tally));
        if own.is_none() && drained_at.is_none() {
            faults.extend(self.judge_reason(tally));
        }
        faults
    }

    /// Writes that the daemon had queued before anything could have ended the device.
    fn judge_queued(&self, own: Option<Instant>, drained_at: Option<Instant>, tally: &Tally) -> Vec<String> {
        let ended_at =
            [own.map(|at| at - READ_SLACK), self.first_close_at.get(), drained_at].into_iter().flatten().min();
        let in_time = |at: Option<Instant>| at.is_some_and(|at| ended_at.is_none_or(|ended_at| at < ended_at));
        let mut faults = Vec::new();
        for (writer, book) in self.books.borrow().iter() {
            if in_time(book.queued_at) {
                tally.add(Count::ReadWritesVerified, book.queued);
                if book.received < book.queued {
                    faults.push(format!(
                        "writes that the daemon had queued did not arrive: writer {writer:016x} {book:?}"
                    ));
                }
            }
            // Where the device ended itself, what was read and waited for credit came too late for it.
            let was_there = own.is_none() && drained_at.is_some();
            if was_there && in_time(book.read_at) && book.received < book.read {
                faults.push(format!("writes read before the drain did not arrive: writer {writer:016x} {book:?}"));
            }
        }
        faults
    }

    /// Writes of drivers that had left in order before anything else could have ended the device.
    fn judge_left(&self, own: Option<Instant>, drained_at: Option<Instant>, tally: &Tally) -> Vec<String> {
        let ended_at =
            [own.map(|at| at - READ_SLACK), self.first_close_at.get(), drained_at].into_iter().flatten().min();
        let mut faults = Vec::new();
        for (writer, book) in self.books.borrow().iter().filter(|(_, book)| book.written > 0) {
            if book.left_at.is_some_and(|at| ended_at.is_none_or(|ended_at| at < ended_at)) {
                tally.one(Count::LeavesVerified);
                if book.received < book.written {
                    faults.push(format!("writes of a driver that left did not arrive: writer {writer:016x} {book:?}"));
                }
            }
        }
        faults
    }

    /// Why the daemon ended it, with what had to arrive before.
    fn judge_reason(&self, tally: &Tally) -> Option<String> {
        let books = self.books.borrow();
        let mut closers = books.values().filter(|book| book.closing.is_some()).peekable();
        if closers.peek().is_some() {
            if closers.any(|book| book.closing.is_some_and(|count| book.received >= count)) {
                tally.one(Count::ClosesVerified);
                return None;
            }
            // The one that sent CLOSE may have crashed before it was read, and then the last driver have left.
            return self.has_warden.then(|| format!("no write before CLOSE arrived whole: {:x?}", &*books));
        }
        self.has_warden.then(|| "the daemon ended it for no reason".to_owned())
    }
}

impl std::fmt::Display for DeviceRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} device {:016x} at {} port {} id {:?}, offered {} bytes, half-closed {}, {:.3} s after it began to connect",
            self.kind,
            self.nonce,
            self.source,
            self.port,
            self.id.get(),
            self.offered.get(),
            self.half_closed_at.get().is_some(),
            self.connecting_at.elapsed().as_secs_f64()
        )
    }
}
