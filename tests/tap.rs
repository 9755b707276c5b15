//! `dispatch tap` against a daemon that the test plays, and its captures as tshark reads them.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use uring_dispatch::protocol::message::{DeviceName, Encode, IpText};
use uring_dispatch::protocol::tapped::{TapEvent, Tapped};

/// 2023-11-14T22:13:20.000042Z.
const TIME_US: u64 = 1_700_000_000_000_042;

/// The program under test. It is killed when a test fails midway.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Terminal {
    fn start(daemon: &TcpListener, arguments: &[&str]) -> Terminal {
        let url = format!("http://{}", daemon.local_addr().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_dispatch"))
            .arg("tap")
            .args(arguments)
            .args(["--url", &url])
            .env_clear()
            .envs([("SECRETS_PATH", "/nonexistent"), ("SERVER_SECRET", "hunter2"), ("DISPATCH_CONFIG", "/dev/null")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Terminal(child)
    }

    fn output(&mut self) -> BufReader<impl Read + use<>> {
        BufReader::new(self.0.stdout.take().unwrap())
    }

    fn notes(&mut self) -> Notes<impl BufRead + use<>> {
        Notes(BufReader::new(self.0.stderr.take().unwrap()))
    }

    /// Interrupts it and waits for its end, which has to be a good one.
    fn interrupt(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

struct Notes<R>(R);

impl<R: BufRead> Notes<R> {
    /// Reads notes until one has this text.
    fn until(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "no note says {text}");
            assert!(!line.contains("hunter2"), "{line}");
            if line.contains(text) {
                return line;
            }
        }
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
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Takes a tap in; tells its request's path and query.
fn admit(daemon: &TcpListener) -> (WebSocket<TcpStream>, String) {
    let (stream, _) = daemon.accept().unwrap();
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
    let (mut stream, _) = daemon.accept().unwrap();
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
    let (mut output, mut notes) = (terminal.output(), terminal.notes());
    let (mut socket, uri) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/tap?transport=tcp&port=6001");
    notes.until("tapping tcp port 6001");
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
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
    }
    kill_process(Pid::from_child(&terminal.0), Signal::INT).unwrap();
    let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no goodbye") };
    assert_eq!(frame.code, CloseCode::Normal);
    while socket.read().is_ok() {}
    assert_eq!(terminal.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_filter_is_asked_for_and_json_is_one_object_a_line() {
    let daemon = daemon();
    let arguments = ["udp", "162", "--device", "[::1]:5000", "--driver", "mod 1", "--json"];
    let mut terminal = Terminal::start(&daemon, &arguments);
    let mut output = terminal.output();
    let (mut socket, uri) = admit(&daemon);
    assert_eq!(uri, "/api/dispatch/v1/tap?transport=udp&port=162&device=%5B%3A%3A1%5D%3A5000&module=mod+1");
    tell(&mut socket, TapEvent::Write { device: device("::1", 5000), module: "mod 1", data: b"hi" });
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
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
    let mut notes = terminal.notes();
    refuse(&daemon, "503 Service Unavailable", "no room for another tap");
    notes.until("503: no room for another tap");
    notes.until("trying again in 1 s");
    let (socket, _) = admit(&daemon);
    notes.until("tapping tcp port 1");
    close(socket);
    notes.until("the session ended: the daemon closed it with 1001 the daemon stops");
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
        let mut notes = terminal.notes();
        refuse(&daemon, status, error);
        notes.until(error);
        assert_eq!(terminal.0.wait().unwrap().code(), Some(1));
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
        let mut notes = String::new();
        terminal.0.stderr.take().unwrap().read_to_string(&mut notes).unwrap();
        assert!(notes.contains(named), "{notes}");
        assert!(!terminal.0.wait().unwrap().success());
    }
}

/// What tshark says, or `None`, loudly, where it is not there. It must not complain.
fn tshark(file: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new("tshark").args(["-n", "-r", file]).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: no tshark, so nothing proves that captures are dissected ({error})");
            return None;
        }
    };
    let (text, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaints}");
    Some(text)
}

/// Captures these messages into a file.
fn captured(name: &str, arguments: &[&str], events: &[TapEvent]) -> CaptureFile {
    let file = CaptureFile::new(name);
    let daemon = daemon();
    let mut terminal = Terminal::start(&daemon, &[arguments, &["--pcap", file.path()]].concat());
    let mut notes = terminal.notes();
    let (mut socket, _) = admit(&daemon);
    for event in events {
        tell(&mut socket, *event);
    }
    close(socket);
    notes.until("the session ended");
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
    let (mut output, mut notes) = (terminal.output(), terminal.notes());
    // A pipe holds less than the largest datagram.
    let piped = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let (mut socket, _) = admit(&daemon);
    let (device4, device6) = (device("10.0.0.7", 40_000), device("2001:db8::7", 40_000));
    let line = b"<165>1 2003-10-11T22:14:15.003Z host app - ID47 - hello";
    let largest = [line.as_slice(), &[b'x'; 65_000]].concat();
    for (device, data) in [(device4, line.as_slice()), (device6, line), (device4, &largest)] {
        tell(&mut socket, TapEvent::Received { device, data });
    }
    tell(&mut socket, TapEvent::Write { device: device4, module: "", data: line });
    close(socket);
    notes.until("the session ended");
    terminal.interrupt();
    let bytes = piped.join().unwrap();
    let file = CaptureFile::new("syslog");
    std::fs::write(&file.0, bytes).unwrap();
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
