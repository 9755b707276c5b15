//! A shard's API: connections, requests in turn, and their answers.
//!
//! **Invariants.** Requests of a connection are answered in order. Refusals come in the contract's order. No token is logged.
//! **Not here.** The table of routes (`routes`), joins (`join`), and what is told of the daemon (`reports`).

use crate::edge::answers::{error, refused};
use crate::edge::door::{Caller, Door, Refused};
use crate::edge::handshakes::{Handshake, Handshakes};
use crate::edge::identities::Identities;
use crate::edge::join::{JoinRequest, Joins, SessionRequest};
use crate::edge::line::{self, Line};
use crate::edge::page;
use crate::edge::received::{self, Received};
use crate::edge::reports::{self, Report};
use crate::edge::routes::{self, Endpoint};
use crate::edge::tap::TapRequest;
use crate::policy::budget::{Budget, Reservation};
use crate::policy::counts::Count;
use crate::policy::port_id::Transport;
use crate::policy::refusals;
use crate::policy::token;
use crate::protocol::forwarded;
use crate::protocol::http::{Answer, Body, Connection, HeadError, RequestHead, Written};
use crate::protocol::proxy_header::ProxyFault;
use crate::shard::accept::{self, Entrance};
use crate::shard::newcomers::Newcomer;
use crate::shard::proxied;
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Listener, Receipt, Stream, Timer};
use crate::shard::sockets;
use crate::shard::waiting::Waiting;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

/// Bytes of an answer that reserve no memory; that of a join has about 200.
const ANSWER_BYTES_FREE: usize = 4 << 10;
/// What a connection that has not joined may hold beside what it reserves: a head, an answer, and what serves it.
pub const WAITING_BYTES_MAX: usize = received::FREE_BYTES + ANSWER_BYTES_FREE + (8 << 10);

/// One shard's API.
pub struct Api {
    resources: Rc<Resources>,
    door: Door,
    joins: Joins,
    handshakes: Handshakes,
    identities: Identities,
}

/// What a request asks for, once it is checked.
enum Asked {
    Answer(Answer),
    Report(Report),
    Session(SessionRequest),
}

/// How reading a head ended otherwise than by a head.
enum NoHead {
    /// The other end is gone, or sent nothing in time.
    Gone,
    /// The other end has ended its TLS, in good order or by a fault.
    Ended,
    Refused(Answer),
}

/// What one request needs from its head, and how its answer is to be written.
struct Turn {
    asked: Asked,
    head_bytes: usize,
    request_id: String,
    /// The remote's address for the log.
    told_ip: IpAddr,
    connection: Connection,
    body: Body,
    /// The route's name in metrics.
    route: &'static str,
    /// When the head had come whole.
    began_at: Instant,
}

impl Api {
    /// The API of the shard with these resources.
    pub fn new(resources: Rc<Resources>, identities: Identities) -> Rc<Self> {
        let handshakes = Handshakes::new(resources.clone());
        let door = Door::new(resources.clone());
        let joins = Joins::new(resources.clone());
        Rc::new(Api { resources, door, joins, handshakes, identities })
    }

    /// Accepts connections until the listener is stopped.
    pub async fn serve(self: Rc<Self>, listener: Rc<Listener>, entrance: Entrance) {
        while let Some((stream, peer)) = accept::next(&listener, &self.resources).await {
            let remote = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            // One that is gone refuses them, and is seen to be gone soon.
            let _ = sockets::prepare(&stream.options(), self.resources.limits().socket_bytes);
            let newcomer = self.resources.newcomers.begin(&stream);
            ring::spawn(self.clone().converse(stream, remote, entrance, newcomer));
        }
    }

