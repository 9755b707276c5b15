//! What a connection's bytes are wrapped in on their way: nothing, or TLS. Bytes go in and bytes come out.
//!
//! **Invariants.** Sealed bytes leave in the order of sealing, so one task of a connection seals. Between calls no more is
//! held than a record that has come in part, and what TLS itself wants sent, which leaves before the next bytes.
//! **Not here.** The socket (`ring`), and the handshake (`tls`).

use crate::protocol::wiped;
use bytes::Bytes;
use rustls::{HandshakeKind, IoState, ServerConnection, SupportedCipherSuite};
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use zeroize::Zeroize;

/// What is sealed at once: more would take time from others, and memory for what is sealed beside what is not.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
/// What may be held of a record that has come in part, and comes out with its last byte.
const RECORD_BYTES_MAX: usize = 18 << 10;
/// The data of one record (RFC 8446 section 5.1).
const RECORD_DATA_BYTES_MAX: usize = 16 << 10;
/// What a TLS session is by itself, keys and all.
const STATE_BYTES: usize = 8 << 10;

/// What the bytes of one connection are wrapped in.
#[derive(Debug)]
pub enum Cipher {
    /// Nothing: they are sent and received as they are.
    Plain,
    /// TLS.
    Tls(Box<RefCell<Wrapping>>),
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Wrapping {
    connection: ServerConnection,
    /// Records of data that were sealed.
    sealed_records: u64,
}

/// Bytes that were opened.
#[derive(Debug)]
pub struct Opened<'a> {
    /// They; none where a record has not come whole.
    pub data: Cow<'a, [u8]>,
    /// Why nothing follows them, if so.
    pub last: Option<Last>,
}

/// What stands behind the last bytes that are opened.
#[derive(Debug)]
pub enum Last {
    /// The other end has said in TLS that nothing follows.
    Farewell,
    /// The other end does not speak TLS, or not as was agreed. [`pending`](Cipher::pending) has the alert that says so.
    Fault(io::Error),
}

/// Why bytes are not sealed, and none after them.
#[derive(Debug)]
pub enum SealFault {
    /// The keys have sealed as much as they may, and cannot be renewed. [`farewell`](Cipher::farewell) says that nothing
    /// follows.
    KeysUsedUp,
    /// TLS has failed before, for the reason that [`open`](Cipher::open) gave.
    Failed(io::Error),
}

impl Opened<'_> {
    /// Leaves nothing of the bytes behind, where they are not the ones that were received.
    pub fn wipe(self) {
        if let Cow::Owned(mut data) = self.data {
            data.zeroize();
        }
    }
}

impl Cipher {
    /// TLS, before its handshake.
    pub fn of(mut connection: ServerConnection) -> Self {
        // What is sealed at once is bounded by whoever seals, and is taken out at once.
        connection.set_buffer_limit(None);
        Cipher::Tls(Box::new(RefCell::new(Wrapping { connection, sealed_records: 0 })))
    }

