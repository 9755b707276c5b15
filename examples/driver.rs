//! A driver for devices that speak in lines: it sends each line of a device back to it.
//!
//! `TOKEN=testing cargo run --example driver -- ws://127.0.0.1:3000 6001 127.0.0.1,::1`
//!
//! Of this package it uses nothing, so that it can be copied: `tungstenite` and the standard library alone.
//!
//! **Not here.** Datagrams, which are whole messages and have no CLOSE.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own, with no shard in it")]

use std::collections::HashMap;
use std::error::Error;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;
use tungstenite::client::{IntoClientRequest, client};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tungstenite::{Message, WebSocket};

const OPENED: u8 = 0;
const CLOSED: u8 = 1;
const RECEIVED: u8 = 2;
const WRITE: u8 = 3;
const CLOSE: u8 = 4;

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The daemon pings a driver that is idle after 30 s, so that more silence than this means that it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(75);
const LINE_BYTES_MAX: usize = 64 * 1024;

type Socket = WebSocket<TcpStream>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [daemon, port, accept] = &arguments[..] else { return Err("usage: driver ws://HOST:PORT PORT ACCEPT".into()) };
    run(daemon, port, accept, &std::env::var("TOKEN")?)
}

/// Joins, and joins again, for ever.
pub fn run(daemon: &str, port: &str, accept: &str, token: &str) -> ! {
    let mut pause = PAUSE_MIN;
    loop {
        match join(daemon, port, accept, token) {
            Ok(mut socket) => {
                println!("joined port {port}");
                pause = PAUSE_MIN;
                println!("the session ended: {}", attend(&mut socket));
            }
            Err(error) => println!("not joined: {error}"),
        }
        sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

fn join(daemon: &str, port: &str, accept: &str, token: &str) -> Result<Socket, Box<dyn Error>> {
    let url = format!("{daemon}/api/dispatch/v1/tcp_dispatch?port={port}&accept={accept}");
    let mut request = url.into_client_request()?;
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    request.headers_mut().insert("x-module-id", HeaderValue::from_static("rust-driver"));
    let stream = TcpStream::connect(request.uri().authority().ok_or("the URL has no host")?.as_str())?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    match client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            let reason = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into_owned();
            Err(format!("refused with {}: {reason}", answer.status()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Serves one session to its end, and says how it ended. Its devices are its own, as ids start again with the next.
fn attend(socket: &mut Socket) -> Box<dyn Error> {
    // What each device has sent of a line that has not ended.
    let mut unfinished = HashMap::new();
    loop {
        let taken = match socket.read() {
            Ok(Message::Binary(message)) => take(&message, &mut unfinished, socket),
            Ok(Message::Close(Some(frame))) => return format!("{} {}", frame.code, frame.reason).into(),
            // Pings are answered by the library.
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = taken {
            return error;
        }
    }
}

/// Takes one message, and sends back what it completes.
fn take(message: &[u8], unfinished: &mut HashMap<u64, Vec<u8>>, socket: &mut Socket) -> Result<(), Box<dyn Error>> {
    let (kind, address, id, data) = decode(message).ok_or("a message that cannot be decoded")?;
    match kind {
        OPENED => drop(unfinished.insert(id, Vec::new())),
        CLOSED => drop(unfinished.remove(&id)),
        RECEIVED => {
            let rest = unfinished.get_mut(&id).ok_or("a device that was not opened")?;
            rest.extend_from_slice(data);
            // A read is not a line: it may hold a part of one, or several.
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                socket.send(encode(WRITE, address, id, &line))?;
            }
            if rest.len() > LINE_BYTES_MAX {
                rest.clear();
                socket.send(encode(CLOSE, address, id, b""))?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The type, the device's address and id, and the data of a message.
fn decode(message: &[u8]) -> Option<(u8, &[u8], u64, &[u8])> {
    let (&kind, rest) = message.split_first()?;
    let end = rest.iter().position(|&byte| byte == 0)?;
    let (address, rest) = (&rest[..end], &rest[end + 1..]);
    let (id, rest) = rest.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let data = rest.get(..u32::from_be_bytes(*size) as usize)?;
    Some((kind, address, u64::from_be_bytes(*id), data))
}

fn encode(kind: u8, address: &[u8], id: u64, data: &[u8]) -> Message {
    let size = data.len() as u32;
    let parts = [&[kind], address, &[0], &id.to_be_bytes(), &size.to_be_bytes(), data];
    Message::Binary(parts.concat().into())
}
