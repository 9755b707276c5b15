//! A driver's bytes, cut into WebSocket frames and unmasked where they lie.
//!
//! **Invariants.** The frames are the same however the bytes are split. Memory grows with bytes that came, never by what a
//! head claims.
//! **Not here.** Messages that come in fragments, which no driver sends: they are a fault. Messages themselves (the
//! daemon's own codec).

const FIN_BINARY: u8 = 0x82;
const FIN_CLOSE: u8 = 0x88;
const FIN_PING: u8 = 0x89;
const FIN_TEXT: u8 = 0x81;
const FIN_PONG: u8 = 0x8a;
const MASKED: u8 = 0x80;
const MASK_BYTES: usize = 4;
const CONTROL_BYTES_MAX: u64 = 125;

/// A frame of a driver, unmasked.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message.
    Binary(&'a [u8]),
    /// To be answered with the same payload.
    Ping(&'a [u8]),
    /// The driver says goodbye, with this payload.
    Close(&'a [u8]),
    /// Text or a pong: nothing to do.
    Ignored,
}

/// A frame that is not spoken here: fragmented, not masked, or of an unknown kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFault;

/// A driver's bytes that are not taken yet.
#[derive(Debug, Default)]
pub struct Inbound {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbound {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What is not taken yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Takes the first `count` bytes of the rest.
    pub fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// The next whole frame; `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`FrameFault`]; nothing can be taken after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameFault> {
        let rest = &mut self.bytes[self.taken..];
        let Some((head_bytes, payload_len)) = lengths(rest) else { return Ok(None) };
        let kind = rest[0];
        if rest[1] & MASKED == 0 || (kind & 0x08 != 0 && payload_len > CONTROL_BYTES_MAX) {
            return Err(FrameFault);
        }
        let Some(frame_bytes) = usize::try_from(payload_len).ok().and_then(|len| len.checked_add(head_bytes)) else {
            return Err(FrameFault);
        };
        let Some(frame) = rest.get_mut(..frame_bytes) else { return Ok(None) };
        self.taken += frame_bytes;
        let (head, payload) = frame.split_at_mut(head_bytes);
        let mask = head.last_chunk::<MASK_BYTES>().ok_or(FrameFault)?;
        unmask(payload, *mask);
        match kind {
            FIN_BINARY => Ok(Some(Frame::Binary(payload))),
            FIN_PING => Ok(Some(Frame::Ping(payload))),
            FIN_CLOSE => Ok(Some(Frame::Close(payload))),
            FIN_TEXT | FIN_PONG => Ok(Some(Frame::Ignored)),
            _ => Err(FrameFault),
        }
    }
}

/// Bytes of the head with its mask, and of the payload, once the length is whole (RFC 6455 section 5.2).
fn lengths(bytes: &[u8]) -> Option<(usize, u64)> {
    match bytes.get(1)? & !MASKED {
        126 => Some((4 + MASK_BYTES, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into())),
        127 => Some((10 + MASK_BYTES, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        len => Some((2 + MASK_BYTES, len.into())),
    }
}

fn unmask(payload: &mut [u8], mask: [u8; MASK_BYTES]) {
    let (words, tail) = payload.as_chunks_mut::<MASK_BYTES>();
    let key = u32::from_ne_bytes(mask);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// Appends a control frame from the daemon's side, with at most 125 bytes of payload.
fn append_control(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.push(payload.len() as u8);
    out.extend_from_slice(payload);
}

/// Appends the answer to a ping.
pub fn append_pong(out: &mut Vec<u8>, payload: &[u8]) {
    append_control(out, FIN_PONG, payload);
}

/// Appends a close frame; the payload is the code and the reason.
pub fn append_close(out: &mut Vec<u8>, payload: &[u8]) {
    append_control(out, FIN_CLOSE, payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use dispatch_bench::websocket::{FIN, append, opcode};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// What a run of frames comes to, in words that can be compared.
    fn seen(inbound: &mut Inbound) -> Result<Vec<String>, FrameFault> {
        let mut seen = Vec::new();
        while let Some(frame) = inbound.next_frame()? {
            seen.push(format!("{frame:?}"));
        }
        Ok(seen)
    }

    fn stream(random: &mut ChaCha8Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        for len in [0, 1, 3, 4, 5, 125, 126, 200, 65_535, 65_536, 70_001] {
            let payload: Vec<u8> = (0..len).map(|_| random.random()).collect();
            append(&mut bytes, FIN | opcode::BINARY, &payload, random.random());
            append(&mut bytes, FIN | opcode::PING, &payload[..len.min(125)], random.random());
        }
        append(&mut bytes, FIN | opcode::TEXT, b"text", random.random());
        append(&mut bytes, FIN | opcode::CLOSE, &[0x03, 0xe8], random.random());
        bytes
    }

    #[test]
    fn frames_are_the_same_in_whatever_pieces_they_come() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let bytes = stream(&mut random);
        let mut whole = Inbound::default();
        whole.push(&bytes);
        let expected = seen(&mut whole).expect("allowed frames");
        assert_eq!(expected.len(), 24);
        assert!(whole.rest().is_empty());
        for piece_bytes_max in [2, 7, 300, 100_000] {
            let mut inbound = Inbound::default();
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(1..=piece_bytes_max).min(rest.len()));
                inbound.push(piece);
                pieces.extend(seen(&mut inbound).expect("allowed frames"));
                rest = after;
            }
            assert_eq!(pieces, expected, "in pieces of up to {piece_bytes_max} bytes");
        }
    }

    #[test]
    fn a_payload_is_unmasked() {
        let mut inbound = Inbound::default();
        inbound.push(&[0x82, 0x85, 1, 2, 3, 4, b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1]);
        assert_eq!(inbound.next_frame(), Ok(Some(Frame::Binary(b"hello"))));
    }

    #[test]
    fn what_is_not_spoken_is_a_fault() {
        let long_ping = [0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0];
        let heads: [&[u8]; 5] = [
            &[0x82, 0x00],
            &[0x02, 0x80, 0, 0, 0, 0],
            &[0x80, 0x80, 0, 0, 0, 0],
            &[0xc2, 0x80, 0, 0, 0, 0],
            &long_ping,
        ];
        for head in heads {
            let mut inbound = Inbound::default();
            inbound.push(head);
            assert_eq!(inbound.next_frame(), Err(FrameFault), "{head:02x?}");
        }
    }

    #[test]
    fn a_head_that_claims_much_waits_without_memory() {
        let mut inbound = Inbound::default();
        inbound.push(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 0, 9]);
        assert_eq!(inbound.next_frame(), Ok(None));
        assert!(inbound.bytes.capacity() < 1024);
    }
}
