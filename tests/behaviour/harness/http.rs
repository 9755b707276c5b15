//! HTTP/1.1 by hand, so that a scenario says to the byte what goes out and sees to the byte what comes back.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::{PATIENCE, read};
use std::time::Duration;

/// An answer: its head and its whole body.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, if there is exactly one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = values.next()?.1.as_str();
        assert!(values.next().is_none(), "two headers {name}");
        Some(value)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// A member of a JSON body that has to be text.
    pub fn member(&self, name: &str) -> String {
        let json = self.json();
        json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned()
    }
}

/// One connection to the API.
pub struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Connection {
    /// Connects; every wait on it is bounded.
    pub fn open(api: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&api, PATIENCE).unwrap())
    }

    /// Connects from an address of this host.
    pub fn open_from(source: &str, api: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(api), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
        socket.connect_timeout(&api.into(), PATIENCE).unwrap();
        Self::over(socket.into())
    }

    /// The same over a socket that is connected already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes as they are, or says why it could not; some may have been sent.
    pub fn try_send(&mut self, bytes: &str) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_bytes())
    }

    /// How long a write may wait.
    pub fn set_write_patience(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).unwrap();
    }

    /// Sends a request without a body; `extra` is whole header lines, each with its CRLF.
    pub fn request(&mut self, method: &str, target: &str, extra: &str) -> Response {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{extra}\r\n"));
        if method == "HEAD" { self.head_only() } else { self.response() }
    }

    /// Reads one answer with its body.
    pub fn response(&mut self) -> Response {
        let mut response = self.head_only();
        let has_no_body = response.status < 200 || response.status == 204;
        if !has_no_body {
            let length = response.header("content-length").expect("an answer says how long it is");
            let length: usize = length.parse().unwrap();
            while self.pending.len() < length {
                assert!(self.fill() > 0, "the body of {response:?} ends early");
            }
            response.body = self.pending.drain(..length).collect();
        }
        response
    }

    /// Reads one answer's head, which has a request id as all have; what follows stays for the next.
    pub fn head_only(&mut self) -> Response {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(size) = head.parse(&self.pending).unwrap() {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let response = Response {
                    status: head.code.unwrap(),
                    headers: head.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
                    body: Vec::new(),
                };
                self.pending.drain(..size);
                let id = response.header("x-request-id");
                assert!(id.is_some_and(|id| !id.is_empty()), "no request id in {response:?}");
                return response;
            }
            let so_far = String::from_utf8_lossy(&self.pending).into_owned();
            assert!(self.fill() > 0, "an answer's head ends early: {so_far:?}");
        }
    }

    /// Fails unless the daemon ends the connection, with nothing more said.
    pub fn ends(mut self) {
        let size = match read(&mut self.stream, &mut [0; 1024]) {
            Ok(size) => size,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("the connection does not end: {error}"),
        };
        assert_eq!((self.pending.len(), size), (0, 0), "more after the last answer");
    }

    /// Whether an answer, or the end, has arrived.
    pub fn has_answer(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let arrived = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).unwrap();
        arrived
    }

    /// The socket, and what was read of it beyond the last answer.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.pending)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn fill(&mut self) -> usize {
        let mut buffer = [0; 16 * 1024];
        let size = read(&mut self.stream, &mut buffer).unwrap_or_else(|error| {
            panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.pending));
        });
        self.pending.extend_from_slice(&buffer[..size]);
        size
    }
}
