//! `dispatch tap` against a daemon that the test plays, and its captures as tshark reads them.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
// The clippy bans are for the threads of shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

// The harness of the behaviour tests, of which some is not needed here.
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "behaviour/harness/mod.rs"]
mod harness;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use harness::{Program, Run, bounded, say_skipped};
use rustix::process::Signal;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use uring_dispatch::protocol::message::{DeviceName, Encode, IpText};
use uring_dispatch::protocol::tapped::{TapEvent, Tapped};

/// 2023-11-14T22:13:20.000042Z.
const TIME_US: u64 = 1_700_000_000_000_042;

/// The program under test.
struct Terminal(Program);

impl Terminal {
    fn start(daemon: &TcpListener, arguments: &[&str]) -> Terminal {
        let url = format!("http://{}", daemon.local_addr().unwrap());
        let words = [&["tap"], arguments, &["--url", &url]].concat();
        Terminal(Program::binary(&words, &[("SERVER_SECRET", "hunter2"), ("DISPATCH_CONFIG", "/dev/null")]))
    }

    /// Reads notes until one has this text.
    fn notes_until(&mut self, text: &str) {
        let notes = self.0.notes_until(text);
        assert!(!notes.contains("hunter2"), "{notes}");
    }

    /// Interrupts it and waits for its end, which has to be a good one.
    fn interrupt(&mut self) {
        self.0.signal(Signal::INT);
        assert_eq!(self.0.exits().code(), Some(0));
    }
}

/// A file for a capture, gone with the value.
struct CaptureFile(PathBuf);

impl CaptureFile {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("dispatch-tap-{name}-{}.pcapng", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn daemon() -> TcpListener {
    bounded(TcpListener::bind("127.0.0.1:0").unwrap())
}

/// Takes a tap in; tells its request's path and query.
fn admit(daemon: &TcpListener) -> (WebSocket<TcpStream>, String) {
    let stream = bounded(daemon.accept().unwrap().0);
    let mut uri = String::new();
    #[allow(clippy::result_large_err)] // The signature is tungstenite's.
    let look = |request: &Request, response: Response| {
        uri = request.uri().to_string();
        assert_eq!(request.headers()["authorization"], "Bearer hunter2");
        Ok(response)
    };
    let socket = tungstenite::accept_hdr(stream, look).unwrap();
    (socket, uri)
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

fn tell(socket: &mut WebSocket<TcpStream>, event: TapEvent) {
    let mut bytes = Vec::new();
    Tapped { time_us: TIME_US, event }.encode(&mut bytes);
    socket.send(Message::Binary(bytes.into())).unwrap();
}

/// Ends the session as a daemon does that stops, and waits for the answer, so that all before it has been taken.
fn close(mut socket: WebSocket<TcpStream>) {
    let frame = CloseFrame { code: CloseCode::Away, reason: "the daemon stops".into() };
    socket.close(Some(frame)).unwrap();
    while socket.read().is_ok() {}
}

#[test]
fn what_is_tapped_is_printed_until_an_interrupt() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "6001"]);
    let (mut socket, uri) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/tap?transport=tcp&port=6001");
    terminal.notes_until("tapping tcp port 6001");
    let device = device("127.0.0.1", 0);
    tell(&mut socket, TapEvent::PortOpen);
    tell(&mut socket, TapEvent::Opened { device });
    tell(&mut socket, TapEvent::Received { device, data: b"ask\n" });
    tell(&mut socket, TapEvent::Write { device, module: "mod-1", data: &[0xff] });
    tell(&mut socket, TapEvent::Dropped { count: 7 });
    tell(&mut socket, TapEvent::PortClosed);
    let expected = [
        "2023-11-14T22:13:20.000042Z port     open\n",
        "2023-11-14T22:13:20.000042Z opened   127.0.0.1 @0\n",
        "2023-11-14T22:13:20.000042Z received 127.0.0.1 @0 4 bytes \"ask\\n\"\n",
        "2023-11-14T22:13:20.000042Z write    127.0.0.1 @0 by mod-1 1 bytes\n",
        "    0000  ff                                               .\n",
        "2023-11-14T22:13:20.000042Z dropped  7 messages\n",
        "2023-11-14T22:13:20.000042Z port     closed\n",
    ];
    for expected in expected {
        assert_eq!(terminal.0.printed(), expected);
    }
    terminal.0.signal(Signal::INT);
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no goodbye") };
    assert_eq!(frame.code, CloseCode::Normal);
    while socket.read().is_ok() {}
    assert_eq!(terminal.0.exits().code(), Some(0));
}

