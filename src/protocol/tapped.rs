//! What a tap is told, encoded and decoded: the messages of a port in both directions, with their time.
//!
//! ```text
//! u8   type            0 OPENED  1 CLOSED  2 RECEIVED  3 WRITE  4 CLOSE  5 DROPPED  6 PORT OPEN  7 PORT CLOSED
//! u64  time            microseconds since 1970, UTC; big-endian, as every integer here
//! text ip address      ASCII, then one 0 byte
//! u64  id or port      TCP: the device's id on its port; UDP: the device's UDP port; DROPPED: how many messages
//! text module id       of the driver that sent WRITE or CLOSE, where it has told one; then one 0 byte
//! u32  data size
//! ...  data            RECEIVED and WRITE only
//! ```
//!
//! The first message says whether the port is open, and one more each time that this changes.
//!
//! **Invariants.** Decoding any bytes gives a message or a [`MessageError`]; what is encoded decodes to itself.
//! **Not here.** Who taps what (`policy::tap_filter`, `shard::taps`).

use super::message::{DeviceName, Encode, IpText, MessageError};
use std::net::{IpAddr, Ipv4Addr};

/// Type, time, the two zeros, id or port, and data size.
const FIXED_BYTES: usize = 1 + 8 + 1 + 8 + 1 + 4;

/// One message to a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tapped<'a> {
    /// Microseconds since 1970, UTC.
    pub time_us: u64,
    /// What happened then.
    pub event: TapEvent<'a>,
}

/// What happened on a tapped port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapEvent<'a> {
    /// A device connected (TCP).
    Opened {
        /// The device.
        device: DeviceName,
    },
    /// A device is gone (TCP).
    Closed {
        /// The device.
        device: DeviceName,
    },
    /// A device sent this.
    Received {
        /// The device.
        device: DeviceName,
        /// Bytes as they were read, or one whole datagram.
        data: &'a [u8],
    },
    /// A driver wrote this, and it was queued or sent. A large write to a TCP device is several.
    Write {
        /// The device.
        device: DeviceName,
        /// The driver's module id; may be empty.
        module: &'a str,
        /// The bytes, or the whole datagram.
        data: &'a [u8],
    },
    /// A driver had a device disconnected (TCP).
    Close {
        /// The device.
        device: DeviceName,
        /// The driver's module id; may be empty.
        module: &'a str,
    },
    /// Messages were left out here, as the tap did not take them in time.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The port is open.
    PortOpen,
    /// The port is closed: no driver is joined to it.
    PortClosed,
}

/// The fields of an event in the order of the message: type, address, id or port, module id, data.
struct Parts<'a> {
    kind: u8,
    ip: IpText,
    id_or_port: u64,
    module: &'a str,
    data: &'a [u8],
}

impl<'a> Tapped<'a> {
    /// Reads a message as a tap does. Bytes after the data are ignored.
    ///
    /// # Errors
    /// Any [`MessageError`].
    pub fn decode(message: &'a [u8]) -> Result<Self, MessageError> {
        let (&kind, rest) = message.split_first().ok_or(MessageError::Empty)?;
        let (time, rest) = rest.split_first_chunk::<8>().ok_or(MessageError::Short)?;
        let (ip, rest) = decode_text(rest)?;
        let (id_or_port, rest) = rest.split_first_chunk::<8>().ok_or(MessageError::Short)?;
        let (module, rest) = decode_text(rest)?;
        let (size, rest) = rest.split_first_chunk::<4>().ok_or(MessageError::Short)?;
        let size = u32::from_be_bytes(*size);
        let data = rest.get(..size as usize).ok_or(MessageError::DataSize { size, left: rest.len() })?;
        let id_or_port = u64::from_be_bytes(*id_or_port);
        let device = DeviceName { ip: IpText::new(ip.parse().unwrap_or(UNKNOWN)), id_or_port };
        let event = match kind {
            0 => TapEvent::Opened { device },
            1 => TapEvent::Closed { device },
            2 => TapEvent::Received { device, data },
            3 => TapEvent::Write { device, module, data },
            4 => TapEvent::Close { device, module },
            5 => TapEvent::Dropped { count: id_or_port },
            6 => TapEvent::PortOpen,
            7 => TapEvent::PortClosed,
            other => return Err(MessageError::UnknownType(other)),
        };
        Ok(Tapped { time_us: u64::from_be_bytes(*time), event })
    }
}

