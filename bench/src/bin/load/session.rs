//! One driver: its socket without waiting, frames in both directions.
//!
//! **Invariants.** What is to be sent is bounded: above the bound nothing more is read or made. Each read is one system
//! call into a buffer that stays.
//! **Not here.** What the daemon tells (`book`), what the driver writes (`targets`), and the join (`join`).

use crate::book::{Book, Noted, Wrong};
use crate::event::{self, Event, Kind, append_write};
use crate::plan::{Flow, PortPlan};
use crate::poller::Interest;
use crate::targets::Targets;
use crate::work::Work;
use dispatch_bench::websocket::{self, Frame, FrameFault};
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Bytes of what was read and not yet understood; more than any message, twice.
const INBOX_BYTES: usize = 512 << 10;
/// Room for a read at least.
const READ_ROOM_BYTES: usize = 128 << 10;
/// Bytes to be sent, above which nothing more is made.
const OUT_BYTES_MAX: usize = 256 << 10;

/// Why a session ends before the run does.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The socket says so.
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    /// The other end closed without a word.
    #[error("the daemon closed the socket")]
    Eof,
    /// The other end said so.
    #[error("the daemon closed with {0} {1:?}")]
    Close(u16, String),
    /// A frame that may not be.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// A message that may not be.
    #[error(transparent)]
    Wrong(#[from] Wrong),
}

/// One driver on its port.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    /// What it waits for at present.
    pub interest: Interest,
    /// The port's index in the plan.
    pub port: usize,
    plan: PortPlan,
    is_first: bool,
    inbox: Inbox,
    book: Book,
    targets: Targets,
    out: Vec<u8>,
    out_at: usize,
}

impl Session {
    /// A driver that has joined; `first` followed the answer. Only the first of a port writes.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn new(stream: TcpStream, first: &[u8], plan: PortPlan, port: usize, is_first: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Session {
            stream,
            interest: Interest::Read,
            port,
            plan,
            is_first,
            inbox: Inbox::new(first),
            book: Book::new(plan.transport, plan.flow),
            targets: Targets::default(),
            out: Vec::new(),
            out_at: 0,
        })
    }

    /// Its socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it sends messages of its own.
    pub fn is_source(&self) -> bool {
        self.is_first && self.plan.flow == Flow::Down
    }

    /// From now on its messages are due at `rate` a second.
    pub fn pace(&mut self, now_ns: u64, rate: f64) {
        self.targets.pace(now_ns, rate);
    }

    /// When its next message is due; with no room for one it is not due yet.
    pub fn next_ns(&self) -> Option<u64> {
        self.targets.next_ns().filter(|_| self.wanted() != Interest::Write)
    }

    /// What it has to wait for.
    pub fn wanted(&self) -> Interest {
        match self.out.len() - self.out_at {
            0 => Interest::Read,
            pending if pending >= OUT_BYTES_MAX => Interest::Write,
            _ => Interest::Both,
        }
    }

    /// Reads once, and takes all that is whole.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn read(&mut self, work: &mut Work<'_>) -> Result<(), Ended> {
        match self.inbox.fill(&mut self.stream) {
            Ok(0) => return Err(Ended::Eof),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        work.now_ns = work.shared.now_ns();
        self.take_frames(work)?;
        self.flush()?;
        Ok(())
    }

    fn take_frames(&mut self, work: &mut Work<'_>) -> Result<(), Ended> {
        while let Some((frame, frame_bytes)) = websocket::parse(self.inbox.unread())? {
            match frame {
                Frame::Binary(message) => {
                    let Some(event) = Event::parse(message) else {
                        return Err(Wrong::Message(message[..message.len().min(32)].to_vec()).into());
                    };
                    let noted = note(&mut self.book, &event, work, self.plan, self.is_first)?;
                    if self.is_first && self.plan.flow == Flow::Echo && event.kind == Kind::Received {
                        append_write(&mut self.out, event.address, event.id_or_port, [event.data, &[]]);
                    }
                    if noted == Noted::Opened && self.is_first && self.plan.flow == Flow::Down {
                        self.targets.add(event.address, event.id_or_port, work.shared.next_stream());
                    }
                }
                Frame::Ping(payload) => event::append_pong(&mut self.out, payload),
                Frame::Pong(_) => {}
                Frame::Close(code, reason) => return Err(Ended::Close(code, reason)),
            }
            self.inbox.consume(frame_bytes);
        }
        Ok(())
    }

    /// Makes what is due, and sends it.
    ///
    /// # Errors
    /// What the socket says.
    pub fn generate(&mut self, work: &mut Work<'_>) -> io::Result<()> {
        let pending = self.out.len() - self.out_at;
        if pending < OUT_BYTES_MAX {
            self.targets.append_due(work, &mut self.out, self.out_at + OUT_BYTES_MAX);
        }
        self.flush()
    }

    /// Sends what it can without waiting.
    ///
    /// # Errors
    /// What the socket says.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.out_at < self.out.len() {
            match self.stream.write(&self.out[self.out_at..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.out_at += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.out_at == self.out.len() || self.out_at >= OUT_BYTES_MAX {
            self.out.drain(..self.out_at);
            self.out_at = 0;
        }
        Ok(())
    }

    /// Says goodbye, as far as there is room.
    pub fn leave(&mut self) {
        event::append_close(&mut self.out);
        // Whoever does not take it sees the socket close.
        let _ = self.flush();
    }
}

