//! Who the daemon is to devices with TLS: certificates that drivers bring, that the operator keeps, or that are made here.
//!
//! **Invariants.** Keys are read, made and put together on a thread of their own, one after the other, and never on a
//! shard's. The text of a private key is wiped once TLS has it, and is in no fault and no log. The usual certificate is made once.
//! **Not here.** Whether a certificate is good (`policy::certificate`), and what ports do with it (`shard::device`).

use crate::edge::answers::{error, parameter_error};
use crate::policy::certificate::{self, CertificateFault, Certified, Chain};
use crate::protocol::http::{Answer, RequestHead};
use crate::shard::tls::Identity;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Wishes that wait for the thread; whoever has another waits.
const WAITING_MAX: usize = 16;
/// The longest file of a certificate or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest name of a certificate that is kept.
const NAME_BYTES_MAX: usize = 64;

/// What a private key in text is kept in: wiped when it drops.
type Key = Zeroizing<Vec<u8>>;

/// Which certificate a join asks for.
pub enum Wish {
    /// The one that is made once.
    Usual,
    /// One that is made for this key.
    ForKey(Key),
    /// This one.
    Own {
        /// The chain, in PEM.
        certificate: Vec<u8>,
        /// Its key, in PEM.
        key: Key,
    },
    /// One that the operator keeps.
    Kept(String),
}

/// Why there is no such certificate: the parameter that is to blame, and what is wrong with it.
struct Refusal {
    parameter: &'static str,
    reason: String,
}

/// The way to the thread that makes identities; clones lead to the same.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    thread: Arc<OnceLock<mpsc::Sender<Order>>>,
    folder: Option<Arc<Path>>,
}

/// A wish, where certificates are kept, and where the identity goes.
struct Order {
    wish: Wish,
    folder: Option<Arc<Path>>,
    reply: oneshot::Sender<Result<Identity, Refusal>>,
}

impl Wish {
    /// What the parameters of a join ask for.
    ///
    /// # Errors
    /// The answer that refuses them.
    pub fn parse(head: &RequestHead) -> Result<Wish, Answer> {
        let bad = |name, restriction: &str| parameter_error(400, "bad parameter", name, restriction);
        let certificate = head.parameter("certificate").filter(|text| !text.is_empty());
        let certificate = certificate.map(|text| text.into_owned().into_bytes());
        let key = head.secret_parameter("private_key").filter(|text| !text.is_empty());
        match (head.parameter("tls"), certificate, key) {
            (None, None, None) => Ok(Wish::Usual),
            (None, None, Some(key)) => Ok(Wish::ForKey(key)),
            (None, Some(certificate), Some(key)) => Ok(Wish::Own { certificate, key }),
            (None, Some(_), None) => Err(bad("certificate", "needs its private_key beside it")),
            (Some(name), None, None) if is_name(&name) => Ok(Wish::Kept(name.into_owned())),
            (Some(_), None, None) => {
                Err(bad("tls", "must be a name of letters, digits, dots, hyphens and underscores"))
            }
            (Some(_), ..) => Err(bad("tls", "must stand without certificate and private_key")),
        }
    }
}

/// A name that leads to no other folder.
fn is_name(name: &str) -> bool {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_plain)
}

impl Identities {
    /// The same way, where certificates are kept in `folder`, if in any. The thread starts with the first wish.
    pub fn kept_in(&self, folder: Option<Arc<Path>>) -> Self {
        Identities { thread: self.thread.clone(), folder }
    }

    /// Fulfils a wish, which may take a second the first time.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub async fn fulfil(&self, wish: Wish) -> Result<Identity, Answer> {
        // Both ends only where the thread could not be started, or a defect ended it.
        let failed = || error(503, "no certificate can be made at the moment");
        let (reply, made) = oneshot::channel();
        let thread = self.thread.get_or_init(start);
        thread.send(Order { wish, folder: self.folder.clone(), reply }).await.map_err(|_| failed())?;
        made.await
            .map_err(|_| failed())?
            .map_err(|Refusal { parameter, reason }| parameter_error(400, "bad parameter", parameter, &reason))
    }
}

fn start() -> mpsc::Sender<Order> {
    let (orders, waiting) = mpsc::channel(WAITING_MAX);
    let work = move || fulfil_all(waiting);
    if let Err(error) = std::thread::Builder::new().name("certificates".into()).spawn(work) {
        tracing::error!(%error, "the thread for certificates cannot be started");
    }
    orders
}

/// The thread: for as long as the process lives.
fn fulfil_all(mut orders: mpsc::Receiver<Order>) {
    let mut usual = None;
    while let Some(Order { wish, folder, reply }) = orders.blocking_recv() {
        // Whoever asked may have gone.
        let _ = reply.send(fulfil(wish, folder.as_deref(), &mut usual));
    }
}

fn fulfil(wish: Wish, folder: Option<&Path>, usual: &mut Option<Identity>) -> Result<Identity, Refusal> {
    match wish {
        Wish::Usual => match usual {
            Some(identity) => Ok(identity.clone()),
            None => {
                let identity = identity("tls", certificate::made().map_err(|fault| refusal("tls", &fault))?)?;
                Ok(usual.insert(identity).clone())
            }
        },
        Wish::ForKey(key) => {
            identity("private_key", certificate::self_signed(&key).map_err(|fault| refusal("private_key", &fault))?)
        }
        Wish::Own { certificate, key } => {
            let blamed = |(part, fault): (Part, _)| refusal(part.pick("certificate", "private_key"), &fault);
            identity("certificate", put_together(&certificate, &key).map_err(blamed)?)
        }
        Wish::Kept(name) => {
            let folder = folder.ok_or_else(|| refusal("tls", &"no certificates are kept here (--tls-device-certs)"))?;
            let read = |ending| {
                let text = read(&folder.join(format!("{name}.{ending}")));
                text.map_err(|error| refusal("tls", &format!("the file {name}.{ending} cannot be read: {error}")))
            };
            let (certificate, key) = (read("crt")?, read("key")?);
            let blamed = |(part, fault): (Part, CertificateFault)| {
                refusal("tls", &format!("the file {name}.{}: {fault}", part.pick("crt", "key")))
            };
            identity("tls", put_together(&certificate, &key).map_err(blamed)?)
        }
    }
}

/// Which of two texts is to blame.
#[derive(Debug, Clone, Copy)]
enum Part {
    Certificate,
    Key,
}

impl Part {
    fn pick(self, certificate: &'static str, key: &'static str) -> &'static str {
        match self {
            Part::Certificate => certificate,
            Part::Key => key,
        }
    }
}

fn put_together(certificate: &[u8], key: &[u8]) -> Result<Certified, (Part, CertificateFault)> {
    let chain = Chain::parse(certificate).map_err(|fault| (Part::Certificate, fault))?;
    certificate::parse_key(key).and_then(|key| chain.with_key(key)).map_err(|fault| (Part::Key, fault))
}

fn identity(parameter: &'static str, certified: Certified) -> Result<Identity, Refusal> {
    Identity::for_devices(certified).map_err(|error| refusal(parameter, &error))
}

fn refusal(parameter: &'static str, reason: &dyn std::fmt::Display) -> Refusal {
    Refusal { parameter, reason: reason.to_string() }
}

fn read(path: &Path) -> std::io::Result<Key> {
    let mut text = Zeroizing::new(Vec::new());
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}
