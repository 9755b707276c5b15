//! What a driver's WebSocket makes of bytes, section by section of RFC 6455: the messages that come out, the control
//! frames that are sent, and how the session ends. Each case is fed at once, byte by byte, and cut in the middle.
#![allow(clippy::unwrap_used, missing_docs)]

use std::borrow::Cow;
use uring_dispatch::edge::websocket::{Incoming, LARGE_MESSAGE_BYTES, WebSocket};
use uring_dispatch::policy::ending::SessionEnd;

const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// First bytes of frames: FIN and the opcode.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Without FIN.
const TEXT_BEGUN: u8 = 0x01;
const BINARY_BEGUN: u8 = 0x02;
const CONTINUED: u8 = 0x00;
const LAST: u8 = 0x80;
const EURO: &[u8] = "€".as_bytes();

/// One case: what is fed, and what must come of it.
struct Case {
    name: String,
    bytes: Vec<u8>,
    messages: Vec<Incoming>,
    sent: Vec<u8>,
    end: Option<SessionEnd>,
}

fn case(name: impl Into<String>, frames: &[Vec<u8>]) -> Case {
    Case { name: name.into(), bytes: frames.concat(), messages: Vec::new(), sent: Vec::new(), end: None }
}

impl Case {
    fn gives_text(mut self, text: &[u8]) -> Self {
        self.messages.push(Incoming::Text(String::from_utf8(text.to_vec()).unwrap().into()));
        self
    }

    fn gives_binary(mut self, data: &[u8]) -> Self {
        self.messages.push(Incoming::Binary(data.to_vec().into()));
        self
    }

    fn sends(mut self, flags: u8, payload: &[u8]) -> Self {
        self.sent.extend(ours(flags, payload));
        self
    }

    /// The daemon's close frame is the last that is sent.
    fn ends(mut self, end: SessionEnd) -> Self {
        self.end = Some(end);
        match end.close_code() {
            Some(code) => self.sends(CLOSE, &coded(code, end.reason().as_bytes())),
            None => self,
        }
    }

    fn violates(self) -> Self {
        self.ends(SessionEnd::Violation)
    }

    /// The driver's close frame is answered.
    fn closes_with(self, answer: &[u8]) -> Self {
        self.sends(CLOSE, answer).ends(SessionEnd::DriverClosed)
    }

    fn run(&self) {
        let half = (self.bytes.len() / 2).max(1);
        for part_bytes in [self.bytes.len().max(1), 1, half] {
            let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX);
            let mut messages = Vec::new();
            let fed = self.bytes.chunks(part_bytes).try_for_each(|part| {
                websocket.receive(part, |message| {
                    messages.push(message);
                    Ok(())
                })
            });
            let what = format!("{}, in parts of {part_bytes}", self.name);
            assert!(messages == self.messages, "messages of {what}");
            assert_eq!(fed.err(), self.end, "ending of {what}");
            if let Some(code) = self.end.and_then(SessionEnd::close_code) {
                websocket.close(code, self.end.map(SessionEnd::reason).unwrap());
            }
            assert_eq!(drain(&mut websocket), self.sent, "control frames of {what}");
        }
    }
}

fn run(cases: impl IntoIterator<Item = Case>) {
    cases.into_iter().for_each(|case| case.run());
}

fn drain(websocket: &mut WebSocket) -> Vec<u8> {
    std::iter::repeat_with(|| websocket.take_control()).take_while(|control| !control.is_empty()).flatten().collect()
}

