//! TLS of connections that come in: who the daemon is, and the handshake.
//!
//! **Invariants.** Handshakes of a shard take turns, between which its loop goes on, and at most half of its time. One has
//! a deadline, and holds no receive buffer while it waits for its turn.
//! **Not here.** Bytes after the handshake (`cipher`), how many may wait (`edge::handshakes`), files (`config`).

use crate::policy::certificate::{self, Certified};
use crate::shard::cipher::{Cipher, Last};
use crate::shard::log_gate::AddressLogGate;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Receipt, Sent, Stream, Timer};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Time that handshakes take in a row before they pause for as long.
const BURST: Duration = Duration::from_millis(4);
/// The longest such pause: where the process had to wait for a core, that time was none of the handshakes'.
const PAUSE_MAX: Duration = Duration::from_millis(20);

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
    turns: Semaphore,
    /// What handshakes took since they last paused.
    spent: Cell<Duration>,
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
        Tls {
            identity: RefCell::new(identity),
            turns: Semaphore::new(1),
            spent: Cell::default(),
            failed_log: AddressLogGate::default(),
        }
    }

    /// Shows another identity from here on. Sessions of the one before go on, and none of them is resumed.
    pub fn identify(&self, identity: Identity) {
        *self.identity.borrow_mut() = Some(identity);
    }

    /// The identity of the moment.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.borrow().clone()
    }

    /// Waits for a turn of computing a handshake's next step.
    async fn turn(&self) -> Turn<'_> {
        // It is never closed.
        let permit = self.turns.acquire().await.ok();
        if self.spent.get() >= BURST {
            tokio::time::sleep(self.spent.take().min(PAUSE_MAX)).await;
        } else {
            ring::turn().await;
        }
        Turn { tls: self, began_at: Instant::now(), _permit: permit }
    }
}

/// A turn while it lasts.
struct Turn<'a> {
    tls: &'a Tls,
    began_at: Instant,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.tls.spent.set(self.tls.spent.get() + self.began_at.elapsed());
    }
}

/// Shakes hands with whoever has connected, and has sent `read` already, for `time_max` at most.
///
/// # Errors
/// Why it came to nothing. The socket is to be shut down next.
pub async fn shake_hands(
    stream: &Stream,
    read: Vec<u8>,
    config: Arc<ServerConfig>,
    time_max: Duration,
    resources: &Resources,
) -> Result<Secured, HandshakeFault> {
    let connection = ServerConnection::new(config).map_err(|error| HandshakeFault::Tls(io::Error::other(error)))?;
    let cipher = Cipher::of(connection);
    let (slow, is_late) = (stream.clone(), Rc::new(Cell::new(false)));
    let told = is_late.clone();
    let _deadline = Timer::spawn(async move {
        tokio::time::sleep(time_max).await;
        told.set(true);
        slow.abandon_send();
        slow.interrupt();
    });
    let (mut first, mut read) = (Vec::new(), Some(read).filter(|read| !read.is_empty()));
    loop {
        let bytes = match read.take() {
            Some(read) => read,
            None => match stream.receive(&resources.pool).await {
                Ok(Receipt::Data(bytes)) => bytes.to_vec(),
                Ok(Receipt::Interrupted) => return Err(HandshakeFault::Late),
                Ok(Receipt::End) | Err(_) => return Err(HandshakeFault::Gone),
            },
        };
        let turn = resources.tls.turn().await;
        let opened = cipher.open(&bytes);
        drop(turn);
        let answer = cipher.pending();
        let done = cipher.handshake_kind();
        match opened.last {
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
        first.extend_from_slice(&opened.data);
        match stream.send_all(answer, |_| {}).await {
            Ok(Sent::Whole) => {}
            Ok(Sent::Abandoned) => return Err(HandshakeFault::Late),
            // What it sent before it left counts.
            Err(_) if done.is_some() => {}
            Err(_) => return Err(HandshakeFault::Gone),
        }
        if let Some(kind) = done {
            // Its sends are given up from then on.
            if is_late.get() {
                return Err(HandshakeFault::Late);
            }
            return Ok(Secured { cipher, first, is_resumed: kind == HandshakeKind::Resumed });
        }
    }
}
