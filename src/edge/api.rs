//! A shard's API: connections, requests in turn, answers, and the join that turns a connection into a session.
//!
//! **Invariants.** Requests of a connection are answered in order. Refusals come in the contract's order, and a join that
//! is refused leaves nothing behind: what it took drops with it. No token is logged.
//! **Not here.** The table of routes (`routes`), and sessions once they are joined (`session`).

use crate::edge::door::{Caller, Door, Refused};
use crate::edge::handshakes::{Handshake, Handshakes};
use crate::edge::routes::{self, Endpoint};
use crate::edge::session::{Place, Session, session_bytes_max};
use crate::policy::counts::{Count, Statistics};
use crate::policy::ending::JoinRefusal;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::roster::SessionId;
use crate::policy::sources::Sources;
use crate::policy::token::{self, Token};
use crate::protocol::http::{self, Answer, Body, Connection, HeadError, RequestHead};
use crate::shard::accept;
use crate::shard::mailbox::{Join, Request, ShardCount};
use crate::shard::outbox::{self, Inbox};
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Listener, Receipt, Sent, Stream, Timer};
use bytes::Bytes;
use serde_json::json;
use std::cell::Cell;
use std::net::{IpAddr, Shutdown};
use std::num::NonZeroU16;
use std::rc::Rc;
use tokio::sync::oneshot;

/// The longest `X-Module-ID` that is logged.
const MODULE_ID_BYTES_MAX: usize = 128;
/// The longest accept list that is logged; every line of a session carries it.
const ACCEPTED_CHARS_MAX: usize = 256;
/// Bytes of a head that reserve no memory; a driver's is about 500.
const HEAD_BYTES_FREE: usize = 4 << 10;
/// Shard in the upper bits, a count in the lower: unique in the process without asking anyone.
const SESSION_ID_SHARD_SHIFT: u32 = 48;

/// One shard's API.
pub struct Api {
    resources: Rc<Resources>,
    door: Door,
    next_session: Cell<u64>,
    handshakes: Handshakes,
}

/// What a request asks for, once it is checked.
enum Asked {
    Answer(Answer),
    Statistics,
    Shards,
    Join(JoinRequest),
}

/// A join that has passed every check of its request.
struct JoinRequest {
    port: PortId,
    sources: Sources,
    websocket_key: String,
    event_source: Option<String>,
}

/// How reading a head ended otherwise than by a head.
enum NoHead {
    /// The other end is gone, or sent nothing in time.
    Gone,
    Refused(Answer),
}

/// What one request needs from its head, and how its answer is to be written.
struct Turn {
    asked: Asked,
    head_bytes: usize,
    request_id: String,
    connection: Connection,
    body: Body,
}

impl Api {
    /// The API of the shard with these resources.
    pub fn new(resources: Rc<Resources>, token: Token) -> Rc<Self> {
        let first = (resources.shard as u64) << SESSION_ID_SHARD_SHIFT;
        let limits = *resources.limits();
        let handshakes = Handshakes::new((limits.handshakes_max / resources.shared.peers.shards()).max(1));
        let door = Door::new(resources.clone(), token);
        Rc::new(Api { resources, door, next_session: Cell::new(first), handshakes })
    }

    /// Accepts connections until the listener is stopped.
    pub async fn serve(self: Rc<Self>, listener: Rc<Listener>) {
        while let Some((stream, peer)) = accept::next(&listener, &self.resources).await {
            ring::spawn(self.clone().converse(stream, peer.ip().to_canonical()));
        }
    }

