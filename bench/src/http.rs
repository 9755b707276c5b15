//! Plain requests to the daemon's API, and its report of each shard.
//!
//! **Invariants.** Every request ends within its time limit and closes its connection.
//! **Not here.** The upgrade to a WebSocket (`driver`).

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: String,
}

/// What the API reports of one shard, or of all together.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ShardReport {
    /// Joined drivers.
    pub sessions: u64,
    /// Open ports.
    pub ports: u64,
    /// Connected devices.
    pub devices: u64,
    /// Tasks that have not ended.
    pub tasks: u64,
    /// Receive buffers in use.
    pub buffers_out: u64,
    /// Receive buffers that cannot come back.
    pub buffers_lost: u64,
    /// What was counted, by name.
    pub counts: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Shards {
    shards: Vec<ShardReport>,
}

/// Sends one GET and reads its answer whole.
///
/// # Errors
/// What the socket says; `TimedOut` after 10 s; `InvalidData` for something that is no answer.
pub async fn get(api: SocketAddr, path: &str, token: &str) -> io::Result<Answer> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    exchange(api, request.as_bytes()).await
}

/// Sends these bytes as a request and reads the answer to the end of the connection.
///
/// # Errors
/// As [`get`].
pub async fn exchange(api: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let exchanged = async {
        let mut stream = TcpStream::connect(api).await?;
        stream.write_all(request).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        parse(&bytes).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    tokio::time::timeout(ANSWER_TIME_MAX, exchanged).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What every shard reports, in the order of their indices.
///
/// # Errors
/// As [`get`]; `Unsupported` where there is no such route.
pub async fn each_shard(api: SocketAddr, base: &str, token: &str) -> io::Result<Vec<ShardReport>> {
    let answer = get(api, &format!("{base}/shards"), token).await?;
    if answer.status == 404 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let Shards { shards } = serde_json::from_str(&answer.body)?;
    Ok(shards)
}

/// The sum of what every shard reports.
///
/// # Errors
/// As [`get`].
pub async fn shards(api: SocketAddr, token: &str) -> io::Result<ShardReport> {
    let mut sum = ShardReport::default();
    for shard in each_shard(api, "/api/server", token).await? {
        sum.sessions += shard.sessions;
        sum.ports += shard.ports;
        sum.devices += shard.devices;
        sum.tasks += shard.tasks;
        sum.buffers_out += shard.buffers_out;
        sum.buffers_lost += shard.buffers_lost;
        for (name, count) in shard.counts {
            *sum.counts.entry(name).or_default() += count;
        }
    }
    Ok(sum)
}

impl ShardReport {
    /// A count by its name, 0 where there is none.
    pub fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}
