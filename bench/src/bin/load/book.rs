//! What one driver has been told about its devices, and whether that is right.
//!
//! **Invariants.** A device is OPENED once, then its bytes come in order, then it is CLOSED once, between two messages.
//! **Not here.** The driver's socket (`session`); what it sends (`targets`).

use crate::check::{self, Check, Fault};
use crate::event::{Event, Kind};
use crate::payload::{Head, Pattern};
use crate::plan::Flow;
use uring_dispatch::policy::port_id::Transport;

/// Ids that are followed at most, which bounds the memory that a wrong id can ask for.
const IDS_MAX: u64 = 1 << 22;

/// What a driver was told that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// A message that cannot be read.
    #[error("a message that is none: {0:02x?}")]
    Message(Vec<u8>),
    /// A message that may not come there.
    #[error("{kind:?} of device {id}, which {why}")]
    Order {
        /// What came.
        kind: Kind,
        /// The device.
        id: u64,
        /// What it is instead.
        why: &'static str,
    },
    /// Bytes that are not those that were sent.
    #[error("device {id}: {fault}")]
    Content {
        /// The device's id, or its UDP port.
        id: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// A stream that no device has.
    #[error("a message of stream {0}, which nobody has")]
    Stream(u32),
}

#[derive(Debug)]
enum Told {
    Nothing,
    Opened(Check),
    Closed,
}

/// What one message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// A device is there.
    Opened,
    /// A device is gone.
    Closed,
    /// Bytes came; this many messages were behind later ones.
    Received {
        /// Datagrams behind a later one.
        reordered: u64,
    },
}

/// A driver's devices.
#[derive(Debug)]
pub struct Book {
    transport: Transport,
    flow: Flow,
    /// By id.
    devices: Vec<Told>,
    /// Of datagrams: the next message by stream.
    next: Vec<u64>,
}

impl Book {
    /// Nothing was told yet.
    pub fn new(transport: Transport, flow: Flow) -> Self {
        Book { transport, flow, devices: Vec::new(), next: Vec::new() }
    }

    /// Notes a message; `each` is told of every one of the tool's messages that it completes.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn note(&mut self, event: &Event<'_>, pattern: &Pattern, each: impl FnMut(&Head)) -> Result<Noted, Wrong> {
        if self.transport == Transport::Udp {
            return self.note_datagram(event, pattern, each);
        }
        let Event { kind, id_or_port: id, data, .. } = *event;
        let wrong = |why| Wrong::Order { kind, id, why };
        if id >= IDS_MAX {
            return Err(wrong("is beyond all ids that are followed"));
        }
        if id as usize >= self.devices.len() {
            self.devices.resize_with(id as usize + 1, || Told::Nothing);
        }
        let told = &mut self.devices[id as usize];
        match (kind, &mut *told) {
            (Kind::Opened, Told::Nothing) => {
                *told = Told::Opened(if self.flow == Flow::Churn { Check::anywhere() } else { Check::new() });
                Ok(Noted::Opened)
            }
            (Kind::Received, Told::Opened(check)) => match self.flow {
                Flow::Up | Flow::Churn | Flow::Echo => {
                    let taken = check.take(pattern, data, each);
                    taken.map(|()| Noted::Received { reordered: 0 }).map_err(|fault| Wrong::Content { id, fault })
                }
                Flow::Down | Flow::Hold => Err(wrong("sends nothing")),
            },
            (Kind::Closed, Told::Opened(check)) if check.is_between_messages() => {
                *told = Told::Closed;
                Ok(Noted::Closed)
            }
            (Kind::Closed, Told::Opened(_)) => Err(wrong("is in the midst of a message")),
            (Kind::Opened, Told::Opened(_)) => Err(wrong("is open")),
            (_, Told::Closed) => Err(wrong("was closed before")),
            (_, Told::Nothing) => Err(wrong("was not opened")),
        }
    }

    fn note_datagram(
        &mut self,
        event: &Event<'_>,
        pattern: &Pattern,
        mut each: impl FnMut(&Head),
    ) -> Result<Noted, Wrong> {
        let Event { kind, id_or_port: id, data, .. } = *event;
        if kind != Kind::Received {
            return Err(Wrong::Order { kind, id, why: "is of datagrams" });
        }
        let head = check::datagram(pattern, data).map_err(|fault| Wrong::Content { id, fault })?;
        let stream = head.stream as usize;
        if stream as u64 >= IDS_MAX {
            return Err(Wrong::Stream(head.stream));
        }
        if stream >= self.next.len() {
            self.next.resize(stream + 1, 0);
        }
        let is_late = head.sequence < self.next[stream];
        self.next[stream] = self.next[stream].max(head.sequence + 1);
        each(&head);
        Ok(Noted::Received { reordered: u64::from(is_late) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, id: u64, data: &[u8]) -> Event<'_> {
        Event { kind, address: b"127.0.0.1", id_or_port: id, data }
    }

    fn message(pattern: &Pattern, sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        pattern.append(&Head { stream: 0, size: 64, sequence, intended_ns: 0 }, &mut bytes);
        bytes
    }

    #[test]
    fn a_device_is_opened_heard_and_closed_once() {
        let pattern = Pattern::new(64);
        let mut book = Book::new(Transport::Tcp, Flow::Up);
        let mut note = |kind, data: &[u8]| book.note(&event(kind, 0, data), &pattern, |_| {});
        assert!(note(Kind::Received, &message(&pattern, 0)).is_err());
        assert_eq!(note(Kind::Opened, b"").expect("first"), Noted::Opened);
        assert!(note(Kind::Opened, b"").is_err());
        note(Kind::Received, &message(&pattern, 0)[..10]).expect("in order");
        assert!(note(Kind::Closed, b"").is_err());
        note(Kind::Received, &message(&pattern, 0)[10..]).expect("in order");
        assert_eq!(note(Kind::Closed, b"").expect("last"), Noted::Closed);
        assert!(note(Kind::Closed, b"").is_err());
        assert!(note(Kind::Opened, b"").is_err());
    }

    #[test]
    fn datagrams_may_be_missing_or_late_but_not_changed() {
        let pattern = Pattern::new(64);
        let mut book = Book::new(Transport::Udp, Flow::Up);
        let mut note = |data: &[u8]| book.note(&event(Kind::Received, 9, data), &pattern, |_| {});
        assert_eq!(note(&message(&pattern, 3)).expect("whole"), Noted::Received { reordered: 0 });
        assert_eq!(note(&message(&pattern, 1)).expect("whole"), Noted::Received { reordered: 1 });
        let mut changed = message(&pattern, 4);
        changed[40] ^= 1;
        assert!(note(&changed).is_err());
    }

    #[test]
    fn an_id_beyond_all_bounds_takes_no_memory() {
        let mut book = Book::new(Transport::Tcp, Flow::Up);
        assert!(book.note(&event(Kind::Opened, u64::MAX, b""), &Pattern::new(64), |_| {}).is_err());
    }
}
