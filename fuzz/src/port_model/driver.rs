//! A driver as it reads its inbox: every frame is checked as it comes.
//!
//! **Invariants.** Of a device it gets OPENED, then RECEIVED, then CLOSED, and of no device that it does not accept.

use super::journal::Journal;
use super::script::{SOURCES, SourceSet};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use uring_dispatch::policy::roster::SessionId;
use uring_dispatch::protocol::frame;
use uring_dispatch::protocol::message::ToDriver;
use uring_dispatch::shard::outbox::Inbox;

/// One joined driver.
pub struct Driver {
    /// Its session.
    pub session: SessionId,
    sources: SourceSet,
    inbox: Inbox,
    chunk_bytes_max: usize,
    devices: BTreeMap<u64, Seen>,
    has_ended: bool,
}

/// What it was told of one device.
#[derive(Default)]
struct Seen {
    data: Vec<Vec<u8>>,
    is_closed: bool,
}

impl Driver {
    /// A driver that accepts `sources` and has nothing read.
    pub fn new(session: SessionId, sources: SourceSet, inbox: Inbox, outbox_bytes: usize) -> Self {
        let chunk_bytes_max = outbox_bytes / 3;
        Driver { session, sources, inbox, chunk_bytes_max, devices: BTreeMap::new(), has_ended: false }
    }

    /// Takes the next chunk, if there is one; false where there is none.
    pub async fn take(&mut self, journal: &RefCell<Journal>) -> bool {
        let chunk = {
            let mut next = pin!(self.inbox.next());
            poll_fn(|context| match next.as_mut().poll(context) {
                Poll::Ready(chunk) => Poll::Ready(Some(chunk)),
                Poll::Pending => Poll::Ready(None),
            })
            .await
        };
        match chunk {
            None => false,
            Some(None) => {
                self.has_ended = true;
                false
            }
            Some(Some(chunk)) => {
                self.read_chunk(&chunk, &journal.borrow());
                true
            }
        }
    }

    fn read_chunk(&mut self, mut chunk: &[u8], journal: &Journal) {
        let (chunk_bytes, mut frames) = (chunk.len(), 0);
        assert!(!chunk.is_empty(), "an empty chunk");
        while !chunk.is_empty() {
            let (head, payload_bytes) = match chunk[1] {
                126 => (4, usize::from(u16::from_be_bytes([chunk[2], chunk[3]]))),
                // Not reached: no event makes a message of 64 KiB.
                127 => panic!("a frame that is too long"),
                short => (2, usize::from(short)),
            };
            let end = head + payload_bytes;
            let message = ToDriver::decode(&chunk[head..end]).expect("the daemon's messages decode");
            assert_eq!((chunk[0], frame::framed_len(&message)), (0x82, end));
            self.read_message(&message, journal);
            chunk = &chunk[end..];
            frames += 1;
        }
        assert!(chunk_bytes <= self.chunk_bytes_max || frames == 1, "a chunk of {chunk_bytes} bytes, {frames} frames");
    }

    fn read_message(&mut self, message: &ToDriver, journal: &Journal) {
        let (ToDriver::Opened { device } | ToDriver::Closed { device } | ToDriver::Received { device, .. }) = message;
        let (id, source) = (device.id_or_port, journal.source_of(device.id_or_port));
        assert!(self.sources.holds(source), "an event of a source that is not accepted");
        assert_eq!(device.ip.as_bytes(), SOURCES[source].as_bytes());
        match message {
            ToDriver::Opened { .. } => {
                let known = self.devices.insert(id, Seen::default());
                assert!(known.is_none(), "device {id} was opened twice");
            }
            ToDriver::Received { data, .. } => {
                let seen = self.devices.get_mut(&id).unwrap_or_else(|| panic!("RECEIVED of {id} before OPENED"));
                assert!(!seen.is_closed, "RECEIVED of {id} after CLOSED");
                seen.data.push(data.to_vec());
            }
            ToDriver::Closed { .. } => {
                let seen = self.devices.get_mut(&id).unwrap_or_else(|| panic!("CLOSED of {id} before OPENED"));
                assert!(!seen.is_closed, "device {id} was closed twice");
                seen.is_closed = true;
            }
        }
    }

    /// Everything has come to rest: the driver has all that it must get, and nothing else.
    pub fn check(&self, journal: &Journal) {
        let mut due_devices = 0;
        for (id, due) in journal.due(self.session) {
            let Some(seen) = self.devices.get(&id) else {
                // Only a device that ended before a late driver could be told of it may stay unknown to it.
                assert!(!due.from_the_start && due.has_ended && due.data.is_empty(), "nothing of device {id}: {due:?}");
                continue;
            };
            due_devices += 1;
            assert_eq!(seen.data, due.data, "data of device {id}");
            assert_eq!(seen.is_closed, due.has_ended, "whether device {id} is closed");
        }
        assert_eq!(self.devices.len(), due_devices, "devices that it should not know");
    }

    /// Whether the port has let go of it.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}
