//! A driver's side of a join: the upgrade request, and its answer.
//!
//! **Invariants.** Every join is bounded in time. Nothing that follows the answer is lost.
//! **Not here.** Frames (`websocket`) and messages (the daemon's own codec).

use crate::tunnel::Wire;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use uring_dispatch::policy::port_id::Transport;

/// How long the answer to a join may take.
const JOIN_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer's head at most.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The key of RFC 6455 section 1.3, and what it is answered with.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const KEY_ANSWER: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A join.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    /// Where the daemon listens for drivers.
    pub api: SocketAddr,
    /// How it is spoken to there.
    pub wire: Wire,
    /// One of the two base paths.
    pub base: &'a str,
    /// The port's transport.
    pub transport: Transport,
    /// The port's number.
    pub port: u16,
    /// How devices speak on a TCP port.
    pub devices: Wire,
    /// The accept list, as it is written.
    pub accept: &'a str,
    /// The token.
    pub token: &'a str,
    /// The socket's receive buffer; a small one makes a driver that does not read felt soon.
    pub receive_bytes: Option<u32>,
}

/// What a join came to.
#[derive(Debug)]
pub struct Joined {
    /// The driver's socket.
    pub stream: TcpStream,
    /// Bytes that followed the answer.
    pub first: Vec<u8>,
}

/// Why a join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The socket says so.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The daemon says so.
    #[error("refused with {status}: {body}")]
    Refused {
        /// The status.
        status: u16,
        /// What came of the body.
        body: String,
    },
    /// The answer is none, or not to this key.
    #[error("no answer to an upgrade: {0}")]
    NotAnAnswer(String),
}

/// Joins a port.
///
/// # Errors
/// [`JoinError`].
pub async fn join(join: &Join<'_>) -> Result<Joined, JoinError> {
    tokio::time::timeout(JOIN_TIME_MAX, upgrade(join))
        .await
        .unwrap_or_else(|_| Err(JoinError::Io(io::ErrorKind::TimedOut.into())))
}

async fn upgrade(join: &Join<'_>) -> Result<Joined, JoinError> {
    let socket = if join.api.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = join.receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    let mut stream = socket.connect(join.api).await?;
    stream.set_nodelay(true)?;
    stream = join.wire.over(stream).await?;
    stream.write_all(request(join).as_bytes()).await?;
    let mut bytes = Vec::new();
    let head_bytes = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0 {
            return Err(JoinError::NotAnAnswer(String::from_utf8_lossy(&bytes).into_owned()));
        }
    };
    let first = bytes.split_off(head_bytes);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    match status {
        Some(101) if head.contains(KEY_ANSWER) => Ok(Joined { stream, first }),
        Some(status) if status != 101 => {
            Err(JoinError::Refused { status, body: String::from_utf8_lossy(&first).into_owned() })
        }
        _ => Err(JoinError::NotAnAnswer(head)),
    }
}

fn request(join: &Join<'_>) -> String {
    let Join { api, base, transport, port, accept, token, .. } = join;
    let route = if join.devices == Wire::Tls { "tls" } else { transport.name() };
    let accept = accept.replace(' ', "%20");
    format!(
        "GET {base}/{route}_dispatch?port={port}&accept={accept} HTTP/1.1\r\nHost: {api}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         Authorization: Bearer {token}\r\nX-Module-ID: mod-bench\r\n\r\n"
    )
}
