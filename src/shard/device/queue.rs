//! What waits to be written to one device: whole writes, in order, each with the credit that paid for it.
//!
//! **Invariants.** What a pending send holds stays at the front until the send has ended. A write leaves whole, or is
//! dropped whole, but for the one that a failed or abandoned send had begun.
//! **Not here.** Sending (`writing`). The queue has no bound of its own: credit is.

use crate::policy::roster::SessionId;
use crate::shard::credit::{Credit, Returning};
use bytes::Bytes;
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// Small writes are gathered up to this size into one send.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// A device's queue; it exists while its writer runs.
pub struct WriteQueue {
    writes: VecDeque<Write>,
    /// Bytes of all of them.
    bytes: usize,
    /// How many of them the pending send holds.
    sending: usize,
    /// Bytes that the kernel has taken in all.
    taken_bytes: i64,
    /// Told at the end, where someone waits for it.
    emptied: Option<Rc<Notify>>,
}

/// One write of a session.
pub struct Write {
    /// Whose it is.
    pub session: SessionId,
    /// At least one byte.
    pub data: Bytes,
    /// Comes back when the write is done or dropped.
    pub credit: Credit,
}

impl WriteQueue {
    /// A queue of one write.
    pub fn new(write: Write) -> Self {
        let bytes = write.data.len();
        WriteQueue { writes: VecDeque::from([write]), bytes, sending: 0, taken_bytes: 0, emptied: None }
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) {
        self.bytes += write.data.len();
        self.writes.push_back(write);
    }

    /// Bytes that are queued, those that a pending send holds included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of a session's credit that are held here.
    pub fn credit_of(&self, session: SessionId) -> usize {
        self.writes.iter().filter(|write| write.session == session).map(|write| write.credit.bytes()).sum()
    }

    /// The bytes for the next send, put together in `scratch` where they are of more than one write. The send holds what
    /// they came from until [`sent`](Self::sent). `None` when nothing is queued.
    pub fn gather<'a>(&'a mut self, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let first = self.writes.front()?;
        if self.writes.len() == 1 || first.data.len() >= GATHERED_BYTES_MAX {
            self.sending = 1;
            return Some(&first.data);
        }
        scratch.clear();
        self.sending = 0;
        for write in &self.writes {
            if scratch.len() + write.data.len() > GATHERED_BYTES_MAX {
                break;
            }
            scratch.extend_from_slice(&write.data);
            self.sending += 1;
        }
        Some(scratch)
    }

    /// The same bytes from `at` on, for a send that outlasts this turn.
    pub fn rest(&self, scratch: &[u8], at: usize) -> Bytes {
        match self.writes.front() {
            Some(only) if self.sending == 1 => only.data.slice(at..),
            _ => Bytes::copy_from_slice(&scratch[at..]),
        }
    }

    /// The kernel has taken bytes of the pending send.
    pub fn taken(&mut self, bytes: usize) {
        self.taken_bytes += bytes as i64;
    }

    /// Bytes that the kernel has taken in all.
    pub fn taken_bytes(&self) -> i64 {
        self.taken_bytes
    }

    /// The pending send has ended well: what it held is done with, unless [`clear`](Self::clear) came first.
    pub fn sent(&mut self, returning: &mut Returning) {
        for write in self.writes.drain(..self.sending) {
            self.bytes -= write.data.len();
            returning.add(write.credit);
        }
        self.sending = 0;
    }

    /// Drops everything, what a pending send holds included.
    pub fn clear(&mut self) {
        self.writes.clear();
        (self.bytes, self.sending) = (0, 0);
    }

    /// Drops the writes of a session, but for those that the pending send holds. Returns how many.
    pub fn drop_writes_of(&mut self, session: SessionId) -> usize {
        let (before, mut at) = (self.writes.len(), 0);
        self.writes.retain(|write| {
            at += 1;
            let stays = at <= self.sending || write.session != session;
            self.bytes -= if stays { 0 } else { write.data.len() };
            stays
        });
        before - self.writes.len()
    }

    /// Told when the queue has come to its end.
    pub fn emptied(&mut self) -> Rc<Notify> {
        self.emptied.get_or_insert_default().clone()
    }

    /// Tells those who wait for the end.
    pub fn end(self) {
        if let Some(emptied) = self.emptied {
            emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::budget::Budget;
    use crate::shard::credit::{REQUEST_BYTES, Window};

    fn window() -> Window {
        Window::new(1 << 20, Budget::new(1 << 20).reserve(1 << 20).unwrap())
    }

    fn write(window: &Window, session: u64, data: &[u8]) -> Write {
        let credit = window.try_take(data.len(), None).unwrap();
        Write { session: SessionId(session), data: Bytes::copy_from_slice(data), credit }
    }

    #[test]
    fn small_writes_leave_together_and_large_ones_alone() {
        let window = window();
        let mut queue = WriteQueue::new(write(&window, 1, b"ab"));
        queue.push(write(&window, 2, b"cd"));
        queue.push(write(&window, 1, &[7; GATHERED_BYTES_MAX]));
        let mut scratch = Vec::new();
        assert_eq!(queue.gather(&mut scratch).unwrap(), b"abcd");
        assert_eq!(queue.rest(&scratch, 3), "d");
        queue.sent(&mut Returning::default());
        assert_eq!(queue.gather(&mut scratch).unwrap().len(), GATHERED_BYTES_MAX);
        assert_eq!(queue.rest(&scratch, 1).len(), GATHERED_BYTES_MAX - 1);
        queue.sent(&mut Returning::default());
        assert!(queue.gather(&mut scratch).is_none());
    }

    #[test]
    fn what_a_send_holds_stays_when_its_sessions_writes_are_dropped() {
        let window = window();
        let mut queue = WriteQueue::new(write(&window, 1, b"a"));
        queue.gather(&mut Vec::new());
        queue.push(write(&window, 1, b"b"));
        queue.push(write(&window, 2, b"c"));
        assert_eq!((queue.bytes(), queue.drop_writes_of(SessionId(1)), queue.bytes()), (3, 1, 2));
        assert_eq!(queue.credit_of(SessionId(1)), REQUEST_BYTES + 1);
        queue.sent(&mut Returning::default());
        assert_eq!(queue.gather(&mut Vec::new()).unwrap(), b"c");
    }

    #[test]
    fn a_queue_that_is_cleared_under_a_send_gives_every_credit_back_once() {
        let window = window();
        let mut queue = WriteQueue::new(write(&window, 1, b"a"));
        queue.push(write(&window, 1, b"b"));
        queue.gather(&mut Vec::new());
        queue.clear();
        queue.sent(&mut Returning::default());
        assert!(queue.gather(&mut Vec::new()).is_none() && queue.bytes() == 0);
        assert!(window.try_take((1 << 20) - REQUEST_BYTES, None).is_ok());
    }
}
