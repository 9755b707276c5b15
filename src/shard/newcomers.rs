//! Connections to the API whose first request has not been answered: whom a pause of the API waits for.
//!
//! **Invariants.** A connection on which nothing has come is waited for only while it has just begun.
//! **Not here.** How long a pause waits at most (`handover`), and how many connections there may be (`edge::handshakes`).

use crate::shard::ring::Stream;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long the first byte may take on its way, or in a peer that is busy.
const SILENT_TIME_MAX: Duration = Duration::from_secs(1);

/// Those of one shard.
#[derive(Default)]
pub struct Newcomers {
    waiting: RefCell<BTreeMap<u64, (Stream, Instant)>>,
    next: Cell<u64>,
}

/// One of them, until this drops.
pub struct Newcomer {
    all: Rc<Newcomers>,
    number: u64,
}

impl Newcomers {
    /// One more.
    pub fn begin(self: &Rc<Self>, stream: &Stream) -> Newcomer {
        let number = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(number, (stream.clone(), Instant::now()));
        Newcomer { all: self.clone(), number }
    }

    /// Whether any is to be answered: it has sent a byte, or may be about to.
    pub fn are_awaited(&self) -> bool {
        let is_awaited =
            |(stream, came_at): &(Stream, Instant)| came_at.elapsed() < SILENT_TIME_MAX || stream.has_received();
        self.waiting.borrow().values().any(is_awaited)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.all.waiting.borrow_mut().remove(&self.number);
    }
}
