//! TLS for drivers: its settings, and its files, which are read with each load of the settings.
//!
//! **Invariants.** Files that make an [`Identity`] belong together; an error names the setting and the file, and has
//! nothing of what is in it.
//! **Not here.** When files are read again (`loader`), what the other end reads (`trust`), and what is made of them (`shard::tls`).

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::arguments::{ListeningArguments, number, resolve};
use super::error::ConfigError;
use super::limit_arguments::{HOUR_MS, milliseconds};
use super::{contradiction, needs, settings};
use crate::policy::certificate::{self, Certified, Chain};
use crate::shard::tls::Identity;

/// The largest file that is read: revocation lists grow to megabytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct TlsArguments {
    /// Certificate and its chain (PEM); with it the API is served with TLS, too
    #[arg(long, value_name = "FILE", env = "DISPATCH_TLS_CERT")]
    #[arg(default_value = "", hide_default_value = true)]
    tls_cert: String,
    // A text in the place of its file's name begins with hyphens, and no complaint may quote it.
    /// Private key of the certificate (PEM, without a passphrase)
    #[arg(long, value_name = "FILE", env = "DISPATCH_TLS_KEY", allow_hyphen_values = true)]
    #[arg(default_value = "", hide_default_value = true)]
    tls_key: String,
    /// Address for drivers with TLS; that of `--host` unless set
    #[arg(long, value_name = "HOST", env = "DISPATCH_TLS_HOST")]
    #[arg(default_value = "", hide_default_value = true)]
    tls_host: String,
    /// Port for drivers with TLS, beside the plain one
    #[arg(long, value_name = "PORT", env = "DISPATCH_TLS_PORT")]
    #[arg(default_value = "3443", value_parser = number::<u16>(1, 65_535))]
    tls_port: u16,
    /// Authorities (PEM); whoever connects with TLS must show a certificate of one of them
    #[arg(long, value_name = "FILE", env = "DISPATCH_TLS_CLIENT_CA")]
    #[arg(default_value = "", hide_default_value = true)]
    tls_client_ca: String,
    /// Revocation lists of these authorities (PEM), one for each that signs; a certificate on one is refused
    #[arg(long, value_name = "FILE", env = "DISPATCH_TLS_CLIENT_CRL")]
    #[arg(default_value = "", hide_default_value = true)]
    tls_client_crl: String,
    /// Folder of certificates for devices; `tls=NAME` of a join serves NAME.crt with NAME.key from it
    #[arg(long, value_name = "FOLDER", env = "DISPATCH_TLS_DEVICE_CERTS")]
    #[arg(default_value = "", hide_default_value = true)]
    tls_device_certs: String,
    /// Time for a TLS handshake of a driver or a device; how many drivers may be at it is bounded by `--handshakes-max`
    #[arg(long, value_name = "MS", env = "DISPATCH_TLS_HANDSHAKE_MS_MAX")]
    #[arg(default_value = "10000", value_parser = milliseconds(100, HOUR_MS))]
    pub(super) tls_handshake_ms_max: Duration,
}

/// TLS for drivers as it is set.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where drivers reach the API with TLS.
    pub address: SocketAddr,
    /// What is in the files.
    pub identity: Identity,
}

/// Where the daemon's certificate and all that goes with it are kept.
struct TlsFiles<'a> {
    cert: &'a Path,
    key: &'a Path,
    client_ca: Option<&'a Path>,
    client_crl: Option<&'a Path>,
}

