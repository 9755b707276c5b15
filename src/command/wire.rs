//! A blocking connection to a daemon, plain or with TLS.
//!
//! **Invariants.** With TLS the daemon's name and certificate are verified, by the authorities that are named or else by
//! those of this system; nothing is said before.
//! **Not here.** Connecting (`tcp`), what is said over it (`health`, `listen::join`).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::command::tcp::connect;
use crate::config::{HttpUrl, Scheme};
use crate::policy::certificate;

/// One connection.
pub(super) enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// With TLS, whose handshake comes with the first bytes.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Connects as the URL says. `ca` is a file of the only authorities to be trusted. Looking up a name may take longer
    /// than to the deadline.
    ///
    /// # Errors
    /// What the system says, and what is wrong with the authorities.
    pub(super) fn open(url: &HttpUrl, ca: Option<&Path>, deadline: Instant) -> io::Result<Wire> {
        if url.scheme == Scheme::Plain {
            return Ok(Wire::Plain(connect(url, deadline)?));
        }
        // Before connecting: a wrong file is to be known whether there is a daemon or not.
        let roots = ca.map_or_else(roots_of_system, roots_of)?;
        let config = ClientConfig::builder_with_provider(Arc::new(certificate::provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(Wire::Tls(Box::new(StreamOwned::new(connection, connect(url, deadline)?))))
    }

    /// Its socket.
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            Wire::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(out),
            Wire::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

fn roots_of(ca: &Path) -> io::Result<RootCertStore> {
    let wrong = |reason: &dyn std::fmt::Display| io::Error::other(format!("--ca {}: {reason}", ca.display()));
    let text = std::fs::read(ca).map_err(|error| wrong(&error))?;
    let mut roots = RootCertStore::empty();
    for root in certificate::parse_certificates(&text).map_err(|fault| wrong(&fault))? {
        roots.add(root).map_err(|error| wrong(&error))?;
    }
    Ok(roots)
}

fn roots_of_system() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other("this system has no authorities to trust (SSL_CERT_FILE names a file of them)"));
    }
    Ok(roots)
}