    /// Answers the requests of one connection in turn.
    async fn converse(self: Rc<Self>, stream: Stream, remote_ip: IpAddr) {
        if stream.set_nodelay().is_err() {
            return;
        }
        let mut waiting = Some(self.handshakes.begin(&stream));
        let mut bytes = Vec::new();
        let ending = loop {
            let turn = match self.next_request(&stream, remote_ip, &mut bytes, waiting.as_mut()).await {
                Ok(turn) => turn,
                Err(NoHead::Gone) => return,
                Err(NoHead::Refused(answer)) => {
                    let mut out = Vec::new();
                    answer.write(&mut out, &new_request_id(), Connection::Close, Body::Sent);
                    break out;
                }
            };
            bytes.drain(..turn.head_bytes);
            let Turn { asked, request_id, connection, body, .. } = turn;
            let answer = match asked {
                Asked::Answer(answer) => answer,
                Asked::Statistics => self.statistics().await,
                Asked::Shards => self.shards().await,
                Asked::Join(request) => {
                    // It is a session's from here on, or else answered at once.
                    waiting = None;
                    match self.join(request, &stream, remote_ip, &request_id, &mut bytes).await {
                        Ok(()) => return,
                        Err(refusal) => refused(refusal),
                    }
                }
            };
            tracing::debug!(%remote_ip, request_id, status = answer.status, "answered");
            let mut out = Vec::new();
            answer.write(&mut out, &request_id, connection, body);
            if connection == Connection::Close {
                break out;
            }
            if !self.send(&stream, out).await {
                return;
            }
            waiting.get_or_insert_with(|| self.handshakes.begin(&stream));
        };
        if self.send(&stream, ending).await {
            stream.shutdown(Shutdown::Write);
            let limits = self.resources.limits();
            stream.linger(&self.resources.pool, limits.linger_time_max, limits.linger_time_max).await;
        }
    }

    /// Sends an answer, for as long as a head may take; a peer that does not read it is let go.
    async fn send(&self, stream: &Stream, out: Vec<u8>) -> bool {
        let slow = stream.clone();
        let time = self.resources.limits().request_head_time_max;
        let _deadline = Timer::spawn(async move {
            tokio::time::sleep(time).await;
            slow.abandon_send();
        });
        matches!(stream.send_all(Bytes::from(out), |_| {}).await, Ok(Sent::Whole))
    }

    /// Reads until `bytes` begins with a whole head, and finds out what it asks for.
    async fn next_request(
        &self,
        stream: &Stream,
        remote_ip: IpAddr,
        bytes: &mut Vec<u8>,
        waiting: Option<&mut Handshake>,
    ) -> Result<Turn, NoHead> {
        let limits = self.resources.limits();
        let deadline = Timer::interrupt_after(limits.request_head_time_max, stream);
        let mut unseen = 0;
        let mut memory = None;
        loop {
            if bytes.len() > HEAD_BYTES_FREE && memory.is_none() {
                memory = self.resources.shared.session_memory.reserve(limits.request_head_bytes_max);
                if memory.is_none() {
                    return Err(NoHead::Refused(error(503, "no room for a long request head")));
                }
            }
            // Empty lines before a request do not count (RFC 9112 section 2.2).
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            bytes.drain(..blank);
            unseen = usize::saturating_sub(unseen, blank);
            // A head can only become whole, or wrong, with the end of a line.
            if bytes[unseen..].contains(&b'\n') {
                match RequestHead::parse(bytes) {
                    Ok(Some(head)) if head.head_bytes <= limits.request_head_bytes_max => {
                        drop(deadline);
                        return Ok(self.turn(&head, remote_ip, waiting).await);
                    }
                    Ok(Some(_)) => return Err(NoHead::Refused(error(431, "request head over the size limit"))),
                    Ok(None) => {}
                    Err(HeadError::TooManyHeaders) => {
                        return Err(NoHead::Refused(error(431, "too many header lines")));
                    }
                    Err(HeadError::Malformed) => return Err(NoHead::Refused(error(400, "malformed request head"))),
                }
            }
            if bytes.len() > limits.request_head_bytes_max {
                return Err(NoHead::Refused(error(431, "request head over the size limit")));
            }
            unseen = bytes.len();
            match stream.receive(&self.resources.pool).await {
                Ok(Receipt::Data(data)) => bytes.extend_from_slice(&data),
                Ok(Receipt::Interrupted) if !bytes.is_empty() => {
                    return Err(NoHead::Refused(error(408, "request head took too long")));
                }
                Ok(Receipt::End | Receipt::Interrupted) | Err(_) => return Err(NoHead::Gone),
            }
        }
    }

    async fn turn(&self, head: &RequestHead<'_>, remote_ip: IpAddr, waiting: Option<&mut Handshake>) -> Turn {
        let request_id = head.request_id().map_or_else(new_request_id, str::to_owned);
        let has_body = head.has_body();
        let asked = if has_body {
            Asked::Answer(error(413, "a request body is not taken"))
        } else {
            self.route(head, remote_ip, &request_id, waiting).await.unwrap_or_else(Asked::Answer)
        };
        let is_sent_away = matches!(&asked, Asked::Answer(answer) if answer.status == 429);
        let keeps = head.keeps_alive() && !has_body && !is_sent_away;
        Turn {
            asked,
            head_bytes: head.head_bytes,
            request_id,
            connection: if keeps { Connection::KeepAlive } else { Connection::Close },
            body: if head.method == "HEAD" { Body::Omitted } else { Body::Sent },
        }
    }

