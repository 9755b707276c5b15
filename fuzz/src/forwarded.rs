//! What proxies say of a request's origin: whatever a client has written, the address that a proxy adds behind it counts.
//!
//! An input is the client's part of the header, a zero byte, and what the proxies say, each an element whose parts an
//! input chooses.

use std::net::{IpAddr, Ipv4Addr};
use uring_dispatch::protocol::forwarded::origin;
use uring_dispatch::protocol::http::RequestHead;

/// The client, and no proxy.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Reads a head with what the client and its proxies have written.
pub fn check(input: &[u8]) {
    let mut parts = input.splitn(2, |&byte| byte == 0);
    let (client, choices) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if client.contains(&b'\r') || client.contains(&b'\n') {
        return check_lines(client);
    }
    for name in ["X-Forwarded-For", "Forwarded"] {
        let by_proxies = by_proxies(name, choices);
        // One line that grows, or a line of its own.
        for between in [",".to_owned(), format!("\r\n{name}:")] {
            let line = [name.as_bytes(), b": ", client, between.as_bytes(), by_proxies.as_bytes()].concat();
            // A line that is no text says nothing; where it is no header at all, there is no request.
            if std::str::from_utf8(&line).is_ok()
                && let Some(found) = read(&line)
            {
                assert_eq!(found, Some(CLIENT), "{}", String::from_utf8_lossy(&line));
            }
        }
    }
}

/// Lines as they come: what is said is an address in canonical form, or none.
fn check_lines(lines: &[u8]) {
    if let Some(Some(ip)) = read(lines) {
        assert_eq!(ip, ip.to_canonical());
    }
}

/// What is read of a request with these lines; `None` where there is none.
fn read(lines: &[u8]) -> Option<Option<IpAddr>> {
    let head = [b"GET / HTTP/1.1\r\n", lines, b"\r\n\r\n"].concat();
    let head = RequestHead::parse(&head).ok()??;
    Some(origin(&head, is_proxy))
}

fn is_proxy(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 10)
}

/// The elements that the first proxy and those behind it add.
fn by_proxies(name: &str, choices: &[u8]) -> String {
    let proxies = choices.iter().skip(1).take(3).map(|_| "10.0.0.1");
    let nodes = std::iter::once("192.0.2.7").chain(proxies);
    let elements: Vec<String> =
        nodes.zip(choices.iter().chain([&0; 4])).map(|(node, &how)| element(name, node, how)).collect();
    elements.join(if choices.len().is_multiple_of(2) { "," } else { " , " })
}

/// An address as proxies write it. Values of a request that they repeat are quoted, with what would end the quotes
/// escaped.
fn element(name: &str, node: &str, how: u8) -> String {
    let with_port = if how & 1 == 0 { String::new() } else { ":4711".to_owned() };
    if name == "X-Forwarded-For" {
        return format!("{node}{with_port}");
    }
    let host = ["", "a,b;for=9.9.9.9", "\\\", for=9.9.9.9", "\\\\"][usize::from(how >> 1 & 3)];
    let mut pairs = vec![format!("for=\"{node}{with_port}\""), format!("host=\"{host}\"")];
    if how & 8 != 0 {
        pairs.reverse();
    }
    pairs.join(if how & 16 == 0 { ";" } else { "; " })
}
