//! Request heads: what a prefix reads as agrees with the whole, and no request can put a line into an answer.

use uring_dispatch::protocol::http::{Answer, Body, Connection, HeadError, RequestHead, write_upgrade};

/// Prefixes are tried one by one up to here; beyond, only some.
const EVERY_PREFIX_BYTES: usize = 256;

/// Reads `input` as a request head, whole and in prefixes.
pub fn check(input: &[u8]) {
    let whole = seen(input);
    let mut failed = None;
    let step = 1 + input.len() / EVERY_PREFIX_BYTES;
    for end in (0..input.len()).step_by(step) {
        match (seen(&input[..end]), &whole) {
            (Ok(None), whole) => {
                assert!(failed.is_none(), "more bytes mended a fault");
                if let Ok(Some(head)) = whole {
                    assert!(end < head.head_bytes, "a head's end was not seen");
                }
            }
            (Ok(Some(head)), Ok(Some(whole))) => assert_eq!(&head, whole, "a head changes with what follows it"),
            (Err(fault), Err(last)) => {
                assert_eq!(fault, *last, "a fault changes with what follows it");
                failed = Some(fault);
            }
            (early, whole) => panic!("{early:?} at {end}, but {whole:?} of the whole"),
        }
    }
    if let Ok(Some(head)) = RequestHead::parse(input) {
        check_accessors(&head);
        check_answers(&head);
    }
}

/// What is compared of a head.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    head_bytes: usize,
    method: String,
    path: String,
    query: String,
    keeps_alive: bool,
    has_body: bool,
    request_id: Option<String>,
}

fn seen(bytes: &[u8]) -> Result<Option<Seen>, HeadError> {
    let head = RequestHead::parse(bytes)?;
    Ok(head.map(|head| Seen {
        head_bytes: head.head_bytes,
        method: head.method.to_owned(),
        path: head.path.to_owned(),
        query: head.query.to_owned(),
        keeps_alive: head.keeps_alive(),
        has_body: head.has_body(),
        request_id: head.request_id().map(str::to_owned),
    }))
}

fn check_accessors(head: &RequestHead) {
    assert!(!head.path.contains('?'), "{:?}", head.path);
    assert!(!head.method.is_empty() && head.head_bytes > 0);
    for name in ["authorization", "Connection", "upgrade", "x-request-id", "X-Module-ID", "a"] {
        let (value, raw) = (head.header(name), head.raw_header(name));
        assert!(value.is_none_or(|value| raw == Some(value) && value.trim() == value));
        if let Some(value) = value {
            assert!(value.contains(',') || head.header_has(name, value), "{name}: {value:?}");
        }
    }
    for name in ["port", "accept", "bearer_token", ""] {
        if head.parameter(name).is_none() {
            let begins = |pair: &str| pair == name || pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
            assert!(!head.query.split('&').any(|pair| !pair.is_empty() && begins(pair)), "{name} was overlooked");
        }
    }
    if let Some(id) = head.request_id() {
        assert!(id.len() <= 128 && id.bytes().all(|byte| (b'!'..=b'~').contains(&byte)), "{id:?}");
    }
}

/// Answers that carry what the request said have the lines that they should, and no more.
fn check_answers(head: &RequestHead) {
    let request_id = head.request_id().unwrap_or("own");
    let answer = Answer::json(400, "{}".to_owned()).write(request_id, Connection::Close, Body::Sent);
    assert_eq!(header_lines(&answer.own), (400, 4));
    let upgrade = write_upgrade(request_id, head.header("sec-websocket-key").unwrap_or(""));
    assert_eq!(header_lines(&upgrade.own), (101, 4));
}

fn header_lines(answer: &[u8]) -> (u16, usize) {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(answer).expect("an answer is well-formed");
    assert!(parsed.is_complete());
    (response.code.unwrap_or(0), response.headers.len())
}
