//! Joining a running daemon's port: the request, and why it is refused.
//!
//! **Invariants.** No wait of a join is longer than [`TIME_MAX`]; the token stands in a header that is marked
//! sensitive, and in no error.
//! **Not here.** Trying again (`listen`).

use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;
use tungstenite::client::{IntoClientRequest, client};
use tungstenite::handshake::client::Request;
use tungstenite::http::{HeaderValue, Uri, header};
use tungstenite::{Error, HandshakeError, WebSocket};

use crate::command::wire::{CertificateRefusal, Wire};
use crate::config::{DaemonOptions, HttpUrl, ListenArguments, ListenOptions, Secret};

const BASE_PATH: &str = "/api/dispatch/v1";

/// Time for connecting, and for each wait for a part of the answer.
const TIME_MAX: Duration = Duration::from_secs(5);

/// The characters of an error's text that are shown: enough for a sentence or two.
const TEXT_MAX: usize = 500;

/// Why the port was not joined.
#[derive(Debug, Error)]
pub(in crate::command) enum JoinError {
    /// The daemon says no.
    #[error("refused with {status}: {text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the answer says.
        text: String,
    },
    /// It wants another certificate than it was shown, or one at all.
    #[error("{0}")]
    Certificate(CertificateRefusal),
    /// There is no daemon, or no connection to it.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It connects but does not answer.
    #[error("no answer in time")]
    Silent,
    /// What answers is no daemon, or the token cannot stand in a header.
    #[error("cannot join: {0}")]
    Handshake(String),
}

impl From<io::Error> for JoinError {
    fn from(error: io::Error) -> Self {
        CertificateRefusal::of(&error).map_or(JoinError::Connect(error), JoinError::Certificate)
    }
}

impl JoinError {
    /// Whether trying again is of no use: the request itself is wrong.
    pub(in crate::command) fn is_final(&self) -> bool {
        matches!(self, JoinError::Certificate(_) | JoinError::Refused { status: 400 | 401 | 404 | 405 | 422, .. })
    }
}

/// Joins the port. Waits for the daemon's answer.
pub(super) fn join(options: &ListenOptions) -> Result<WebSocket<Wire>, JoinError> {
    open(&options.daemon, &join_route(&options.arguments), &options.token, "dispatch-listen")
}

/// Opens a WebSocket at a route of the daemon, its query included. Waits for the daemon's answer.
pub(in crate::command) fn open(
    daemon: &DaemonOptions,
    route: &str,
    token: &Secret,
    module: &'static str,
) -> Result<WebSocket<Wire>, JoinError> {
    let request = request(&websocket_url(&daemon.url, route), token, module)?;
    let wire = Wire::open(daemon, Instant::now() + TIME_MAX)?;
    wire.tcp().set_nodelay(true)?;
    wire.tcp().set_read_timeout(Some(TIME_MAX))?;
    wire.tcp().set_write_timeout(Some(TIME_MAX))?;
    match client(request, wire) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Interrupted(_)) => Err(JoinError::Silent),
        Err(HandshakeError::Failure(Error::Http(response))) => Err(JoinError::Refused {
            status: response.status().as_u16(),
            text: explanation(response.body().as_deref().unwrap_or_default()),
        }),
        Err(HandshakeError::Failure(Error::Io(error))) => Err(error.into()),
        Err(HandshakeError::Failure(error)) => Err(JoinError::Handshake(error.to_string())),
    }
}

fn request(url: &str, token: &Secret, module: &'static str) -> Result<Request, JoinError> {
    let wrong = |error: &dyn std::fmt::Display| JoinError::Handshake(error.to_string());
    let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
    let mut request = uri.into_client_request().map_err(|error| wrong(&error))?;
    let mut token = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| wrong(&"the secret has characters that no header can carry"))?;
    token.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, token);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("dispatch/", env!("CARGO_PKG_VERSION"))));
    headers.insert("x-module-id", HeaderValue::from_static(module));
    Ok(request)
}

fn websocket_url(url: &HttpUrl, route: &str) -> String {
    let path = url.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    let base = if path.is_empty() { BASE_PATH } else { path };
    format!("ws://{}{base}/{route}", url.authority())
}

fn join_route(arguments: &ListenArguments) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("port", &arguments.port.to_string())
        .append_pair("accept", &arguments.accept)
        .finish();
    format!("{}_dispatch?{query}", arguments.transport.name())
}

/// What a refusal's body says: its JSON `error` and what else it names, or the text itself, without control characters.
fn explanation(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(serde_json::Value::Object(fields)) => {
            let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let named = |(name, field): (&String, &serde_json::Value)| match name.as_str() {
                "error" => value(field),
                _ => format!("{name}: {}", value(field)),
            };
            let (error, others): (Vec<_>, Vec<_>) = fields.iter().partition(|(name, _)| *name == "error");
            error.into_iter().chain(others).map(named).collect::<Vec<_>>().join(", ")
        }
        _ => String::from_utf8_lossy(body).trim().to_owned(),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_MAX).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{DaemonArguments, TrustArguments};
    use crate::policy::port_id::Transport;

    fn url_for(url: &str) -> String {
        let url: HttpUrl = url.parse().unwrap();
        let route = join_route(&ListenArguments {
            transport: Transport::Tcp,
            port: 6001,
            accept: "127.0.0.1,::1,10.0.0.0/8".to_owned(),
            daemon: DaemonArguments { url: url.clone(), trust: TrustArguments::default() },
            json: false,
            raw: false,
        });
        websocket_url(&url, &route)
    }

    #[test]
    fn the_usual_base_path_stands_in_where_the_url_has_none() {
        let query = "tcp_dispatch?port=6001&accept=127.0.0.1%2C%3A%3A1%2C10.0.0.0%2F8";
        assert_eq!(url_for("http://[::1]:3000"), format!("ws://[::1]:3000/api/dispatch/v1/{query}"));
        assert_eq!(url_for("http://host/api/server/"), format!("ws://host:80/api/server/{query}"));
    }

    #[test]
    fn a_refusal_is_explained_by_its_error() {
        assert_eq!(explanation(br#"{"error":"invalid authorisation token"}"#), "invalid authorisation token");
        let named = br#"{"parameter":"port","restriction":"1 to 65535","error":"bad"}"#;
        assert_eq!(explanation(named), "bad, parameter: port, restriction: 1 to 65535");
        assert_eq!(explanation(b"Not\x1b[2J Found\n"), "Not [2J Found");
        assert_eq!(explanation(b""), "no reason given");
    }

    #[test]
    fn what_cannot_get_better_is_final() {
        let refused = |status| JoinError::Refused { status, text: String::new() };
        assert!([400, 401, 404, 405, 422].into_iter().all(|status| refused(status).is_final()));
        assert!([403, 409, 426, 500, 503].into_iter().all(|status| !refused(status).is_final()));
        assert!(!JoinError::Silent.is_final());
        let asked = io::Error::other(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired));
        assert!(JoinError::from(asked).is_final());
        assert!(!JoinError::from(io::Error::other("the cable is out")).is_final());
    }
}