#[test]
fn a_filter_is_asked_for_and_json_is_one_object_a_line() {
    let daemon = daemon();
    let arguments = ["udp", "162", "--device", "[::1]:5000", "--driver", "mod 1", "--json"];
    let mut terminal = Terminal::start(&daemon, &arguments);
    let (mut socket, uri) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/tap?transport=udp&port=162&device=%5B%3A%3A1%5D%3A5000&module=mod+1");
    tell(&mut socket, TapEvent::Write { device: device("::1", 5000), module: "mod 1", data: b"hi" });
    let record: serde_json::Value = serde_json::from_str(&terminal.0.printed()).unwrap();
    let expected = serde_json::json!({
        "time": "2023-11-14T22:13:20.000042Z", "event": "write", "address": "::1", "port": 5000, "driver": "mod 1",
        "size": 2, "data": "hi"
    });
    assert_eq!(record, expected);
}

#[test]
fn a_daemon_that_refuses_for_now_or_stops_is_tapped_again() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
    refuse(&daemon, "503 Service Unavailable", "no room for another tap");
    terminal.notes_until("503: no room for another tap");
    terminal.notes_until("trying again in 1 s");
    let (socket, _) = admit(&daemon);
    terminal.notes_until("tapping tcp port 1");
    close(socket);
    terminal.notes_until("the session ended: the daemon closed it with 1001 the daemon stops");
    admit(&daemon);
}

#[test]
fn a_wrong_request_is_final_and_says_why() {
    for (status, error) in [
        ("401 Unauthorized", "invalid authorisation token"),
        ("400 Bad Request", "bad parameter"),
        ("404 Not Found", "no such route"),
    ] {
        let daemon = daemon();
        let mut terminal = Terminal::start(&daemon, &["tcp", "1"]);
        refuse(&daemon, status, error);
        terminal.notes_until(error);
        assert_eq!(terminal.0.exits().code(), Some(1));
    }
}

#[test]
fn a_bad_argument_is_named() {
    for (arguments, named) in [
        (&["tcp", "1", "--device", "host"][..], "--device"),
        (&["tcp", "1", "--pcap", "/nonexistent/file"], "--pcap /nonexistent/file: "),
    ] {
        let daemon = daemon();
        let mut terminal = Terminal::start(&daemon, arguments);
        terminal.notes_until(named);
        assert!(!terminal.0.exits().success());
    }
}

/// What tshark says, or `None`, loudly, where it is not there. It must not complain.
fn tshark(file: &str, arguments: &[&str]) -> Option<String> {
    match Run::of(Command::new("tshark").args(["-n", "-r", file]).args(arguments)) {
        Ok(run) => {
            assert!(run.status.success(), "{}", run.stderr);
            Some(run.stdout)
        }
        Err(error) => {
            say_skipped(&format!("no tshark, so nothing proves that captures are dissected ({error})"));
            None
        }
    }
}

/// Captures these messages into a file.
fn captured(name: &str, arguments: &[&str], events: &[TapEvent]) -> CaptureFile {
    let file = CaptureFile::new(name);
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &[arguments, &["--pcap", file.path()]].concat());
    let (mut socket, _) = admit(&daemon);
    for event in events {
        tell(&mut socket, *event);
    }
    close(socket);
    terminal.notes_until("the session ended");
    terminal.interrupt();
    file
}

