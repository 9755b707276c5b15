//! The WebSocket protocol without io: bytes of a driver go in, messages come out; what the protocol itself wants sent
//! (pongs, pings, the close frame) gathers in a small control buffer that the session's writer takes between chunks.
//!
//! **Invariants.** Messages come out alike however the bytes are split. The control buffer is bounded: of pings that come
//! faster than pongs leave, the last is answered. Memory of a large message is given up at the next message boundary.
//! **Not here.** What a message means (`protocol::message`), and data frames to the driver (`protocol::frame`).

use crate::policy::ending::SessionEnd;
use crate::protocol::frame::FrameWalk;
use bytes::Bytes;
use std::borrow::Cow;
use std::io::{self, Read, Write};
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

/// What tungstenite reads at once; also what it allocates at once for each session.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// Control frames that wait for the writer.
const CONTROL_BYTES_MAX: usize = 4 << 10;
/// A message from here on makes the context's buffers so large that they are given up after it.
pub const LARGE_MESSAGE_BYTES: usize = 64 << 10;

/// What comes out for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A binary message.
    Binary(Bytes),
    /// A text message.
    Text(Utf8Bytes),
}

/// One driver's WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    context: WebSocketContext,
    config: WebSocketConfig,
    walk: FrameWalk,
    control: Vec<u8>,
    has_large_buffers: bool,
    is_closed: bool,
    end: Option<SessionEnd>,
}

impl WebSocket {
    /// A WebSocket whose upgrade has been answered, for messages of `message_bytes_max` at most.
    pub fn new(message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_BYTES_MAX)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        WebSocket {
            context: WebSocketContext::new(Role::Server, Some(config)),
            config,
            walk: FrameWalk::default(),
            control: Vec::new(),
            has_large_buffers: false,
            is_closed: false,
            end: None,
        }
    }

    /// Takes the next bytes of the driver and hands each message that they complete to `each`.
    ///
    /// # Errors
    /// How the session ends: the driver closed, or broke the protocol, or what `each` says. Messages before the fault
    /// have been handed out. Bytes behind it are not looked at: every later call has the same answer.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(Incoming) -> Result<(), SessionEnd>,
    ) -> Result<(), SessionEnd> {
        if let Some(end) = self.end {
            return Err(end);
        }
        let received = self.receive_next(bytes, each);
        self.end = received.err();
        received
    }

    fn receive_next(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Incoming) -> Result<(), SessionEnd>,
    ) -> Result<(), SessionEnd> {
        // The context gathers a control frame whole before it finds it too long.
        let lawful = self.walk.advance(bytes);
        let mut memory = Memory { input: &bytes[..lawful], control: &mut self.control };
        loop {
            use tungstenite::Message;
            let message = match self.context.read(&mut memory) {
                Ok(Message::Binary(data)) => Incoming::Binary(data),
                Ok(Message::Text(text)) => Incoming::Text(text),
                // Answered by the context itself; after a close frame the next read ends.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => continue,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(ending(&error)),
            };
            self.has_large_buffers |= message.len() >= LARGE_MESSAGE_BYTES;
            each(message)?;
        }
        if lawful < bytes.len() {
            return Err(ending(&Error::Protocol(ProtocolError::ControlFrameTooBig)));
        }
        // Not while the context holds control frames, or knows that it has closed.
        let is_replaceable = self.control.is_empty() && self.context.can_write();
        if self.has_large_buffers && is_replaceable && self.walk.between_messages() {
            self.context = WebSocketContext::new(Role::Server, Some(self.config));
            self.has_large_buffers = false;
        }
        Ok(())
    }

    /// Payload bytes that are held of the message under way.
    pub fn message_bytes(&self) -> usize {
        self.walk.message_bytes()
    }

    /// Queues a ping, unless the control buffer is full.
    pub fn ping(&mut self) {
        let mut memory = Memory { input: &[], control: &mut self.control };
        // Full means that the driver takes nothing, which other limits see.
        let _ = self.context.write(&mut memory, tungstenite::Message::Ping(Bytes::new()));
    }

    /// Queues a close frame, unless one was queued before. Works after a protocol error.
    pub fn close(&mut self, code: u16, reason: Cow<'static, str>) {
        // The pongs that wait first: nothing may follow a close frame (RFC 6455 section 5.5.1).
        let mut pongs = self.take_control();
        loop {
            match self.take_control() {
                more if more.is_empty() => break,
                more => pongs.extend(more),
            }
        }
        let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from(reason.into_owned()) };
        let mut memory = Memory { input: &[], control: &mut self.control };
        let _ = self.context.close(&mut memory, Some(frame));
        pongs.append(&mut self.control);
        self.control = pongs;
    }

    /// Whether control frames wait to be taken.
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Takes whole control frames to be sent; empty where none are left.
    pub fn take_control(&mut self) -> Vec<u8> {
        if self.control.is_empty() {
            // What did not fit before. The answer to a close frame may be in it, and then nothing follows.
            let mut memory = Memory { input: &[], control: &mut self.control };
            self.is_closed |= matches!(self.context.flush(&mut memory), Err(Error::ConnectionClosed));
        }
        std::mem::take(&mut self.control)
    }

    /// Whether the driver's close frame was answered later than it was read, as control frames before it waited.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl Incoming {
    fn len(&self) -> usize {
        match self {
            Incoming::Binary(data) => data.len(),
            Incoming::Text(text) => text.len(),
        }
    }
}

/// What an error of the context means for the session.
fn ending(error: &Error) -> SessionEnd {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => SessionEnd::DriverClosed,
        Error::Capacity(_) => SessionEnd::TooBig,
        Error::Utf8(_) => SessionEnd::NotUtf8,
        _ => {
            tracing::debug!(%error, "WebSocket protocol error");
            SessionEnd::Violation
        }
    }
}

