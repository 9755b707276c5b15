//! What proxies say of a request's origin: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! **Invariants.** Only what a proxy that is believed has added counts: entries are read from the last to the first, up to
//! the first that is no such proxy.
//! **Not here.** Which proxies are believed (`policy::balancers`). It is for the log alone, as a client may have written the
//! header that its proxy does not.

use crate::protocol::http::RequestHead;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};

/// The address, in canonical form, that a request came from, as far as proxies that are believed tell; `None` where they do
/// not. `X-Forwarded-For` goes before the standard's header, as most proxies write it.
pub fn origin(head: &RequestHead<'_>, is_believed: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut entries: Vec<Option<IpAddr>> = list(head, "x-forwarded-for").into_iter().map(node).collect();
    if entries.is_empty() {
        entries = list(head, "forwarded").into_iter().map(for_of).collect();
    }
    let mut origin = None;
    for entry in entries {
        let Some(ip) = entry else { break };
        origin = Some(ip);
        if !is_believed(ip) {
            break;
        }
    }
    origin
}

/// The entries of a header that is a list, of all its lines, the last first.
fn list<'a>(head: &RequestHead<'a>, name: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = head.values(name).collect();
    lines.into_iter().rev().flat_map(|line| parts(line, ',')).filter(|entry| !entry.is_empty()).collect()
}

/// The parts between separators that stand outside quotes, the last first, blanks around them trimmed. They are told apart
/// from the end, as a client may have opened a quote before a proxy added its part.
fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    let marks = text.rmatch_indices(['"', separator]).filter(move |&(at, mark)| {
        let is_quote = mark == "\"";
        is_quoted ^= is_quote && !is_escaped(&text[..at]);
        !is_quote && !is_quoted
    });
    let mut end = text.len();
    marks.map(|(at, _)| Some(at)).chain([None]).map(move |at| {
        let part = &text[at.map_or(0, |at| at + 1)..end];
        end = at.unwrap_or_default();
        part.trim()
    })
}

/// Whether what follows `before` stands for itself.
fn is_escaped(before: &str) -> bool {
    before.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

/// The `for` of an element of `Forwarded`.
fn for_of(element: &str) -> Option<IpAddr> {
    let mut pairs = parts(element, ';').filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for")).and_then(|(_, value)| node(value))
}

/// An address, with a port or without, quoted or not; `unknown` and names that hide it are none.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(ip, _)| ip);
    let ip = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().ok()?.into(),
        None => text.parse::<IpAddr>().ok().or_else(|| Some((*text.parse::<SocketAddrV4>().ok()?.ip()).into()))?,
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin_of(lines: &str) -> Option<String> {
        let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
        let head = RequestHead::parse(text.as_bytes()).unwrap().unwrap();
        // Proxies have addresses of 10.0.0.0/8.
        let is_proxy = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10);
        origin(&head, is_proxy).map(|ip| ip.to_string())
    }

    #[test]
    fn only_what_believed_proxies_have_added_counts() {
        for (lines, expected) in [
            ("", None),
            ("X-Forwarded-For: 192.0.2.7\r\n", Some("192.0.2.7")),
            // The first was written by the client.
            ("X-Forwarded-For: 198.51.100.9, 192.0.2.7\r\n", Some("192.0.2.7")),
            ("X-Forwarded-For: 192.0.2.7, 10.0.0.1,10.0.0.2\r\n", Some("192.0.2.7")),
            ("x-forwarded-for: 192.0.2.7\r\nX-Forwarded-For: 10.0.0.1\r\n", Some("192.0.2.7")),
            ("X-Forwarded-For: 10.0.0.9, 10.0.0.1\r\n", Some("10.0.0.9")),
            ("X-Forwarded-For: unknown, 10.0.0.1\r\n", Some("10.0.0.1")),
            ("X-Forwarded-For: \r\n", None),
            ("X-Forwarded-For: 2001:db8::7\r\n", Some("2001:db8::7")),
            ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", Some("192.0.2.7")),
            ("X-Forwarded-For: 192.0.2.7:4711\r\n", Some("192.0.2.7")),
            ("Forwarded: for=192.0.2.7;proto=http;by=10.0.0.1\r\n", Some("192.0.2.7")),
            ("Forwarded: by=\"a,b;for=9.9.9.9\"; For=\"[2001:db8::7]:4711\"\r\n", Some("2001:db8::7")),
            ("Forwarded: for=192.0.2.7, for=10.0.0.1\r\n", Some("192.0.2.7")),
            ("Forwarded: for=_hidden\r\n", None),
            ("Forwarded: proto=http\r\n", None),
            ("Forwarded: for=198.51.100.9\r\nX-Forwarded-For: 192.0.2.7\r\n", Some("192.0.2.7")),
            // A quote that the client has opened does not reach over what a proxy adds.
            ("X-Forwarded-For: \", 192.0.2.7\r\n", Some("192.0.2.7")),
            ("Forwarded: for=9.9.9.9;x=\", for=192.0.2.7\r\n", Some("192.0.2.7")),
            ("Forwarded: for=9.9.9.9;x=\", for=192.0.2.7;host=\"a\\\", for=9.9.9.9\"\r\n", Some("192.0.2.7")),
            ("Forwarded: for=192.0.2.7;host=\"\\\\\", for=10.0.0.1\r\n", Some("192.0.2.7")),
        ] {
            assert_eq!(origin_of(lines).as_deref(), expected, "{lines}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(value in "[ -~]{0,80}") {
            let _ = origin_of(&format!("Forwarded: {value}\r\n"));
            let _ = origin_of(&format!("X-Forwarded-For: {value}\r\n"));
        }
    }
}