    /// Opens bytes that were received. What stands behind the last of them stands behind those of every later call, also
    /// one without bytes.
    #[inline]
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Opened<'a> {
        match self {
            Cipher::Plain => Opened { data: Cow::Borrowed(bytes), last: None },
            Cipher::Tls(tls) => open(&mut tls.borrow_mut().connection, bytes),
        }
    }

    /// Seals bytes that are to be sent next.
    ///
    /// # Errors
    /// Why they are not; the connection is to end.
    #[inline]
    pub fn seal(&self, bytes: Bytes) -> Result<Bytes, SealFault> {
        match self {
            Cipher::Plain => Ok(bytes),
            Cipher::Tls(tls) => seal(&mut tls.borrow_mut(), &bytes),
        }
    }

    /// Seals a copy of bytes that are to be sent next.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_copy(&self, bytes: &[u8]) -> Result<Bytes, SealFault> {
        match self {
            Cipher::Plain => Ok(Bytes::copy_from_slice(bytes)),
            Cipher::Tls(tls) => seal(&mut tls.borrow_mut(), bytes),
        }
    }

    /// What TLS itself wants sent: parts of a handshake, alerts.
    pub fn pending(&self) -> Bytes {
        match self {
            Cipher::Plain => Bytes::new(),
            Cipher::Tls(tls) => pending(&mut tls.borrow_mut().connection),
        }
    }

    /// The last bytes, which say that nothing follows, or the alert where TLS has failed; none where it is not spoken.
    pub fn farewell(&self) -> Bytes {
        match self {
            Cipher::Plain => Bytes::new(),
            Cipher::Tls(tls) => {
                let connection = &mut tls.borrow_mut().connection;
                connection.send_close_notify();
                pending(connection)
            }
        }
    }

    /// How the handshake went, once it is over.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        let Cipher::Tls(tls) = self else { return None };
        let connection = &tls.borrow().connection;
        connection.handshake_kind().filter(|_| !connection.is_handshaking())
    }

    /// Whether bytes are sent as they are.
    pub fn is_plain(&self) -> bool {
        matches!(self, Cipher::Plain)
    }

    /// How much more may come out of an opening than goes in: what was held of a record.
    pub fn held_bytes_max(&self) -> usize {
        if self.is_plain() { 0 } else { RECORD_BYTES_MAX }
    }

    /// What a session may use for it at most.
    pub fn bytes_max(&self, outbox_bytes: usize) -> usize {
        if self.is_plain() { 0 } else { tls_bytes_max(outbox_bytes) }
    }
}

/// What a session may use for TLS at most: its state, a record on its way in, twice, and a sealed chunk, which is a third of
/// its outbox and what TLS adds.
pub fn tls_bytes_max(outbox_bytes: usize) -> usize {
    STATE_BYTES + 2 * RECORD_BYTES_MAX + outbox_bytes * 3 / 8
}

fn open<'a>(connection: &mut ServerConnection, bytes: &[u8]) -> Opened<'a> {
    let mut rest = bytes;
    let mut data = Vec::new();
    let last = loop {
        match open_some(connection, &mut rest, &mut data) {
            Ok(state) if state.peer_has_closed() => break Some(Last::Farewell),
            Ok(_) if rest.is_empty() => break None,
            Ok(_) => {}
            Err(error) => {
                // What came before the fault is whole. This ends with an error, as no end was said.
                wiped::reserve(&mut data, rest.len() + RECORD_BYTES_MAX);
                let _ = connection.reader().read_to_end(&mut data);
                break Some(Last::Fault(error));
            }
        }
    };
    Opened { data: Cow::Owned(data), last }
}

fn open_some(connection: &mut ServerConnection, rest: &mut &[u8], data: &mut Vec<u8>) -> io::Result<IoState> {
    // What was read before was taken out, so there is room for a part of the rest at least.
    if !rest.is_empty() && connection.read_tls(rest)? == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let state = connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let start = data.len();
    wiped::reserve(data, state.plaintext_bytes_to_read());
    data.resize(start + state.plaintext_bytes_to_read(), 0);
    connection.reader().read_exact(&mut data[start..])?;
    Ok(state)
}

fn seal(tls: &mut Wrapping, bytes: &[u8]) -> Result<Bytes, SealFault> {
    let Wrapping { connection, sealed_records } = tls;
    *sealed_records += bytes.len().div_ceil(RECORD_DATA_BYTES_MAX) as u64;
    // By itself it would drop the bytes and say nothing.
    if *sealed_records > records_max(connection) {
        return Err(SealFault::KeysUsedUp);
    }
    /// More than TLS adds to a record.
    const ADDED_BYTES_MAX: usize = 64;
    let mut sealed = Vec::with_capacity(bytes.len() + (bytes.len() / RECORD_DATA_BYTES_MAX + 1) * ADDED_BYTES_MAX);
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        // It takes everything, as its buffers have no limit of their own.
        connection.writer().write_all(piece).map_err(SealFault::Failed)?;
        take_sealed(connection, &mut sealed);
    }
    Ok(sealed.into())
}

