//! The writer of a session: chunks and control frames to the driver's socket, and the goodbye.
//!
//! **Invariants.** Chunks and control frames leave whole and one after the other. Nothing follows the goodbye.
//! **Not here.** When a send has stalled (`keeper`).

use super::Session;
use crate::policy::counts::Count;
use crate::policy::ending::SessionEnd;
use crate::protocol::frame::FrameWalk;
use crate::shard::cipher::SealFault;
use crate::shard::outbox::Inbox;
use crate::shard::ring::{self, Sent};
use bytes::Bytes;
use std::net::Shutdown;

/// Chunks that leave before the ring has a turn: sends need none, and an inbox that another shard fills may never be empty.
const TURN_CHUNKS: u32 = 16;

impl Session {
    /// Takes chunks from the inbox to the socket, and control frames between them, until the session ends.
    pub(super) async fn write(&self, inbox: &mut Inbox) {
        let mut chunks = 0_u32;
        while self.end.get().is_none() {
            let chunk = tokio::select! {
                () = self.control_due.notified() => None,
                chunk = inbox.next() => Some(chunk),
            };
            match chunk {
                None => {}
                Some(Some(chunk)) => {
                    let chunk_bytes = chunk.len();
                    let sent = self.send(Bytes::from(chunk)).await;
                    inbox.backlog().sent(chunk_bytes);
                    let under_way = self.message_under_way.get().or(sent.then(|| self.taken_bytes.get()));
                    self.message_under_way.set(under_way);
                }
                Some(None) => self.set_end(SessionEnd::Drained),
            }
            if self.end.get().is_none() && !self.goodbye_waits.get() {
                self.send_control().await;
            }
            chunks += 1;
            if chunks.is_multiple_of(TURN_CHUNKS) {
                ring::turn().await;
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
        match self.cipher.seal(frames) {
            Ok(sealed) => self.send_sealed(sealed).await,
            Err(fault) => {
                self.set_end(match fault {
                    SealFault::KeysUsedUp => SessionEnd::KeysUsedUp,
                    SealFault::Failed(error) => SessionEnd::Io(error.kind()),
                });
                false
            }
        }
    }

    async fn send_sealed(&self, sealed: Bytes) -> bool {
        let before_bytes = self.taken_bytes.get();
        self.is_sending.set(true);
        let taken = |count: usize| {
            self.taken_bytes.set(self.taken_bytes.get() + count as u64);
            self.presence.written_bytes.set(self.taken_bytes.get());
            self.count_bytes(Count::DriverBytesWritten, count);
        };
        let sent = self.stream.send_all(sealed.clone(), taken).await;
        self.is_sending.set(false);
        let sent_bytes = self.taken_bytes.get() - before_bytes;
        match sent {
            Ok(Sent::Whole) => true,
            Ok(Sent::Abandoned) => {
                self.set_end(SessionEnd::Stalled);
                self.abandon(&sealed[..sent_bytes as usize]);
                false
            }
            Err(error) => {
                self.set_end(SessionEnd::Io(error.kind()));
                false
            }
        }
    }

    /// Ends the stream of a driver that was let go amid a send: by a close frame where one fits whole behind `sent`, else
    /// by a reset. Nothing can follow a TLS record that is cut.
    fn abandon(&self, sent: &[u8]) {
        let mut walk = FrameWalk::default();
        walk.advance(sent);
        if self.cipher.is_plain() && walk.between_frames() {
            let mut websocket = self.websocket.borrow_mut();
            websocket.take_control();
            let end = self.end.get().unwrap_or(SessionEnd::Stalled);
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
                let farewell = self.cipher.farewell();
                if !farewell.is_empty() {
                    self.send_sealed(farewell).await;
                }
                self.stream.shutdown(Shutdown::Write);
            }
        }
    }
}
