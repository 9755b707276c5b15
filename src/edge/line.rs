//! A connection to the API: its socket, what its bytes are wrapped in, and who is at its other end.
//!
//! **Invariants.** A connection that came with TLS is given out with its handshake done; each handshake is counted once.
//! **Not here.** The handshake itself (`shard::tls`), what is said over the line (`api`, `session`).

use crate::policy::counts::Count;
use crate::protocol::http::Written;
use crate::shard::accept::Entrance;
use crate::shard::cipher::Cipher;
use crate::shard::resources::Resources;
use crate::shard::ring::{Sent, Stream, Timer};
use crate::shard::tls::{HandshakeFault, shake_hands};
use crate::shard::waiting::Waiting;
use bytes::Bytes;
use std::net::{Shutdown, SocketAddr};

/// One connection to the API.
pub struct Line {
    /// Its socket.
    pub stream: Stream,
    /// What its bytes are wrapped in.
    pub cipher: Cipher,
    /// The other end, in canonical form.
    pub remote: SocketAddr,
    /// The port of the API that it came to.
    pub server_port: u16,
}

impl Line {
    /// A line of whoever has sent `first` already, and what was received of it behind the handshake; `None` where that
    /// failed.
    pub async fn open(
        waiting: &Waiting,
        remote: SocketAddr,
        entrance: Entrance,
        first: Vec<u8>,
        resources: &Resources,
    ) -> Option<(Self, Vec<u8>)> {
        match entrance {
            Entrance::Plain => {
                let server_port = server_port(entrance, resources);
                let stream = waiting.stream().clone();
                Some((Line { stream, cipher: Cipher::Plain, remote, server_port }, first))
            }
            Entrance::Tls => secure(waiting, remote, first, resources).await,
        }
    }

    /// Sends `out` whole, or gives up after the time that a request's head may take: then, and where the other end or its
    /// TLS is gone, false. Where `waiting` is let go, no more than fits into the socket at once is sent.
    pub async fn send(&self, out: Written, waiting: Option<&Waiting>, resources: &Resources) -> bool {
        let _deadline = self.bound(waiting, resources);
        for piece in [Bytes::from(out.own), Bytes::from_static(out.shared)] {
            if piece.is_empty() {
                continue;
            }
            let Ok(sealed) = self.cipher.seal(piece) else { return false };
            if !self.send_sealed(sealed).await {
                return false;
            }
        }
        true
    }

    /// Ends the line: says so, or what is wrong with the other end's TLS, shuts this side down, and waits a little for the
    /// other end to do the same, unless it is let go.
    pub async fn end(&self, waiting: &Waiting, resources: &Resources) {
        let farewell = self.cipher.farewell();
        let told = farewell.is_empty() || {
            let _deadline = self.bound(Some(waiting), resources);
            self.send_sealed(farewell).await
        };
        if told {
            linger(waiting, resources).await;
        }
    }

    fn bound(&self, waiting: Option<&Waiting>, resources: &Resources) -> Timer {
        waiting.unwrap_or(&Waiting::new(&self.stream)).bound(resources.limits().request_head_time_max)
    }

    async fn send_sealed(&self, sealed: Bytes) -> bool {
        matches!(self.stream.send_all(sealed, |_| {}).await, Ok(Sent::Whole))
    }
}

/// The port of the API at an entrance.
pub fn server_port(entrance: Entrance, resources: &Resources) -> u16 {
    let access = &resources.rules().access;
    match entrance {
        Entrance::Plain => access.api_port,
        Entrance::Tls => access.api_tls_port.unwrap_or_default(),
    }
}

async fn linger(waiting: &Waiting, resources: &Resources) {
    let _bound = waiting.bound_linger();
    waiting.stream().shutdown(Shutdown::Write);
    let time = resources.limits().linger_time_max;
    waiting.stream().linger(&resources.pool, time, time).await;
}

async fn secure(
    waiting: &Waiting,
    remote: SocketAddr,
    first: Vec<u8>,
    resources: &Resources,
) -> Option<(Line, Vec<u8>)> {
    // There is one wherever there is a listener for it.
    let (identity, server_port) = (resources.tls.identity()?, server_port(Entrance::Tls, resources));
    let shaken = shake_hands(waiting, first, identity.config, resources).await;
    let (count, fault) = match &shaken {
        Ok(secured) if secured.is_resumed => (Count::TlsHandshakesResumed, None),
        Ok(_) => (Count::TlsHandshakesFull, None),
        Err(fault @ HandshakeFault::Tls(_)) => (Count::TlsHandshakesFailed, Some(fault)),
        Err(fault @ HandshakeFault::Late) => (Count::TlsHandshakesLate, Some(fault)),
        Err(HandshakeFault::Gone) => (Count::TlsHandshakesGone, None),
    };
    resources.counts.one(count);
    if let Some(reason) = fault
        && let Some(left_out) = resources.tls.failed_log.pass(remote.ip())
    {
        tracing::warn!(remote_ip = %remote.ip(), server_port, %reason, left_out, "TLS handshake failed");
    }
    if matches!(fault, Some(HandshakeFault::Tls(_))) {
        // Else unread bytes would destroy the alert on its way.
        linger(waiting, resources).await;
    }
    let secured = shaken.ok()?;
    let stream = waiting.stream().clone();
    Some((Line { stream, cipher: secured.cipher, remote, server_port }, secured.first))
}
