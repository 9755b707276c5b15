//! `dispatch listen`, the driver for the terminal, against a daemon that the test plays.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// The harness of the behaviour tests, of which some is not needed here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "behaviour/harness/mod.rs"]
mod harness;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use harness::{Program, bounded};
use rustix::process::Signal;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use uring_dispatch::protocol::message::{DeviceAddr, DeviceName, FromDriver, IpText, ToDriver};

/// The program under test.
struct Terminal(Program);

impl Terminal {
    fn start(daemon: &TcpListener, arguments: &[&str]) -> Terminal {
        let url = format!("http://{}", daemon.local_addr().unwrap());
        let words = [&["listen"], arguments, &["--url", &url]].concat();
        Terminal(Program::binary(&words, &[("SERVER_SECRET", "hunter2"), ("DISPATCH_CONFIG", "/dev/null")]))
    }

    fn types(&mut self, line: &str) {
        self.0.types(line);
    }

    fn printed(&mut self) -> String {
        self.0.printed()
    }

    /// Reads notes until one has this text.
    fn notes_until(&mut self, text: &str) -> String {
        let notes = self.0.notes_until(text);
        assert!(!notes.contains("hunter2"), "{notes}");
        notes.lines().last().unwrap().to_owned()
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.0.exits().code()
    }
}

fn daemon() -> TcpListener {
    bounded(TcpListener::bind("127.0.0.1:0").unwrap())
}

/// Takes one driver in; tells its request's path and query, and its token.
fn admit(daemon: &TcpListener) -> (WebSocket<TcpStream>, String, String) {
    let stream = bounded(daemon.accept().unwrap().0);
    let (mut uri, mut token) = (String::new(), String::new());
    #[allow(clippy::result_large_err)] // The signature is tungstenite's.
    let look = |request: &Request, response: Response| {
        uri = request.uri().to_string();
        token = request.headers()["authorization"].to_str().unwrap().to_owned();
        Ok(response)
    };
    let socket = tungstenite::accept_hdr(stream, look).unwrap();
    (socket, uri, token)
}

/// Reads a request's head and answers it with this status and error.
fn refuse(daemon: &TcpListener, status: &str, error: &str) {
    let mut stream = bounded(daemon.accept().unwrap().0);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let body = format!("{{\"error\":\"{error}\"}}");
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).unwrap();
}

fn device(ip: &str, id_or_port: u64) -> DeviceName {
    DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port }
}

fn deliver(socket: &mut WebSocket<TcpStream>, message: &ToDriver) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    socket.send(Message::Binary(bytes.into())).unwrap();
}

fn expect_write(socket: &mut WebSocket<TcpStream>, ip: &str, id_or_port: u64, data: &[u8]) {
    let Message::Binary(bytes) = socket.read().unwrap() else { panic!("no binary message") };
    let device = DeviceAddr { ip: ip.parse().ok(), id_or_port };
    assert_eq!(FromDriver::decode(&bytes), Ok(FromDriver::Write { device, data }));
}

#[test]
fn what_devices_send_is_printed_and_what_is_typed_goes_back() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "6001"]);
    let (mut socket, uri, token) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/tcp_dispatch?port=6001&accept=127.0.0.1%2C%3A%3A1");
    assert_eq!(token, "Bearer hunter2");
    terminal.notes_until("joined tcp port 6001");

    terminal.types("too early\n");
    terminal.notes_until("nothing is sent");
    deliver(&mut socket, &ToDriver::Opened { device: device("127.0.0.1", 0) });
    assert!(terminal.printed().contains("Z opened   127.0.0.1 @0\n"));
    terminal.types("hello\n");
    expect_write(&mut socket, "127.0.0.1", 0, b"hello\n");
    terminal.types("as of a terminal\r\n");
    expect_write(&mut socket, "127.0.0.1", 0, b"as of a terminal\r\n");
    // A long line comes in pieces, whatever one of them begins with.
    let (first, rest) = ("x".repeat(65_000), "@9 /close\n");
    terminal.types(&(first.clone() + rest));
    expect_write(&mut socket, "127.0.0.1", 0, first.as_bytes());
    expect_write(&mut socket, "127.0.0.1", 0, rest.as_bytes());

    deliver(&mut socket, &ToDriver::Received { device: device("::1", 1), data: b"hi\n" });
    assert!(terminal.printed().contains("Z received ::1 @1 3 bytes \"hi\\n\""));
    terminal.types("@0 to the first\n@9 to nobody\nto the last\n@0 /close\n");
    expect_write(&mut socket, "127.0.0.1", 0, b"to the first\n");
    expect_write(&mut socket, "::1", 1, b"to the last\n");
    let Message::Binary(bytes) = socket.read().unwrap() else { panic!("no binary message") };
    let closed = DeviceAddr { ip: "127.0.0.1".parse().ok(), id_or_port: 0 };
    assert_eq!(FromDriver::decode(&bytes), Ok(FromDriver::Close { device: closed }));
    terminal.notes_until("device 9 is not connected");
}

