//! The header that a balancer sends before what it passes on (the PROXY protocol, versions 1 and 2): who is at the other end.
//!
//! **Invariants.** Arbitrary bytes give a header, "more is needed" or a [`ProxyFault`], the latter with the first byte that no
//! header begins with. No more than [`HEADER_BYTES_MAX`] are looked at.
//! **Not here.** Which balancers may say so (`policy::balancers`), and reading the bytes (`shard::proxied`).

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};
use std::net::SocketAddr;

/// The longest header of version 2 that is taken: both addresses, and what balancers say of TLS.
pub const HEADER_BYTES_MAX: usize = 536;
/// The longest of version 1, by its specification.
const LINE_BYTES_MAX: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const BINARY_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Behind its start, a header of version 2 has a command, a family and the length of the rest.
const BINARY_HEAD_BYTES: usize = 16;
/// The command of version 2 for a connection of the balancer's own.
const LOCAL: u8 = 0x20;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// That of a remote, whose address is in canonical form.
    Remote(SocketAddr),
    /// The balancer's own, as a health check is, or of a remote without an address.
    Balancer,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// They begin as no header does.
    #[error("it sends no PROXY header")]
    Missing,
    /// They break the grammar, or end early.
    #[error("its PROXY header is malformed")]
    Malformed,
    /// They are longer than is taken.
    #[error("its PROXY header is too long")]
    TooLong,
    /// They did not come in time.
    #[error("its PROXY header took too long")]
    Late,
}

impl ProxyFault {
    /// A name for lists and logs.
    pub fn name(self) -> &'static str {
        match self {
            ProxyFault::Missing => "proxy_header_missing",
            ProxyFault::Malformed => "proxy_header_malformed",
            ProxyFault::TooLong => "proxy_header_too_long",
            ProxyFault::Late => "proxy_header_late",
        }
    }
}

/// Reads a header from the start of `bytes`, and says how long it is; `None` where its end has not come.
///
/// # Errors
/// A [`ProxyFault`] as soon as no later byte can mend it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Origin, usize)>, ProxyFault> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    let end = if begins(LINE_START) {
        end_of_line(bytes)?
    } else if begins(BINARY_START) {
        end_of_binary(bytes)?
    } else {
        return Err(ProxyFault::Missing);
    };
    let Some(header) = end.and_then(|end| bytes.get(..end)) else { return Ok(None) };
    // What such a header says besides is to be passed over, and the library would check it.
    if header.strip_prefix(BINARY_START).is_some_and(|rest| rest.starts_with(&[LOCAL])) {
        return Ok(Some((Origin::Balancer, header.len())));
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, parsed_bytes) = ProxyHeader::parse(header, config).map_err(|_| ProxyFault::Malformed)?;
    if parsed_bytes != header.len() {
        return Err(ProxyFault::Malformed);
    }
    Ok(Some((origin(parsed.proxied_address()), header.len())))
}

fn origin(address: Option<&ProxiedAddress>) -> Origin {
    match address {
        Some(ProxiedAddress { protocol: Protocol::Stream, source, .. }) => {
            Origin::Remote(SocketAddr::new(source.ip().to_canonical(), source.port()))
        }
        _ => Origin::Balancer,
    }
}

fn end_of_line(bytes: &[u8]) -> Result<Option<usize>, ProxyFault> {
    let end = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n').map(|at| at + 1);
    if end.is_none() && bytes.len() >= LINE_BYTES_MAX { Err(ProxyFault::TooLong) } else { Ok(end) }
}

