//! A balancer's header: what a prefix reads as agrees with the whole, and the whole with a plain reading of the
//! PROXY protocol's specification.

use std::net::{IpAddr, SocketAddr};
use uring_dispatch::protocol::proxy_header::{HEADER_BYTES_MAX, Origin, ProxyFault, parse};

type Parsed = Result<Option<(Origin, usize)>, ProxyFault>;

const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const BINARY_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads `input` as a header, whole and in prefixes.
pub fn check(input: &[u8]) {
    let whole = parse(input);
    assert_eq!(whole, plainly(input));
    assert!(whole != Ok(None) || input.len() < HEADER_BYTES_MAX, "a header has no end");
    let mut decided = None;
    for end in 0..input.len().min(HEADER_BYTES_MAX) {
        let early = parse(&input[..end]);
        if early == Ok(None) {
            assert_eq!(decided, None, "a header's end comes and goes");
            assert!(!matches!(whole, Ok(Some((_, bytes))) if bytes <= end), "a header's end was not seen");
        } else {
            assert_eq!(early, whole, "what a header says changes with what follows it");
            decided = Some(end);
        }
    }
}

fn plainly(bytes: &[u8]) -> Parsed {
    let begins = |start: &[u8]| start.starts_with(&bytes[..bytes.len().min(start.len())]);
    if begins(LINE_START) {
        line(bytes)
    } else if begins(BINARY_START) {
        binary(bytes)
    } else {
        Err(ProxyFault::Missing)
    }
}

fn line(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n').filter(|end| *end < LINE_BYTES_MAX) else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyFault::TooLong) };
    };
    let words = || {
        let line = bytes[LINE_START.len()..end].strip_suffix(b"\r")?;
        // Whatever follows the word is passed over.
        if line.starts_with(b"UNKNOWN") {
            return (!line.contains(&b'\r')).then_some(Origin::Balancer);
        }
        let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
        let [family, source, destination, source_port, destination_port] = words[..] else { return None };
        let [source, destination]: [IpAddr; 2] = [source.parse().ok()?, destination.parse().ok()?];
        let [port, _]: [u16; 2] = [source_port.parse().ok()?, destination_port.parse().ok()?];
        let is_whole = match family {
            "TCP4" => source.is_ipv4() && destination.is_ipv4(),
            "TCP6" => source.is_ipv6() && destination.is_ipv6(),
            _ => false,
        };
        is_whole.then(|| Origin::Remote(SocketAddr::new(source.to_canonical(), port)))
    };
    words().map(|origin| Some((origin, end + 1))).ok_or(ProxyFault::Malformed)
}

fn binary(bytes: &[u8]) -> Parsed {
    let Some((&[command, family, high, low], rest)) =
        bytes.get(BINARY_START.len()..).and_then(|rest| rest.split_first_chunk::<4>())
    else {
        return Ok(None);
    };
    let length = usize::from(high) << 8 | usize::from(low);
    let end = BINARY_START.len() + 4 + length;
    if end > HEADER_BYTES_MAX {
        return Err(ProxyFault::TooLong);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    binary_origin(command, family, block).map(|origin| Some((origin, end))).ok_or(ProxyFault::Malformed)
}

fn binary_origin(command: u8, family: u8, block: &[u8]) -> Option<Origin> {
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return None,
    };
    let (address_bytes, is_stream) = match family {
        // Of a connection of its own, a balancer need not say more, and whatever it says is to be passed over.
        _ if is_local => return Some(Origin::Balancer),
        0x00 => return Some(Origin::Balancer),
        0x11 | 0x12 => (4, family == 0x11),
        0x21 | 0x22 => (16, family == 0x21),
        0x31 | 0x32 => return (block.len() >= 2 * 108).then_some(Origin::Balancer),
        _ => return None,
    };
    let port = block.get(2 * address_bytes..2 * address_bytes + 4)?;
    let port = u16::from(port[0]) << 8 | u16::from(port[1]);
    let number = block[..address_bytes].iter().fold(0u128, |sum, &byte| sum << 8 | u128::from(byte));
    let ip: IpAddr = if address_bytes == 4 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) };
    Some(if is_stream { Origin::Remote(SocketAddr::new(ip.to_canonical(), port)) } else { Origin::Balancer })
}