    async fn converse(self: Rc<Self>, stream: Stream, peer: SocketAddr, entrance: Entrance, newcomer: Newcomer) {
        let handshake = self.handshakes.begin(&stream);
        let mut first = Vec::new();
        let remote = match proxied::remote_of(&stream, &self.resources, peer, &mut first).await {
            Ok(remote) => remote,
            Err(fault) => return self.refuse_balancer(peer.ip(), entrance, fault),
        };
        if let Some((line, first)) = Line::open(handshake.waiting(), remote, entrance, first, &self.resources).await {
            self.answer(line, first, handshake, newcomer).await;
        }
    }

    /// Answers the requests of one connection in turn. `first` is what was received of it.
    async fn answer(&self, line: Line, first: Vec<u8>, handshake: Handshake, newcomer: Newcomer) {
        let mut received = Received::new(first);
        let mut handshake = Some(handshake);
        let mut newcomer = Some(newcomer);
        let (ending, memory) = loop {
            let turn = match self.next_request(&line, &mut received, handshake.as_ref().map(Handshake::waiting)).await {
                Ok(turn) => turn,
                Err(NoHead::Gone) => return,
                Err(NoHead::Ended) => {
                    let handshake = handshake.unwrap_or_else(|| self.handshakes.begin(&line.stream));
                    return line.end(handshake.waiting(), &self.resources).await;
                }
                Err(NoHead::Refused(answer)) => {
                    break self.written(answer, &line, &new_request_id(), Connection::Close, Body::Sent);
                }
            };
            received.forget(turn.head_bytes);
            let Turn { asked, request_id, told_ip, connection, body, route, began_at, .. } = turn;
            let answer = match asked {
                Asked::Answer(answer) => answer,
                Asked::Report(report) => self.report(report, &request_id, handshake.as_ref()).await,
                Asked::Session(request) => {
                    // It is a session's from here on, or else answered at once.
                    handshake = None;
                    match self.joins.admit(request, &line, told_ip, &request_id).await {
                        Ok(ready) => {
                            let sent = line.send(ready.upgrade(&request_id), None, &self.resources).await;
                            self.resources.answered(route, began_at.elapsed());
                            drop(newcomer.take());
                            if sent {
                                let first = received.to_vec();
                                drop(received);
                                ready.serve(line, self.resources.clone(), first).await;
                            }
                            return;
                        }
                        Err(refusal) => refused(refusal),
                    }
                }
            };
            tracing::debug!(remote_ip = %told_ip, request_id, status = answer.status, "answered");
            let (out, memory) = self.written(answer, &line, &request_id, connection, body);
            if connection == Connection::Close {
                self.resources.answered(route, began_at.elapsed());
                break (out, memory);
            }
            let waiting = handshake.get_or_insert_with(|| self.handshakes.begin(&line.stream)).waiting();
            let sent = line.send(out, Some(waiting), &self.resources).await;
            drop(memory);
            drop(newcomer.take());
            self.resources.answered(route, began_at.elapsed());
            if !sent {
                return;
            }
        };
        let handshake = handshake.unwrap_or_else(|| self.handshakes.begin(&line.stream));
        let sent = line.send(ending, Some(handshake.waiting()), &self.resources).await;
        drop(memory);
        if sent {
            line.end(handshake.waiting(), &self.resources).await;
        }
    }

    /// The answer as it leaves, and the memory that it takes until it has left; where there is no room for a long one, the
    /// refusal of that.
    fn written(
        &self,
        answer: Answer,
        line: &Line,
        request_id: &str,
        connection: Connection,
        body: Body,
    ) -> (Written, Option<Reservation>) {
        let out = answer.write(request_id, connection, body);
        // What is shared is copied where it is sealed.
        let held_bytes = out.own.capacity() + if line.cipher.is_plain() { 0 } else { out.own.len() + out.shared.len() };
        if held_bytes <= ANSWER_BYTES_FREE {
            return (out, None);
        }
        match self.resources.shared.answers.reserve(held_bytes) {
            Some(memory) => (out, Some(memory)),
            None => (error(503, "no room for a long answer").write(request_id, connection, body), None),
        }
    }

