//! A driver's websocket at the level of frames, so that a scenario can send what no library would and see each frame alone.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::message::Event;
use super::{PATIENCE, read};

/// The opcodes of RFC 6455, section 5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// A frame from the daemon.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: FIN, three reserved bits, opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub const fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// The code and the reason of a close frame.
    pub fn close_reason(&self) -> (u16, String) {
        assert_eq!(self.first, 0x88, "no close frame: {self:?}");
        let (code, reason) = self.payload.split_at(2);
        (u16::from_be_bytes([code[0], code[1]]), String::from_utf8(reason.to_vec()).unwrap())
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = &self.payload[..self.payload.len().min(60)];
        write!(out, "frame {:#04x} of {} bytes {:?}", self.first, self.payload.len(), String::from_utf8_lossy(head))
    }
}

/// A joined driver that does nothing by itself: it answers no ping and echoes no close.
pub struct Wire {
    stream: TcpStream,
    pending: Vec<u8>,
    taken: usize,
}

impl Wire {
    pub fn new(stream: TcpStream, pending: Vec<u8>) -> Self {
        Self { stream, pending, taken: 0 }
    }

    /// Bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Bytes as they are, or why they could not be sent; some may have been.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// How long a write may wait.
    pub fn set_write_patience(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).unwrap();
    }

    /// A whole message in one masked frame.
    pub fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        self.send(&frame(0x80 | opcode as u8, payload));
    }

    /// The next frame; fails on a masked one, as drivers do, and when there is none in time.
    pub fn frame(&mut self) -> Frame {
        self.try_frame().unwrap_or_else(|error| panic!("no frame: {error}"))
    }

    /// The next frame, or why there is none.
    pub fn try_frame(&mut self) -> std::io::Result<Frame> {
        loop {
            if let Some(frame) = self.parse() {
                return Ok(frame);
            }
            self.fill()?;
        }
    }

    /// The next frame that is no ping and no pong.
    pub fn data_frame(&mut self) -> Frame {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.frame();
            if !matches!(frame.opcode(), 9 | 10) {
                return frame;
            }
            assert!(Instant::now() < deadline, "nothing but pings and pongs for {PATIENCE:?}");
        }
    }

    /// The next message, which has to be one whole frame.
    pub fn event(&mut self) -> Event {
        let frame = self.data_frame();
        assert_eq!(frame.first, 0x82, "no whole binary message: {frame:?}");
        Event::decode(&frame.payload)
    }

    /// Reads on to the close frame; messages before it are passed over.
    pub fn close_reason(&mut self) -> (u16, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.frame();
            if frame.opcode() == Opcode::Close as u8 {
                return frame.close_reason();
            }
            assert!(Instant::now() < deadline, "no close frame for {PATIENCE:?}");
        }
    }

    /// Takes so many bytes at most and drops them, without a look at what they are.
    pub fn skim(&mut self, bytes_max: usize) {
        // Where it has ended there is nothing to take.
        let _ = read(&mut self.stream, &mut vec![0; bytes_max]);
    }

    /// Fails unless the daemon ends the connection next.
    pub fn ends(&mut self) {
        match self.try_frame() {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
            other => panic!("the connection does not end: {other:?}"),
        }
    }

    /// Another handle of the same socket, to write while this one reads.
    pub fn writer(&self) -> Self {
        Self::new(self.stream.try_clone().unwrap(), Vec::new())
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        Socket::from(self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// How long a read may wait.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn fill(&mut self) -> std::io::Result<()> {
        self.pending.drain(..self.taken);
        self.taken = 0;
        let mut buffer = [0; 64 * 1024];
        match read(&mut self.stream, &mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            size => {
                self.pending.extend_from_slice(&buffer[..size]);
                Ok(())
            }
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        let bytes = &self.pending[self.taken..];
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(second & 0x80, 0, "a masked frame from the daemon");
        let (head, size) = match second {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap())).unwrap()),
            size => (2, usize::from(size)),
        };
        let payload = bytes.get(head..head + size)?.to_vec();
        self.taken += head + size;
        Some(Frame { first, payload })
    }
}

/// A masked frame with any first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        size @ 0..=125 => bytes.push(0x80 | size as u8),
        size @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(size as u16).to_be_bytes());
        }
        size => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
