//! The daemon's messages as the tool reads them, and a driver's WRITE as it builds it.
//!
//! **Invariants.** A message is read without a copy and without parsing its address: the tool answers with the same text.
//! **Not here.** What a message means (`book`); the daemon's own codec, which checks more than a measurement can afford.

use dispatch_bench::websocket::{self, FIN, opcode};

const WRITE: u8 = 3;
/// The address's zero, id or port, and size.
const AFTER_ADDRESS_BYTES: usize = 1 + 8 + 4;
/// Masks need not surprise anyone here, but they must cost the daemon what masks cost.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x88];

/// What a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A device is there.
    Opened,
    /// A device is gone.
    Closed,
    /// A device's bytes, or a datagram.
    Received,
}

/// A message of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// What it tells.
    pub kind: Kind,
    /// The device's address as it was written.
    pub address: &'a [u8],
    /// The device's id, or its UDP port.
    pub id_or_port: u64,
    /// What came.
    pub data: &'a [u8],
}

impl<'a> Event<'a> {
    /// Reads a message; `None` where it is none of the daemon's, or its size is not that of its data.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (kind, rest) = message.split_first()?;
        let kind = match kind {
            0 => Kind::Opened,
            1 => Kind::Closed,
            2 => Kind::Received,
            _ => return None,
        };
        let (address, rest) = rest.split_at(rest.iter().position(|byte| *byte == 0)?);
        let (head, data) = rest.split_at_checked(AFTER_ADDRESS_BYTES)?;
        let id_or_port = u64::from_be_bytes(*head[1..].first_chunk()?);
        let size = u32::from_be_bytes(*head[9..].first_chunk()?);
        (size as usize == data.len()).then_some(Event { kind, address, id_or_port, data })
    }
}

/// Appends a frame with a WRITE of `parts`, one after the other, to a device.
pub fn append_write(out: &mut Vec<u8>, address: &[u8], id_or_port: u64, parts: [&[u8]; 2]) {
    let data_bytes = parts[0].len() + parts[1].len();
    let message_bytes = 1 + address.len() + AFTER_ADDRESS_BYTES + data_bytes;
    websocket::append_head(out, FIN | opcode::BINARY, message_bytes as u64, MASK);
    let start = out.len();
    out.push(WRITE);
    out.extend_from_slice(address);
    out.push(0);
    out.extend_from_slice(&id_or_port.to_be_bytes());
    out.extend_from_slice(&(data_bytes as u32).to_be_bytes());
    out.extend_from_slice(parts[0]);
    out.extend_from_slice(parts[1]);
    websocket::apply_mask(&mut out[start..], MASK);
}

/// Appends a pong.
pub fn append_pong(out: &mut Vec<u8>, payload: &[u8]) {
    websocket::append(out, FIN | opcode::PONG, payload, MASK);
}

/// Appends a close frame.
pub fn append_close(out: &mut Vec<u8>) {
    websocket::append_close(out, 1000, "", MASK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use uring_dispatch::protocol::message::{DeviceName, FromDriver, IpText, ToDriver};

    #[test]
    fn what_the_daemon_encodes_is_read() {
        let device = DeviceName { ip: IpText::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), id_or_port: 7 };
        let mut message = Vec::new();
        ToDriver::Received { device, data: b"hi" }.encode(&mut message);
        let event = Event { kind: Kind::Received, address: b"127.0.0.1", id_or_port: 7, data: b"hi" };
        assert_eq!(Event::parse(&message), Some(event));
        for end in 0..message.len() {
            assert_eq!(Event::parse(&message[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn the_daemon_reads_a_write() {
        let mut frame = Vec::new();
        append_write(&mut frame, b"127.0.0.1", 9, [b"he", b"llo"]);
        let mut message = frame.split_off(6);
        websocket::apply_mask(&mut message, MASK);
        match FromDriver::decode(&message) {
            Ok(FromDriver::Write { device, data }) => {
                assert_eq!((device.id_or_port, data), (9, &b"hello"[..]));
                assert_eq!(device.ip, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            }
            other => panic!("no WRITE but {other:?}"),
        }
    }
}
