//! A dispatch message as one WebSocket frame, appended to a chunk; and the walk along frames that are there.
//!
//! **Invariants.** One message is one frame with FIN, unmasked, opcode binary (RFC 6455 section 5.2); `framed_len` is
//! exactly what `append` appends; a walk gives the same result however its bytes are split.
//! **Not here.** Unmasking and assembling what a driver sends (`edge::websocket`, by tungstenite).

use super::message::{Encode, HEAD_BYTES_MAX};

const FIN_BINARY: u8 = 0x82;
const PAYLOAD_16_BIT: u8 = 126;
const PAYLOAD_64_BIT: u8 = 127;

/// The most that stands before a message's data in a frame to a driver.
pub const OVERHEAD_BYTES_MAX: usize = 10 + HEAD_BYTES_MAX;
/// The longest head of a frame from a driver: with a mask.
const MASKED_HEAD_BYTES_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_PAYLOAD_BYTES_MAX: u64 = 125;

/// The largest datagram that UDP over IPv4 carries.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Bytes that [`append`] adds for `message`.
pub fn framed_len(message: &impl Encode) -> usize {
    let payload = message.encoded_len();
    payload
        + if payload < 126 {
            2
        } else if payload <= 0xffff {
            4
        } else {
            10
        }
}

/// Appends `message` as one frame to `chunk`.
pub fn append(chunk: &mut Vec<u8>, message: &impl Encode) {
    let payload = message.encoded_len();
    chunk.push(FIN_BINARY);
    if payload < 126 {
        chunk.push(payload as u8);
    } else if let Ok(short) = u16::try_from(payload) {
        chunk.push(PAYLOAD_16_BIT);
        chunk.extend_from_slice(&short.to_be_bytes());
    } else {
        chunk.push(PAYLOAD_64_BIT);
        chunk.extend_from_slice(&(payload as u64).to_be_bytes());
    }
    message.encode(chunk);
}

/// Follows a stream of frames without reading their payloads: where frames and messages end, and how much of the
/// message under way has come.
///
/// A few bytes of state; it never allocates.
#[derive(Debug, Default, Clone)]
pub struct FrameWalk {
    head: [u8; MASKED_HEAD_BYTES_MAX],
    head_len: u8,
    payload_left: u64,
    /// The frame under way is a data frame (a control frame may stand between fragments).
    is_data: bool,
    /// The data frame under way ends its message.
    is_final: bool,
    /// A data message has begun and not ended.
    in_message: bool,
    message_bytes: u64,
    /// A control frame was too long: what it brings is not looked at.
    is_over: bool,
}

