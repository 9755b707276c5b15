//! TLS as drivers and operators have it: an authority, its certificates in files, and clients that trust it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tungstenite::client::IntoClientRequest;

use super::line::{Line, TlsStream};
use super::{BASES, Driver, PATIENCE, Setup, Transport, free_port, join_target};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    serial: SerialNumber,
}

/// An authority, and a folder for files, which goes with it.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub certificate: String,
}

impl Authority {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("dispatch-tls-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("authority {count}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let authority = Self { folder, issuer: Issuer::new(params, key), certificate };
        authority.file("ca.pem", &authority.certificate);
        authority
    }

    /// A certificate for this host that has some days to go, or had.
    pub fn issue(&self, days: i32) -> Pair {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SerialNumber::from(u64::from(SERIAL.fetch_add(1, Ordering::Relaxed)));
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.serial_number = Some(serial.clone());
        let now = SystemTime::now();
        params.not_before = (now - 100 * DAY).into();
        let whole = DAY * days.unsigned_abs() + DAY / 2;
        params.not_after = if days < 0 { now - whole } else { now + whole }.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem(), serial }
    }

    /// A list of revoked certificates.
    pub fn revoke(&self, pairs: &[&Pair]) -> String {
        let now = SystemTime::now();
        let revoked = |pair: &&Pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: (now - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: pairs.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Writes a file, and says where it is.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Writes the daemon's certificate and key, or others in their place.
    pub fn install(&self, pair: &Pair) {
        self.file("cert.pem", &pair.certificate);
        self.file("key.pem", &pair.key);
    }

    /// A daemon with a certificate of this authority, and the port where it speaks TLS.
    pub fn daemon(&self, shards: usize) -> (Setup, u16) {
        self.install(&self.issue(100));
        let port = free_port();
        let setup = Setup::new(shards)
            .flag("tls-cert", &self.path("cert.pem"))
            .flag("tls-key", &self.path("key.pem"))
            .flag("tls-port", &port.to_string());
        (setup, port)
    }

    /// A client that trusts this authority.
    pub fn client(&self) -> Client {
        Client::new(self, rustls::ALL_VERSIONS, None)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // A test that fails has more to say than that this does.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What drivers connect with; it holds sessions that may be resumed.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// A client for these versions of TLS, with a certificate of its own or none.
    pub fn new(authority: &Authority, versions: &[&'static SupportedProtocolVersion], own: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        Self(Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        }))
    }

    /// The same, offering other protocols to be spoken inside.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.0);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Connects and shakes hands, or says why that failed.
    pub fn try_connect(&self, port: u16) -> std::io::Result<TlsStream> {
        self.shake_hands(connect(port))
    }

    /// Shakes hands over a connection, or says why that failed.
    pub fn shake_hands(&self, mut tcp: TcpStream) -> std::io::Result<TlsStream> {
        let mut connection = ClientConnection::new(self.0.clone(), name()).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        Ok(TlsStream::new(connection, tcp))
    }

    /// Shakes hands but for what this end says last in it, if it does: that leaves with what is sent next.
    pub fn almost_shake_hands(&self, mut tcp: TcpStream) -> TlsStream {
        let mut connection = ClientConnection::new(self.0.clone(), name()).unwrap();
        while connection.is_handshaking() {
            if connection.wants_write() {
                connection.write_tls(&mut tcp).unwrap();
            } else {
                assert_ne!(connection.read_tls(&mut tcp).unwrap(), 0, "the end amid the handshake");
                connection.process_new_packets().unwrap();
            }
        }
        TlsStream::new(connection, tcp)
    }

    /// Connects and shakes hands.
    pub fn connect(&self, port: u16) -> TlsStream {
        self.try_connect(port).unwrap_or_else(|error| panic!("no handshake: {error}"))
    }

    /// Joins a TCP port by way of TLS.
    pub fn join(&self, port: u16, device_port: u16, accept: &str) -> Driver {
        self.join_over(self.connect(port), device_port, accept)
    }

    /// Joins a TCP port over a connection.
    pub fn join_over(&self, stream: TlsStream, device_port: u16, accept: &str) -> Driver {
        let target = join_target(BASES[0], Transport::Tcp, &device_port.to_string(), accept);
        let mut request = format!("wss://localhost{target}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", "Bearer testing".parse().unwrap());
        let (socket, _) = tungstenite::client(request, Line::from(stream)).unwrap_or_else(|error| panic!("{error}"));
        Driver::over(socket)
    }
}

/// A connection to this host on which every wait is bounded.
pub fn connect(port: u16) -> TcpStream {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What whoever speaks TLS says first.
pub fn hello() -> Vec<u8> {
    let mut connection = ClientConnection::new(gullible(rustls::ALL_VERSIONS), name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// A client that takes any certificate.
fn gullible(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    Arc::new(config.with_no_client_auth())
}

/// A device with TLS, which takes any certificate.
pub struct TlsDevice(TlsStream);

impl TlsDevice {
    /// Connects and shakes hands.
    pub fn connect(port: u16) -> Self {
        Self::over(connect(port), rustls::ALL_VERSIONS)
    }

    /// The same with one version of TLS.
    pub fn with_version(port: u16, version: &'static SupportedProtocolVersion) -> Self {
        Self::over(connect(port), &[version])
    }

    /// Connects, and shakes hands but for what it says last.
    pub fn almost_connect(port: u16, version: &'static SupportedProtocolVersion) -> Self {
        Self(Self::client(&[version]).almost_shake_hands(connect(port)))
    }

    /// Shakes hands over a connection.
    pub fn over(tcp: TcpStream, versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self(Self::client(versions).shake_hands(tcp).unwrap())
    }

    fn client(versions: &[&'static SupportedProtocolVersion]) -> Client {
        Client(gullible(versions))
    }

    /// Its connection.
    pub fn stream(&mut self) -> &mut TlsStream {
        &mut self.0
    }

    /// Shakes hands over a connection, or says why that failed.
    pub fn try_over(tcp: TcpStream) -> std::io::Result<Self> {
        Client(gullible(rustls::ALL_VERSIONS)).shake_hands(tcp).map(Self)
    }

    /// The certificate that it was shown.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn send(&mut self, data: &[u8]) {
        self.0.write_all(data).unwrap();
        self.0.flush().unwrap();
    }

    /// Reads exactly what is expected.
    pub fn expect(&mut self, data: &[u8]) {
        let mut read = vec![0; data.len()];
        self.0.read_exact(&mut read).unwrap();
        assert!(read == data, "{} bytes differ", data.len());
    }

    /// Says in TLS that nothing follows, and closes its sending side no further.
    pub fn end_tls(&mut self) {
        self.0.conn.send_close_notify();
        self.0.flush().unwrap();
    }

    /// Fails unless the daemon ends the connection, in TLS as well, with nothing more sent.
    pub fn ends(&mut self) {
        assert_eq!(self.0.read(&mut [0; 64]).unwrap(), 0, "more was sent");
    }
}

/// Takes any certificate, of any version.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
