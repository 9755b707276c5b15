//! A driver as drivers are: a WebSocket library that answers pings and echoes the close, and typed messages.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket};

use super::PATIENCE;
use super::line::{Line, TlsStream, seal};
use super::message::{self, Addr, Event};

/// A joined driver; every wait on it is bounded.
pub struct Driver {
    socket: WebSocket<Line>,
}

impl Driver {
    pub fn new(stream: impl Into<Line>, pending: Vec<u8>) -> Self {
        Self::over(WebSocket::from_partially_read(stream.into(), pending, Role::Client, None))
    }

    /// A driver over a WebSocket that is there already.
    pub fn over(socket: WebSocket<Line>) -> Self {
        Self { socket }
    }

    /// Its own port, by which the daemon's lists tell it from others.
    pub fn local_port(&self) -> u16 {
        self.socket.get_ref().tcp().local_addr().unwrap().port()
    }

    /// The next message that is no ping and no pong.
    pub fn message(&mut self) -> Message {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return message,
                Err(error) => panic!("no message: {error}"),
            }
        }
        panic!("nothing but pings and pongs for {PATIENCE:?}");
    }

    /// The next event.
    pub fn event(&mut self) -> Event {
        match self.message() {
            Message::Binary(bytes) => Event::decode(&bytes),
            other => panic!("no event: {other:?}"),
        }
    }

    /// The next event; `None` once the daemon has said goodbye (1001) and closed, or when the flag is set.
    pub fn event_or_goodbye(&mut self, done: &AtomicBool) -> Option<Event> {
        let deadline = Instant::now() + PATIENCE;
        self.socket.get_ref().tcp().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while Instant::now() < deadline && !done.load(Ordering::Relaxed) {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => return Some(Event::decode(&bytes)),
                Ok(Message::Close(Some(CloseFrame { code, .. }))) => {
                    assert_eq!(u16::from(code), 1001);
                    self.socket.get_ref().tcp().set_read_timeout(Some(PATIENCE)).unwrap();
                    self.ends();
                    return None;
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("no goodbye: {error}"),
            }
        }
        assert!(done.load(Ordering::Relaxed), "no event for {PATIENCE:?}");
        None
    }

    /// Writes to a device, unless the daemon has ended the session.
    pub fn try_write(&mut self, device: &Addr, data: &[u8]) {
        let _ = self.socket.send(Message::binary(message::write(device, data)));
    }

    /// Ends the connection without a word.
    pub fn hang_up(&mut self) {
        let _ = self.socket.get_ref().tcp().shutdown(std::net::Shutdown::Both);
    }

    /// The next event, which has to be OPENED.
    pub fn opened(&mut self) -> Addr {
        match self.event() {
            Event::Opened(addr) => addr,
            other => panic!("{other:?} instead of OPENED"),
        }
    }

    /// Fails unless the next event is CLOSED of this device.
    pub fn closed(&mut self, device: &Addr) {
        assert_eq!(self.event(), Event::Closed(device.clone()));
    }

    /// Fails unless the next events are RECEIVED of this device, and together exactly these bytes.
    pub fn received(&mut self, device: &Addr, data: &[u8]) {
        let mut taken = 0;
        while taken < data.len() {
            match self.event() {
                Event::Received(addr, part) if addr == *device => {
                    let end = taken + part.len();
                    assert!(end <= data.len(), "{} bytes more than {}", end - data.len(), data.len());
                    assert!(part == data[taken..end], "bytes {taken}..{end} differ");
                    taken = end;
                }
                other => panic!("{other:?} instead of RECEIVED {device:?}, after {taken} bytes"),
            }
        }
    }

    /// Fails unless the next event is one RECEIVED with exactly this datagram.
    pub fn datagram(&mut self, device: &Addr, data: &[u8]) {
        let expected = Event::Received(device.clone(), data.to_vec());
        let event = self.event();
        assert!(event == expected, "{event:?} instead of {expected:?}");
    }

    pub fn write(&mut self, device: &Addr, data: &[u8]) {
        self.send(message::write(device, data));
    }

    /// Sends CLOSE.
    pub fn close(&mut self, device: &Addr) {
        self.send(message::close(device));
    }

    /// Sends a binary message as it is.
    pub fn send(&mut self, bytes: Vec<u8>) {
        self.send_message(Message::binary(bytes));
    }

    pub fn send_message(&mut self, message: Message) {
        self.socket.send(message).unwrap();
    }

    /// The code and the reason of the close frame that has to come next.
    pub fn close_reason(&mut self) -> (u16, String) {
        match self.message() {
            Message::Close(Some(CloseFrame { code, reason })) => (code.into(), reason.to_string()),
            other => panic!("no close frame but {other:?}"),
        }
    }

    /// Reads on until the connection has ended, whatever comes before.
    pub fn ends(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.socket.read() {
                Ok(_) => {}
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return,
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return,
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return;
                }
                Err(error) => panic!("the daemon does not end the connection: {error}"),
            }
        }
        panic!("the connection goes on for {PATIENCE:?}");
    }

    /// Its socket, below any TLS.
    pub fn tcp(&self) -> &TcpStream {
        self.socket.get_ref().tcp()
    }

    /// What is sent for bytes, in TLS.
    pub fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        seal(self.tls(), bytes)
    }

    fn tls(&mut self) -> &mut TlsStream {
        let Line::Tls(stream) = self.socket.get_mut() else { panic!("no TLS") };
        stream
    }

    /// Says in TLS that nothing follows, and nothing of the WebSocket.
    pub fn end_tls(&mut self) {
        let stream = self.tls();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }

    /// Reads on until the daemon ends the connection without a goodbye.
    pub fn is_cut_off(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.socket.read() {
                Ok(Message::Close(frame)) => panic!("a goodbye: {frame:?}"),
                Ok(_) => {}
                Err(Error::Io(error)) if is_pause(&error) => panic!("the connection goes on: {error}"),
                Err(_) => return,
            }
        }
        panic!("the connection goes on for {PATIENCE:?}");
    }

    /// Says goodbye and waits for the daemon's; what comes in between is passed over.
    pub fn leave(mut self) {
        self.socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "bye".into() })).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no goodbye for {PATIENCE:?}");
            match self.socket.read() {
                Ok(Message::Close(_)) => break,
                Ok(_) => {}
                Err(error) => panic!("no goodbye: {error}"),
            }
        }
        self.ends();
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        Socket::from(self.socket.into_inner().into_tcp()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
