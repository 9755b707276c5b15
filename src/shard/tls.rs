//! TLS of connections that come in: who the daemon is, and the handshake.
//!
//! **Invariants.** One that is let go, or late, ends wherever it is, and nothing more is computed for it. It holds no receive
//! buffer while it waits for its turn, and no state of TLS before its first byte.
//! **Not here.** Bytes after the handshake (`cipher`), whose turn it is (`turns`), how many there may be (`edge::handshakes`,
//! `secured_port`), files (`config`).

use crate::policy::certificate::{self, Certified};
use crate::protocol::wiped;
use crate::shard::cipher::{Cipher, Last};
use crate::shard::log_gate::AddressLogGate;
use crate::shard::resources::Resources;
use crate::shard::ring::{Receipt, Sent};
use crate::shard::turns::Turns;
use crate::shard::waiting::Waiting;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;

/// What a handshake may take at most: what the other end has said, and what it has not taken yet.
pub const HANDSHAKE_BYTES_MAX: usize = 128 << 10;

/// Who the daemon is to those that connect with TLS: drivers, or the devices of a port.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Certificate, key, and what is asked of the other end.
    pub config: Arc<ServerConfig>,
    /// The public key, to tell it from others by.
    pub public_key: Arc<[u8]>,
    /// When the first of its certificates expires, in seconds since 1970.
    pub expires_s: i64,
}

impl Identity {
    /// For drivers: TLS 1.2 and 1.3 for HTTP/1.1; `verifier` is what whoever connects must pass, if anything.
    ///
    /// # Errors
    /// What the cryptography says; none is expected.
    pub fn for_drivers(
        certified: Certified,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, rustls::Error> {
        let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        Identity::new(certified, verifier, vec![b"http/1.1".to_vec()])
    }

    /// For devices: TLS 1.2 and 1.3 for whatever they speak inside.
    ///
    /// # Errors
    /// What the cryptography says; none is expected.
    pub fn for_devices(certified: Certified) -> Result<Self, rustls::Error> {
        Identity::new(certified, WebPkiClientVerifier::no_client_auth(), Vec::new())
    }

    /// Sessions are resumed by tickets, whose keys are this identity's own and in its memory alone.
    fn new(
        certified: Certified,
        verifier: Arc<dyn ClientCertVerifier>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Self, rustls::Error> {
        let Certified { key, public_key, expires_s } = certified;
        let mut config = ServerConfig::builder_with_provider(Arc::new(certificate::provider()))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = protocols;
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new()?;
        Ok(Identity { config: Arc::new(config), public_key, expires_s })
    }
}

/// What the TLS connections of one shard share.
#[derive(Debug)]
pub struct Tls {
    identity: RefCell<Option<Identity>>,
    turns: Turns,
    /// For lines about handshakes that failed.
    pub failed_log: AddressLogGate,
}

/// A handshake that is over.
#[derive(Debug)]
pub struct Secured {
    /// What the connection's bytes are wrapped in.
    pub cipher: Cipher,
    /// What the other end has sent behind its handshake; what ends its stream there, the cipher says again.
    pub first: Vec<u8>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFault {
    /// What came is not TLS, or nothing could be agreed on. The other end was told.
    #[error("{0}")]
    Tls(io::Error),
    /// It took too long, or was let go for another.
    #[error("it took too long, or was let go for another")]
    Late,
    /// The other end is gone.
    #[error("the other end left")]
    Gone,
}

impl Tls {
    /// TLS with this identity; `None` where none is spoken.
    pub fn new(identity: Option<Identity>) -> Self {
        Tls { identity: RefCell::new(identity), turns: Turns::default(), failed_log: AddressLogGate::default() }
    }

    /// Shows another identity from here on. Sessions of the one before go on, and none of them is resumed.
    pub fn identify(&self, identity: Identity) {
        *self.identity.borrow_mut() = Some(identity);
    }

    /// The identity of the moment.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.borrow().clone()
    }
}

/// Shakes hands with whoever has connected, and has sent `read` already, for as long as the limits say at most.
///
/// # Errors
/// Why it came to nothing. The socket is to be shut down next.
pub async fn shake_hands(
    waiting: &Waiting,
    read: Vec<u8>,
    config: Arc<ServerConfig>,
    resources: &Resources,
) -> Result<Secured, HandshakeFault> {
    let _deadline = waiting.bound(resources.limits().tls_handshake_time_max);
    let shaken = compute_in_turns(waiting, read, config, resources).await;
    // However it looked: its sends are given up from then on.
    if waiting.is_let_go() { Err(HandshakeFault::Late) } else { shaken }
}

async fn compute_in_turns(
    waiting: &Waiting,
    mut read: Vec<u8>,
    config: Arc<ServerConfig>,
    resources: &Resources,
) -> Result<Secured, HandshakeFault> {
    let stream = waiting.stream();
    let fault = |error| HandshakeFault::Tls(io::Error::other(error));
    let mut claim = resources.tls.turns.claim();
    let (mut first, mut begun) = (Vec::new(), None);
    loop {
        if read.is_empty() {
            read = match stream.receive(&resources.pool).await {
                Ok(Receipt::Data(bytes)) => bytes.to_vec(),
                Ok(Receipt::Interrupted) => return Err(HandshakeFault::Late),
                Ok(Receipt::End) | Err(_) => return Err(HandshakeFault::Gone),
            };
        }
        let turn = claim.turn(waiting).await.ok_or(HandshakeFault::Late)?;
        let cipher = match begun.take() {
            Some(cipher) => cipher,
            None => Cipher::of(ServerConnection::new(config.clone()).map_err(fault)?),
        };
        let mut opened = cipher.open(&read);
        drop(turn);
        let answer = cipher.pending();
        let done = cipher.handshake_kind();
        match opened.last.take() {
            None => {}
            // What stands behind a handshake that is over is met again by whoever goes on.
            Some(_) if done.is_some() => {}
            Some(Last::Farewell) => return Err(HandshakeFault::Gone),
            Some(Last::Fault(error)) => {
                // The alert; whoever does not take it learns of the end alone.
                let _ = stream.send_now(&answer);
                return Err(HandshakeFault::Tls(error));
            }
        }
        wiped::extend(&mut first, &opened.data);
        opened.wipe();
        if !answer.is_empty() {
            claim.answered();
        }
        match stream.send_all(answer, |_| {}).await {
            Ok(Sent::Whole) => {}
            Ok(Sent::Abandoned) => return Err(HandshakeFault::Late),
            // What it sent before it left counts.
            Err(_) if done.is_some() => {}
            Err(_) => return Err(HandshakeFault::Gone),
        }
        if let Some(kind) = done {
            return Ok(Secured { cipher, first, is_resumed: kind == HandshakeKind::Resumed });
        }
        read.clear();
        begun = Some(cipher);
    }
}