impl Encode for Tapped<'_> {
    fn encoded_len(&self) -> usize {
        let Parts { ip, module, data, .. } = self.event.parts();
        FIXED_BYTES + ip.as_bytes().len() + module.len() + data.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Parts { kind, ip, id_or_port, module, data } = self.event.parts();
        out.push(kind);
        out.extend_from_slice(&self.time_us.to_be_bytes());
        out.extend_from_slice(ip.as_bytes());
        out.push(0);
        out.extend_from_slice(&id_or_port.to_be_bytes());
        out.extend_from_slice(module.as_bytes());
        out.push(0);
        // Lossless: a datagram at most, or what one read or write of a device carries.
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
    }
}

/// What stands for the address where there is no device.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl<'a> TapEvent<'a> {
    /// The device, where it is about one.
    pub fn device(&self) -> Option<&DeviceName> {
        match self {
            TapEvent::Opened { device }
            | TapEvent::Closed { device }
            | TapEvent::Received { device, .. }
            | TapEvent::Write { device, .. }
            | TapEvent::Close { device, .. } => Some(device),
            TapEvent::Dropped { .. } | TapEvent::PortOpen | TapEvent::PortClosed => None,
        }
    }

    fn parts(&self) -> Parts<'a> {
        let of = |kind, device: &DeviceName, module: &'a str, data: &'a [u8]| Parts {
            kind,
            ip: device.ip,
            id_or_port: device.id_or_port,
            module,
            data,
        };
        match self {
            TapEvent::Opened { device } => of(0, device, "", &[]),
            TapEvent::Closed { device } => of(1, device, "", &[]),
            TapEvent::Received { device, data } => of(2, device, "", data),
            TapEvent::Write { device, module, data } => of(3, device, module, data),
            TapEvent::Close { device, module } => of(4, device, module, &[]),
            TapEvent::Dropped { count } => of(5, &nobody(*count), "", &[]),
            TapEvent::PortOpen => of(6, &nobody(0), "", &[]),
            TapEvent::PortClosed => of(7, &nobody(0), "", &[]),
        }
    }
}

/// What stands where there is no device.
fn nobody(number: u64) -> DeviceName {
    DeviceName { ip: IpText::new(UNKNOWN), id_or_port: number }
}

fn decode_text(bytes: &[u8]) -> Result<(&str, &[u8]), MessageError> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(MessageError::AddressEnd)?;
    Ok((std::str::from_utf8(&bytes[..end]).unwrap_or_default(), &bytes[end + 1..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_write_has_the_bytes_that_are_documented() {
        let device = DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 7 };
        let write = Tapped { time_us: 258, event: TapEvent::Write { device, module: "mod-1", data: b"hi" } };
        let mut bytes = Vec::new();
        write.encode(&mut bytes);
        let golden = b"\x03\0\0\0\0\0\0\x01\x0210.0.0.1\0\0\0\0\0\0\0\0\x07mod-1\0\0\0\0\x02hi";
        assert_eq!(bytes, golden);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Tapped::decode(&bytes);
        }

        #[test]
        fn what_is_encoded_decodes_to_itself(
            ip in any::<IpAddr>(), id_or_port in any::<u64>(), time_us in any::<u64>(), kind in 0..8,
            data in proptest::collection::vec(any::<u8>(), 0..200), module in "[ -~]{0,20}",
        ) {
            let device = DeviceName { ip: IpText::new(ip), id_or_port };
            let (data, module) = (data.as_slice(), module.as_str());
            let event = match kind {
                0 => TapEvent::Opened { device },
                1 => TapEvent::Closed { device },
                2 => TapEvent::Received { device, data },
                3 => TapEvent::Write { device, module, data },
                4 => TapEvent::Close { device, module },
                5 => TapEvent::Dropped { count: id_or_port },
                6 => TapEvent::PortOpen,
                _ => TapEvent::PortClosed,
            };
            let tapped = Tapped { time_us, event };
            let mut bytes = Vec::new();
            tapped.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), tapped.encoded_len());
            prop_assert_eq!(Tapped::decode(&bytes), Ok(tapped));
        }
    }
}