    /// What is told, unless the connection is let go while it waits for that. What changes something is done in any case.
    async fn report(&self, report: Report, request_id: &str, handshake: Option<&Handshake>) -> Answer {
        let only_tells = report.only_tells();
        let answer = report.answer(&self.resources, request_id);
        match handshake {
            Some(handshake) if only_tells => tokio::select! {
                answer = answer => answer,
                () = handshake.waiting().until_let_go() => let_go(),
            },
            _ => answer.await,
        }
    }

    fn refuse_balancer(&self, balancer: IpAddr, entrance: Entrance, fault: ProxyFault) {
        self.resources.counts.one(Count::ConnectionsRefusedProxy);
        self.resources.refused(refusals::Refused::Connection, balancer, None, fault.name());
        proxied::tell(&self.resources, fault, balancer, line::server_port(entrance, &self.resources));
    }

    /// Reads until `bytes` begins with a whole head, and finds out what it asks for.
    async fn next_request(
        &self,
        line: &Line,
        received: &mut Received,
        waiting: Option<&Waiting>,
    ) -> Result<Turn, NoHead> {
        let limits = self.resources.limits();
        let deadline = Timer::interrupt_after(limits.request_head_time_max, &line.stream);
        let mut unseen = 0;
        loop {
            // Empty lines before a request do not count (RFC 9112 section 2.2).
            let blank = received.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            received.forget(blank);
            unseen = usize::saturating_sub(unseen, blank);
            if !received.reserve(&self.resources.shared.session_memory, limits.request_head_bytes_max) {
                return Err(NoHead::Refused(error(503, "no room for a long request head")));
            }
            // A head can only become whole, or wrong, with the end of a line.
            if received[unseen..].contains(&b'\n') {
                match RequestHead::parse(received) {
                    Ok(Some(head)) if head.head_bytes <= limits.request_head_bytes_max => {
                        drop(deadline);
                        return Ok(self.turn(&head, line, waiting).await);
                    }
                    Ok(Some(_)) => return Err(NoHead::Refused(error(431, "request head over the size limit"))),
                    Ok(None) => {}
                    Err(HeadError::TooManyHeaders) => {
                        return Err(NoHead::Refused(error(431, "too many header lines")));
                    }
                    Err(HeadError::Malformed) => return Err(NoHead::Refused(error(400, "malformed request head"))),
                }
            }
            if received.len() > limits.request_head_bytes_max {
                return Err(NoHead::Refused(error(431, "request head over the size limit")));
            }
            unseen = received.len();
            // With no bytes: what came behind those before.
            if line.cipher.open(&[]).last.is_some() {
                return Err(NoHead::Ended);
            }
            match line.stream.receive(&self.resources.pool).await {
                Ok(Receipt::Data(data)) => {
                    let opened = line.cipher.open(&data);
                    received.extend(&opened.data);
                    opened.wipe();
                    data.wipe();
                }
                Ok(Receipt::Interrupted) if !received.is_empty() => {
                    return Err(NoHead::Refused(error(408, "request head took too long")));
                }
                Ok(Receipt::End | Receipt::Interrupted) | Err(_) => return Err(NoHead::Gone),
            }
        }
    }