#[test]
fn datagrams_are_printed_as_json_and_answered_raw() {
    let daemon = daemon();
    let arguments = ["udp", "162", "--accept", "10.0.0.0/8", "--json", "--raw"];
    let mut terminal = Terminal::start(&daemon, &arguments);
    let (mut socket, uri, _) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/udp_dispatch?port=162&accept=10.0.0.0%2F8");

    deliver(&mut socket, &ToDriver::Received { device: device("10.1.2.3", 5000), data: &[0xff] });
    let line: serde_json::Value = serde_json::from_str(&terminal.printed()).unwrap();
    assert_eq!((&line["event"], &line["address"]), (&"received".into(), &"10.1.2.3".into()));
    assert_eq!((&line["port"], &line["size"], &line["data_hex"]), (&5000.into(), &1.into(), &"ff".into()));
    terminal.types("one\n@10.9.9.9:9 two\n");
    expect_write(&mut socket, "10.1.2.3", 5000, b"one");
    expect_write(&mut socket, "10.9.9.9", 9, b"two");
}

#[test]
fn a_ping_is_answered_and_an_interrupt_says_goodbye() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
    let (mut socket, ..) = admit(&daemon);
    socket.send(Message::Ping(b"alive?".as_slice().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"alive?".as_slice().into()));

    terminal.0.signal(Signal::INT);
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no goodbye") };
    assert_eq!(frame.code, CloseCode::Normal);
    while socket.read().is_ok() {}
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn a_wrong_request_is_final_and_says_why() {
    for (status, error) in [("401 Unauthorized", "invalid authorisation token"), ("400 Bad Request", "bad accept")] {
        let daemon = daemon();
        let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
        refuse(&daemon, status, error);
        let note = terminal.notes_until(error);
        assert!(note.contains(&status[..3]), "{note}");
        assert_eq!(terminal.exit_code(), Some(1));
    }
}

#[test]
fn a_session_that_is_refused_for_a_while_or_lost_is_joined_again() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
    refuse(&daemon, "409 Conflict", "the port is in use");
    terminal.notes_until("409: the port is in use");
    terminal.notes_until("trying again in 1 s");
    let (socket, ..) = admit(&daemon);
    terminal.notes_until("joined tcp port 1");
    drop(socket);
    terminal.notes_until("the session ended");
    let (mut socket, ..) = admit(&daemon);
    deliver(&mut socket, &ToDriver::Closed { device: device("127.0.0.1", 7) });
    assert!(terminal.printed().contains("closed   127.0.0.1 @7"));
}

#[test]
fn one_that_is_refused_again_and_again_waits_ever_longer() {
    let begun = Instant::now();
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
    for pause in ["1 s", "2 s", "4 s"] {
        refuse(&daemon, "503 Service Unavailable", "no room for another session");
        let note = terminal.notes_until("trying again in");
        assert!(note.contains(&format!("trying again in {pause}")), "{note:?} instead of {pause}");
    }
    // What it said before the third.
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[test]
fn the_end_of_a_pipe_does_not_end_listening() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["udp", "1"]);
    terminal.0.end_input();
    let (mut socket, ..) = admit(&daemon);
    for count in 0..3 {
        deliver(&mut socket, &ToDriver::Received { device: device("127.0.0.1", count), data: b"" });
        assert!(terminal.printed().contains(&format!("127.0.0.1:{count} 0 bytes")));
    }
}
