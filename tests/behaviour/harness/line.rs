//! A connection as a driver has it, plain or with TLS.

use std::io::{Read, Result, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

/// A blocking TLS connection of a driver.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What is sent for these bytes, behind what TLS itself has still to send.
pub fn seal(stream: &mut TlsStream, bytes: &[u8]) -> Vec<u8> {
    stream.conn.writer().write_all(bytes).unwrap();
    let mut sealed = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut sealed).unwrap();
    }
    sealed
}

/// The same, and behind them that nothing follows.
pub fn seal_last(stream: &mut TlsStream, bytes: &[u8]) -> Vec<u8> {
    let mut sealed = seal(stream, bytes);
    stream.conn.send_close_notify();
    sealed.extend(seal(stream, &[]));
    sealed
}

/// One connection.
pub enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Line {
    /// Its socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref(),
        }
    }

    /// Its socket alone; what TLS holds is gone.
    pub fn into_tcp(self) -> TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.into_parts().1,
        }
    }
}

impl From<TcpStream> for Line {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TlsStream> for Line {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl Read for Line {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(out),
            Self::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
