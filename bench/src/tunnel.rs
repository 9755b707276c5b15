//! TLS to the daemon that is used like a plain connection: a task of its own seals and opens, between the daemon's socket
//! and a pair over loopback, of which whoever asked has the other end.
//!
//! **Invariants.** An end is passed on as what it was, in order or a reset. What is held is bounded, so that a slow end
//! slows the other down.
//! **Not here.** Whether the certificate is good: it is the daemon's own, and nobody vouches for it.

use crate::device::reset_on_close;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a handshake may take.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(20);
/// What is held each way.
const HELD_BYTES: usize = 16 << 10;

/// What a connection's bytes are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing.
    Plain,
    /// TLS.
    Tls,
}

impl Wire {
    /// A connection over a socket that is connected to the daemon.
    ///
    /// # Errors
    /// What the socket or TLS says; `TimedOut` where the handshake takes more than 20 s.
    pub async fn over(self, stream: TcpStream) -> io::Result<TcpStream> {
        match self {
            Wire::Plain => Ok(stream),
            Wire::Tls => secured(stream).await,
        }
    }
}

/// Writes a certificate and its key for the daemon's API, in PEM.
///
/// # Errors
/// What the files say.
pub fn write_certificate(certificate: &Path, key: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(io::Error::other)?;
    std::fs::write(certificate, made.cert.pem())?;
    std::fs::write(key, made.signing_key.serialize_pem())
}

async fn secured(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let name = ServerName::from(stream.peer_addr()?.ip());
    let connector = TlsConnector::from(config());
    let outward = tokio::time::timeout(HANDSHAKE_TIME_MAX, connector.connect(name, stream)).await??;
    let (near, inward) = pair().await?;
    tokio::spawn(pass(inward, outward));
    Ok(near)
}

/// How one direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// Its source ended in order, and its target was told.
    Whole,
    /// Its source was reset.
    Reset,
}

async fn pass(inward: TcpStream, outward: TlsStream<TcpStream>) {
    let (mut from_inward, mut to_inward) = tokio::io::split(inward);
    let (mut from_outward, mut to_outward) = tokio::io::split(outward);
    let passed = {
        let up = pass_on(&mut from_inward, &mut to_outward);
        let down = pass_on(&mut from_outward, &mut to_inward);
        tokio::pin!(up, down);
        tokio::select! {
            // A reset of one side is one of both.
            passed = &mut up => if passed == Passed::Whole { down.await } else { passed },
            passed = &mut down => if passed == Passed::Whole { up.await } else { passed },
        }
    };
    if passed == Passed::Reset {
        // Fails only where the connection is gone, which is as good.
        let _ = reset_on_close(&from_inward.unsplit(to_inward));
        let _ = reset_on_close(from_outward.unsplit(to_outward).get_ref().0);
    }
}

/// Passes bytes on to the end of their source. Where the target takes no more they are dropped from then on: who is at the
/// other end learns of it behind what comes the other way.
async fn pass_on(source: &mut (impl AsyncRead + Unpin), target: &mut (impl AsyncWrite + Unpin)) -> Passed {
    let mut bytes = vec![0; HELD_BYTES];
    let mut takes_more = true;
    loop {
        let count = match source.read(&mut bytes).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return Passed::Reset,
        };
        takes_more = takes_more && target.write_all(&bytes[..count]).await.is_ok() && target.flush().await.is_ok();
    }
    // Fails only where the connection is gone.
    let _ = target.shutdown().await;
    Passed::Whole
}

/// Two ends of one connection. Their buffers are as the kernel has them: behind one that is smaller than a segment of the
/// loopback, a peer probes ever more rarely, and stands still for seconds.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (one, (other, from)) = tokio::try_join!(TcpStream::connect(listener.local_addr()?), listener.accept())?;
    if one.local_addr()? != from {
        return Err(io::Error::other("somebody else connected"));
    }
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

/// Sessions are resumed, as devices do.
fn config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let made = || {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        Arc::new(config)
    };
    CONFIG.get_or_init(made).clone()
}

/// Trusts whoever it meets.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
