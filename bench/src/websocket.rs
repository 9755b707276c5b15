//! WebSocket frames as a driver sees them: the daemon's are parsed strictly, ours are built masked.
//!
//! **Invariants.** What the contract forbids the daemon is a [`FrameFault`]: a masked, fragmented or reserved frame, text,
//! and a control frame that is too long. Bytes may come in any split.
//! **Not here.** Sockets.

/// Opcodes that are used here.
pub mod opcode {
    /// A continued message.
    pub const CONTINUATION: u8 = 0x0;
    /// A text message.
    pub const TEXT: u8 = 0x1;
    /// A binary message.
    pub const BINARY: u8 = 0x2;
    /// The end of the connection.
    pub const CLOSE: u8 = 0x8;
    /// A ping.
    pub const PING: u8 = 0x9;
    /// A pong.
    pub const PONG: u8 = 0xa;
}

/// The flag of a message's last frame.
pub const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTROL_PAYLOAD_MAX: u64 = 125;
/// More than any message of the daemon: a datagram and its head.
const PAYLOAD_MAX: u64 = 70_000;
/// Bytes that were taken are dropped from the buffer once they are this many.
const TAKEN_BYTES_MAX: usize = 256 << 10;

/// A frame of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole binary message.
    Binary(&'a [u8]),
    /// The end, with its code and reason; no code is 1005.
    Close(u16, String),
    /// A ping with its payload.
    Ping(&'a [u8]),
    /// A pong with its payload.
    Pong(&'a [u8]),
}

/// A frame that the daemon may not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("frame {head:02x?} is not allowed, after {frames} frames: {why}")]
pub struct FrameFault {
    /// Its first bytes.
    pub head: Vec<u8>,
    /// Frames before it.
    pub frames: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// The daemon's bytes, cut into frames.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    taken: usize,
    frames: u64,
}

impl Frames {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken == self.bytes.len() || self.taken >= TAKEN_BYTES_MAX {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`FrameFault`]; nothing can be taken after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameFault> {
        let frames = self.frames;
        let Some((frame, frame_bytes)) =
            parse(&self.bytes[self.taken..]).map_err(|fault| FrameFault { frames, ..fault })?
        else {
            return Ok(None);
        };
        self.taken += frame_bytes;
        self.frames += 1;
        Ok(Some(frame))
    }

    /// Bytes of a frame that is not whole yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

/// The frame that these bytes begin with, and how many of them it takes; `None` where it is not whole.
///
/// # Errors
/// [`FrameFault`], which counts no frames before it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameFault> {
    let Some((head_bytes, payload_len)) = lengths(bytes) else { return Ok(None) };
    if let Some(why) = fault(bytes[0], bytes[1], payload_len) {
        return Err(FrameFault { head: bytes[..head_bytes].to_vec(), frames: 0, why });
    }
    let frame_bytes = head_bytes + payload_len as usize;
    let Some(frame) = bytes.get(..frame_bytes) else { return Ok(None) };
    let payload = &frame[head_bytes..];
    let frame = match frame[0] & 0x0f {
        opcode::BINARY => Frame::Binary(payload),
        opcode::PING => Frame::Ping(payload),
        opcode::PONG => Frame::Pong(payload),
        _ => {
            let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
            Frame::Close(code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned())
        }
    };
    Ok(Some((frame, frame_bytes)))
}

/// Bytes of the head and of the payload, once the head is whole.
fn lengths(bytes: &[u8]) -> Option<(usize, u64)> {
    match bytes.get(1)? & 0x7f {
        126 => Some((4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into())),
        127 => Some((10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        len => Some((2, len.into())),
    }
}

fn fault(first: u8, second: u8, payload_len: u64) -> Option<&'static str> {
    let code = first & 0x0f;
    if first & 0x70 != 0 {
        Some("reserved bits")
    } else if second & MASKED != 0 {
        Some("masked")
    } else if first & FIN == 0 || code == opcode::CONTINUATION {
        Some("fragmented")
    } else if code == opcode::TEXT {
        Some("text")
    } else if !matches!(code, opcode::BINARY | opcode::CLOSE | opcode::PING | opcode::PONG) {
        Some("unknown opcode")
    } else if code != opcode::BINARY && payload_len > CONTROL_PAYLOAD_MAX {
        Some("control frame too long")
    } else if payload_len > PAYLOAD_MAX {
        Some("longer than any message")
    } else {
        None
    }
}

/// Appends a masked frame with these flags and opcode.
pub fn append(out: &mut Vec<u8>, flags_and_opcode: u8, payload: &[u8], mask: [u8; 4]) {
    append_head(out, flags_and_opcode, payload.len() as u64, mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Masks a payload in place, from its first byte on.
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// Appends the head of a masked frame with a payload of `payload_len` bytes, which may never follow.
pub fn append_head(out: &mut Vec<u8>, flags_and_opcode: u8, payload_len: u64, mask: [u8; 4]) {
    out.push(flags_and_opcode);
    match payload_len {
        0..=125 => out.push(MASKED | payload_len as u8),
        126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            out.push(MASKED | 127);
            out.extend_from_slice(&payload_len.to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
}

/// Appends a close frame.
pub fn append_close(out: &mut Vec<u8>, code: u16, reason: &str, mask: [u8; 4]) {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    append(out, FIN | opcode::CLOSE, &payload, mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_alike_however_the_bytes_are_split() {
        let mut bytes = vec![0x82, 0x03, 1, 2, 3, 0x89, 0x00, 0x82, 126, 0x01, 0x00];
        bytes.extend_from_slice(&[7; 256]);
        bytes.extend_from_slice(&[0x88, 0x04, 0x03, 0xe9, b'h', b'i']);
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            while let Some(frame) = frames.next_frame().expect("allowed frames") {
                seen.push(format!("{frame:?}").len());
            }
        }
        assert_eq!(seen.len(), 4);
        assert_eq!(frames.left(), 0);
    }

    #[test]
    fn what_the_daemon_may_not_send_is_a_fault() {
        for bytes in [[0x02u8, 0x00], [0x80, 0x00], [0x81, 0x00], [0x82, 0x80], [0xc2, 0x00], [0x83, 0x00]] {
            let mut frames = Frames::default();
            frames.push(&bytes);
            assert!(frames.next_frame().is_err(), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_masked_frame_unmasks_to_its_payload() {
        let mut out = Vec::new();
        append(&mut out, FIN | opcode::BINARY, b"payload", [1, 2, 3, 4]);
        assert_eq!(out[..6], [0x82, 0x87, 1, 2, 3, 4]);
        assert_eq!(out[6] ^ 1, b'p');
    }
}
