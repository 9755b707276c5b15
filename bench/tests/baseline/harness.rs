//! A baseline as a process, and a driver of it.
//!
//! **Invariants.** Only the process that was started here is signalled; it is killed when its value drops. Every wait for
//! a message is bounded.
//! **Not here.** What is expected of it.

use dispatch_bench::driver::{Join, JoinError, join};
use dispatch_bench::tunnel::Wire;
use dispatch_bench::websocket::{FIN, Frame, Frames, append, append_close, opcode};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uring_dispatch::policy::port_id::Transport;
use uring_dispatch::protocol::message::{DeviceAddr, FromDriver, ToDriver};

pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long anything may take that is waited for.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
const FIRST_PORT: u16 = 17_000;
const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

/// A port that nobody uses, nor any other test here.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(port < 20_000, "no port is free");
        if TcpListener::bind((LOCALHOST, port)).is_ok() && UdpSocket::bind((LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A running baseline.
pub struct Baseline {
    child: Child,
    pub api: SocketAddr,
    transport: Transport,
}

impl Baseline {
    pub fn start(kind: &str) -> Self {
        let api = SocketAddr::from((LOCALHOST, free_port()));
        let mut child = Command::new(env!("CARGO_BIN_EXE_baseline"))
            .args([kind, "--api", &api.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, format!("listening on {api}\n"));
        let transport = if kind == "udp" { Transport::Udp } else { Transport::Tcp };
        Baseline { child, api, transport }
    }

    pub async fn try_join(&self, port: u16, receive_bytes: Option<u32>) -> Result<Driver, JoinError> {
        let join_port = Join {
            api: self.api,
            wire: Wire::Plain,
            base: "/api/server",
            transport: self.transport,
            port,
            devices: Wire::Plain,
            accept: "127.0.0.1",
            token: "none",
            receive_bytes,
        };
        let joined = join(&join_port).await?;
        let mut frames = Frames::default();
        frames.push(&joined.first);
        Ok(Driver { stream: joined.stream, frames })
    }

    pub async fn join(&self, port: u16) -> Driver {
        self.try_join(port, None).await.expect("a join")
    }

    /// Ends it by SIGTERM.
    pub fn terminate(mut self) -> ExitStatus {
        // Not reaped yet: the id is still ours.
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, Signal::TERM).expect("a signal");
        self.child.wait().expect("an end")
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a driver was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Opened(u64),
    Closed(u64),
    Received(u64, Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
    /// The connection ended.
    End,
}

/// A joined driver.
pub struct Driver {
    stream: TcpStream,
    frames: Frames,
}

impl Driver {
    /// The next thing it is told.
    pub async fn next(&mut self) -> Told {
        tokio::time::timeout(WAIT_MAX, self.read()).await.expect("something to be told")
    }

    async fn read(&mut self) -> Told {
        let mut bytes = vec![0; 65_536];
        loop {
            if let Some(frame) = self.frames.next_frame().expect("an allowed frame") {
                return told(frame);
            }
            match self.stream.read(&mut bytes).await.expect("bytes") {
                0 => return Told::End,
                count => self.frames.push(&bytes[..count]),
            }
        }
    }

    /// Sends these messages with one write.
    pub async fn send(&mut self, messages: &[FromDriver<'_>]) {
        let mut out = Vec::new();
        for message in messages {
            let mut payload = Vec::new();
            message.encode(&mut payload);
            append(&mut out, FIN | opcode::BINARY, &payload, MASK);
        }
        self.send_bytes(&out).await;
    }

    pub async fn ping(&mut self, payload: &[u8]) {
        let mut out = Vec::new();
        append(&mut out, FIN | opcode::PING, payload, MASK);
        self.send_bytes(&out).await;
    }

    pub async fn say_goodbye(&mut self) {
        let mut out = Vec::new();
        append_close(&mut out, 1000, "", MASK);
        self.send_bytes(&out).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        tokio::time::timeout(WAIT_MAX, self.stream.write_all(bytes)).await.expect("room").expect("a write");
    }
}

fn told(frame: Frame<'_>) -> Told {
    match frame {
        Frame::Binary(message) => match ToDriver::decode(message).expect("a message") {
            ToDriver::Opened { device } => Told::Opened(device.id_or_port),
            ToDriver::Closed { device } => Told::Closed(device.id_or_port),
            ToDriver::Received { device, data } => {
                assert_eq!(device.ip.as_bytes(), b"127.0.0.1");
                Told::Received(device.id_or_port, data.to_vec())
            }
        },
        Frame::Pong(payload) => Told::Pong(payload.to_vec()),
        Frame::Close(code, _) => Told::Close(code),
        Frame::Ping(_) => panic!("a baseline does not ping"),
    }
}

/// How a driver names a device.
pub fn device(id_or_port: u64) -> DeviceAddr {
    DeviceAddr { ip: Some(LOCALHOST), id_or_port }
}

/// Bytes that tell their place in a stream, and the stream they are of.
pub fn pattern(stream: u64, from: usize, len: usize) -> Vec<u8> {
    let key = stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = |at: usize| (key ^ at as u64).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 40;
    (from..from + len).map(|at| byte(at) as u8).collect()
}
