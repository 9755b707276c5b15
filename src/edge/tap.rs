//! A tap's request: what it asks for, and how a connection becomes a tap's session.
//!
//! **Invariants.** A tap opens no port and sends no command: what it sends is ignored. What it may use is reserved.
//! **Not here.** What a tap is told (`protocol::tapped`, `shard::taps`), and its WebSocket (`session`, as a driver's).

use crate::edge::answers::parameter_error;
use crate::edge::join::{Joins, MODULE_ID_BYTES_MAX, Ready, websocket_key};
use crate::edge::line::Line;
use crate::edge::session::{Joined, Place, session_bytes_max};
use crate::policy::ending::JoinRefusal;
use crate::policy::limits::Limits;
use crate::policy::listing::port_number;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::tap_filter::{TapFilter, TappedDevice};
use crate::protocol::http::{Answer, RequestHead};
use crate::shard::mailbox::{Request, TapJoin};
use crate::shard::outbox;
use std::net::IpAddr;
use tokio::sync::oneshot;

/// A tap that has passed every check of its request.
pub struct TapRequest {
    port: PortId,
    filter: TapFilter,
    websocket_key: String,
}

impl TapRequest {
    /// Checks the parameters, and that it is an upgrade.
    ///
    /// # Errors
    /// The answer that refuses it: 422 and 400, then 426.
    pub fn parse(head: &RequestHead) -> Result<Self, Answer> {
        let missing = |name| parameter_error(422, "missing parameter", name, "is required");
        let bad = |name, restriction: &str| parameter_error(400, "bad parameter", name, restriction);
        let transport = head.parameter("transport").ok_or_else(|| missing("transport"))?;
        let port = head.parameter("port").ok_or_else(|| missing("port"))?;
        let transport = Transport::parse(&transport).ok_or_else(|| bad("transport", "must be tcp or udp"))?;
        let number = port_number(&port).ok_or_else(|| bad("port", "must be a number from 1 to 65535"))?;
        let device = head
            .parameter("device")
            .map(|text| TappedDevice::parse(&text).ok_or_else(|| bad("device", "must be IP, IP:ID or [IP]:ID")));
        let module = head.parameter("module").map(|module| module.into_owned());
        if module.as_ref().is_some_and(|module| module.len() > MODULE_ID_BYTES_MAX) {
            return Err(bad("module", &format!("must be of {MODULE_ID_BYTES_MAX} bytes at most")));
        }
        let filter = TapFilter { device: device.transpose()?, module };
        let websocket_key = websocket_key(head)?;
        Ok(TapRequest { port: PortId { transport, number }, filter, websocket_key })
    }
}

impl Joins {
    /// Taps a port, open or not. The log shows `told_ip` as the tap's address.
    ///
    /// # Errors
    /// Why there is no room for it; then nothing is left of it.
    pub async fn tap(
        &self,
        request: TapRequest,
        line: &Line,
        told_ip: IpAddr,
        request_id: &str,
    ) -> Result<Ready, JoinRefusal> {
        let remote = line.remote;
        let TapRequest { port, filter, websocket_key } = request;
        // At error level, so that it is there for lines of every level.
        let span = tracing::error_span!(
            "tap",
            server_protocol = port.transport.name(),
            server_port = port.number.get(),
            remote_ip = %told_ip,
            request_id
        );
        let shared = &self.resources.shared;
        let limits = self.resources.limits();
        let opened: Result<_, JoinRefusal> = async {
            let place = Place::take_for_tap(&self.resources).ok_or(JoinRefusal::TooManyTaps)?;
            let outbox_bytes = outbox_bytes_max(&limits);
            let needed = tap_bytes_max(&limits) + line.cipher.bytes_max(outbox_bytes);
            let memory = shared.session_memory.reserve(needed).ok_or(JoinRefusal::NoMemory)?;
            let id = self.next_session();
            let (outbox, inbox) = outbox::link(outbox_bytes);
            let (reply, answered) = oneshot::channel();
            shared.peers.ask_home(port, Request::Tap(TapJoin { port, session: id, filter, outbox, reply })).await;
            // No answer comes from a shard that has ended, and then the process does.
            answered.await.unwrap_or(Err(JoinRefusal::Draining))?;
            Ok((place, memory, id, inbox))
        }
        .await;
        let (place, memory, id, inbox) = opened.inspect_err(|refusal| self.refused(*refusal, port, remote, &span))?;
        let accepted = "".into();
        let joined = Joined { id, port, module: None, accepted, span, place, limits, memory };
        Ok(Ready { joined, inbox, websocket_key })
    }
}

/// Bytes on their way to a tap. What drivers' outboxes and windows take in one turn fits one of its three chunks, as nothing
/// waits for a tap.
fn outbox_bytes_max(limits: &Limits) -> usize {
    3 * (limits.outbox_bytes_max + limits.write_window_bytes_max)
}

/// What a tap may use: a driver's part, whose window it leaves unused, and its larger outbox.
fn tap_bytes_max(limits: &Limits) -> usize {
    session_bytes_max(limits) + outbox_bytes_max(limits) - limits.outbox_bytes_max
}
