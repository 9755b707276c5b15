//! Finds messages in what arrives, and holds each against what was sent.
//!
//! **Invariants.** Every byte is compared. A stream's bytes may come in any split; its messages come in order, none twice
//! and none left out. Datagrams come whole, in any order, and what is missing is a figure.
//! **Not here.** Whose stream it is (`book`, `device`).

use crate::payload::{HEAD_BYTES, Head, Pattern};

/// What is wrong with bytes that arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No message has such a size.
    #[error("a message of {0} bytes, which none has: the stream is out of step")]
    Size(u32),
    /// Another stream's bytes.
    #[error("bytes of stream {found} in stream {expected}")]
    Stream {
        /// The stream that was expected.
        expected: u32,
        /// The stream that came.
        found: u32,
    },
    /// A message is missing, or came twice.
    #[error("message {found} of stream {stream} where {expected} is next")]
    Sequence {
        /// The stream.
        stream: u32,
        /// The message that was expected.
        expected: u64,
        /// The message that came.
        found: u64,
    },
    /// Its bytes are not those that were sent.
    #[error("the content of message {sequence} of stream {stream} differs")]
    Content {
        /// The stream.
        stream: u32,
        /// The message.
        sequence: u64,
    },
    /// A datagram that is no message, or not a whole one.
    #[error("a datagram of {0} bytes that was never sent")]
    Datagram(usize),
}

/// Where a stream stands.
#[derive(Debug)]
pub struct Check {
    stream: Option<u32>,
    next: Option<u64>,
    head: [u8; HEAD_BYTES],
    /// Bytes of the present message that came: of its head, then of its body.
    came: usize,
}

impl Check {
    /// A stream that begins with message 0, whosever it is.
    pub fn new() -> Self {
        Check { stream: None, next: Some(0), head: [0; HEAD_BYTES], came: 0 }
    }

    /// A stream that begins with any message.
    pub fn anywhere() -> Self {
        Check { next: None, ..Check::new() }
    }

    /// Whether the last message is whole.
    pub fn is_between_messages(&self) -> bool {
        self.came == 0
    }

    /// Takes bytes that came next; `each` is told of every message that they complete.
    ///
    /// # Errors
    /// [`Fault`]; nothing is to be taken after it.
    pub fn take(&mut self, pattern: &Pattern, mut bytes: &[u8], mut each: impl FnMut(&Head)) -> Result<(), Fault> {
        while !bytes.is_empty() {
            if self.came < HEAD_BYTES {
                let head_bytes = bytes.len().min(HEAD_BYTES - self.came);
                self.head[self.came..self.came + head_bytes].copy_from_slice(&bytes[..head_bytes]);
                self.came += head_bytes;
                bytes = &bytes[head_bytes..];
                if self.came < HEAD_BYTES {
                    return Ok(());
                }
                self.check_head(pattern)?;
            }
            let head = Head::from_bytes(&self.head);
            let body = pattern.body(&head);
            let at = self.came - HEAD_BYTES;
            let body_bytes = bytes.len().min(body.len() - at);
            if bytes[..body_bytes] != body[at..at + body_bytes] {
                return Err(Fault::Content { stream: head.stream, sequence: head.sequence });
            }
            self.came += body_bytes;
            bytes = &bytes[body_bytes..];
            if at + body_bytes == body.len() {
                self.came = 0;
                self.next = Some(head.sequence + 1);
                each(&head);
            }
        }
        Ok(())
    }

    fn check_head(&mut self, pattern: &Pattern) -> Result<(), Fault> {
        let head = Head::from_bytes(&self.head);
        if !head.body_bytes().is_some_and(|bytes| pattern.has_body_of(bytes)) {
            return Err(Fault::Size(head.size));
        }
        let expected = *self.stream.get_or_insert(head.stream);
        if head.stream != expected {
            return Err(Fault::Stream { expected, found: head.stream });
        }
        match self.next {
            Some(next) if next != head.sequence => {
                Err(Fault::Sequence { stream: expected, expected: next, found: head.sequence })
            }
            _ => Ok(()),
        }
    }
}

/// The head of a datagram, which is one whole message.
///
/// # Errors
/// [`Fault`].
pub fn datagram(pattern: &Pattern, bytes: &[u8]) -> Result<Head, Fault> {
    let head = bytes.first_chunk().map(Head::from_bytes).ok_or(Fault::Datagram(bytes.len()))?;
    if head.size as usize != bytes.len() {
        return Err(Fault::Datagram(bytes.len()));
    }
    if bytes[HEAD_BYTES..] != *pattern.body(&head) {
        return Err(Fault::Content { stream: head.stream, sequence: head.sequence });
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(pattern: &Pattern, sizes: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, size) in sizes.iter().enumerate() {
            let head = Head { stream: 3, size: *size, sequence: sequence as u64, intended_ns: 5 };
            pattern.append(&head, &mut bytes);
        }
        bytes
    }

    #[test]
    fn messages_are_found_however_the_bytes_are_split() {
        let pattern = Pattern::new(100);
        let bytes = stream_of(&pattern, &[64, 24, 100, 30]);
        for step in 1..bytes.len() {
            let (mut check, mut seen) = (Check::new(), Vec::new());
            for part in bytes.chunks(step) {
                check.take(&pattern, part, |head| seen.push(head.sequence)).expect("what was sent");
            }
            assert_eq!(seen, [0, 1, 2, 3], "in steps of {step}");
            assert!(check.is_between_messages());
        }
    }

    #[test]
    fn a_byte_that_differs_is_a_fault_wherever_it_is() {
        let pattern = Pattern::new(100);
        let bytes = stream_of(&pattern, &[64, 64]);
        // The time of a message is not known beforehand.
        for at in (64..128).filter(|at| !(80..88).contains(at)) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let mut check = Check::new();
            let taken = check.take(&pattern, &changed, |_| {});
            assert!(taken.is_err() || !check.is_between_messages(), "byte {at}");
        }
    }

    #[test]
    fn a_message_that_is_missing_is_a_fault() {
        let pattern = Pattern::new(100);
        let bytes = stream_of(&pattern, &[64, 64, 64]);
        let fault = Check::new().take(&pattern, &[&bytes[..64], &bytes[128..]].concat(), |_| {});
        assert_eq!(fault, Err(Fault::Sequence { stream: 3, expected: 1, found: 2 }));
        assert_eq!(Check::anywhere().take(&pattern, &bytes[128..], |_| {}), Ok(()));
    }

    #[test]
    fn a_datagram_is_whole_or_a_fault() {
        let pattern = Pattern::new(100);
        let bytes = stream_of(&pattern, &[64]);
        assert_eq!(datagram(&pattern, &bytes).expect("what was sent").sequence, 0);
        assert_eq!(datagram(&pattern, &bytes[..63]), Err(Fault::Datagram(63)));
        assert_eq!(datagram(&pattern, &[]), Err(Fault::Datagram(0)));
    }
}