    async fn turn(&self, head: &RequestHead<'_>, line: &Line, waiting: Option<&Waiting>) -> Turn {
        let began_at = Instant::now();
        // As of when it is answered: of a drain that begins meanwhile, the next answer tells.
        let is_draining = self.resources.shared.vitals.is_draining();
        let request_id = head.request_id().map_or_else(new_request_id, str::to_owned);
        let remote_ip = line.remote.ip();
        let told_ip = self.told_ip(head, remote_ip);
        let has_body = head.has_body();
        let asked = if has_body {
            Asked::Answer(error(413, "a request body is not taken"))
        } else {
            let caller = Caller { remote_ip, told_ip, server_port: line.server_port, request_id: &request_id };
            self.route(head, caller, waiting).await.unwrap_or_else(Asked::Answer)
        };
        let is_sent_away = matches!(&asked, Asked::Answer(answer) if answer.status == 429);
        let is_last = is_sent_away || is_draining;
        let keeps = head.keeps_alive() && !has_body && !is_last;
        Turn {
            asked,
            head_bytes: head.head_bytes,
            request_id,
            told_ip,
            connection: if keeps { Connection::KeepAlive } else { Connection::Close },
            body: if head.method == "HEAD" { Body::Omitted } else { Body::Sent },
            route: routes::find(head.path).map_or("none", |found| found.route.label()),
            began_at,
        }
    }

    /// The remote's address for the log: where a proxy is believed, the one that it tells.
    fn told_ip(&self, head: &RequestHead<'_>, remote_ip: IpAddr) -> IpAddr {
        let rules = self.resources.rules();
        let forwarding = &rules.balancers.forwarding;
        let told = forwarding.has(remote_ip).then(|| forwarded::origin(head, |ip| forwarding.has(ip))).flatten();
        told.unwrap_or(remote_ip)
    }

    /// What a request asks for.
    ///
    /// # Errors
    /// The answer that refuses it: 404, 405, 429, 401, 422 and 400, 426, in this order.
    async fn route(
        &self,
        head: &RequestHead<'_>,
        caller: Caller<'_>,
        waiting: Option<&Waiting>,
    ) -> Result<Asked, Answer> {
        let found = routes::find(head.path).ok_or_else(|| error(404, "no such route"))?;
        let route = found.route;
        if !route.methods.have(head.method) {
            return Err(Answer { allow: Some(route.methods.text()), ..error(405, "method not allowed") });
        }
        let is_open = route.endpoint == Endpoint::Metrics && self.resources.rules().observation.metrics_open;
        let mut of_token = None;
        if route.needs_token && !is_open {
            let parameter = head.parameter("bearer_token");
            let presented = token::presented(head.raw_header("authorization"), parameter.as_deref());
            let let_in = self.door.let_in(presented, caller, waiting).await;
            of_token = Some(let_in.map_err(|refused| match refused {
                Refused::WrongToken => error(401, "invalid authorisation token"),
                Refused::TooManyFailed => error(429, "too many failed tokens from this address"),
            })?);
        }
        match route.endpoint {
            Endpoint::Page => Ok(Asked::Answer(page::answer(head))),
            Endpoint::Health => Ok(Asked::Answer(Answer::json(200, String::new()))),
            Endpoint::Ready => Ok(Asked::Answer(reports::readiness(&self.resources))),
            Endpoint::Version => Ok(Asked::Answer(reports::version())),
            Endpoint::Join(transport) => join_request(head, transport, None, of_token).await,
            Endpoint::JoinTls => {
                let time_max = self.resources.limits().request_head_time_max;
                let identities = self.identities.kept_in(self.resources.rules().device_certs.clone(), time_max);
                let made = join_request(head, Transport::Tcp, Some(&identities), of_token);
                let Some(waiting) = waiting else { return made.await };
                tokio::select! {
                    asked = made => asked,
                    () = waiting.until_let_go() => Err(let_go()),
                }
            }
            Endpoint::Tap => TapRequest::parse(head).map(|request| Asked::Session(SessionRequest::Tap(request))),
            _ => Report::parse(&found, head).map(Asked::Report),
        }
    }
}

async fn join_request(
    head: &RequestHead<'_>,
    transport: Transport,
    identities: Option<&Identities>,
    of_token: Option<Budget>,
) -> Result<Asked, Answer> {
    let request = JoinRequest::parse(head, transport, identities, of_token).await?;
    Ok(Asked::Session(SessionRequest::Join(request)))
}

fn let_go() -> Answer {
    error(503, "let go for another connection")
}

fn new_request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
