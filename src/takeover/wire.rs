//! Lines and descriptors over a Unix socket.
//!
//! **Invariants.** A line is bounded, and never read beyond: what follows may carry descriptors. Those arrive
//! close-on-exec, and exactly as many as were announced.
//! **Not here.** What is said when (`giving`, `taking`).

use super::{Line, TakeoverError};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::geteuid;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Descriptors of one message; the kernel takes no more (SCM_MAX_FD).
const BATCH_DESCRIPTORS: usize = 253;
/// Bytes of a line; the longest has three numbers, or a reason.
const LINE_BYTES_MAX: usize = 1_024;

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Wire(UnixStream);

impl Wire {
    /// Over a socket that is connected to a daemon of the same user, or of root.
    pub(super) fn new(stream: UnixStream) -> Result<Self, TakeoverError> {
        let peer = socket_peercred(&stream).map_err(io::Error::from)?.uid;
        if !peer.is_root() && peer != geteuid() {
            return Err(TakeoverError::User { uid: peer.as_raw() });
        }
        Ok(Wire(stream))
    }

    pub(super) fn say(&self, line: &Line) -> Result<(), TakeoverError> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::from)?;
        text.push(b'\n');
        self.0.set_write_timeout(Some(super::ANSWER_TIME_MAX))?;
        Ok((&self.0).write_all(&text)?)
    }

    /// The next line, if it comes within this time.
    pub(super) fn hear(&self, time_max: Duration) -> Result<Line, TakeoverError> {
        let until = Instant::now() + time_max;
        let mut text = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Zero would stand for no time-out at all.
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut byte = [0];
            (&self.0).read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                break;
            }
            text.push(byte[0]);
            if text.len() > LINE_BYTES_MAX || left.is_zero() {
                break;
            }
        }
        let unexpected = || TakeoverError::Unexpected { line: String::from_utf8_lossy(&text).into_owned() };
        match serde_json::from_slice(&text) {
            Ok(Line::Refused { reason }) => Err(TakeoverError::Refused { reason }),
            Ok(line) => Ok(line),
            Err(_) => Err(unexpected()),
        }
    }

    /// Waits for exactly this line.
    pub(super) fn expect(&self, expected: &Line, time_max: Duration) -> Result<(), TakeoverError> {
        let line = self.hear(time_max)?;
        if line == *expected { Ok(()) } else { Err(TakeoverError::Unexpected { line: format!("{line:?}") }) }
    }

    pub(super) fn send(&self, descriptors: &[BorrowedFd<'_>]) -> Result<(), TakeoverError> {
        for batch in descriptors.chunks(BATCH_DESCRIPTORS) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(batch));
            let send = || sendmsg(self.0.as_fd(), &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL);
            retry_on_intr(send).map_err(io::Error::from)?;
        }
        Ok(())
    }

    pub(super) fn receive(&self, count: usize) -> Result<Vec<OwnedFd>, TakeoverError> {
        self.0.set_read_timeout(Some(super::ANSWER_TIME_MAX))?;
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let (mut byte, before) = ([0], descriptors.len());
            // A signal to reload may come in between.
            retry_on_intr(|| {
                let into = &mut [IoSliceMut::new(&mut byte)];
                recvmsg(self.0.as_fd(), into, &mut control, RecvFlags::CMSG_CLOEXEC)
            })
            .map_err(io::Error::from)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(arrived) = message {
                    descriptors.extend(arrived);
                }
            }
            // The other end is gone, or there was no descriptor left for what it sent.
            if descriptors.len() == before || descriptors.len() > count {
                return Err(TakeoverError::Gone);
            }
        }
        Ok(descriptors)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Inventory;
    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        (Wire::new(one).unwrap(), Wire::new(other).unwrap())
    }

    #[test]
    fn descriptors_follow_their_line_in_batches() {
        let (giver, taker) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        let count = 2 * BATCH_DESCRIPTORS + 1;
        let line = Line::Sockets(Inventory { meetings: 0, api: 1, tls: 1, ports: count - 2 });
        giver.say(&line).unwrap();
        giver.send(&vec![file.as_fd(); count]).unwrap();
        giver.say(&Line::Ready).unwrap();
        assert_eq!(taker.hear(super::super::ANSWER_TIME_MAX).unwrap(), line);
        assert_eq!(taker.receive(count).unwrap().len(), count);
        taker.expect(&Line::Ready, super::super::ANSWER_TIME_MAX).unwrap();
    }

    #[test]
    fn an_end_and_a_line_that_is_none_are_told() {
        let (giver, taker) = pair();
        (&giver.0).write_all(b"{\"say\":\"good bye\"}\n").unwrap();
        let heard = taker.hear(Duration::from_secs(5)).unwrap_err();
        assert!(matches!(heard, TakeoverError::Unexpected { line } if line.contains("good bye")));
        (&giver.0).write_all(&[b'x'; 2 * LINE_BYTES_MAX]).unwrap();
        assert!(matches!(taker.hear(Duration::from_secs(5)), Err(TakeoverError::Unexpected { .. })));
        assert!(matches!(giver.hear(Duration::from_millis(1)), Err(TakeoverError::Late)));
        drop(giver);
        assert!(matches!(taker.receive(1), Err(TakeoverError::Gone)));
        assert!(matches!(taker.hear(Duration::from_secs(5)), Err(TakeoverError::Gone)));
        assert!(matches!(taker.say(&Line::Ready), Err(TakeoverError::Gone)));
    }
}