    /// What a request asks for.
    ///
    /// # Errors
    /// The answer that refuses it: 404, 405, 429, 401, 422 and 400, 426, in this order.
    async fn route(
        &self,
        head: &RequestHead<'_>,
        remote_ip: IpAddr,
        request_id: &str,
        waiting: Option<&mut Handshake>,
    ) -> Result<Asked, Answer> {
        let route = routes::find(head.path).ok_or_else(|| error(404, "no such route"))?;
        if !matches!(head.method, "GET" | "HEAD") {
            return Err(Answer { allow: Some(routes::METHODS), ..error(405, "method not allowed") });
        }
        if route.needs_token {
            let parameter = head.parameter("bearer_token");
            let presented = token::presented(head.raw_header("authorization"), parameter.as_deref());
            let caller = Caller { presented, remote_ip, request_id };
            self.door.let_in(caller, waiting).await.map_err(|refused| match refused {
                Refused::WrongToken => error(401, "invalid authorisation token"),
                Refused::TooManyFailed => error(429, "too many failed tokens from this address"),
            })?;
        }
        match route.endpoint {
            Endpoint::Health => Ok(Asked::Answer(Answer::json(200, String::new()))),
            Endpoint::Version => Ok(Asked::Answer(version())),
            Endpoint::Statistics => Ok(Asked::Statistics),
            Endpoint::Shards => Ok(Asked::Shards),
            Endpoint::Join(transport) => join_request(head, transport).map(Asked::Join),
        }
    }

    async fn statistics(&self) -> Answer {
        let shards = self.resources.shared.peers.count().await;
        let statistics = Statistics::of(shards.into_iter().flat_map(|shard| shard.ports));
        Answer::json(200, serde_json::to_string(&statistics).unwrap_or_default())
    }

    async fn shards(&self) -> Answer {
        let shards = self.resources.shared.peers.count().await;
        let shards: Vec<_> = shards.iter().map(shard_json).collect();
        Answer::json(200, json!({ "shards": shards }).to_string())
    }

    /// Joins, answers 101 and runs the session to its end.
    ///
    /// # Errors
    /// Why the join is refused; then nothing is left of it.
    async fn join(
        &self,
        request: JoinRequest,
        stream: &Stream,
        remote_ip: IpAddr,
        request_id: &str,
        bytes: &mut Vec<u8>,
    ) -> Result<(), JoinRefusal> {
        let JoinRequest { port, sources, websocket_key, event_source } = request;
        let accepted: String = sources.to_string().chars().take(ACCEPTED_CHARS_MAX).collect();
        // At error level, so that it is there for lines of every level.
        let span = tracing::error_span!(
            "session",
            server_protocol = port.transport.name(),
            server_port = port.number.get(),
            %remote_ip,
            accepted,
            event_source,
            request_id
        );
        let shared = &self.resources.shared;
        let joined: Result<_, JoinRefusal> = async {
            shared.access.check(port, &sources)?;
            let place = Place::take(&self.resources).ok_or(JoinRefusal::TooManySessions)?;
            let needed = session_bytes_max(&shared.limits) + sources.memory_bytes();
            let memory = shared.session_memory.reserve(needed).ok_or(JoinRefusal::NoMemory)?;
            let session = SessionId(self.next_session.replace(self.next_session.get() + 1));
            let inbox = self.ask_to_join(port, session, sources).await?;
            Ok((place, memory, session, inbox))
        }
        .await;
        let (place, memory, session, inbox) = joined.inspect_err(|refusal| {
            self.resources.counts.one(Count::JoinsRefused);
            span.in_scope(|| tracing::warn!(status = refusal.status(), reason = %refusal.reason(), "join refused"));
        })?;
        let mut out = Vec::new();
        http::write_upgrade(&mut out, request_id, &websocket_key);
        if self.send(stream, out).await {
            let session = Session::new(session, port, span, stream.clone(), self.resources.clone(), place, memory);
            session.serve(inbox, std::mem::take(bytes)).await;
        }
        Ok(())
    }

