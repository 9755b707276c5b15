//! A driver's WebSocket: it agrees with a plain reading of the standard, however its bytes are split; what it wants
//! sent is whole control frames, bounded, and a close frame ends them.
//!
//! An input is eight bytes that say how the stream is made and split, then the stream: raw bytes, or a script of frames
//! whose heads and masks are made here (the fuzzer rarely finds a good mask by itself).

mod reference;

use reference::{Frame, Meaning};
use std::borrow::Cow;
use uring_dispatch::edge::websocket::{Incoming, LARGE_MESSAGE_BYTES, WebSocket};
use uring_dispatch::policy::ending::SessionEnd;
use uring_dispatch::protocol::frame::FrameWalk;

/// Above `LARGE_MESSAGE_BYTES`, so that large messages are met.
const MESSAGE_BYTES_MAX: usize = LARGE_MESSAGE_BYTES + (16 << 10);
/// What a WebSocket may hold for its writer, with a close frame: twice its control buffer of 4 KiB.
const CONTROL_BYTES_MAX: usize = 2 * (4 << 10) + 2 * 127;
const HEAD_BYTES: usize = 8;
/// The longest stream that is fed in parts of a few bytes.
const SMALL_PARTS_BYTES_MAX: usize = 8 << 10;
/// The longest stream that a script is made into.
const STREAM_BYTES_MAX: usize = 256 << 10;

/// Feeds a WebSocket as `input` says.
pub fn check(input: &[u8]) {
    let Some((&[kind, close, steps @ ..], body)) = input.split_first_chunk::<HEAD_BYTES>() else { return };
    let stream = if kind & 1 == 0 { body.to_vec() } else { scripted(body) };
    let meaning = reference::read(&stream, MESSAGE_BYTES_MAX);
    let whole = feed(&stream, [stream.len()].into_iter());
    // Small parts of a long stream take long and tell nothing new.
    let scale = if kind & 2 == 0 && stream.len() < SMALL_PARTS_BYTES_MAX { 1 } else { 257 };
    let sizes = steps.into_iter().cycle().map(|step| 1 + usize::from(step) * scale);
    let parts = feed(&stream, sizes);
    for fed in [&whole, &parts] {
        assert_eq!(fed.messages, meaning.messages);
        assert_eq!(fed.end, meaning.end);
    }
    check_walk(&stream, &meaning);
    for mut fed in [whole, parts] {
        check_control(&mut fed, &meaning, close, kind & 4 != 0);
        if fed.end.is_none() {
            check_after_close(&mut fed.websocket);
        }
    }
}

struct Fed {
    websocket: WebSocket,
    messages: Vec<Incoming>,
    end: Option<SessionEnd>,
}