fn note(
    book: &mut Book,
    event: &Event<'_>,
    work: &mut Work<'_>,
    plan: PortPlan,
    is_first: bool,
) -> Result<Noted, Wrong> {
    let Work { shared, pattern, tally, now_ns, .. } = work;
    let mut unknown = None;
    let noted = book.note(event, pattern, |head| {
        if !shared.has_stream(head.stream) {
            unknown = Some(head.stream);
        } else if plan.flow != Flow::Echo {
            tally.arrived(plan.transport, head, *now_ns);
            if is_first {
                shared.note_arrived(head.stream, head.sequence + 1);
            }
        }
    })?;
    if let Some(stream) = unknown {
        return Err(Wrong::Stream(stream));
    }
    match noted {
        Noted::Opened => tally.counts.opened += 1,
        Noted::Closed => tally.counts.closed += 1,
        Noted::Received { reordered } => tally.counts.reordered += reordered,
    }
    Ok(noted)
}

/// Bytes that were read, of which some may not be a whole frame yet.
#[derive(Debug)]
struct Inbox {
    bytes: Box<[u8]>,
    from: usize,
    until: usize,
}

impl Inbox {
    fn new(first: &[u8]) -> Self {
        // Pages that no read ever reaches take no memory.
        let mut bytes = vec![0; INBOX_BYTES.max(first.len() + READ_ROOM_BYTES)].into_boxed_slice();
        bytes[..first.len()].copy_from_slice(first);
        Inbox { bytes, from: 0, until: first.len() }
    }

    fn fill(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        if self.from == self.until {
            (self.from, self.until) = (0, 0);
        } else if self.bytes.len() - self.until < READ_ROOM_BYTES {
            self.bytes.copy_within(self.from..self.until, 0);
            (self.from, self.until) = (0, self.until - self.from);
        }
        let read = stream.read(&mut self.bytes[self.until..])?;
        self.until += read;
        Ok(read)
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.from..self.until]
    }

    fn consume(&mut self, count: usize) {
        self.from += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_keeps_what_is_not_consumed() {
        let mut inbox = Inbox::new(b"first");
        inbox.consume(4);
        let mut source = io::repeat(7).take(3 << 20);
        let mut left = 1;
        loop {
            let read = inbox.fill(&mut source).expect("a read");
            if read == 0 {
                break;
            }
            left += read;
            assert_eq!(inbox.unread().len(), left);
            inbox.consume(left - 1);
            left = 1;
        }
        assert_eq!(inbox.unread(), [7]);
    }
}
