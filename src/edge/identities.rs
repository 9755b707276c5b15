//! Who the daemon is to devices with TLS: certificates that drivers bring, that the operator keeps, or that are made here.
//!
//! **Invariants.** Keys are read, made and put together on threads of their own, one after the other, and never on a
//! shard's; a file that cannot be read for a while holds back only joins that name one. Who waits does so for a bounded
//! time. The text of a private key is wiped once TLS has it, and is in no fault and no log. The usual certificate is made
//! once.
//! **Not here.** Whether a certificate is good (`policy::certificate`), and what ports do with it (`shard::device`).

use crate::edge::answers::{error, parameter_error};
use crate::policy::certificate::{self, CertificateFault, Certified, Chain};
use crate::protocol::http::{Answer, RequestHead};
use crate::shard::tls::Identity;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use zeroize::Zeroizing;

/// Wishes that wait for a thread; whoever has another waits.
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

/// The way to the threads that make identities; clones lead to the same.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// The one for what is in memory, and the one for files.
    threads: Arc<[OnceLock<mpsc::Sender<Order>>; 2]>,
    folder: Option<Arc<Path>>,
    time_max: Duration,
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
    /// The same way, where certificates are kept in `folder`, if in any, and nobody waits longer than `time_max`. A thread
    /// starts with the first wish for it.
    pub fn kept_in(&self, folder: Option<Arc<Path>>, time_max: Duration) -> Self {
        Identities { threads: self.threads.clone(), folder, time_max }
    }

    /// Fulfils a wish, which may take a second the first time. May be raced.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub async fn fulfil(&self, wish: Wish) -> Result<Identity, Answer> {
        let made = time::timeout(self.time_max, self.order(wish)).await;
        made.map_err(|_| error(503, "the certificate was not there in time"))?
            // Only where the thread could not be started, or a defect ended it.
            .ok_or_else(|| error(503, "no certificate can be made at the moment"))?
            .map_err(|Refusal { parameter, reason }| parameter_error(400, "bad parameter", parameter, &reason))
    }

    async fn order(&self, wish: Wish) -> Option<Result<Identity, Refusal>> {
        let [in_memory, for_files] = &*self.threads;
        let thread = if matches!(wish, Wish::Kept(_)) { for_files } else { in_memory };
        let (reply, made) = oneshot::channel();
        thread.get_or_init(start).send(Order { wish, folder: self.folder.clone(), reply }).await.ok()?;
        made.await.ok()
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

/// A thread: for as long as the process lives.
fn fulfil_all(mut orders: mpsc::Receiver<Order>) {
    let mut usual = None;
    while let Some(Order { wish, folder, reply }) = orders.blocking_recv() {
        // Whoever asked may have gone, before or meanwhile.
        if !reply.is_closed() {
            let _ = reply.send(fulfil(wish, folder.as_deref(), &mut usual));
        }
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

/// Reads a file, if it is one: a pipe, or a device, would be waited for, and with it every join that names a file.
fn read(path: &Path) -> io::Result<Key> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    // Of its length from the start, so that it is nowhere but here.
    let mut text = Zeroizing::new(Vec::with_capacity(about.len() as usize));
    file.take(about.len()).read_to_end(&mut text)?;
    Ok(text)
}
