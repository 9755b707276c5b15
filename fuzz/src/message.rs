//! Dispatch messages: what decodes is encoded to something that decodes alike, in both directions, and as a frame.

use uring_dispatch::protocol::frame::{self, FrameWalk};
use uring_dispatch::protocol::message::{FromDriver, MessageError, ToDriver};

/// Reads `input` as a message of each direction.
pub fn check(input: &[u8]) {
    from_driver(input);
    to_driver(input);
}

fn from_driver(input: &[u8]) {
    let message = match FromDriver::decode(input) {
        Ok(message) => message,
        Err(fault) => return check_fault(fault, input),
    };
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    assert_eq!(FromDriver::decode(&encoded), Ok(message));
    let followed = [input, b"more"].concat();
    assert_eq!(FromDriver::decode(&followed), Ok(message), "bytes after the data count");
    if let FromDriver::Write { data, .. } = message {
        let cut = &input[..input.len() - trailing(input, data) - usize::from(!data.is_empty())];
        assert!(data.is_empty() || matches!(FromDriver::decode(cut), Err(MessageError::DataSize { .. })));
    }
}

fn to_driver(input: &[u8]) {
    let message = match ToDriver::decode(input) {
        Ok(message) => message,
        Err(fault) => return check_fault(fault, input),
    };
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(ToDriver::decode(&encoded), Ok(message));
    let mut chunk = b"before".to_vec();
    frame::append(&mut chunk, &message);
    assert_eq!(chunk.len() - b"before".len(), frame::framed_len(&message));
    assert!(chunk.ends_with(&encoded));
    let mut walk = FrameWalk::default();
    walk.advance(&chunk[b"before".len()..]);
    assert!(walk.between_messages());
}

/// Bytes of `input` behind `data`, which is a part of it.
fn trailing(input: &[u8], data: &[u8]) -> usize {
    input.as_ptr_range().end as usize - data.as_ptr_range().end as usize
}

/// A fault's reason goes into a close frame, and tells the truth.
fn check_fault(fault: MessageError, input: &[u8]) {
    assert!(fault.to_string().len() <= 123, "{fault}");
    match fault {
        MessageError::Empty => assert!(input.is_empty()),
        MessageError::UnknownType(kind) => assert_eq!(input.first(), Some(&kind)),
        MessageError::AddressEnd => assert!(!input[1..].contains(&0)),
        MessageError::Short => assert!(input.contains(&0)),
        MessageError::DataSize { size, left } => assert!(size as usize > left && left < input.len()),
    }
}