#[test]
fn tshark_dissects_modbus_and_follows_its_stream() {
    // Read one holding register (Modbus/TCP): transaction 1, unit 1, function 3, and the answer, 258. The device
    // asks, as it is the one that connects.
    let ask = b"\0\x01\0\0\0\x06\x01\x03\0\0\0\x01";
    let answer = b"\0\x01\0\0\0\x05\x01\x03\x02\x01\x02";
    for (name, ip) in [("modbus4", "10.0.0.7"), ("modbus6", "2001:db8::7")] {
        let device = device(ip, 3);
        let long = vec![0; 5_000];
        let events = [
            TapEvent::Opened { device },
            TapEvent::Received { device, data: &ask[..9] },
            TapEvent::Received { device, data: &ask[9..] },
            TapEvent::Write { device, module: "mod-1", data: answer },
            TapEvent::Close { device, module: "mod-1" },
            TapEvent::Closed { device },
            // Another device, which was there before.
            TapEvent::Received { device: self::device(ip, 4), data: &long },
            TapEvent::PortClosed,
            // The ids begin again.
            TapEvent::PortOpen,
            TapEvent::Opened { device },
            TapEvent::Received { device, data: ask },
        ];
        let file = captured(name, &["tcp", "502"], &events);
        let fields = ["-Y", "modbus", "-T", "fields"];
        let Some(modbus) =
            tshark(file.path(), &[&fields[..], &["-e", "modbus.func_code", "-e", "modbus.regval_uint16"]].concat())
        else {
            return;
        };
        assert_eq!(modbus, "3\t\n3\t258\n3\t\n");
        let followed = tshark(file.path(), &["-q", "-z", "follow,tcp,raw,0"]).unwrap();
        assert!(followed.contains("000100000006010300\n") && followed.contains("000001\n"), "{followed}");
        assert!(followed.contains("0001000000050103020102\n"), "{followed}");
        // Nothing out of order, lost, malformed, or with a wrong checksum.
        let check = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
        let faults = "_ws.malformed || _ws.expert.severity >= 0x600000 \
                      || (tcp.analysis.flags && !tcp.analysis.reused_ports)";
        assert_eq!(tshark(file.path(), &[&check[..], &["-Y", faults]].concat()).unwrap(), "");
        let ends = tshark(file.path(), &["-Y", "tcp.flags.fin == 1 || tcp.flags.syn == 1"]).unwrap();
        assert_eq!(ends.lines().count(), 12, "{ends}");
        let again = tshark(file.path(), &["-q", "-z", "follow,tcp,raw,2"]).unwrap();
        assert!(again.contains("000100000006010300000001\n"), "{again}");
        let comments = tshark(file.path(), &["-T", "fields", "-e", "frame.comment", "-Y", "frame.comment"]).unwrap();
        assert_eq!(comments, "written by mod-1\n");
        let times = tshark(file.path(), &["-T", "fields", "-e", "frame.time_epoch", "-c", "1"]).unwrap();
        assert_eq!(times.trim(), "1700000000.000042000");
    }
}

#[test]
fn tshark_dissects_syslog_of_a_pipe() {
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &["udp", "1514", "--pcap", "-"]);
    let (mut socket, _) = admit(&daemon);
    let (device4, device6) = (device("10.0.0.7", 40_000), device("2001:db8::7", 40_000));
    let line = b"<165>1 2003-10-11T22:14:15.003Z host app - ID47 - hello";
    let largest = [line.as_slice(), &[b'x'; 65_000]].concat();
    for (device, data) in [(device4, line.as_slice()), (device6, line), (device4, &largest)] {
        tell(&mut socket, TapEvent::Received { device, data });
    }
    tell(&mut socket, TapEvent::Write { device: device4, module: "", data: line });
    close(socket);
    terminal.notes_until("the session ended");
    terminal.interrupt();
    let file = CaptureFile::new("syslog");
    std::fs::write(&file.0, terminal.0.printed_in_all()).unwrap();
    let as_syslog = ["-d", "udp.port==1514,syslog", "-o", "udp.check_checksum:TRUE"];
    let fields = ["-T", "fields", "-e", "syslog.facility", "-e", "udp.dstport", "-e", "udp.checksum.status"];
    let Some(syslog) = tshark(file.path(), &[&as_syslog[..], &fields].concat()) else { return };
    assert_eq!(syslog, "20\t1514\t1\n20\t1514\t1\n20\t1514\t1\n20\t40000\t1\n");
    let faults = "_ws.malformed || _ws.expert.severity >= 0x600000";
    assert_eq!(tshark(file.path(), &[&as_syslog[..], &["-Y", faults]].concat()).unwrap(), "");
    let local: IpAddr = "192.0.2.1".parse().unwrap();
    let to = tshark(file.path(), &["-T", "fields", "-e", "ip.dst", "-c", "1"]).unwrap();
    assert_eq!(to.trim(), local.to_string());
}
