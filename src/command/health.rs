//! The health check of a container: one GET, one exit code.
//!
//! **Invariants.** It ends within [`TIME_MAX`] of resolving the name, whatever the other end does.
//! **Not here.** The answer's body: the status says it all.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::tcp::left;
use super::wire::{CertificateRefusal, Wire};
use crate::config::DaemonOptions;

/// Time for connecting, asking and the head of the answer together.
pub const TIME_MAX: Duration = Duration::from_secs(5);

const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// Why there is no status.
#[derive(Debug, Error)]
pub enum HealthError {
    /// Nobody answers at that address.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    /// It wants another certificate than it was shown, or one at all.
    #[error("{0}")]
    Certificate(CertificateRefusal),
    /// The connection broke, or nothing came in time.
    #[error("no answer: {0}")]
    Answer(io::Error),
    /// What came is no HTTP.
    #[error("the answer is not HTTP")]
    NotHttp,
}

impl From<io::Error> for HealthError {
    fn from(error: io::Error) -> Self {
        CertificateRefusal::of(&error).map_or(HealthError::Answer(error), HealthError::Certificate)
    }
}

/// Asks the daemon's URL and tells the exit code: 0 for a status of 200 to 499, 1 for another, 2 for none. Whatever is not 0 is
/// explained in one line on standard error.
pub fn check(daemon: &DaemonOptions) -> u8 {
    let url = &daemon.url;
    let (code, reason) = match status(daemon) {
        Ok(200..=499) => return 0,
        Ok(status) => (1, format!("{url} answers {status}")),
        Err(error) => (2, format!("{url}: {error}")),
    };
    // Nobody may be reading; the exit code is what counts.
    let _ = writeln!(io::stderr(), "dispatch: {reason}");
    code
}

/// The status that the daemon's URL answers a GET with.
///
/// # Errors
/// [`HealthError`] where there is none in [`TIME_MAX`].
pub fn status(daemon: &DaemonOptions) -> Result<u16, HealthError> {
    status_within(daemon, TIME_MAX)
}

fn status_within(daemon: &DaemonOptions, time_max: Duration) -> Result<u16, HealthError> {
    let url = &daemon.url;
    let deadline = Instant::now() + time_max;
    let mut wire = Wire::open(daemon, deadline).map_err(|error| HealthError::Connect(url.authority(), error))?;
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: dispatch/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        url.path,
        url.authority(),
    );
    wire.tcp().set_read_timeout(Some(left(deadline)?))?;
    wire.tcp().set_write_timeout(Some(left(deadline)?))?;
    wire.write_all(request.as_bytes())?;

    let mut head = Vec::new();
    let mut part = [0; 2_048];
    while head.len() < HEAD_BYTES_MAX {
        wire.tcp().set_read_timeout(Some(left(deadline)?))?;
        match wire.read(&mut part) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => head.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = parse_status(&head)? {
            return Ok(status);
        }
    }
    Err(HealthError::NotHttp)
}

fn parse_status(head: &[u8]) -> Result<Option<u16>, HealthError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        Ok(httparse::Status::Complete(_)) => Ok(response.code),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(HealthError::NotHttp),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn plain(url: &str) -> DaemonOptions {
        DaemonOptions { url: url.parse().unwrap(), tls: None }
    }

    fn status_of(answer: &'static [u8], time_max: Duration) -> Result<u16, HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            // Who has seen enough leaves early.
            let _ = answer.iter().try_for_each(|byte| stream.write_all(&[*byte]));
            let _ = stream.read(&mut [0]);
            request
        });
        let status = status_within(&plain(&format!("http://127.0.0.1:{port}/healthz?a=b")), time_max);
        let request = String::from_utf8(server.join().unwrap()).unwrap();
        assert!(request.starts_with("GET /healthz?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")), "{request}");
        status
    }

    #[test]
    fn the_status_is_read_however_the_answer_is_split() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", TIME_MAX).unwrap(), 204);
        assert_eq!(status_of(b"HTTP/1.0 503 Service Unavailable\r\n\r\nbody", TIME_MAX).unwrap(), 503);
    }

    #[test]
    fn an_answer_that_never_ends_or_is_no_http_is_an_error() {
        assert!(matches!(status_of(b"HTTP/1.1 200", Duration::from_millis(200)), Err(HealthError::Answer(_))));
        assert!(matches!(status_of(b"SSH-2.0-x\r\n\r\n", TIME_MAX), Err(HealthError::NotHttp)));
    }

    #[test]
    fn nobody_listening_is_an_error() {
        // The port is taken, so that no other test gets it, but not at this address.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let daemon = plain(&format!("http://127.9.9.9:{port}/"));
        assert!(matches!(status(&daemon), Err(HealthError::Connect(..))));
        assert_eq!(check(&daemon), 2);
    }
}
