//! What a connection's bytes are wrapped in on their way: nothing, or TLS. Bytes go in and bytes come out.
//!
//! **Invariants.** Sealed bytes leave in the order of sealing, so one task of a connection seals. Between calls no more is
//! held than a record that has come in part, and what TLS itself wants sent, which leaves before the next bytes.
//! **Not here.** The socket (`ring`), and the handshake (`tls`).

use bytes::Bytes;
use rustls::{HandshakeKind, IoState, ServerConnection};
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Read, Write};

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
    Tls(Box<RefCell<ServerConnection>>),
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

impl Cipher {
    /// TLS, before its handshake.
    pub fn of(mut connection: ServerConnection) -> Self {
        // What is sealed at once is bounded by whoever seals, and is taken out at once.
        connection.set_buffer_limit(None);
        Cipher::Tls(Box::new(RefCell::new(connection)))
    }

    /// Opens bytes that were received. What stands behind the last of them stands behind those of every later call, also
    /// one without bytes.
    #[inline]
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Opened<'a> {
        match self {
            Cipher::Plain => Opened { data: Cow::Borrowed(bytes), last: None },
            Cipher::Tls(connection) => open(&mut connection.borrow_mut(), bytes),
        }
    }

    /// Seals bytes that are to be sent next.
    #[inline]
    pub fn seal(&self, bytes: Bytes) -> Bytes {
        match self {
            Cipher::Plain => bytes,
            Cipher::Tls(connection) => seal(&mut connection.borrow_mut(), &bytes),
        }
    }

    /// Seals a copy of bytes that are to be sent next.
    pub fn seal_copy(&self, bytes: &[u8]) -> Bytes {
        match self {
            Cipher::Plain => Bytes::copy_from_slice(bytes),
            Cipher::Tls(connection) => seal(&mut connection.borrow_mut(), bytes),
        }
    }

    /// What TLS itself wants sent: parts of a handshake, alerts.
    pub fn pending(&self) -> Bytes {
        match self {
            Cipher::Plain => Bytes::new(),
            Cipher::Tls(connection) => pending(&mut connection.borrow_mut()),
        }
    }

    /// The last bytes, which say that nothing follows, or the alert where TLS has failed; none where it is not spoken.
    pub fn farewell(&self) -> Bytes {
        match self {
            Cipher::Plain => Bytes::new(),
            Cipher::Tls(connection) => {
                let mut connection = connection.borrow_mut();
                connection.send_close_notify();
                pending(&mut connection)
            }
        }
    }

    /// How the handshake went, once it is over.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        let Cipher::Tls(connection) = self else { return None };
        let connection = connection.borrow();
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

    /// What a session may use for it at most: its state, a record on its way in, twice, and a sealed chunk, which is a
    /// third of its outbox and what TLS adds.
    pub fn bytes_max(&self, outbox_bytes: usize) -> usize {
        if self.is_plain() { 0 } else { STATE_BYTES + 2 * RECORD_BYTES_MAX + outbox_bytes * 3 / 8 }
    }
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record that is too long"));
    }
    let state = connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let start = data.len();
    data.resize(start + state.plaintext_bytes_to_read(), 0);
    connection.reader().read_exact(&mut data[start..])?;
    Ok(state)
}

fn seal(connection: &mut ServerConnection, bytes: &[u8]) -> Bytes {
    /// More than TLS adds to a record.
    const ADDED_BYTES_MAX: usize = 64;
    let mut sealed = Vec::with_capacity(bytes.len() + (bytes.len() / RECORD_DATA_BYTES_MAX + 1) * ADDED_BYTES_MAX);
    for piece in bytes.chunks(PIECE_BYTES_MAX) {
        // It takes everything, as its buffers have no limit of their own.
        let _ = connection.writer().write_all(piece);
        take_sealed(connection, &mut sealed);
    }
    sealed.into()
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