/// How many records of data the keys may seal. TLS 1.3 renews them in time.
fn records_max(connection: &ServerConnection) -> u64 {
    /// What the handshake and alerts take, and more.
    const OTHER_RECORDS_MAX: u64 = 16;
    match connection.negotiated_cipher_suite() {
        Some(SupportedCipherSuite::Tls12(suite)) => {
            suite.common.confidentiality_limit.saturating_sub(OTHER_RECORDS_MAX)
        }
        _ => u64::MAX,
    }
}

fn pending(connection: &mut ServerConnection) -> Bytes {
    let mut sealed = Vec::new();
    take_sealed(connection, &mut sealed);
    sealed.into()
}

/// Adds what is ready to be sent.
fn take_sealed(connection: &mut ServerConnection, sealed: &mut Vec<u8>) {
    // A vector takes every write.
    while connection.wants_write() && connection.write_tls(sealed).is_ok() {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::certificate;
    use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::version::TLS12;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, Tls12CipherSuite};
    use std::sync::Arc;

    const RECORDS_MAX: u64 = 40;

    /// TLS 1.2 with keys that seal so many records in all, and a driver that has shaken hands.
    fn with_short_lived_keys() -> (Cipher, ClientConnection) {
        let usual = certificate::provider();
        let short_lived = usual.cipher_suites.iter().filter_map(|suite| {
            let SupportedCipherSuite::Tls12(suite) = suite else { return None };
            let common = CipherSuiteCommon { confidentiality_limit: RECORDS_MAX, ..suite.common };
            Some(SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..**suite }))))
        });
        let provider = Arc::new(CryptoProvider { cipher_suites: short_lived.collect(), ..usual });
        let made = rcgen::generate_simple_self_signed(["driver.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS12]).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS12]).unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
        let mut client = ClientConnection::new(client, ServerName::try_from("driver.test").unwrap()).unwrap();
        let cipher = Cipher::of(ServerConnection::new(Arc::new(server)).unwrap());
        while cipher.handshake_kind().is_none() || client.is_handshaking() {
            let mut said = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut said).unwrap();
            }
            assert!(cipher.open(&said).last.is_none());
            read(&mut client, &cipher.pending());
        }
        (cipher, client)
    }

    /// What the driver makes of bytes: data, and whether they end with a farewell.
    fn read(client: &mut ClientConnection, mut bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut data = Vec::new();
        let mut has_ended = false;
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            has_ended = client.process_new_packets().unwrap().peer_has_closed();
            let _ = client.reader().read_to_end(&mut data);
        }
        (data, has_ended)
    }

    #[test]
    fn keys_that_are_used_up_seal_nothing_in_part_and_say_so_each_time() {
        let (cipher, mut client) = with_short_lived_keys();
        // Two records each.
        let data = vec![7; RECORD_DATA_BYTES_MAX + 1];
        let mut sealed = 0;
        while let Ok(bytes) = cipher.seal_copy(&data) {
            assert_eq!(read(&mut client, &bytes), (data.clone(), false));
            sealed += 2;
        }
        assert!((RECORDS_MAX / 2..RECORDS_MAX).contains(&sealed), "{sealed}");
        for _ in 0..RECORDS_MAX {
            assert!(matches!(cipher.seal(Bytes::from_static(b"more")), Err(SealFault::KeysUsedUp)));
        }
        assert_eq!(read(&mut client, &cipher.farewell()), (Vec::new(), true));
        assert!(cipher.farewell().is_empty());
    }

    #[test]
    fn what_comes_before_a_fault_is_opened_and_nothing_is_sealed_behind_it() {
        let (cipher, mut client) = with_short_lived_keys();
        client.writer().write_all(b"before").unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes.extend_from_slice(&[0x17, 3, 3, 0, 2, 0, 0]);
        let opened = cipher.open(&bytes);
        assert!(&*opened.data == b"before" && matches!(opened.last, Some(Last::Fault(_))));
        let again = cipher.open(&[]);
        assert!(again.data.is_empty() && matches!(again.last, Some(Last::Fault(_))));
        assert!(matches!(cipher.seal_copy(b"more"), Err(SealFault::Failed(_))));
        assert!(!cipher.pending().is_empty(), "there is no alert");
    }
}
