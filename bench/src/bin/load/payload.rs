//! What a message carries, so that its place, its content and its time can be told from it alone.
//!
//! ```text
//! u32  stream          the device, or the target of a driver's writes
//! u32  size            of the whole message, this head included
//! u64  sequence        counts up from 0 in its stream
//! u64  intended_ns     when it should have been sent, on the clock of the run
//! ...  body            a slice of the pattern that stream and sequence choose
//! ```
//!
//! **Invariants.** A body is a slice of memory that is there already: nothing is generated for a message.
//! **Not here.** How messages are found in a stream of bytes (`check`).

/// Bytes of the head, and so of the smallest message.
pub const HEAD_BYTES: usize = 24;
/// The largest message.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Where bodies begin: small enough that those of small messages stay in the first cache.
const STARTS: usize = 4096;

/// What a message says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whose message it is.
    pub stream: u32,
    /// The whole message.
    pub size: u32,
    /// Its place in the stream.
    pub sequence: u64,
    /// When it should have been sent.
    pub intended_ns: u64,
}

impl Head {
    /// The head as it travels.
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.stream.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..].copy_from_slice(&self.intended_ns.to_le_bytes());
        bytes
    }

    /// The head that these bytes are; any bytes are one.
    pub fn from_bytes(bytes: &[u8; HEAD_BYTES]) -> Head {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        Head { stream: word(0) as u32, size: (word(0) >> 32) as u32, sequence: word(8), intended_ns: word(16) }
    }

    /// Bytes behind the head; `None` where the size is none of a message.
    pub fn body_bytes(&self) -> Option<usize> {
        let size = self.size as usize;
        (HEAD_BYTES..=MESSAGE_BYTES_MAX).contains(&size).then(|| size - HEAD_BYTES)
    }
}

/// The bytes that bodies are slices of.
#[derive(Debug)]
pub struct Pattern {
    bytes: Box<[u8]>,
}

impl Pattern {
    /// A pattern for bodies of messages of up to `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        Pattern { bytes: std::iter::repeat_with(next).take(STARTS + message_bytes_max).collect() }
    }

    /// The body of a message; empty where no such message exists.
    pub fn body(&self, head: &Head) -> &[u8] {
        let start = (head.stream as usize).wrapping_mul(61).wrapping_add(head.sequence as usize * 7) % STARTS;
        head.body_bytes().and_then(|bytes| self.bytes.get(start..start + bytes)).unwrap_or_default()
    }

    /// Whether there is a body of this length.
    pub fn has_body_of(&self, bytes: usize) -> bool {
        bytes + STARTS <= self.bytes.len()
    }

    /// Appends a whole message.
    pub fn append(&self, head: &Head, out: &mut Vec<u8>) {
        out.extend_from_slice(&head.to_bytes());
        out.extend_from_slice(self.body(head));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_as_it_was_written() {
        let head = Head { stream: 7, size: 64, sequence: 1 << 40, intended_ns: 99 };
        assert_eq!(Head::from_bytes(&head.to_bytes()), head);
    }

    #[test]
    fn bodies_of_neighbours_differ() {
        let pattern = Pattern::new(64);
        let body = |stream, sequence| pattern.body(&Head { stream, size: 64, sequence, intended_ns: 0 }).to_vec();
        assert_eq!(body(1, 1).len(), 40);
        assert_ne!(body(1, 1), body(1, 2));
        assert_ne!(body(1, 1), body(2, 1));
    }

    #[test]
    fn a_size_that_no_message_has_gives_no_body() {
        for size in [0, 23, u32::MAX] {
            assert_eq!(Head { stream: 0, size, sequence: 0, intended_ns: 0 }.body_bytes(), None);
        }
    }
}
