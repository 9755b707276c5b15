//! A join: what a driver asks for, and how a connection becomes a session, its own or a tap's.
//!
//! **Invariants.** A join that is refused leaves nothing behind: what it took drops with it.
//! **Not here.** What a tap asks for (`tap`), whether the driver may come in (`door`), and the session once it is served (`session`).

use crate::edge::answers::{error, parameter_error};
use crate::edge::identities::{Identities, Wish};
use crate::edge::line::Line;
use crate::edge::session::{Joined, Place, Session, session_bytes_max};
use crate::edge::tap::TapRequest;
use crate::policy::budget::Budget;
use crate::policy::ending::JoinRefusal;
use crate::policy::limits::Limits;
use crate::policy::listing::port_number;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::refusals::Refused;
use crate::policy::roster::SessionId;
use crate::policy::sources::Sources;
use crate::protocol::http::{self, Answer, RequestHead, Written};
use crate::shard::cipher::PIECE_BYTES_MAX;
use crate::shard::log_gate::SubjectLogGate;
use crate::shard::mailbox::{Join, Request};
use crate::shard::outbox::{self, Inbox};
use crate::shard::resources::Resources;
use crate::shard::tls::Identity;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::Span;

/// The longest `X-Module-ID` that is kept.
pub(super) const MODULE_ID_BYTES_MAX: usize = 128;
/// The longest accept list that is logged; every line of a session carries it.
const ACCEPTED_BYTES_MAX: usize = 256;
/// Shard in the upper bits, a count in the lower: unique in the process without asking anyone, and a number that JSON
/// readers which know floats alone read exactly.
const SESSION_ID_SHARD_SHIFT: u32 = 42;

/// What is to become a session.
pub enum SessionRequest {
    /// A driver's.
    Join(JoinRequest),
    /// A tap's.
    Tap(TapRequest),
}

/// A join that has passed every check of its request.
pub struct JoinRequest {
    port: PortId,
    sources: Sources,
    /// Who the port is to its devices; `None` where they speak no TLS.
    identity: Option<Identity>,
    websocket_key: String,
    module: Option<Arc<str>>,
    /// The sessions of its token.
    of_token: Option<Budget>,
}

/// The joins of one shard's connections.
pub struct Joins {
    pub(super) resources: Rc<Resources>,
    next_session: Cell<u64>,
    /// By the address of the connection, as one that tells another's is believed for the log alone.
    refused_log: SubjectLogGate<(IpAddr, PortId)>,
}

/// A session that has joined, or taps, and is to be told so.
pub struct Ready {
    pub(super) joined: Joined,
    pub(super) inbox: Inbox,
    pub(super) websocket_key: String,
}

impl Joins {
    /// None yet.
    pub fn new(resources: Rc<Resources>) -> Self {
        let first = (resources.shard as u64) << SESSION_ID_SHARD_SHIFT;
        Joins { resources, next_session: Cell::new(first), refused_log: SubjectLogGate::default() }
    }

    /// Makes a session, which is not told yet. The log shows `told_ip` as its driver's address.
    ///
    /// # Errors
    /// Why it is refused; then nothing is left of it.
    pub async fn admit(
        &self,
        request: SessionRequest,
        line: &Line,
        told_ip: IpAddr,
        request_id: &str,
    ) -> Result<Ready, JoinRefusal> {
        match request {
            SessionRequest::Join(request) => self.join(request, line, told_ip, request_id).await,
            SessionRequest::Tap(request) => self.tap(request, line, told_ip, request_id).await,
        }
    }

    async fn join(
        &self,
        request: JoinRequest,
        line: &Line,
        told_ip: IpAddr,
        request_id: &str,
    ) -> Result<Ready, JoinRefusal> {
        let remote = line.remote;
        let JoinRequest { port, sources, identity, websocket_key, module, of_token } = request;
        let accepted: Arc<str> = shortened(sources.to_string()).into();
        // At error level, so that it is there for lines of every level.
        let span = tracing::error_span!(
            "session",
            server_protocol = port.transport.name(),
            server_port = port.number.get(),
            remote_ip = %told_ip,
            accepted = &*accepted,
            event_source = module.as_deref(),
            request_id
        );
        let shared = &self.resources.shared;
        let limits = self.resources.limits();
        let joined: Result<_, JoinRefusal> = async {
            self.resources.rules().access.check(port, &sources)?;
            let place = Place::take(&self.resources, of_token.as_ref())?;
            // What waits for devices with TLS may be there twice, sealed and not; of what is larger than the window, a piece.
            let sealed = if identity.is_some() { limits.write_window_bytes_max.max(PIECE_BYTES_MAX) } else { 0 };
            let needed = sealed
                + session_bytes_max(&limits)
                + line.cipher.bytes_max(limits.outbox_bytes_max)
                + sources.memory_bytes();
            let memory = shared.session_memory.reserve(needed).ok_or(JoinRefusal::NoMemory)?;
            let id = self.next_session();
            let inbox = self.ask_to_join(port, id, module.clone(), sources, identity, &limits).await?;
            Ok((place, memory, id, inbox))
        }
        .await;
        let (place, memory, id, inbox) = joined.inspect_err(|refusal| self.refused(*refusal, port, remote, &span))?;
        let joined = Joined { id, port, module, accepted, span, place, limits, memory };
        Ok(Ready { joined, inbox, websocket_key })
    }

