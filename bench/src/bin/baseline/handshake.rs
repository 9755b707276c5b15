//! What a driver asks for before its WebSocket, and the answers.
//!
//! **Invariants.** Arbitrary bytes give a request, "more is needed" or a refusal.
//! **Not here.** Whether the port can be opened (`port`). Tokens and accept lists: nobody is refused.

use uring_dispatch::policy::port_id::Transport;
use uring_dispatch::protocol::http::{Answer, Body, Connection, RequestHead, write_upgrade};

const REQUEST_ID: &str = "baseline";
const BASES: [&str; 2] = ["/api/server", "/api/dispatch/v1"];

/// A join, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Join {
    /// The port's number; 0 takes a free one.
    pub number: u16,
    /// What the answer is made of.
    pub key: String,
    /// Bytes of the head.
    pub head_bytes: usize,
}

/// Reads a request; `None` where its end has not come.
///
/// # Errors
/// The status of the answer to anything that is no join of this transport: 200 for a health check.
pub fn read(bytes: &[u8], transport: Transport) -> Result<Option<Join>, u16> {
    let Some(head) = RequestHead::parse(bytes).map_err(|_| 400u16)? else { return Ok(None) };
    let route = BASES.iter().find_map(|base| head.path.strip_prefix(base)).ok_or(404u16)?;
    let wanted = match transport {
        Transport::Tcp => "/tcp_dispatch",
        Transport::Udp => "/udp_dispatch",
    };
    if route == "/healthz" {
        return Err(200);
    } else if route != wanted {
        return Err(404);
    }
    let number = head.parameter("port").and_then(|port| port.parse().ok()).ok_or(400u16)?;
    let key = head.header("sec-websocket-key").ok_or(426u16)?.to_owned();
    Ok(Some(Join { number, key, head_bytes: head.head_bytes }))
}

/// Appends the answer that begins the WebSocket.
pub fn append_upgrade(out: &mut Vec<u8>, join: &Join) {
    out.extend(write_upgrade(REQUEST_ID, &join.key).own);
}

/// Appends an answer that ends the connection.
pub fn append_answer(out: &mut Vec<u8>, status: u16) {
    out.extend(Answer::json(status, String::new()).write(REQUEST_ID, Connection::Close, Body::Sent).own);
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOIN: &str = "GET /api/server/tcp_dispatch?port=7000&accept=127.0.0.1 HTTP/1.1\r\nHost: a\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn a_join_is_read_once_it_is_whole() {
        for end in 0..JOIN.len() {
            assert_eq!(read(&JOIN.as_bytes()[..end], Transport::Tcp), Ok(None));
        }
        let join = read(JOIN.as_bytes(), Transport::Tcp).expect("a join").expect("a whole one");
        assert_eq!((join.number, join.head_bytes), (7000, JOIN.len()));
        let mut answer = Vec::new();
        append_upgrade(&mut answer, &join);
        assert!(String::from_utf8_lossy(&answer).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn what_is_no_join_has_a_status() {
        let status = |line: &str| read(format!("{line} HTTP/1.1\r\n\r\n").as_bytes(), Transport::Tcp);
        assert_eq!(status("GET /api/server/healthz"), Err(200));
        assert_eq!(status("GET /api/server/udp_dispatch?port=1"), Err(404));
        assert_eq!(status("GET /api/server/tcp_dispatch?port=70000"), Err(400));
        assert_eq!(status("GET /api/server/tcp_dispatch?port=7000"), Err(426));
        assert_eq!(status("GET /elsewhere"), Err(404));
    }
}
