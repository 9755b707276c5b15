//! TLS over memory: however its bytes are split, what a client seals comes out whole and in order; what somebody changed
//! on the way ends the connection, and nothing false comes out before.
//!
//! An input is four sizes of parts, the version and where a byte is changed, how it is, and what the client says.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConnection, SignatureScheme,
    SupportedProtocolVersion,
};
use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use uring_dispatch::policy::certificate::{provider, self_signed};
use uring_dispatch::shard::cipher::{Cipher, Last};
use uring_dispatch::shard::tls::Identity;

/// A key for tests alone.
const KEY: &[u8] = include_bytes!("../seeds/certificate/key");
/// Turns that a handshake takes at most: a message each way, and tickets.
const TURNS_MAX: usize = 16;

/// Lets a client and the daemon's side speak as `input` says.
pub fn check(input: &[u8]) {
    let Some((&[steps @ .., at_high, at_low, change], said)) = input.split_first_chunk::<7>() else { return };
    let mut sizes = steps.into_iter().cycle().map(|step| 1 + usize::from(step) * 9);
    let (mut client, server) = both(usize::from(at_high >> 7));
    shake(&mut client, &server, &mut sizes);
    client.writer().write_all(said).expect("a client takes what it is to say");
    client.send_close_notify();
    let mut sealed = sealed_by(&mut client);
    let at = usize::from(at_high & 0x7f) << 8 | usize::from(at_low);
    let changed = sealed.get_mut(at).filter(|_| change != 0);
    let is_changed = changed.is_some();
    changed.into_iter().for_each(|byte| *byte ^= change);
    match (open(&server, &sealed, &mut sizes), is_changed) {
        (Ok((data, has_ended)), false) => assert!(data == said && has_ended, "{} bytes came out", data.len()),
        // Of a record's head, type and version are passed over in TLS 1.3: what is inside has its own.
        (Ok((data, has_ended)), true) => {
            assert!(said.starts_with(&data) && (!has_ended || data == said), "a change went unseen");
        }
        (Err(data), is_changed) => assert!(is_changed && said.starts_with(&data), "good bytes were refused"),
    }
    answer(&mut client, &server, said);
}

/// Both sides before their handshake, with a certificate that is made once.
fn both(version: usize) -> (ClientConnection, Cipher) {
    static SETTINGS: OnceLock<(Identity, [Arc<ClientConfig>; 2])> = OnceLock::new();
    let (identity, clients) = SETTINGS.get_or_init(|| {
        let certified = self_signed(KEY).expect("the key is good");
        let identity = Identity::for_devices(certified).expect("the identity is good");
        (identity, [&TLS13, &TLS12].map(client_of))
    });
    let name = ServerName::try_from("dispatch.test").expect("the name is good");
    let mut client = ClientConnection::new(clients[version].clone(), name).expect("a client begins");
    client.set_buffer_limit(None);
    (client, Cipher::of(ServerConnection::new(identity.config.clone()).expect("a server begins")))
}

fn client_of(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])
        .expect("the version is known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    Arc::new(client)
}

fn shake(client: &mut ClientConnection, server: &Cipher, sizes: &mut impl Iterator<Item = usize>) {
    for _ in 0..TURNS_MAX {
        let (data, has_ended) = open(server, &sealed_by(client), sizes).expect("a handshake is taken");
        assert!(data.is_empty() && !has_ended);
        hand(client, &server.pending());
        if server.handshake_kind().is_some() && !client.is_handshaking() && !client.wants_write() {
            return;
        }
    }
    panic!("no end of the handshake");
}

/// What the server's side opens of `sealed` in parts, and whether it was told the end; with a fault, what came before it.
fn open(
    server: &Cipher,
    mut sealed: &[u8],
    sizes: &mut impl Iterator<Item = usize>,
) -> Result<(Vec<u8>, bool), Vec<u8>> {
    let (mut data, mut has_ended) = (Vec::new(), false);
    while !sealed.is_empty() {
        let (part, rest) = sealed.split_at(sizes.next().unwrap_or(1).min(sealed.len()));
        sealed = rest;
        let opened = server.open(part);
        assert!(opened.data.len() <= part.len() + server.held_bytes_max(), "more came out than was held");
        assert!(!has_ended || opened.data.is_empty(), "bytes behind the end");
        data.extend_from_slice(&opened.data);
        match opened.last {
            None => {}
            Some(Last::Farewell) => has_ended = true,
            Some(Last::Fault(_)) => {
                assert!(has_failed(server), "a fault was mended");
                assert!(!server.pending().is_empty(), "the other end is not told");
                return Err(data);
            }
        }
    }
    Ok((data, has_ended))
}

/// The server's side seals, farewell and all, unless it has failed.
fn answer(client: &mut ClientConnection, server: &Cipher, said: &[u8]) {
    if has_failed(server) {
        return;
    }
    let sealed = server.seal_copy(said).expect("keys are not used up");
    hand(client, &[sealed, server.farewell()].concat());
    let mut heard = Vec::new();
    client.reader().read_to_end(&mut heard).expect("the end is told");
    assert_eq!(heard, said);
}

fn has_failed(server: &Cipher) -> bool {
    matches!(server.open(b"").last, Some(Last::Fault(_)))
}

fn hand(client: &mut ClientConnection, mut sealed: &[u8]) {
    while !sealed.is_empty() {
        client.read_tls(&mut sealed).expect("a client takes bytes");
        client.process_new_packets().expect("what is sealed is good");
    }
}

fn sealed_by(client: &mut ClientConnection) -> Vec<u8> {
    let mut sealed = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sealed).expect("a vector takes every write");
    }
    sealed
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
        provider().signature_verification_algorithms.supported_schemes()
    }
}