impl TlsArguments {
    /// What is set; `None` where no TLS is spoken. Reads the files.
    ///
    /// # Errors
    /// The setting that lacks another, or whose file is not good.
    pub(super) fn check(&self, listening: &ListeningArguments) -> Result<Option<TlsConfig>, ConfigError> {
        let (client_ca, client_crl) = (path(&self.tls_client_ca), path(&self.tls_client_crl));
        let (cert, key) = match (path(&self.tls_cert), path(&self.tls_key)) {
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => return Err(needs("tls_cert", "--tls-key")),
            (None, Some(_)) => return Err(needs("tls_key", "--tls-cert")),
            (None, None) if client_ca.is_some() => return Err(needs("tls_client_ca", "--tls-cert")),
            (None, None) if client_crl.is_some() => return Err(needs("tls_client_crl", "--tls-cert")),
            (None, None) => return Ok(None),
        };
        if client_crl.is_some() && client_ca.is_none() {
            return Err(needs("tls_client_crl", "--tls-client-ca"));
        }
        if self.tls_port == listening.port {
            return Err(contradiction("tls_port", format!("{} is the port without TLS (--port)", self.tls_port)));
        }
        let host = if self.tls_host.is_empty() { &listening.host } else { &self.tls_host };
        let address = resolve(host, self.tls_port)
            .map_err(|reason| contradiction("tls_host", format!("{host:?} is no address of this machine: {reason}")))?;
        let identity = TlsFiles { cert, key, client_ca, client_crl }.load()?;
        Ok(Some(TlsConfig { address, identity }))
    }

    /// Where certificates for devices are kept; `None` where none are.
    pub(super) fn device_certs(&self) -> Option<Arc<Path>> {
        path(&self.tls_device_certs).map(Arc::from)
    }
}

/// A path that is set.
fn path(text: &str) -> Option<&Path> {
    (!text.is_empty()).then(|| Path::new(text))
}

impl TlsFiles<'_> {
    /// Reads the files and makes of them what is shown to drivers.
    ///
    /// # Errors
    /// Which file is not good, and why.
    fn load(&self) -> Result<Identity, ConfigError> {
        let certified = certified(("tls_cert", self.cert), ("tls_key", self.key))?;
        let verifier = self.client_ca.map(|ca| self.verifier(ca)).transpose()?;
        Identity::for_drivers(certified, verifier).map_err(|error| bad("tls_cert", self.cert, &error))
    }

    fn verifier(&self, ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
        let bad_ca = |reason: &dyn std::fmt::Display| bad("tls_client_ca", ca, reason);
        let roots = roots("tls_client_ca", ca)?;
        let provider = Arc::new(certificate::provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let Some(crl) = self.client_crl else { return builder.build().map_err(|error| bad_ca(&error)) };
        let bad_crl = |reason: &dyn std::fmt::Display| bad("tls_client_crl", crl, reason);
        let text = read("tls_client_crl", crl)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
        let lists = lists.ok().filter(|lists| !lists.is_empty());
        let lists = lists.ok_or_else(|| bad_crl(&"it has no revocation list in PEM"))?;
        builder.with_crls(lists).build().map_err(|error| bad_crl(&error))
    }
}

/// A certificate with its key, out of the files that two settings name.
///
/// # Errors
/// Which file is not good, and why.
pub(super) fn certified((id, cert): (&str, &Path), (key_id, key): (&str, &Path)) -> Result<Certified, ConfigError> {
    let chain = Chain::parse(&read(id, cert)?).map_err(|fault| bad(id, cert, &fault))?;
    let bad_key = |fault| bad(key_id, key, &fault);
    chain.with_key(certificate::parse_key(&read(key_id, key)?).map_err(bad_key)?).map_err(bad_key)
}

/// The authorities in the file that a setting names.
///
/// # Errors
/// What is wrong with it.
pub(super) fn roots(id: &str, path: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for root in certificate::parse_certificates(&read(id, path)?).map_err(|fault| bad(id, path, &fault))? {
        roots.add(root).map_err(|error| bad(id, path, &error))?;
    }
    Ok(roots)
}

fn read(id: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    if path.to_string_lossy().contains("-----BEGIN") {
        return Err(contradiction(id, "is a PEM text, and must be the name of a file with it".to_owned()));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| bad(id, path, &error))?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|error| bad(id, path, &error))?;
    Ok(text)
}

fn bad(id: &str, path: &Path, reason: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::TlsFile { setting: settings::name_of(id), path: path.to_owned(), reason: reason.to_string() }
}
