//! What waits to be written to one device: whole writes, in order, with the credit that paid for them.
//!
//! **Invariants.** What a pending send holds stays at the front until the send has ended. A write leaves whole, or is
//! dropped whole, but for the one that a failed or abandoned send had begun. The credit of one that leaves in pieces comes
//! back with the last.
//! **Not here.** Sending (`writing`). The queue has no bound of its own: credit is.

use crate::policy::roster::SessionId;
use crate::shard::cipher::PIECE_BYTES_MAX;
use crate::shard::commands::{Large, Payload};
use crate::shard::credit::{Credit, Paid, Returning};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::Notify;

/// Small writes are gathered up to this size into one send.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// A buffer that is kept for the next small writes.
const SPARE_BYTES_MAX: usize = 4 << 10;

/// A device's queue; it has one while something is queued.
#[derive(Default)]
pub struct WriteQueue {
    parts: VecDeque<Part>,
    /// Bytes of all of them.
    bytes: usize,
    /// How many of them the pending send holds.
    sending: usize,
    /// What the pending send holds of the first of them, where that has more.
    piece_bytes: usize,
    /// Bytes that the kernel has taken in all.
    taken_bytes: i64,
    /// Told at the end, where someone waits for it.
    emptied: Option<Rc<Notify>>,
    /// An empty buffer.
    spare: Vec<u8>,
}

/// Neighbouring writes of one session.
struct Part {
    session: SessionId,
    data: Data,
    writes: usize,
    /// Comes back when they are done or dropped.
    credit: Credit,
}

/// At least one byte.
enum Data {
    Small(Vec<u8>),
    Large(Large),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Data::Small(data) => data,
            Data::Large(large) => &large.data,
        }
    }
}

impl WriteQueue {
    /// Adds a write of at least one byte.
    pub fn push(&mut self, session: SessionId, payload: Payload<'_>, paid: Paid<'_>) {
        self.bytes += payload.bytes().len();
        let data = match payload {
            Payload::Large(large) => Data::Large(large),
            Payload::Small(more) => {
                // Not to what a pending send holds.
                if self.parts.len() > self.sending
                    && let Some(Part { session: before, data: Data::Small(data), writes, credit }) =
                        self.parts.back_mut()
                    && *before == session
                    && data.len() + more.len() <= GATHERED_BYTES_MAX
                {
                    data.extend_from_slice(more);
                    *writes += 1;
                    return paid.add_to(credit);
                }
                let mut data = std::mem::take(&mut self.spare);
                data.extend_from_slice(more);
                Data::Small(data)
            }
        };
        self.parts.push_back(Part { session, data, writes: 1, credit: paid.take() });
    }

    /// Bytes that are queued, those that a pending send holds included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of a session's credit that are held here.
    pub fn credit_of(&self, session: SessionId) -> usize {
        self.parts.iter().filter(|part| part.session == session).map(|part| part.credit.bytes()).sum()
    }