impl FrameWalk {
    /// Walks over `bytes`, the next of the stream, and tells how many of them may be read. These are all, until the head
    /// of a control frame says that it is longer than one may be (RFC 6455 section 5.5): then those before that head is
    /// whole, and none from there on, so that whoever gathers a frame before it judges it gathers nothing of this one.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while !self.is_over && at < bytes.len() {
            if self.payload_left == 0 {
                self.head[usize::from(self.head_len)] = bytes[at];
                self.head_len += 1;
                self.read_head();
                at += usize::from(!self.is_over);
            } else {
                let step = self.payload_left.min((bytes.len() - at) as u64);
                at += step as usize;
                self.payload_left -= step;
                self.message_bytes += if self.is_data { step } else { 0 };
                self.end_frame_when_whole();
            }
        }
        at
    }

    /// Whether the stream stands between two frames.
    pub fn between_frames(&self) -> bool {
        self.payload_left == 0 && self.head_len == 0
    }

    /// Whether the stream stands between two messages: no frame and no fragment is under way.
    pub fn between_messages(&self) -> bool {
        self.between_frames() && !self.in_message
    }

    /// Payload bytes that have come of the message under way.
    pub fn message_bytes(&self) -> usize {
        usize::try_from(self.message_bytes).unwrap_or(usize::MAX)
    }

    /// Takes the head once all its bytes are there (RFC 6455 section 5.2).
    fn read_head(&mut self) {
        let [flags, length, ..] = self.head;
        if self.head_len < 2 {
            return;
        }
        let extended = match length & 0x7f {
            PAYLOAD_16_BIT => 2,
            PAYLOAD_64_BIT => 8,
            _ => 0,
        };
        let mask = if length & 0x80 == 0 { 0 } else { 4 };
        if usize::from(self.head_len) < 2 + extended + mask {
            return;
        }
        self.payload_left = match extended {
            0 => u64::from(length & 0x7f),
            _ => self.head[2..2 + extended].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        };
        self.head_len = 0;
        self.is_data = flags & 0x08 == 0;
        self.is_over = !self.is_data && self.payload_left > CONTROL_PAYLOAD_BYTES_MAX;
        if self.is_data {
            self.is_final = flags & 0x80 != 0;
            self.in_message = true;
        }
        self.end_frame_when_whole();
    }

    fn end_frame_when_whole(&mut self) {
        if self.payload_left == 0 && self.is_data && self.is_final {
            self.in_message = false;
            self.message_bytes = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::message::{DeviceName, IpText, ToDriver};
    use proptest::prelude::*;
    use std::io::Cursor;
    use tungstenite::protocol::frame::FrameHeader;
    use tungstenite::protocol::frame::coding::{Data, OpCode};

    fn received(data: &[u8]) -> ToDriver<'_> {
        ToDriver::Received { device: DeviceName { ip: IpText::new([127, 0, 0, 1].into()), id_or_port: 1 }, data }
    }

    #[test]
    fn a_frame_reads_back_as_one_final_binary_frame_at_each_length_class() {
        for size in [0, 101, 102, 103, 65_511, 65_512, 65_513, DATAGRAM_BYTES_MAX] {
            let data = vec![7; size];
            let message = received(&data);
            let mut chunk = Vec::new();
            append(&mut chunk, &message);
            assert_eq!(chunk.len(), framed_len(&message));
            let mut cursor = Cursor::new(&chunk);
            let (header, length) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
            assert!(header.is_final && header.mask.is_none() && header.opcode == OpCode::Data(Data::Binary));
            assert_eq!(length as usize, message.encoded_len());
            assert_eq!(ToDriver::decode(&chunk[cursor.position() as usize..]), Ok(message));
        }
    }

    #[test]
    fn a_control_frame_between_fragments_leaves_the_message_open() {
        let mut walk = FrameWalk::default();
        walk.advance(&[0x02, 0x81, 0, 0, 0, 0, 9]);
        assert!(walk.between_frames() && !walk.between_messages());
        walk.advance(&[0x89, 0x80, 0, 0, 0, 0]);
        assert!(!walk.between_messages());
        assert_eq!(walk.message_bytes(), 1);
        walk.advance(&[0x80, 0x80, 0, 0, 0, 0]);
        assert!(walk.between_messages());
        assert_eq!(walk.message_bytes(), 0);
    }

    #[test]
    fn a_control_frame_that_is_too_long_ends_the_walk_at_its_head() {
        for opcode in 0x88..=0x8f {
            let head = [opcode, 0xff, 0, 0, 0, 0, 0, 0, 0, 126, 1, 2, 3, 4];
            let frames = [&[0x82, 0x81, 0, 0, 0, 0, 9], &head[..], &[7; 200]].concat();
            assert_eq!(FrameWalk::default().advance(&frames), 7 + head.len() - 1);
            let mut walk = FrameWalk::default();
            assert_eq!(frames.iter().map(|&byte| walk.advance(&[byte])).sum::<usize>(), 7 + head.len() - 1);
        }
        let longest = [&[0x89, 0xfe, 0, 125, 1, 2, 3, 4], &[7; 125][..]].concat();
        assert_eq!(FrameWalk::default().advance(&longest), longest.len());
    }

    proptest! {
        #[test]
        fn a_walk_ends_alike_however_its_bytes_are_split(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            splits in proptest::collection::vec(0usize..300, 0..6),
        ) {
            let mut whole = FrameWalk::default();
            let whole_read = whole.advance(&bytes);
            let mut parts = FrameWalk::default();
            let mut splits: Vec<usize> = splits.into_iter().map(|at| at.min(bytes.len())).collect();
            splits.sort_unstable();
            let (mut from, mut parts_read) = (0, 0);
            for to in splits.into_iter().chain([bytes.len()]) {
                parts_read += parts.advance(&bytes[from..to]);
                from = to;
            }
            prop_assert_eq!(whole_read, parts_read);
            prop_assert_eq!(whole.between_messages(), parts.between_messages());
            prop_assert_eq!(whole.between_frames(), parts.between_frames());
            prop_assert_eq!(whole.message_bytes(), parts.message_bytes());
        }

        #[test]
        fn a_walk_stands_between_messages_after_every_frame_of_ours(sizes in proptest::collection::vec(0usize..300, 1..20)) {
            let mut walk = FrameWalk::default();
            for size in sizes {
                let data = vec![1; size];
                let mut chunk = Vec::new();
                append(&mut chunk, &received(&data));
                let (last, before) = chunk.split_last().unwrap();
                walk.advance(before);
                prop_assert!(!walk.between_frames());
                walk.advance(&[*last]);
                prop_assert!(walk.between_messages());
            }
        }
    }
}
