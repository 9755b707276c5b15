//! The five dispatch messages, one enum a direction, encoded and decoded both ways.
//!
//! ```text
//! u8   type            0 OPENED  1 CLOSED  2 RECEIVED  3 WRITE  4 CLOSE
//! text ip address      ASCII, then one 0 byte
//! u64  id or port      big-endian
//! u32  data size       big-endian
//! ...  data            RECEIVED and WRITE only
//! ```
//!
//! **Invariants.** Decoding any bytes gives a message or a [`MessageError`]; what is encoded decodes to itself;
//! `encoded_len` is exactly what `encode` appends.
//! **Not here.** The WebSocket frame around a message (`frame`), and whether a device exists (`shard::port`).

use std::fmt::Write as _;
use std::net::IpAddr;

const OPENED: u8 = 0;
const CLOSED: u8 = 1;
const RECEIVED: u8 = 2;
const WRITE: u8 = 3;
const CLOSE: u8 = 4;

/// The longest canonical text of an address: eight groups of four digits.
const IP_TEXT_BYTES_MAX: usize = 39;
/// Type, the zero after the address, id or port, and data size.
const FIXED_BYTES: usize = 1 + 1 + 8 + 4;
/// The most that stands before a message's data.
pub const HEAD_BYTES_MAX: usize = FIXED_BYTES + IP_TEXT_BYTES_MAX;

/// The canonical text of a device's address, made once for each source and copied into every message.
///
/// An IPv4 device is `192.168.0.9` whichever socket it came through; a zone is not part of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IpText {
    bytes: [u8; IP_TEXT_BYTES_MAX],
    len: u8,
}

impl IpText {
    /// The text of `ip`, an IPv4-mapped address as IPv4.
    pub fn new(ip: IpAddr) -> Self {
        let mut text = IpText { bytes: [0; IP_TEXT_BYTES_MAX], len: 0 };
        // Fits by the constant's definition: canonical text has no mapped form and no zone.
        let _ = write!(text, "{}", ip.to_canonical());
        text
    }

    /// The text as ASCII bytes, without the closing zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Write for IpText {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let start = usize::from(self.len);
        let end = start + part.len();
        self.bytes.get_mut(start..end).ok_or(std::fmt::Error)?.copy_from_slice(part.as_bytes());
        self.len = end as u8;
        Ok(())
    }
}

impl std::fmt::Debug for IpText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// How a message to a driver names a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceName {
    /// The device's address.
    pub ip: IpText,
    /// TCP: the device's id on its port. UDP: the device's UDP port.
    pub id_or_port: u64,
}

/// How a message of a driver names a device. The address is as the driver wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceAddr {
    /// `None` where the text is no address.
    pub ip: Option<IpAddr>,
    /// TCP: the device's id on its port. UDP: the UDP port to send to; any `u64` may stand here.
    pub id_or_port: u64,
}

/// A message that the daemon sends to a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDriver<'a> {
    /// A device connected (TCP).
    Opened {
        /// The device.
        device: DeviceName,
    },
    /// A device is gone (TCP); nothing follows about it.
    Closed {
        /// The device.
        device: DeviceName,
    },
    /// Bytes of a TCP device as they were read, or one whole datagram.
    Received {
        /// The device.
        device: DeviceName,
        /// Any number of bytes, none included for UDP.
        data: &'a [u8],
    },
}

/// A message that a driver sends to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromDriver<'a> {
    /// Bytes for a TCP device, or one datagram.
    Write {
        /// The device.
        device: DeviceAddr,
        /// Any number of bytes.
        data: &'a [u8],
    },
    /// Disconnect a TCP device after the writes before this.
    Close {
        /// The device.
        device: DeviceAddr,
    },
    /// OPENED, CLOSED or RECEIVED: ignored with a warning, as the original does.
    WrongDirection,
}

/// Why a binary message cannot be decoded: close code 1002 with this text as reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It has no bytes at all.
    #[error("empty message")]
    Empty,
    /// Its first byte is none of the five types.
    #[error("unknown message type {0}")]
    UnknownType(u8),
    /// No zero byte follows the address.
    #[error("ip address has no end")]
    AddressEnd,
    /// It ends inside the id or port, or inside the data size.
    #[error("message ends before its data size")]
    Short,
    /// The data size counts more bytes than follow it.
    #[error("data size {size} runs past the end, {left} bytes follow")]
    DataSize {
        /// Bytes that the message says it carries.
        size: u32,
        /// Bytes that are there.
        left: usize,
    },
}

