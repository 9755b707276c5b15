//! HTTP/1.1 heads: a request read by httparse into what the routes need, and an answer written.
//!
//! **Invariants.** Arbitrary bytes give a head, "more is needed" or a [`HeadError`]; nothing in the head of an answer comes
//! from a request without being checked to be visible ASCII.
//! **Not here.** Which routes there are and who may use them (`edge::api`).

use crate::protocol::wiped;
use std::borrow::Cow;
use zeroize::Zeroizing;

/// Header lines of one request, at most; a real driver sends about ten.
const HEADERS_MAX: usize = 64;
/// The longest id that is taken over from a request's `X-Request-ID`.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// One request, borrowed from the bytes that were read.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// `GET`, `HEAD`, …
    pub method: &'a str,
    /// The target's path, as it came.
    pub path: &'a str,
    /// The target's query without the question mark, empty where there is none.
    pub query: &'a str,
    /// Bytes of the head, the empty line included.
    pub head_bytes: usize,
    /// 0 or 1.
    minor_version: u8,
    headers: Vec<httparse::Header<'a>>,
}

/// Why bytes are no request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// They break the grammar of HTTP/1.1: 400.
    #[error("malformed request head")]
    Malformed,
    /// More header lines than are taken: 431.
    #[error("too many header lines")]
    TooManyHeaders,
}

impl<'a> RequestHead<'a> {
    /// Reads a head from the start of `bytes`; `None` where its end has not come.
    ///
    /// # Errors
    /// A [`HeadError`] as soon as no later byte can mend it.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, HeadError> {
        let mut headers = vec![httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let head_bytes = match request.parse(bytes) {
            Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            Err(_) => return Err(HeadError::Malformed),
        };
        let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
            return Err(HeadError::Malformed);
        };
        let (path, query) = split_target(target);
        let lines = request.headers.len();
        headers.truncate(lines);
        Ok(Some(RequestHead { method, path, query, head_bytes, minor_version, headers }))
    }

    /// The first header line named `name` (in any case), blanks around its value trimmed; `None` also where its value
    /// is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    }

    /// The values of every header line named `name` (in any case) that are UTF-8, in order.
    pub fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a str> + 'b {
        let named = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.filter_map(|header| std::str::from_utf8(header.value).ok())
    }

    /// As [`header`](Self::header), but a value that is not UTF-8 is an empty one: for a header whose presence counts.
    pub fn raw_header(&self, name: &str) -> Option<&'a str> {
        let header = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(std::str::from_utf8(header.value).map_or("", str::trim))
    }

    /// Whether a header that is a comma-separated list holds `word`, in any case.
    pub fn header_has(&self, name: &str, word: &str) -> bool {
        self.values(name).any(|value| value.split(',').any(|entry| entry.trim().eq_ignore_ascii_case(word)))
    }

    /// The first query parameter named `name`, decoded.
    pub fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        form_urlencoded::parse(self.pair(name)?.as_bytes()).next().map(|(_, value)| value)
    }

    /// The same, for a value that is wiped when it drops, and of which there is no other copy.
    pub fn secret_parameter(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.pair(name).map(|pair| wiped::decode(pair.split_once('=').map_or("", |(_, value)| value)))
    }

    /// The first pair of the query that is named `name`, as it came. Of no pair the value is decoded: it may be a private
    /// key, of which no copy is to be made.
    fn pair(&self, name: &str) -> Option<&'a str> {
        let key = |pair: &'a str| form_urlencoded::parse(pair.split('=').next().unwrap_or_default().as_bytes()).next();
        let is_it = |pair: &&'a str| !pair.is_empty() && key(pair).map_or("".into(), |(key, _)| key) == name;
        self.query.split('&').find(is_it)
    }

    /// Whether the connection stays open after the answer (RFC 9112 section 9.3).
    pub fn keeps_alive(&self) -> bool {
        if self.minor_version == 0 {
            self.header_has("connection", "keep-alive")
        } else {
            !self.header_has("connection", "close")
        }
    }

    /// Whether bytes of a body follow the head; a length that is no number counts as one.
    pub fn has_body(&self) -> bool {
        let mut lengths = self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
        lengths.any(|header| header.value.trim_ascii() != b"0")
            || self.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"))
    }

    /// The request's own `X-Request-ID` where it is short and visible ASCII.
    pub fn request_id(&self) -> Option<&'a str> {
        self.header("x-request-id").filter(|id| {
            !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic())
        })
    }
}

/// An answer, with a body or without.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Text, or nothing.
    pub body: Cow<'static, str>,
    /// What the text is.
    pub content_type: &'static str,
    /// The methods of an `Allow` line, for 405.
    pub allow: Option<&'static str>,
    /// More lines of the head, each with its end.
    pub lines: &'static str,
}

impl Answer {
    /// An answer with `body` as JSON.
    pub fn json(status: u16, body: String) -> Self {
        Answer { status, body: body.into(), content_type: "application/json", allow: None, lines: "" }
    }