/// A WebSocket that was fed `stream` in parts of `sizes`, up to its ending.
fn feed(mut stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Fed {
    let mut fed = Fed { websocket: WebSocket::new(MESSAGE_BYTES_MAX), messages: Vec::new(), end: None };
    while !stream.is_empty() && fed.end.is_none() {
        let (part, rest) = stream.split_at(sizes.next().unwrap_or(usize::MAX).min(stream.len()));
        stream = rest;
        let result = fed.websocket.receive(part, |message| {
            fed.messages.push(message);
            Ok(())
        });
        fed.end = result.err();
    }
    fed
}

fn check_walk(stream: &[u8], meaning: &Meaning) {
    if meaning.end.is_some() {
        return;
    }
    let mut walk = FrameWalk::default();
    walk.advance(stream);
    assert_eq!(walk.between_messages(), meaning.between_messages);
    assert!(walk.message_bytes() <= MESSAGE_BYTES_MAX);
    assert!(!walk.between_messages() || walk.message_bytes() == 0);
}

/// What the protocol wants sent, before and after the daemon's own ping and close frame.
fn check_control(fed: &mut Fed, meaning: &Meaning, close: u8, pings: bool) {
    if pings && fed.end.is_none() {
        fed.websocket.ping();
    }
    let code = fed.end.and_then(SessionEnd::close_code).unwrap_or(1000 + u16::from(close % 4));
    fed.websocket.close(code, Cow::Borrowed("the end"));
    let sent = drain(&mut fed.websocket);
    let frames = frames_of(&sent);
    let (last, before) = frames.split_last().expect("a close frame leaves whatever came before");
    let expected = if let Some(close) = &meaning.close { echo(close) } else { own_close(code) };
    assert_eq!(*last, (0x88, expected), "the last frame");
    let mut pings = meaning.pings.iter();
    for (flags, payload) in before {
        match flags {
            // Pongs are left out where they come too fast, but keep their order.
            0x8a => assert!(pings.any(|ping| ping == payload), "a pong that no ping asked for, or out of order"),
            0x89 => assert!(payload.is_empty()),
            flags => panic!("frame {flags:#x} before the close frame"),
        }
    }
    assert!(before.iter().filter(|(flags, _)| *flags == 0x89).count() <= 1);
    let pong_bytes: usize = meaning.pings.iter().map(|ping| ping.len() + 2).sum();
    if pong_bytes + 2 <= 4 << 10 {
        let pongs = before.iter().filter(|(flags, _)| *flags == 0x8a).count();
        assert_eq!(pongs, meaning.pings.len(), "a ping was not answered");
    }
}

/// Once the close frame has left, nothing does (RFC 6455 section 5.5.1), whatever the driver still sends.
fn check_after_close(websocket: &mut WebSocket) {
    let mut late = masked(0x82, &[7; LARGE_MESSAGE_BYTES]);
    late.extend(masked(0x89, b"late"));
    let _ = websocket.receive(&late, |_| Ok(()));
    let _ = websocket.receive(&masked(0x89, b"later"), |_| Ok(()));
    websocket.close(1001, Cow::Borrowed("again"));
    assert_eq!(drain(websocket), b"", "frames behind the close frame");
}

fn drain(websocket: &mut WebSocket) -> Vec<u8> {
    let mut sent = Vec::new();
    loop {
        let control = websocket.take_control();
        if control.is_empty() {
            break;
        }
        sent.extend(control);
        assert!(sent.len() <= CONTROL_BYTES_MAX, "{} bytes of control frames", sent.len());
    }
    sent
}

fn own_close(code: u16) -> Vec<u8> {
    [&code.to_be_bytes()[..], b"the end"].concat()
}

/// What answers a driver's close frame: itself, or 1002 for a code that may not be sent (RFC 6455 section 7.4).
fn echo(close: &[u8]) -> Vec<u8> {
    let Some((code, _)) = close.split_first_chunk::<2>() else { return Vec::new() };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1013 | 3000..=4999 => close.to_vec(),
        _ => [&1002u16.to_be_bytes()[..], b"Protocol violation"].concat(),
    }
}

/// Flags and payloads of the daemon's frames, which are whole, unmasked and short.
fn frames_of(mut sent: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !sent.is_empty() {
        let frame = Frame::first_of(sent).expect("a whole head");
        assert!(!frame.masked && frame.payload_bytes <= 125 && frame.flags & 0xf8 == 0x88);
        frames.push((frame.flags, frame.payload.expect("a whole payload")));
        sent = frame.rest;
    }
    frames
}

/// Frames of a script. Each is three bytes (flags and opcode, how its length is written, its length) and its payload.
fn scripted(mut script: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some((&[flags, form, size], rest)) = script.split_first_chunk::<3>() {
        let size = usize::from(size);
        let (payload, rest) = rest.split_at(size.min(rest.len()));
        script = rest;
        // A few forms repeat the payload to lengths that the fuzzer would not reach.
        let payload = match form % 8 {
            0..=4 => payload.to_vec(),
            5 => payload.repeat(64),
            _ => {
                payload.iter().copied().cycle().take(payload.len().min(1) * (LARGE_MESSAGE_BYTES - 2 + size)).collect()
            }
        };
        stream.extend(masked(flags, &payload));
        if form & 0x80 != 0 {
            // Without its mask.
            stream.truncate(stream.len() - payload.len() - 4);
            let at = stream.len()
                - if payload.len() < 126 {
                    1
                } else if payload.len() < 65_536 {
                    3
                } else {
                    9
                };
            stream[at] &= 0x7f;
            stream.extend_from_slice(&payload);
        }
        if stream.len() > STREAM_BYTES_MAX {
            break;
        }
    }
    stream
}

/// A frame as a driver sends it.
fn masked(flags: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![flags];
    match payload.len() {
        size @ ..126 => frame.push(0x80 | size as u8),
        size @ ..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(size as u16).to_be_bytes());
        }
        size => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}