/// What stands in one binary message to whoever reads an outbox.
pub trait Encode {
    /// Bytes that [`encode`](Self::encode) appends.
    fn encoded_len(&self) -> usize;
    /// Appends the message to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

impl Encode for ToDriver<'_> {
    fn encoded_len(&self) -> usize {
        self.encoded_len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl ToDriver<'_> {
    /// Bytes that [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        let (_, device, data) = self.parts();
        FIXED_BYTES + usize::from(device.ip.len) + data.len()
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, device, data) = self.parts();
        encode_parts(out, kind, device.ip.as_bytes(), device.id_or_port, data);
    }

    fn parts(&self) -> (u8, &DeviceName, &[u8]) {
        match self {
            ToDriver::Opened { device } => (OPENED, device, &[]),
            ToDriver::Closed { device } => (CLOSED, device, &[]),
            ToDriver::Received { device, data } => (RECEIVED, device, data),
        }
    }
}

impl<'a> ToDriver<'a> {
    /// Reads a message as a driver does.
    ///
    /// # Errors
    /// Any [`MessageError`]; WRITE and CLOSE are unknown types in this direction. An address that is none reads as
    /// `0.0.0.0`, which the daemon never sends.
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        let (kind, device, rest) = decode_head(message)?;
        let ip = device.ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let device = DeviceName { ip: IpText::new(ip), id_or_port: device.id_or_port };
        match kind {
            OPENED => Ok(ToDriver::Opened { device }),
            CLOSED => Ok(ToDriver::Closed { device }),
            RECEIVED => Ok(ToDriver::Received { device, data: decode_data(rest)? }),
            other => Err(MessageError::UnknownType(other)),
        }
    }
}

impl<'a> FromDriver<'a> {
    /// Reads a message as the daemon does. Bytes after the data are ignored, and so is what CLOSE says of its data.
    ///
    /// # Errors
    /// Any [`MessageError`].
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        match message.first() {
            None => return Err(MessageError::Empty),
            Some(&(OPENED | CLOSED | RECEIVED)) => return Ok(FromDriver::WrongDirection),
            Some(_) => {}
        }
        let (kind, device, rest) = decode_head(message)?;
        match kind {
            WRITE => Ok(FromDriver::Write { device, data: decode_data(rest)? }),
            _ => Ok(FromDriver::Close { device }),
        }
    }

    /// Appends the message to `out`, as a driver does. An address that is none is written as empty text, and
    /// [`WrongDirection`](Self::WrongDirection) as an OPENED.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, device, data): (u8, Option<&DeviceAddr>, &[u8]) = match self {
            FromDriver::Write { device, data } => (WRITE, Some(device), data),
            FromDriver::Close { device } => (CLOSE, Some(device), &[]),
            FromDriver::WrongDirection => (OPENED, None, &[]),
        };
        let ip = device.and_then(|device| device.ip).map(IpText::new);
        let text = ip.as_ref().map_or(&[][..], IpText::as_bytes);
        encode_parts(out, kind, text, device.map_or(0, |device| device.id_or_port), data);
    }
}

