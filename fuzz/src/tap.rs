//! Taps: what is decoded is encoded to something that decodes alike, and a filter's device is what its text says.

use std::net::{IpAddr, Ipv6Addr};
use uring_dispatch::policy::tap_filter::{TapFilter, TappedDevice};
use uring_dispatch::protocol::message::{DeviceName, Encode, IpText, MessageError};
use uring_dispatch::protocol::tapped::Tapped;

/// Reads `input` as a message to a tap, and up to its first zero byte as a filter's device.
pub fn check(input: &[u8]) {
    check_message(input);
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    if let Ok(text) = std::str::from_utf8(&input[..end]) {
        check_device(text);
    }
}

fn check_message(input: &[u8]) {
    let message = match Tapped::decode(input) {
        Ok(message) => message,
        Err(MessageError::DataSize { size, left }) => return assert!(size as usize > left && left < input.len()),
        Err(_) => return,
    };
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(Tapped::decode(&encoded), Ok(message));
    assert_eq!(Tapped::decode(&[input, b"more"].concat()), Ok(message), "bytes after the data count");
}

fn check_device(text: &str) {
    let parsed = TappedDevice::parse(text);
    let expected = plainly(text.trim());
    assert_eq!(parsed.is_some(), expected.is_some(), "{text:?}");
    let (Some(_), Some((ip, id))) = (parsed, expected) else { return };
    let filter = TapFilter { device: parsed, module: None };
    let device = |ip: IpAddr, id| DeviceName { ip: IpText::new(ip), id_or_port: id };
    let wants = |device: DeviceName| filter.wants(Some(&device), |_| false);
    let other: IpAddr = if ip == IpAddr::from([10, 0, 0, 1]) { [10, 0, 0, 2].into() } else { [10, 0, 0, 1].into() };
    let own = id.unwrap_or(7);
    assert!(wants(device(ip, own)), "{text:?}");
    assert_eq!(wants(device(ip, own.wrapping_add(1))), id.is_none(), "{text:?}");
    assert!(!wants(device(other, own)), "{text:?}");
}

/// An address and an id, by what may stand where.
fn plainly(text: &str) -> Option<(IpAddr, Option<u64>)> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip.to_canonical(), None));
    }
    let digits = text.len() - text.trim_end_matches(|char: char| char.is_ascii_digit()).len();
    let (ip, id) = text.split_at(text.len() - digits);
    let ip = ip.strip_suffix(':')?;
    let ip: IpAddr = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().ok()?.into(),
        None => ip.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4)?,
    };
    Some((ip.to_canonical(), Some(id.parse().ok()?)))
}
