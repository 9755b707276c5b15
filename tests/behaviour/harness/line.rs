//! A connection as a driver has it, plain or with TLS.

use std::io::{Read, Result, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

/// A blocking TLS connection of a driver.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

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