/// A frame of the daemon: not masked.
fn ours(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![flags];
    match payload.len() {
        size @ 0..=125 => frame.push(size as u8),
        size @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
        size => {
            frame.push(127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A frame of a driver: masked.
fn theirs(flags: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = ours(flags, payload);
    let head_bytes = frame.len() - payload.len();
    frame[1] |= 0x80;
    frame.iter_mut().skip(head_bytes).zip(KEY.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    frame.splice(head_bytes..head_bytes, KEY);
    frame
}

fn coded(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

#[test]
fn frames_of_each_length_class_are_read_whole() {
    run([0, 1, 125, 126, 127, 128, 65_535, 65_536, MESSAGE_BYTES_MAX].into_iter().flat_map(|size| {
        let data = vec![b'*'; size];
        [
            case(format!("text of {size} bytes"), &[theirs(TEXT, &data)]).gives_text(&data),
            case(format!("binary of {size} bytes"), &[theirs(BINARY, &data)]).gives_binary(&data),
        ]
    }));
}

#[test]
fn a_message_over_the_limit_ends_the_session_in_one_frame_or_in_many() {
    let over = vec![7; MESSAGE_BYTES_MAX + 1];
    let half = vec![7; MESSAGE_BYTES_MAX / 2 + 1];
    let claimed = |length: u64| [&[BINARY, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
    run([
        case("one frame", &[theirs(BINARY, &over)]).ends(SessionEnd::TooBig),
        case("two fragments", &[theirs(BINARY_BEGUN, &half), theirs(LAST, &half)]).ends(SessionEnd::TooBig),
        case("a head that claims 2 GiB", &[claimed(2 << 30)]).ends(SessionEnd::TooBig),
        case("a length whose highest bit is set", &[claimed(1 << 63)]).ends(SessionEnd::TooBig),
        case("after a message", &[theirs(BINARY, b"a"), claimed(u64::MAX)]).gives_binary(b"a").ends(SessionEnd::TooBig),
    ]);
}

#[test]
fn frames_that_are_not_masked_are_refused() {
    run([
        case("text", &[ours(TEXT, b"a")]).violates(),
        case("empty binary", &[ours(BINARY, b"")]).violates(),
        case("ping", &[ours(PING, b"")]).violates(),
        case("close", &[ours(CLOSE, &coded(1000, b""))]).violates(),
        case("behind a masked one", &[theirs(BINARY, b"a"), ours(BINARY, b"b")]).gives_binary(b"a").violates(),
    ]);
}

#[test]
fn reserved_bits_are_refused_in_every_frame() {
    run((1..8u8).flat_map(|bits| {
        [TEXT, BINARY, CONTINUED, PING, PONG, CLOSE]
            .map(|flags| case(format!("bits {bits:03b} with {flags:#x}"), &[theirs(flags | bits << 4, b"")]).violates())
    }));
}

#[test]
fn what_came_before_a_fault_is_handed_out_and_answered() {
    let before = [theirs(TEXT, b"a"), theirs(PING, b"p")].concat();
    run([
        case("reserved bit", &[before.clone(), theirs(0xa2, b"")]),
        case("reserved opcode", &[before.clone(), theirs(0x83, b"")]),
        case("continuation of nothing", &[before, theirs(LAST, b"")]),
    ]
    .map(|case| case.gives_text(b"a").sends(PONG, b"p").violates()));
}

#[test]
fn reserved_opcodes_are_refused() {
    run([3, 4, 5, 6, 7, 11, 12, 13, 14, 15].into_iter().flat_map(|opcode: u8| {
        [0x80 | opcode, opcode]
            .map(|flags| case(format!("opcode {opcode} in {flags:#x}"), &[theirs(flags, b"x")]).violates())
    }));
}

#[test]
fn pings_are_answered_with_their_payload_and_pongs_are_not() {
    run((0..=125).map(|size| {
        let payload: Vec<u8> = (0..size).collect();
        case(format!("ping of {size}"), &[theirs(PING, &payload)]).sends(PONG, &payload)
    }));
    run([
        case("ten pings", &vec![theirs(PING, b"p"); 10]).sends_pongs(10),
        case("a pong nobody asked for", &[theirs(PONG, b"x"), theirs(BINARY, b"a")]).gives_binary(b"a"),
        case("two pongs to one ping", &[theirs(PONG, b""), theirs(PONG, b"")]),
        case("ping and its pong", &[theirs(PONG, b"x"), theirs(PING, b"y")]).sends(PONG, b"y"),
    ]);
}

impl Case {
    fn sends_pongs(self, count: usize) -> Self {
        (0..count).fold(self, |case, _| case.sends(PONG, b"p"))
    }
}

#[test]
fn control_frames_are_short_and_whole() {
    let long = [b'r'; 126];
    run([
        case("ping of 126", &[theirs(PING, &long)]).violates(),
        case("pong of 126", &[theirs(PONG, &long)]).violates(),
        case("close of 126", &[theirs(CLOSE, &[&coded(1000, b"")[..], &long[2..]].concat())]).violates(),
        case("ping begun", &[theirs(PING & 0x7f, b"")]).violates(),
        case("pong begun", &[theirs(PONG & 0x7f, b"")]).violates(),
        case("close begun", &[theirs(CLOSE & 0x7f, b"")]).violates(),
        case("ping begun inside a message", &[theirs(TEXT_BEGUN, b"a"), theirs(PING & 0x7f, b"")]).violates(),
    ]);
}

#[test]
fn fragments_are_one_message_and_control_frames_may_stand_between_them() {
    let (begun, between, last) = (theirs(TEXT_BEGUN, b"frag"), theirs(CONTINUED, b"men"), theirs(LAST, b"t"));
    let ping = theirs(PING, b"p");
    run([
        case("two", &[begun.clone(), theirs(LAST, b"ment")]).gives_text(b"fragment"),
        case("three", &[begun.clone(), between.clone(), last.clone()]).gives_text(b"fragment"),
        case("binary", &[theirs(BINARY_BEGUN, b"a"), theirs(LAST, b"b")]).gives_binary(b"ab"),
        case("all empty", &[theirs(TEXT_BEGUN, b""), theirs(CONTINUED, b""), theirs(LAST, b"")]).gives_text(b""),
        case("empty ones around", &[theirs(TEXT_BEGUN, b""), theirs(CONTINUED, b"a"), theirs(LAST, b"")])
            .gives_text(b"a"),
        case("pings between", &[begun.clone(), ping.clone(), between.clone(), ping.clone(), last.clone()])
            .gives_text(b"fragment")
            .sends_pongs(2),
        case("a ping before the message ends", &[begun.clone(), ping]).sends_pongs(1),
        case("a pong between", &[begun.clone(), theirs(PONG, b""), between.clone(), last.clone()])
            .gives_text(b"fragment"),
        case("two messages", &[begun.clone(), between.clone(), last.clone(), begun.clone(), between, last])
            .gives_text(b"fragment")
            .gives_text(b"fragment"),
        case("closed between", &[begun, theirs(CLOSE, &coded(1000, b""))]).closes_with(&coded(1000, b"")),
    ]);
}

#[test]
fn fragments_out_of_turn_are_refused() {
    let begun = theirs(TEXT_BEGUN, b"a");
    run([
        case("a last one of nothing", &[theirs(LAST, b"a")]).violates(),
        case("one of nothing", &[theirs(CONTINUED, b"a")]).violates(),
        case("one after a whole message", &[theirs(TEXT, b"a"), theirs(LAST, b"b")]).gives_text(b"a").violates(),
        case("one after the last", &[begun.clone(), theirs(LAST, b"b"), theirs(CONTINUED, b"c")])
            .gives_text(b"ab")
            .violates(),
        case("text in a message", &[begun.clone(), theirs(TEXT, b"b")]).violates(),
        case("binary in a message", &[begun.clone(), theirs(BINARY, b"b")]).violates(),
        case("a message begun in a message", &[begun.clone(), theirs(TEXT_BEGUN, b"b")]).violates(),
        case("an unmasked last one", &[begun, ours(LAST, b"b")]).violates(),
    ]);
}

#[test]
fn text_is_utf8_wherever_it_is_cut() {
    let texts = ["", "a", "κόσμε", "€", "\u{0}", "\u{7f}\u{80}\u{7ff}\u{800}", "\u{d7ff}\u{e000}\u{fffd}\u{ffff}"];
    let long = "\u{10000}\u{10ffff}Hello-µ@ßöäüàá-UTF-8!!";
    run(texts.into_iter().chain([long]).flat_map(|text| {
        let bytes = text.as_bytes();
        (0..=bytes.len()).map(move |cut| {
            let frames = [theirs(TEXT_BEGUN, &bytes[..cut]), theirs(LAST, &bytes[cut..])];
            case(format!("{text:?} cut at {cut}"), &frames).gives_text(bytes)
        })
    }));
    let octets: Vec<Vec<u8>> = long.as_bytes().iter().map(|byte| theirs(CONTINUED, &[*byte])).collect();
    let frames = [theirs(TEXT_BEGUN, b""), octets.concat(), theirs(LAST, b"")];
    run([
        case("an octet a fragment", &frames).gives_text(long.as_bytes()),
        case(
            "a ping inside a code point",
            &[theirs(TEXT_BEGUN, &EURO[..1]), theirs(PING, b"p"), theirs(LAST, &EURO[1..])],
        )
        .gives_text(EURO)
        .sends_pongs(1),
        case("not checked in binary", &[theirs(BINARY, b"\xff\xfe")]).gives_binary(b"\xff\xfe"),
    ]);
}

#[test]
fn text_that_is_not_utf8_ends_the_session() {
    let invalid: [&[u8]; 16] = [
        b"\x80",
        b"\xbf",
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xc3",
        b"\xe0\x80\xaf",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x9f\x98",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xfe",
        b"\xff",
    ];
    run(invalid.into_iter().flat_map(|bytes| {
        let text = [b"ok ", bytes, b""].concat();
        let cut = text.len() - 1;
        [
            case(format!("{bytes:x?}"), &[theirs(TEXT, &text)]).ends(SessionEnd::NotUtf8),
            case(format!("{bytes:x?} cut"), &[theirs(TEXT_BEGUN, &text[..cut]), theirs(LAST, &text[cut..])])
                .ends(SessionEnd::NotUtf8),
        ]
    }));
    run([
        // The rest of the message is not waited for.
        case("in a first fragment", &[theirs(TEXT_BEGUN, b"a\xffb")]).ends(SessionEnd::NotUtf8),
        case("in a later fragment", &[theirs(TEXT_BEGUN, &EURO[..2]), theirs(CONTINUED, b"a")])
            .ends(SessionEnd::NotUtf8),
        case("a code point over two messages", &[theirs(TEXT, &EURO[..2]), theirs(TEXT, &EURO[2..])])
            .ends(SessionEnd::NotUtf8),
    ]);
}

#[test]
fn a_close_frame_is_answered_in_kind() {
    let reason = [b'r'; 123];
    run([case("no payload", &[theirs(CLOSE, b"")]).closes_with(b"")]);
    run([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]
        .into_iter()
        .flat_map(|code| {
            [&b""[..], b"bye", &reason, EURO].map(|reason| {
                let payload = coded(code, reason);
                case(format!("{code} {reason:?}"), &[theirs(CLOSE, &payload)]).closes_with(&payload)
            })
        }));
}

#[test]
fn a_close_code_that_may_not_be_sent_is_answered_with_1002() {
    run([0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535].map(|code| {
        case(format!("code {code}"), &[theirs(CLOSE, &coded(code, b"why"))])
            .closes_with(&coded(1002, b"Protocol violation"))
    }));
}

#[test]
fn a_close_frame_that_cannot_be_read_is_a_fault() {
    run([
        case("one byte", &[theirs(CLOSE, b"\x03")]).violates(),
        case("a reason that is not UTF-8", &[theirs(CLOSE, &coded(1000, b"\xff"))]).ends(SessionEnd::NotUtf8),
        case("a reason cut inside a code point", &[theirs(CLOSE, &coded(1000, &EURO[..2]))]).ends(SessionEnd::NotUtf8),
    ]);
}

#[test]
fn what_follows_a_close_frame_is_ignored() {
    let close = theirs(CLOSE, &coded(1000, b""));
    run([
        ("text", theirs(TEXT, b"late")),
        ("ping", theirs(PING, b"late")),
        ("close", theirs(CLOSE, &coded(1001, b""))),
        ("a fault", theirs(0xff, b"late")),
        ("a large message", theirs(BINARY, &[7; LARGE_MESSAGE_BYTES])),
    ]
    .map(|(name, late)| case(name, &[close.clone(), late]).closes_with(&coded(1000, b""))));
    let message = theirs(BINARY, b"before");
    run([case("a message before", &[message, close]).gives_binary(b"before").closes_with(&coded(1000, b""))]);
}

#[test]
fn a_length_that_is_written_longer_than_it_needs_to_be_is_read() {
    // Senders must not write it so (section 5.2); a reader loses nothing by taking it.
    let key = [0; 4];
    run([
        case("16 bits", &[[&[BINARY, 0xfe, 0, 1][..], &key, b"a"].concat()]).gives_binary(b"a"),
        case("64 bits", &[[&[BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0, 1][..], &key, b"a"].concat()]).gives_binary(b"a"),
    ]);
}

#[test]
fn messages_still_come_while_the_close_frame_waits_for_its_answer() {
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX);
    websocket.close(1001, Cow::Borrowed("the daemon stops"));
    let mut messages = Vec::new();
    let mut receive = |websocket: &mut WebSocket, bytes: &[u8]| {
        websocket.receive(bytes, |message| {
            messages.push(message);
            Ok(())
        })
    };
    receive(&mut websocket, &[theirs(BINARY, b"late"), theirs(PING, b"late")].concat()).unwrap();
    let answered = receive(&mut websocket, &theirs(CLOSE, &coded(1001, b"")));
    assert_eq!(answered, Err(SessionEnd::DriverClosed));
    assert_eq!(messages, [Incoming::Binary(b"late"[..].into())]);
    assert_eq!(drain(&mut websocket), ours(CLOSE, &coded(1001, b"the daemon stops")));
}

#[test]
fn nothing_leaves_behind_a_close_frame_even_after_a_large_message() {
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX);
    websocket.close(1001, Cow::Borrowed("the daemon stops"));
    let large = [theirs(BINARY, &[7; LARGE_MESSAGE_BYTES]), theirs(PING, b"late")].concat();
    websocket.receive(&large, |_| Ok(())).unwrap();
    websocket.receive(&theirs(PING, b"later"), |_| Ok(())).unwrap();
    websocket.close(1001, Cow::Borrowed("again"));
    assert_eq!(drain(&mut websocket), ours(CLOSE, &coded(1001, b"the daemon stops")));
}

#[test]
fn the_last_of_many_pings_is_answered_also_behind_a_large_message() {
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX);
    let pings: Vec<Vec<u8>> = (0..200u8).map(|number| theirs(PING, &[number; 100])).collect();
    websocket.receive(&pings.concat(), |_| Ok(())).unwrap();
    websocket.receive(&theirs(BINARY, &[7; LARGE_MESSAGE_BYTES]), |_| Ok(())).unwrap();
    assert!(drain(&mut websocket).ends_with(&ours(PONG, &[199; 100])));
}