fn encode_parts(out: &mut Vec<u8>, kind: u8, ip: &[u8], id_or_port: u64, data: &[u8]) {
    out.push(kind);
    out.extend_from_slice(ip);
    out.push(0);
    out.extend_from_slice(&id_or_port.to_be_bytes());
    // Lossless: a RECEIVED carries a receive buffer or a datagram, a WRITE a WebSocket message of at most 2 GiB.
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Type, device, and what begins at the data size.
fn decode_head(message: &[u8]) -> Result<(u8, DeviceAddr, &[u8]), MessageError> {
    let (&kind, rest) = message.split_first().ok_or(MessageError::Empty)?;
    if kind > CLOSE {
        return Err(MessageError::UnknownType(kind));
    }
    let end = rest.iter().position(|&byte| byte == 0).ok_or(MessageError::AddressEnd)?;
    let (text, rest) = (&rest[..end], &rest[end + 1..]);
    let (id_or_port, rest) = rest.split_first_chunk::<8>().ok_or(MessageError::Short)?;
    if rest.len() < 4 {
        return Err(MessageError::Short);
    }
    let ip = std::str::from_utf8(text).ok().and_then(|text| text.parse::<IpAddr>().ok());
    let device = DeviceAddr { ip: ip.map(|ip| ip.to_canonical()), id_or_port: u64::from_be_bytes(*id_or_port) };
    Ok((kind, device, rest))
}

fn decode_data(rest: &[u8]) -> Result<&[u8], MessageError> {
    let (size, rest) = rest.split_first_chunk::<4>().ok_or(MessageError::Short)?;
    let size = u32::from_be_bytes(*size);
    rest.get(..size as usize).ok_or(MessageError::DataSize { size, left: rest.len() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(ip: &str, id_or_port: u64) -> DeviceName {
        DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port }
    }

    fn encoded(message: ToDriver) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(out.len(), message.encoded_len());
        out
    }

    #[test]
    fn received_has_the_bytes_of_the_contract() {
        let bytes = encoded(ToDriver::Received { device: name("127.0.0.1", 7), data: b"hi" });
        let mut golden = vec![2];
        golden.extend_from_slice(b"127.0.0.1\0");
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, b'h', b'i']);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn opened_and_closed_carry_no_data() {
        let opened = encoded(ToDriver::Opened { device: name("::ffff:10.0.0.1", 1) });
        assert_eq!(opened, b"\x0010.0.0.1\0\0\0\0\0\0\0\0\x01\0\0\0\0");
        let closed = encoded(ToDriver::Closed { device: name("2001:db8::1", 258) });
        assert_eq!(closed, b"\x012001:db8::1\0\0\0\0\0\0\0\x01\x02\0\0\0\0");
    }

    #[test]
    fn the_longest_address_fits() {
        let text = "1111:2222:3333:4444:5555:6666:7777:8888";
        assert_eq!(IpText::new(text.parse().unwrap()).as_bytes(), text.as_bytes());
    }

    #[test]
    fn a_message_that_cannot_be_decoded_names_its_fault() {
        let decode = |bytes: &[u8]| FromDriver::decode(bytes).map(|_| ());
        assert_eq!(decode(b""), Err(MessageError::Empty));
        assert_eq!(decode(b"\x05a\0"), Err(MessageError::UnknownType(5)));
        assert_eq!(decode(b"\x03127.0.0.1"), Err(MessageError::AddressEnd));
        assert_eq!(decode(b"\x03\0\0\0\0\0\0\0\0\0\0\0\0"), Err(MessageError::Short));
        assert_eq!(decode(b"\x03\0\0\0\0\0\0\0\0\0\0\0\0\x02a"), Err(MessageError::DataSize { size: 2, left: 1 }));
    }

    #[test]
    fn bytes_after_the_data_and_the_data_of_close_are_ignored() {
        let write = FromDriver::decode(b"\x03::1\0\0\0\0\0\0\0\0\x09\0\0\0\x01abc").unwrap();
        let device = DeviceAddr { ip: Some("::1".parse().unwrap()), id_or_port: 9 };
        assert_eq!(write, FromDriver::Write { device, data: b"a" });
        let close = FromDriver::decode(b"\x04::1\0\0\0\0\0\0\0\0\x09\xff\xff\xff\xff").unwrap();
        assert_eq!(close, FromDriver::Close { device });
    }

    #[test]
    fn an_address_that_is_none_is_still_a_message() {
        let write = FromDriver::decode(b"\x03bogus\0\0\0\0\0\0\0\0\x09\0\0\0\0").unwrap();
        assert_eq!(write, FromDriver::Write { device: DeviceAddr { ip: None, id_or_port: 9 }, data: b"" });
    }

    #[test]
    fn a_message_of_the_wrong_direction_is_told_apart_whatever_follows() {
        for kind in [OPENED, CLOSED, RECEIVED] {
            assert_eq!(FromDriver::decode(&[kind]), Ok(FromDriver::WrongDirection));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FromDriver::decode(&bytes);
            let _ = ToDriver::decode(&bytes);
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(
            ip in any::<IpAddr>(), id_or_port in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0..5,
        ) {
            let named = DeviceName { ip: IpText::new(ip), id_or_port };
            let addressed = DeviceAddr { ip: Some(ip.to_canonical()), id_or_port };
            let mut bytes = Vec::new();
            let to_driver = match kind {
                0 => Some(ToDriver::Opened { device: named }),
                1 => Some(ToDriver::Closed { device: named }),
                2 => Some(ToDriver::Received { device: named, data: &data }),
                _ => None,
            };
            if let Some(message) = to_driver {
                message.encode(&mut bytes);
                prop_assert_eq!(ToDriver::decode(&bytes), Ok(message));
            } else {
                let message = if kind == 3 {
                    FromDriver::Write { device: addressed, data: &data }
                } else {
                    FromDriver::Close { device: addressed }
                };
                message.encode(&mut bytes);
                prop_assert_eq!(FromDriver::decode(&bytes), Ok(message));
            }
        }
    }
}