/// The stream that the context reads from and writes to.
struct Memory<'a> {
    input: &'a [u8],
    control: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // "Nothing" would mean the end of the stream.
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(out)
    }
}

impl Write for Memory<'_> {
    /// All or nothing, so that only whole frames are in the buffer.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.control.is_empty() && self.control.len() + bytes.len() > CONTROL_BYTES_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.control.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 256 << 10;

    fn masked(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![flags];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | len as u8),
            len @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let key = [1, 2, 3, 4];
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    fn receive(websocket: &mut WebSocket, bytes: &[u8]) -> (Vec<Incoming>, Result<(), SessionEnd>) {
        let mut messages = Vec::new();
        let result = websocket.receive(bytes, |message| {
            messages.push(message);
            Ok(())
        });
        (messages, result)
    }

    #[test]
    fn a_ping_is_answered_with_its_payload() {
        let mut websocket = WebSocket::new(LIMIT);
        receive(&mut websocket, &masked(0x89, b"hello")).1.unwrap();
        assert_eq!(websocket.take_control(), b"\x8a\x05hello");
        assert_eq!(websocket.take_control(), b"");
    }

    #[test]
    fn of_a_flood_of_pings_a_bounded_part_is_answered_and_the_close_frame_still_leaves() {
        let mut websocket = WebSocket::new(LIMIT);
        for number in 0..10_000u32 {
            receive(&mut websocket, &masked(0x89, &[number as u8; 100])).1.unwrap();
        }
        websocket.close(1002, "enough".into());
        let mut sent = Vec::new();
        loop {
            let control = websocket.take_control();
            assert!(control.len() <= 3 * CONTROL_BYTES_MAX);
            if control.is_empty() {
                break;
            }
            sent.extend(control);
        }
        assert!(sent.len() < 4 * CONTROL_BYTES_MAX);
        assert!(sent.ends_with(b"\x88\x08\x03\xeaenough"), "{:?}", &sent[sent.len() - 20..]);
    }

    #[test]
    fn a_close_frame_is_echoed_and_ends_the_session() {
        let mut websocket = WebSocket::new(LIMIT);
        let (_, result) = receive(&mut websocket, &masked(0x88, b"\x03\xe8bye"));
        assert_eq!(result, Err(SessionEnd::DriverClosed));
        assert_eq!(websocket.take_control(), b"\x88\x05\x03\xe8bye");
    }

    #[test]
    fn each_fault_has_its_ending_and_the_close_frame_works_after_it() {
        let declared = [0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 2, 3, 4];
        let cases = [
            (vec![0x82, 0x01, 0x00], SessionEnd::Violation),
            (masked(0xc2, b"x"), SessionEnd::Violation),
            (masked(0x80, b"x"), SessionEnd::Violation),
            (masked(0x89, &[7; 126])[..8].to_vec(), SessionEnd::Violation),
            (masked(0x81, b"\xff"), SessionEnd::NotUtf8),
            (masked(0x82, &vec![0; LIMIT + 1]), SessionEnd::TooBig),
            (declared.to_vec(), SessionEnd::TooBig),
        ];
        for (bytes, end) in cases {
            let mut websocket = WebSocket::new(LIMIT);
            assert_eq!(receive(&mut websocket, &bytes).1, Err(end));
            websocket.close(end.close_code().unwrap(), end.reason());
            assert_eq!(websocket.take_control()[0], 0x88, "{end:?}");
        }
    }

    #[test]
    fn the_buffers_of_a_large_message_are_given_up_at_the_next_boundary() {
        let mut websocket = WebSocket::new(LIMIT);
        let large = masked(0x82, &vec![7; LIMIT]);
        let (cut, rest) = large.split_at(LIMIT / 2);
        assert!(receive(&mut websocket, cut).0.is_empty());
        assert_eq!(websocket.message_bytes(), LIMIT / 2 - 14);
        let mut tail = rest.to_vec();
        tail.extend_from_slice(&masked(0x82, b"next")[..3]);
        assert_eq!(receive(&mut websocket, &tail).0.len(), 1);
        assert!(websocket.has_large_buffers, "a frame is under way");
        let (messages, _) = receive(&mut websocket, &masked(0x82, b"next")[3..]);
        assert_eq!(messages, [Incoming::Binary(Bytes::from_static(b"next"))]);
        assert!(!websocket.has_large_buffers);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_alike_however_they_are_split(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200,
        ) {
            let mut whole = WebSocket::new(LIMIT);
            let whole_result = receive(&mut whole, &bytes);
            let mut parts = WebSocket::new(LIMIT);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let (mut messages, mut result) = receive(&mut parts, first);
            if result.is_ok() {
                let (more, last) = receive(&mut parts, second);
                messages.extend(more);
                result = last;
            }
            prop_assert_eq!((messages, result), whole_result);
        }

        #[test]
        fn fragments_assemble_alike_however_they_are_split(
            fragments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            step in 1usize..64,
        ) {
            let mut bytes = Vec::new();
            let last = fragments.len() - 1;
            for (at, fragment) in fragments.iter().enumerate() {
                let opcode = if at == 0 { 0x02 } else { 0x00 };
                let fin = if at == last { 0x80 } else { 0x00 };
                bytes.extend(masked(fin | opcode, fragment));
                bytes.extend(masked(0x8a, b""));
            }
            let mut websocket = WebSocket::new(LIMIT);
            let mut messages = Vec::new();
            for part in bytes.chunks(step) {
                let (more, result) = receive(&mut websocket, part);
                prop_assert_eq!(result, Ok(()));
                messages.extend(more);
            }
            prop_assert_eq!(messages, vec![Incoming::Binary(fragments.concat().into())]);
        }
    }
}