fn end_of_binary(bytes: &[u8]) -> Result<Option<usize>, ProxyFault> {
    let Some(&[.., high, low]) = bytes.get(..BINARY_HEAD_BYTES) else { return Ok(None) };
    let end = BINARY_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if end > HEADER_BYTES_MAX { Err(ProxyFault::TooLong) } else { Ok(Some(end)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY_START, &[command, family], &length, rest].concat()
    }

    /// 192.0.2.7:4711 to 10.0.0.1:80, and what follows the addresses.
    fn over_v4(more: &[u8]) -> Vec<u8> {
        binary(0x21, 0x11, &[&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80], more].concat())
    }

    fn remote(text: &str) -> Origin {
        Origin::Remote(text.parse().unwrap())
    }

    #[test]
    fn a_header_of_either_version_names_the_remote() {
        let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\nGET /";
        assert_eq!(parse(line), Ok(Some((remote("192.0.2.7:4711"), line.len() - 5))));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n";
        assert_eq!(parse(line), Ok(Some((remote("[2001:db8::7]:4711"), line.len()))));
        assert_eq!(parse(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n").unwrap().unwrap().0, remote("192.0.2.7:1"));
        let header = over_v4(&[]);
        assert_eq!(parse(&[&header, &b"more"[..]].concat()), Ok(Some((remote("192.0.2.7:4711"), header.len()))));
        let header = binary(0x21, 0x21, &[&[0x20, 1, 0xd, 0xb8], &[0; 28][..], &[0x12, 0x67, 0, 80]].concat());
        assert_eq!(parse(&header), Ok(Some((remote("[2001:db8::]:4711"), header.len()))));
        // What balancers add behind the addresses is passed over.
        let header = over_v4(&[0x20, 0, 5, 1, 0, 0, 0, 0]);
        assert_eq!(parse(&header), Ok(Some((remote("192.0.2.7:4711"), header.len()))));
    }

    #[test]
    fn a_health_check_and_a_remote_without_an_address_are_the_balancers_own() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n".to_vec(),
            binary(0x20, 0, &[]),
            binary(0x20, 0x11, &[0; 12]),
            // Of its own connection a balancer may say anything, which is passed over.
            binary(0x20, 0x11, &[]),
            binary(0x20, 0x41, &[7; 3]),
            binary(0x21, 0, &[]),
            binary(0x21, 0x31, &[0; 216]),
            binary(0x21, 0x12, &[0; 12]),
        ] {
            assert_eq!(parse(&header), Ok(Some((Origin::Balancer, header.len()))), "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_told_by_its_first_byte() {
        for bytes in ["G", "GET / HTTP/1.1\r\n", "PROXX", "proxy TCP4", "\r\n\r\n\r\n", "PROXYTCP4"] {
            assert_eq!(parse(bytes.as_bytes()), Err(ProxyFault::Missing), "{bytes:?}");
        }
        for bytes in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n",
            "PROXY TCP4 192.0.2.700 10.0.0.1 4711 80\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80 5\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(bytes.as_bytes()), Err(ProxyFault::Malformed), "{bytes:?}");
        }
        let [short, command, family] =
            [binary(0x21, 0x11, &[0; 11]), binary(0x22, 0x11, &[0; 12]), binary(0x21, 0x41, &[0; 12])];
        for bytes in [short, command, family] {
            assert_eq!(parse(&bytes), Err(ProxyFault::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_is_bounded() {
        let line = format!("PROXY UNKNOWN {}", "x".repeat(93));
        assert_eq!((line.len(), parse(line.as_bytes())), (107, Err(ProxyFault::TooLong)));
        assert_eq!(parse(&line.as_bytes()[..106]), Ok(None));
        let long = over_v4(&vec![0; HEADER_BYTES_MAX]);
        assert_eq!((parse(&long[..15]), parse(&long[..16])), (Ok(None), Err(ProxyFault::TooLong)));
        let longest = over_v4(&vec![0; HEADER_BYTES_MAX - 28]);
        assert_eq!(parse(&longest), Ok(Some((remote("192.0.2.7:4711"), HEADER_BYTES_MAX))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            start in 0..3usize, bytes in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let start = [&b""[..], LINE_START, BINARY_START][start];
            let _ = parse(&[start, &bytes].concat());
        }

        #[test]
        fn a_header_is_read_alike_whenever_its_end_comes(cut in 0..60usize) {
            for header in [b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(), over_v4(&[1, 2, 3])] {
                prop_assert_eq!(parse(&header[..cut.min(header.len() - 1)]), Ok(None));
            }
        }
    }
}
