//! RFC 6455 read frame by frame, as plainly as can be: what a driver's bytes mean.
//!
//! **Not here.** Speed, and bytes that come in parts: it is given all of them.

use uring_dispatch::edge::websocket::Incoming;
use uring_dispatch::policy::ending::SessionEnd;

/// One frame of a stream.
pub struct Frame<'a> {
    /// FIN, the reserved bits and the opcode.
    pub flags: u8,
    /// Whether it was masked.
    pub masked: bool,
    /// Bytes that it says it carries.
    pub payload_bytes: u64,
    /// Those that are there, unmasked; `None` while some are missing.
    pub payload: Option<Vec<u8>>,
    /// What follows it.
    pub rest: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes`; `None` while its head is not whole.
    pub fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let (&[flags, length], mut rest) = bytes.split_first_chunk::<2>()?;
        let payload_bytes = match length & 0x7f {
            126 => u64::from(u16::from_be_bytes(*take(&mut rest)?)),
            127 => u64::from_be_bytes(*take(&mut rest)?),
            short => u64::from(short),
        };
        let masked = length & 0x80 != 0;
        let key = if masked { *take::<4>(&mut rest)? } else { [0; 4] };
        let size = usize::try_from(payload_bytes).ok().filter(|&size| size <= rest.len());
        let payload =
            size.map(|size| rest[..size].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect());
        Some(Frame { flags, masked, payload_bytes, payload, rest: &rest[size.unwrap_or(rest.len())..] })
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(first)
}

/// What a stream means.
#[derive(Default)]
pub struct Meaning {
    /// Whole messages before its end or its fault.
    pub messages: Vec<Incoming>,
    /// How the session ends over it, if it does.
    pub end: Option<SessionEnd>,
    /// The payload of each ping.
    pub pings: Vec<Vec<u8>>,
    /// The payload of the driver's close frame.
    pub close: Option<Vec<u8>>,
    /// The stream stands between two messages.
    pub between_messages: bool,
}

/// Reads `bytes` up to their end or their first fault.
pub fn read(mut bytes: &[u8], message_bytes_max: usize) -> Meaning {
    let mut meaning = Meaning { between_messages: true, ..Meaning::default() };
    let mut under_way: Option<(u8, Vec<u8>)> = None;
    while meaning.end.is_none() {
        meaning.between_messages = bytes.is_empty() && under_way.is_none();
        let Some(frame) = Frame::first_of(bytes) else { break };
        bytes = frame.rest;
        // What the head alone tells is a fault before the payload has come.
        if matches!(frame.flags & 0x0f, 3..=7 | 11..=15) {
            meaning.end = Some(SessionEnd::Violation);
        } else if frame.payload_bytes > message_bytes_max as u64 {
            meaning.end = Some(SessionEnd::TooBig);
        } else if let Some(payload) = frame.payload {
            let fits = frame.masked && frame.flags & 0x70 == 0;
            meaning.end = match frame.flags & 0x0f {
                _ if !fits => Some(SessionEnd::Violation),
                8.. => control(frame.flags, payload, &mut meaning),
                _ => data(frame.flags, payload, &mut under_way, message_bytes_max, &mut meaning.messages),
            };
        } else {
            break;
        }
    }
    meaning
}

/// RFC 6455 section 5.5.
fn control(flags: u8, payload: Vec<u8>, meaning: &mut Meaning) -> Option<SessionEnd> {
    if flags & 0x80 == 0 || payload.len() > 125 {
        return Some(SessionEnd::Violation);
    }
    match flags & 0x0f {
        8 if payload.len() == 1 => Some(SessionEnd::Violation),
        8 if payload.len() > 2 && std::str::from_utf8(&payload[2..]).is_err() => Some(SessionEnd::NotUtf8),
        8 => {
            meaning.close = Some(payload);
            Some(SessionEnd::DriverClosed)
        }
        9 => {
            meaning.pings.push(payload);
            None
        }
        _ => None,
    }
}

/// RFC 6455 sections 5.4 and 5.6.
fn data(
    flags: u8,
    payload: Vec<u8>,
    under_way: &mut Option<(u8, Vec<u8>)>,
    message_bytes_max: usize,
    messages: &mut Vec<Incoming>,
) -> Option<SessionEnd> {
    let (opcode, mut message) = match (flags & 0x0f, under_way.take()) {
        (0, Some(begun)) => begun,
        (0, None) | (_, Some(_)) => return Some(SessionEnd::Violation),
        (opcode, None) => (opcode, Vec::new()),
    };
    if message.len() + payload.len() > message_bytes_max {
        return Some(SessionEnd::TooBig);
    }
    message.extend_from_slice(&payload);
    let is_final = flags & 0x80 != 0;
    if opcode == 1 {
        match std::str::from_utf8(&message) {
            // The last code point may still be completed.
            Err(fault) if fault.error_len().is_some() || is_final => return Some(SessionEnd::NotUtf8),
            _ => {}
        }
    }
    match (is_final, opcode) {
        (false, _) => *under_way = Some((opcode, message)),
        (true, 1) => {
            let text = String::from_utf8(message).expect("it was checked above");
            messages.push(Incoming::Text(text.into()));
        }
        (true, _) => messages.push(Incoming::Binary(message.into())),
    }
    None
}
