//! A blocking connection to a daemon, plain or with TLS.
//!
//! **Invariants.** With TLS the daemon's name and certificate are verified; nothing is said before.
//! **Not here.** Whom to trust and what to show (`config`), connecting (`tcp`), what is said over it (`health`,
//! `listen::join`).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConnection, StreamOwned};
use thiserror::Error;

use crate::command::tcp::connect;
use crate::config::DaemonOptions;

/// One connection.
pub(super) enum Wire {
    /// As it is.
    Plain(TcpStream),
    /// With TLS, whose handshake comes with the first bytes.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What a daemon says of the certificate that it was shown, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertificateRefusal {
    /// It demands one.
    #[error("the daemon demands a certificate: --cert and --key")]
    Missing,
    /// It was shown one that it does not take.
    #[error("the daemon does not take the certificate of --cert: {0:?}")]
    Unfit(AlertDescription),
}

impl CertificateRefusal {
    /// Whether that is what a connection broke by.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        let Some(rustls::Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref() else { return None };
        match alert {
            AlertDescription::CertificateRequired => Some(CertificateRefusal::Missing),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA => Some(CertificateRefusal::Unfit(*alert)),
            _ => None,
        }
    }
}

impl Wire {
    /// Connects to the daemon. Looking up a name may take longer than to the deadline.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(daemon: &DaemonOptions, deadline: Instant) -> io::Result<Wire> {
        let DaemonOptions { url, tls } = daemon;
        let Some(tls) = tls else { return Ok(Wire::Plain(connect(url, deadline)?)) };
        let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(tls), name).map_err(io::Error::other)?;
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