    async fn ask_to_join(&self, port: PortId, session: SessionId, sources: Sources) -> Result<Inbox, JoinRefusal> {
        let shared = &self.resources.shared;
        let (outbox, inbox) = outbox::link(shared.limits.outbox_bytes_max);
        let (reply, answered) = oneshot::channel();
        shared.peers.ask_home(port, Request::Join(Join { port, session, sources, outbox, reply })).await;
        // No answer comes from a shard that has ended, and then the process does.
        answered.await.unwrap_or(Err(JoinRefusal::Draining))?;
        Ok(inbox)
    }
}

/// Checks the parameters of a join, and that it is an upgrade (RFC 6455 section 4.2.1).
fn join_request(head: &RequestHead, transport: Transport) -> Result<JoinRequest, Answer> {
    let missing = |name| parameter_error(422, "missing parameter", name, "is required");
    let bad = |name, restriction: &str| parameter_error(400, "bad parameter", name, restriction);
    let port = head.parameter("port").ok_or_else(|| missing("port"))?;
    let accept = head.parameter("accept").ok_or_else(|| missing("accept"))?;
    let number = port_number(&port).ok_or_else(|| bad("port", "must be a number from 1 to 65535"))?;
    let sources = Sources::parse(&accept).map_err(|fault| bad("accept", &fault.to_string()))?;
    let upgrades = head.method == "GET"
        && head.header_has("connection", "upgrade")
        && head.header_has("upgrade", "websocket")
        && head.header("sec-websocket-version") == Some("13");
    if !upgrades {
        return Err(error(426, "a WebSocket upgrade of version 13 is required"));
    }
    let websocket_key = head.header("sec-websocket-key").filter(|key| !key.is_empty());
    let websocket_key = websocket_key.ok_or_else(|| error(400, "Sec-WebSocket-Key is missing"))?.to_owned();
    let event_source = head
        .header("x-module-id")
        .map(|id| id.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MODULE_ID_BYTES_MAX).collect());
    Ok(JoinRequest { port: PortId { transport, number }, sources, websocket_key, event_source })
}

/// Decimal digits alone, leading zeros allowed.
fn port_number(text: &str) -> Option<NonZeroU16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let significant = text.trim_start_matches('0');
    (digits && significant.len() <= 5).then(|| significant.parse().ok()).flatten()
}

fn version() -> Answer {
    let version = json!({
        "service": "dispatch",
        "commit": option_env!("DISPATCH_COMMIT").unwrap_or("DEV"),
        "version": env!("CARGO_PKG_VERSION"),
        "build_time": option_env!("DISPATCH_BUILD_TIME").unwrap_or(""),
        "platform_version": option_env!("PLACE_VERSION").unwrap_or("DEV"),
    });
    Answer::json(200, version.to_string())
}

fn shard_json(shard: &ShardCount) -> serde_json::Value {
    json!({
        "shard": shard.shard,
        "sessions": shard.sessions,
        "ports": shard.ports.len(),
        "devices": shard.devices,
        "tasks": shard.tasks,
        "buffers_out": shard.buffers_out,
        "buffers_lost": shard.buffers_lost,
        "buffer_waits": shard.buffer_waits,
        "counts": shard.counts,
    })
}

fn error(status: u16, text: &str) -> Answer {
    Answer::json(status, json!({ "error": text }).to_string())
}

fn parameter_error(status: u16, text: &str, parameter: &str, restriction: &str) -> Answer {
    let body = json!({ "error": text, "parameter": parameter, "restriction": restriction });
    Answer::json(status, body.to_string())
}

fn refused(refusal: JoinRefusal) -> Answer {
    error(refusal.status(), &refusal.reason())
}

fn new_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_decimal_digits_from_1_to_65535() {
        assert_eq!(port_number("80").map(NonZeroU16::get), Some(80));
        assert_eq!(port_number("0000065535").map(NonZeroU16::get), Some(65_535));
        for text in
            ["", "0", "000", "65536", "70000", "-1", "+1", " 1", "1 ", "0x1", "1.0", "٣", "99999999999999999999"]
        {
            assert_eq!(port_number(text), None, "{text}");
        }
    }
}