    /// The bytes for the next send, put together in `scratch` where they are of more than one part. The send holds what
    /// they came from until [`sent`](Self::sent). `None` when nothing is queued.
    pub fn gather<'a>(&'a mut self, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let first = self.parts.front()?.data.bytes();
        if self.parts.len() == 1 || first.len() >= GATHERED_BYTES_MAX {
            self.sending = 1;
            return Some(first);
        }
        scratch.clear();
        self.sending = 0;
        for bytes in self.parts.iter().map(|part| part.data.bytes()) {
            if scratch.len() + bytes.len() > GATHERED_BYTES_MAX {
                break;
            }
            scratch.extend_from_slice(bytes);
            self.sending += 1;
        }
        Some(scratch)
    }

    /// As [`gather`](Self::gather), for bytes that are sealed at once: of a large write it is a piece at a time.
    pub fn gather_piece<'a>(&'a mut self, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        if self.parts.front()?.data.bytes().len() <= PIECE_BYTES_MAX {
            return self.gather(scratch);
        }
        (self.sending, self.piece_bytes) = (1, PIECE_BYTES_MAX);
        self.parts.front().map(|part| &part.data.bytes()[..PIECE_BYTES_MAX])
    }

    /// The same bytes from `at` on, for a send that outlasts this turn.
    pub fn rest(&self, scratch: &[u8], at: usize) -> Bytes {
        match self.parts.front().map(|part| &part.data) {
            Some(Data::Large(only)) if self.sending == 1 => only.data.slice(at..),
            Some(Data::Small(only)) if self.sending == 1 => Bytes::copy_from_slice(&only[at..]),
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
        let piece_bytes = std::mem::take(&mut self.piece_bytes);
        if piece_bytes > 0
            && let Some(Part { data: Data::Large(large), .. }) = self.parts.front_mut()
        {
            large.data.advance(piece_bytes);
            self.bytes -= piece_bytes;
            return;
        }
        for Part { data, credit, .. } in self.parts.drain(..self.sending) {
            self.bytes -= data.bytes().len();
            returning.add(credit);
            if let Data::Small(mut buffer) = data
                && buffer.capacity() <= SPARE_BYTES_MAX
            {
                buffer.clear();
                self.spare = buffer;
            }
        }
        self.sending = 0;
    }

    /// Drops everything, what a pending send holds included.
    pub fn clear(&mut self) {
        self.parts.clear();
        (self.bytes, self.sending, self.piece_bytes) = (0, 0, 0);
    }

    /// Drops the writes of a session, but for those that the pending send holds. Returns how many.
    pub fn drop_writes_of(&mut self, session: SessionId) -> usize {
        let (mut dropped, mut at) = (0, 0);
        self.parts.retain(|part| {
            at += 1;
            let stays = at <= self.sending || part.session != session;
            if !stays {
                self.bytes -= part.data.bytes().len();
                dropped += part.writes;
            }
            stays
        });
        dropped
    }

    /// Told when the queue has come to its end.
    pub fn emptied(&mut self) -> Rc<Notify> {
        self.emptied.get_or_insert_default().clone()
    }

    /// Tells those who wait for the end, and makes ready for another device.
    pub fn end(&mut self) {
        if let Some(emptied) = self.emptied.take() {
            emptied.notify_waiters();
        }
        self.clear();
        self.taken_bytes = 0;
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

    fn push(queue: &mut WriteQueue, window: &Window, session: u64, payload: Payload<'_>) {
        let cost = window.cost(payload.bytes().len());
        queue.push(SessionId(session), payload, Paid::new(&mut window.try_take(cost as usize).unwrap(), cost));
    }

    #[test]
    fn small_writes_leave_together_and_large_ones_alone() {
        let window = window();
        let mut queue = WriteQueue::default();
        push(&mut queue, &window, 1, Payload::Small(b"ab"));
        push(&mut queue, &window, 2, Payload::Small(b"c"));
        push(&mut queue, &window, 2, Payload::Small(b"d"));
        let data = Bytes::from(vec![7; GATHERED_BYTES_MAX]);
        push(&mut queue, &window, 1, Payload::Large(Large { data, memory: None }));
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
    fn a_large_write_is_sealed_in_pieces_and_pays_until_its_last() {
        let window = window();
        let mut queue = WriteQueue::default();
        let data: Vec<u8> = (0..2 * PIECE_BYTES_MAX + 9).map(|at| (at / 1_000) as u8).collect();
        push(&mut queue, &window, 1, Payload::Large(Large { data: data.clone().into(), memory: None }));
        push(&mut queue, &window, 1, Payload::Small(b"after"));
        let (mut scratch, mut left, mut sends) = (Vec::new(), Vec::new(), 0);
        while let Some(bytes) = queue.gather_piece(&mut scratch) {
            assert!(bytes.len() <= PIECE_BYTES_MAX);
            left.extend_from_slice(bytes);
            sends += 1;
            // What has begun to leave stays, and so do its bytes until the send has ended.
            assert_eq!(queue.drop_writes_of(SessionId(2)), 0);
            assert_eq!(queue.bytes(), data.len() + b"after".len() - PIECE_BYTES_MAX * (sends - 1));
            assert_eq!(window.used_bytes(), 2 * REQUEST_BYTES + data.len() + b"after".len());
            queue.sent(&mut Returning::default());
        }
        assert!(sends == 3 && left == [&data, b"after".as_slice()].concat());
        assert_eq!((queue.bytes(), window.used_bytes()), (0, 0));
    }

    #[test]
    fn of_a_write_that_left_in_part_only_the_rest_is_dropped_and_not_by_its_session() {
        let window = window();
        let mut queue = WriteQueue::default();
        let data = Bytes::from(vec![7; 3 * PIECE_BYTES_MAX]);
        push(&mut queue, &window, 1, Payload::Large(Large { data, memory: None }));
        push(&mut queue, &window, 1, Payload::Small(b"after"));
        queue.gather_piece(&mut Vec::new());
        queue.sent(&mut Returning::default());
        assert_eq!((queue.drop_writes_of(SessionId(1)), queue.bytes()), (1, 2 * PIECE_BYTES_MAX));
        queue.gather_piece(&mut Vec::new());
        queue.clear();
        queue.sent(&mut Returning::default());
        assert!(queue.gather_piece(&mut Vec::new()).is_none());
        assert_eq!((queue.bytes(), window.used_bytes()), (0, 0));
    }

    #[test]
    fn what_a_send_holds_stays_when_its_sessions_writes_are_dropped() {
        let window = window();
        let mut queue = WriteQueue::default();
        push(&mut queue, &window, 1, Payload::Small(b"a"));
        queue.gather(&mut Vec::new());
        for (session, data) in [(1, b"b"), (1, b"c"), (2, b"d")] {
            push(&mut queue, &window, session, Payload::Small(data));
        }
        assert_eq!((queue.bytes(), queue.drop_writes_of(SessionId(1)), queue.bytes()), (4, 2, 2));
        assert_eq!(queue.credit_of(SessionId(1)), REQUEST_BYTES + 1);
        queue.sent(&mut Returning::default());
        assert_eq!(queue.gather(&mut Vec::new()).unwrap(), b"d");
    }

    #[test]
    fn a_queue_that_is_cleared_under_a_send_gives_every_credit_back_once() {
        let window = window();
        let mut queue = WriteQueue::default();
        push(&mut queue, &window, 1, Payload::Small(b"a"));
        push(&mut queue, &window, 1, Payload::Small(b"b"));
        queue.gather(&mut Vec::new());
        queue.clear();
        queue.sent(&mut Returning::default());
        assert!(queue.gather(&mut Vec::new()).is_none() && queue.bytes() == 0);
        assert_eq!(window.used_bytes(), 0);
    }

    #[test]
    fn a_queue_that_has_ended_is_as_a_new_one() {
        let window = window();
        let mut queue = WriteQueue::default();
        push(&mut queue, &window, 1, Payload::Small(b"a"));
        queue.taken(1);
        queue.end();
        assert_eq!((queue.bytes(), queue.taken_bytes(), window.used_bytes()), (0, 0, 0));
        push(&mut queue, &window, 2, Payload::Small(b"b"));
        assert_eq!(queue.gather(&mut Vec::new()).unwrap(), b"b");
    }
}