    /// The answer as it leaves; `body` is [`Body::Omitted`] for HEAD, whose `Content-Length` stays that of GET.
    pub fn write(self, request_id: &str, connection: Connection, body: Body) -> Written {
        let mut head =
            format!("HTTP/1.1 {} {}\r\nX-Request-ID: {request_id}\r\n{}", self.status, reason(self.status), self.lines);
        // That of a 304 would have to be what a 200 has (RFC 9110 section 8.6).
        if self.status != 304 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("Content-Type: {}\r\n", self.content_type));
        }
        if let Some(methods) = self.allow {
            head.push_str(&format!("Allow: {methods}\r\n"));
        }
        if self.status == 426 {
            // The version is the one that is spoken (RFC 6455 section 4.2.2).
            head.push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        }
        head.push_str(match (self.status, connection) {
            (426, Connection::Close) => "Connection: upgrade, close\r\n\r\n",
            (426, Connection::KeepAlive) => "Connection: upgrade\r\n\r\n",
            (_, Connection::Close) => "Connection: close\r\n\r\n",
            (_, Connection::KeepAlive) => "Connection: keep-alive\r\n\r\n",
        });
        let body = if body == Body::Sent { self.body } else { Cow::Borrowed("") };
        match body {
            Cow::Borrowed(shared) => Written { own: head.into_bytes(), shared: shared.as_bytes() },
            Cow::Owned(body) => {
                let mut own = body.into_bytes();
                own.reserve_exact(head.len());
                own.splice(..0, head.into_bytes());
                Written { own, shared: &[] }
            }
        }
    }
}

/// An answer as it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What was made for it: the head, with the body where that is its own.
    pub own: Vec<u8>,
    /// A body that is the same for everyone, of which there is no copy.
    pub shared: &'static [u8],
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The next request is read.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Whether an answer's body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// As for GET.
    Sent,
    /// As for HEAD.
    Omitted,
}

/// The answer that turns a connection into a WebSocket (RFC 6455 section 4.2.2).
pub fn write_upgrade(request_id: &str, websocket_key: &str) -> Written {
    let accept = tungstenite::handshake::derive_accept_key(websocket_key.as_bytes());
    let own = format!(
        "HTTP/1.1 101 Switching Protocols\r\nX-Request-ID: {request_id}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Written { own: own.into_bytes(), shared: &[] }
}

/// Path and query of a target in origin form, or in absolute form as proxies send it.
fn split_target(target: &str) -> (&str, &str) {
    let origin = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    origin.split_once('?').unwrap_or((origin, ""))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> RequestHead<'_> {
        RequestHead::parse(text.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn a_target_is_split_and_its_parameters_decoded() {
        let head = parse("GET /a/b?port=1&accept=%3A%3A1,+10.0.0.1&port=2 HTTP/1.1\r\nHost: x\r\n\r\nrest");
        assert_eq!((head.method, head.path), ("GET", "/a/b"));
        assert_eq!(head.parameter("port").unwrap(), "1");
        assert_eq!(head.parameter("accept").unwrap(), "::1, 10.0.0.1");
        assert_eq!(head.parameter("none"), None);
        assert_eq!(**head.secret_parameter("accept").unwrap(), *b"::1, 10.0.0.1");
        assert_eq!(head.secret_parameter("none"), None);
    }

    #[test]
    fn an_absolute_target_is_its_path() {
        assert_eq!(parse("GET http://h:1/a?b=c HTTP/1.1\r\n\r\n").path, "/a");
        assert_eq!(parse("GET http://h HTTP/1.1\r\n\r\n").path, "/");
        assert_eq!(parse("GET /a?url=http://h/ HTTP/1.1\r\n\r\n").query, "url=http://h/");
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_header_say() {
        assert!(parse("GET / HTTP/1.1\r\n\r\n").keeps_alive());
        assert!(!parse("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keeps_alive());
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").keeps_alive());
        assert!(parse("GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n").keeps_alive());
    }

    #[test]
    fn a_body_is_seen_by_its_length_or_its_encoding() {
        assert!(!parse("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").has_body());
        assert!(parse("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n").has_body());
        assert!(parse("GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n").has_body());
        assert!(parse("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").has_body());
    }

    #[test]
    fn a_request_id_is_taken_over_only_when_it_is_harmless() {
        assert_eq!(parse("GET / HTTP/1.1\r\nX-Request-ID: abc-1\r\n\r\n").request_id(), Some("abc-1"));
        assert_eq!(parse("GET / HTTP/1.1\r\nX-Request-ID: a b\r\n\r\n").request_id(), None);
        let long = format!("GET / HTTP/1.1\r\nX-Request-ID: {}\r\n\r\n", "a".repeat(129));
        assert_eq!(parse(&long).request_id(), None);
    }

    #[test]
    fn head_answers_with_the_length_of_get_and_no_body() {
        for body in [Cow::Borrowed("{}"), Cow::Owned("{}".into())] {
            let answer = Answer { body, ..Answer::json(200, String::new()) };
            let head = answer.clone().write("id", Connection::KeepAlive, Body::Omitted);
            let text = String::from_utf8(head.own).unwrap();
            assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("\r\n\r\n"), "{text}");
            assert!(head.shared.is_empty());
            let whole = answer.write("id", Connection::KeepAlive, Body::Sent);
            assert_eq!([&whole.own, whole.shared].concat(), [text.as_bytes(), b"{}"].concat());
        }
    }

    #[test]
    fn the_upgrade_answer_carries_the_key_of_the_standard() {
        let text = String::from_utf8(write_upgrade("id", "dGhlIHNhbXBsZSBub25jZQ==").own).unwrap();
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
    }

    #[test]
    fn more_header_lines_than_the_limit_are_told_apart() {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(RequestHead::parse(head.as_bytes()).unwrap_err(), HeadError::TooManyHeaders);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(head)) = RequestHead::parse(&bytes) {
                let _ = (head.parameter("port"), head.keeps_alive(), head.has_body(), head.request_id());
            }
        }

        #[test]
        fn a_head_is_read_alike_whenever_its_end_comes(cut in 0usize..60) {
            let text = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\n\r\n";
            let early = RequestHead::parse(&text[..cut.min(text.len() - 1)]);
            prop_assert!(matches!(early, Ok(None)));
        }
    }
}
