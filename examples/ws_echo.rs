//! A WebSocket server that echoes every text and binary message, through the very module that sessions use: what a
//! conformance suite talks to. `cargo run --example ws_echo -- 9001` listens on 127.0.0.1.
//!
//! **Not here.** Ports and devices, routes and tokens: any path is upgraded.
#![allow(clippy::print_stderr, reason = "an example talks to a terminal")]

use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use uring_dispatch::edge::websocket::{Incoming, WebSocket};
use uring_dispatch::policy::ending::SessionEnd;
use uring_dispatch::protocol::frame::FrameWalk;
use uring_dispatch::protocol::http::{self, RequestHead};

/// Conformance suites send messages of up to 16 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long the other end has to close after the close frame.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port else { return Err(io::Error::other("usage: ws_echo PORT")) };
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("connection ended: {error}");
            }
        });
    }
    Ok(())
}

/// Upgrades a connection and echoes until it ends.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = upgrade(&mut stream)?;
    let mut echo = Echo { websocket: WebSocket::new(MESSAGE_BYTES_MAX), walk: FrameWalk::default() };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (out, end) = echo.receive(&received);
        stream.write_all(&out)?;
        if end.is_some() {
            return close(&mut stream, &mut buffer);
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        received.clear();
        received.extend_from_slice(&buffer[..count]);
    }
}

/// Answers the upgrade; the bytes behind the request's head are returned.
fn upgrade(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4 << 10];
    let head_bytes = loop {
        let count = stream.read(&mut buffer)?;
        bytes.extend_from_slice(&buffer[..count]);
        match RequestHead::parse(&bytes) {
            Ok(Some(head)) => {
                let key = head.header("sec-websocket-key").ok_or_else(|| io::Error::other("no Sec-WebSocket-Key"))?;
                let answer = http::write_upgrade(head.request_id().unwrap_or("echo"), key);
                stream.write_all(&answer.own)?;
                break head.head_bytes;
            }
            Ok(None) if count > 0 && bytes.len() < HEAD_BYTES_MAX => {}
            Ok(None) => return Err(io::Error::other("no whole request head")),
            Err(fault) => return Err(io::Error::other(fault)),
        }
    };
    Ok(bytes.split_off(head_bytes))
}

/// Ends this side, and drops what still comes: unread bytes would turn the close into a reset.
fn close(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER))?;
    while stream.read(buffer).is_ok_and(|count| count > 0) {}
    Ok(())
}

struct Echo {
    websocket: WebSocket,
    walk: FrameWalk,
}

impl Echo {
    /// What answers the next bytes, and how the connection ends over them.
    ///
    /// Frame by frame, so that an echo stands before the pong of a ping that came behind its message. (A session sends
    /// nothing that answers a message, so it takes its bytes as they come.)
    fn receive(&mut self, mut bytes: &[u8]) -> (Vec<u8>, Option<SessionEnd>) {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(self.frame_end(bytes));
            bytes = rest;
            let result = self.websocket.receive(part, |message| {
                write_data(&mut out, message);
                Ok(())
            });
            if let Err(end) = result {
                if let Some(code) = end.close_code() {
                    self.websocket.close(code, end.reason());
                }
                self.take_control(&mut out);
                return (out, Some(end));
            }
            self.take_control(&mut out);
        }
        (out, None)
    }

    /// Where the frame under way ends, or all of `bytes` where it does not.
    fn frame_end(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            self.walk.advance(std::slice::from_ref(byte));
            if self.walk.between_frames() {
                return at + 1;
            }
        }
        bytes.len()
    }

    fn take_control(&mut self, out: &mut Vec<u8>) {
        loop {
            let control = self.websocket.take_control();
            if control.is_empty() {
                return;
            }
            out.extend(control);
        }
    }
}

fn write_data(out: &mut Vec<u8>, message: Incoming) {
    let (data, opcode) = match message {
        Incoming::Binary(data) => (data, Data::Binary),
        Incoming::Text(text) => (Bytes::copy_from_slice(text.as_bytes()), Data::Text),
    };
    let frame = Frame::message(data, OpCode::Data(opcode), true);
    frame.format(out).expect("a vector takes every byte");
}
