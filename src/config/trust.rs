//! How a running daemon is reached by whoever asks it: whom they trust where it speaks TLS, and what they show to it.
//!
//! **Invariants.** Files are read once and before anything is said; an error names the option and the file, and has
//! nothing of what is in it.
//! **Not here.** Connecting (`command`), the daemon's own certificate (`tls`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::client::WantsClientCert;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::error::ConfigError;
use super::http_url::{HttpUrl, Scheme};
use super::tls::{certified, roots};
use super::{contradiction, needs};
use crate::policy::certificate;

/// Whom to trust, and what to show.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArguments {
    /// Authorities (PEM) of which the daemon's certificate must be, with TLS; those of this system unless set
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate and its chain (PEM), to be shown to a daemon that demands one
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    // A text in the place of its file's name begins with hyphens, and no complaint may quote it.
    /// Private key of that certificate (PEM, without a passphrase)
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    key: Option<PathBuf>,
}

/// A running daemon, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Where it is.
    pub url: HttpUrl,
    /// How TLS is spoken with it; `None` where it is not.
    pub tls: Option<Arc<ClientConfig>>,
}

impl TrustArguments {
    /// The daemon at `url`. Reads the files.
    ///
    /// # Errors
    /// The option that lacks another, is for TLS where the URL is not, or whose file is not good.
    pub(super) fn check(&self, url: &HttpUrl) -> Result<DaemonOptions, ConfigError> {
        let tls = match (url.scheme, self.first_set()) {
            (Scheme::Tls, _) => Some(Arc::new(self.load()?)),
            (Scheme::Plain, None) => None,
            (Scheme::Plain, Some(id)) => return Err(contradiction(id, format!("is for TLS, and {url} is without"))),
        };
        Ok(DaemonOptions { url: url.clone(), tls })
    }

    /// The id of an option that is set.
    pub(super) fn first_set(&self) -> Option<&'static str> {
        let options = [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)];
        options.into_iter().find_map(|(id, path)| path.is_some().then_some(id))
    }

    fn load(&self) -> Result<ClientConfig, ConfigError> {
        let roots = self.ca.as_deref().map_or_else(roots_of_system, |ca| roots("ca", ca))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(certificate::provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| contradiction("ca", error.to_string()))?
            .with_root_certificates(roots);
        match (&self.cert, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => shown(builder, cert, key),
            (Some(_), None) => Err(needs("cert", "--key")),
            (None, Some(_)) => Err(needs("key", "--cert")),
        }
    }
}

fn shown(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    cert: &Path,
    key: &Path,
) -> Result<ClientConfig, ConfigError> {
    let certified = certified(("cert", cert), ("key", key))?;
    Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified.key))))
}

fn roots_of_system() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let reason = "this system has no authorities to trust (SSL_CERT_FILE names a file of them)";
        return Err(contradiction("ca", reason.to_owned()));
    }
    Ok(roots)
}