    pub(super) fn next_session(&self) -> SessionId {
        SessionId(self.next_session.replace(self.next_session.get() + 1))
    }

    /// Counts, holds and logs a refusal; of those of one address for one port not every one.
    pub(super) fn refused(&self, refusal: JoinRefusal, port: PortId, remote: SocketAddr, span: &Span) {
        self.resources.counts.join_refused(refusal);
        self.resources.refused(Refused::Join, remote.ip(), Some(port), refusal.name());
        if let Some(left_out) = self.refused_log.pass((remote.ip(), port)) {
            let (status, reason) = (refusal.status(), refusal.reason());
            span.in_scope(|| tracing::warn!(status, %reason, left_out, "join refused"));
        }
    }

    async fn ask_to_join(
        &self,
        port: PortId,
        session: SessionId,
        module: Option<Arc<str>>,
        sources: Sources,
        identity: Option<Identity>,
        limits: &Limits,
    ) -> Result<Inbox, JoinRefusal> {
        let shared = &self.resources.shared;
        let (outbox, inbox) = outbox::link(limits.outbox_bytes_max);
        let (reply, answered) = oneshot::channel();
        shared
            .peers
            .ask_home(port, Request::Join(Join { port, session, module, sources, identity, outbox, reply }))
            .await;
        // No answer comes from a shard that has ended, and then the process does.
        answered.await.unwrap_or(Err(JoinRefusal::Draining))?;
        Ok(inbox)
    }
}

/// A list of sources that is not too long to show: without its last entries where it is, which "…" stands for.
fn shortened(sources: String) -> String {
    if sources.len() <= ACCEPTED_BYTES_MAX {
        return sources;
    }
    // Never amid an entry, which would be another. It is ASCII, as addresses are.
    let kept = sources.get(..ACCEPTED_BYTES_MAX).and_then(|text| text.rsplit_once(',')).map_or("", |(kept, _)| kept);
    format!("{kept},…")
}

impl Ready {
    /// The answer that makes the connection a WebSocket.
    pub fn upgrade(&self, request_id: &str) -> Written {
        http::write_upgrade(request_id, &self.websocket_key)
    }

    /// Runs the session to its end. `first` is what the driver sent behind its request.
    pub async fn serve(self, line: Line, resources: Rc<Resources>, first: Vec<u8>) {
        let session = Session::new(self.joined, line, resources, &self.inbox);
        session.serve(self.inbox, first).await;
    }
}

impl JoinRequest {
    /// Checks the parameters of a join, and that it is an upgrade. It is to be one of the sessions `of_token`. With
    /// `identities` it is one for devices with TLS, whose certificate may take a second.
    ///
    /// # Errors
    /// The answer that refuses it.
    pub async fn parse(
        head: &RequestHead<'_>,
        transport: Transport,
        identities: Option<&Identities>,
        of_token: Option<Budget>,
    ) -> Result<JoinRequest, Answer> {
        let missing = |name| parameter_error(422, "missing parameter", name, "is required");
        let bad = |name, restriction: &str| parameter_error(400, "bad parameter", name, restriction);
        let port = head.parameter("port").ok_or_else(|| missing("port"))?;
        let accept = head.parameter("accept").ok_or_else(|| missing("accept"))?;
        let number = port_number(&port).ok_or_else(|| bad("port", "must be a number from 1 to 65535"))?;
        let sources = Sources::parse(&accept).map_err(|fault| bad("accept", &fault.to_string()))?;
        let identity = match identities {
            Some(identities) => Some(identities.fulfil(Wish::parse(head)?).await?),
            None => None,
        };
        let websocket_key = websocket_key(head)?;
        let module = head.header("x-module-id").map(|id| {
            id.chars()
                .filter(|c| c.is_ascii_graphic() || *c == ' ')
                .take(MODULE_ID_BYTES_MAX)
                .collect::<String>()
                .into()
        });
        Ok(JoinRequest { port: PortId { transport, number }, sources, identity, websocket_key, module, of_token })
    }
}

/// Checks that a request is an upgrade (RFC 6455 section 4.2.1), and finds the key that its answer needs.
pub(super) fn websocket_key(head: &RequestHead) -> Result<String, Answer> {
    let upgrades = head.method == "GET"
        && head.header_has("connection", "upgrade")
        && head.header_has("upgrade", "websocket")
        && head.header("sec-websocket-version") == Some("13");
    if !upgrades {
        return Err(error(426, "a WebSocket upgrade of version 13 is required"));
    }
    let key = head.header("sec-websocket-key").filter(|key| !key.is_empty());
    key.map(str::to_owned).ok_or_else(|| error(400, "Sec-WebSocket-Key is missing"))
}
