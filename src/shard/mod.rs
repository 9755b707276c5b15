//! One thread and what it owns: the ports whose home it is, and the loop that carries out what shards ask of each other.
//!
//! **Invariants.** A request is carried out without waiting, so that no shard can wait for another in a ring. The map of
//! ports is the only strong owner of a port. A loop that never runs dry still lets the ring turn once a batch.
//! **Not here.** Drivers' sockets (`edge`), and which shard is a port's home (`policy::port_id`).

pub mod accept;
pub mod cipher;
pub mod commands;
pub mod credit;
pub mod device;
mod expiry;
pub mod gate;
pub mod handover;
pub mod ledger;
pub mod log_gate;
pub mod mailbox;
pub mod newcomers;
pub mod outbox;
pub mod port;
pub mod presence;
pub mod process;
pub mod proxied;
pub mod pulse;
pub mod resources;
pub mod ring;
pub mod secured_port;
pub mod settling;
pub mod slots;
pub mod sockets;
mod survey;
pub mod taps;
pub mod tls;
pub mod turns;
pub mod udp;
pub mod vitals;
pub mod waiting;

use crate::policy::counts::{Count, ShardCount};
use crate::policy::ending::{JoinRefusal, PortEnd};
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::policy::sources::Sources;
use crate::protocol::tapped::TapEvent;
use accept::Entrance;
use handover::Held;
use mailbox::{Join, Request, TapJoin, Wave};
use outbox::{Outbox, Served, Subscription};
use port::Port;
use resources::Resources;
use ring::Listener;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tls::Identity;
use tokio::sync::mpsc;

/// Requests carried out in one go before the rest of the shard has its turn.
const BATCH_REQUESTS: usize = 64;
/// Requests and commands carried out before the ring has a turn, however they arrived.
const TURN_WORK: usize = 256;
/// How long before its deadline a drain gives up what holds it up, as a part of its time.
const HASTEN_PART: u32 = 5;
/// How soon a join is tried again whose port is still being closed, and for how long.
const CLOSING_PAUSE: Duration = Duration::from_millis(1);
const CLOSING_TIME_MAX: Duration = Duration::from_secs(1);
/// How long a drain leaves devices be, so that the writes that drivers had sent get from their sockets to the ports.
const DRAIN_GRACE: Duration = Duration::from_millis(100);
/// How often a drain looks whether anything is left.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);
/// How long a drain waits for taps to take what they were sent, as a part of its time.
const TAPS_PART: u32 = 10;

/// One shard.
pub struct Shard {
    resources: Rc<Resources>,
    /// The API's listeners on this shard, which a drain stops.
    api: RefCell<Vec<(Entrance, Rc<Listener>)>>,
    ports: RefCell<HashMap<PortId, Rc<Port>>>,
    /// When a port was last left by a driver, or by the rules, and its sockets were stopped if need be: they close soon after.
    left: RefCell<HashMap<PortId, Instant>>,
    /// Sockets that were handed over, until drivers join their ports.
    held: Held,
    /// Whether no driver may join for now, as the sockets are being handed over.
    frozen: Cell<bool>,
    /// When it began to accept, or went on: until then, ports may be another daemon's that is about to end.
    resumed_at: Cell<Instant>,
    /// When a drain has begun.
    draining_since: Cell<Option<Instant>>,
}

impl Shard {
    /// A shard without ports.
    pub fn new(resources: Rc<Resources>, api: Vec<(Entrance, Rc<Listener>)>) -> Rc<Self> {
        Rc::new(Shard {
            resources,
            api: RefCell::new(api),
            ports: RefCell::default(),
            left: RefCell::default(),
            held: Held::default(),
            frozen: Cell::new(false),
            resumed_at: Cell::new(Instant::now()),
            draining_since: Cell::new(None),
        })
    }

    /// Carries out requests for as long as the process lives.
    pub async fn run(self: Rc<Self>, mut mailbox: mpsc::Receiver<Request>) {
        ring::spawn(device::watch_under_way(self.resources.clone()));
        ring::spawn(pulse::beat(self.resources.clone()));
        ring::spawn(expiry::watch(self.clone()));
        let mut batch = Vec::with_capacity(BATCH_REQUESTS);
        let mut since_turn = 0;
        while mailbox.recv_many(&mut batch, BATCH_REQUESTS).await > 0 {
            since_turn += batch.iter().map(Request::work).sum::<usize>();
            batch.drain(..).for_each(|request| self.carry_out(request));
            device::send_unsent(&self.resources);
            if since_turn >= TURN_WORK {
                ring::turn().await;
                since_turn = 0;
            }
        }
    }

    fn carry_out(self: &Rc<Self>, request: Request) {
        match request {
            Request::Join(join) => self.join(join),
            Request::Tap(tap) => self.tap(tap),
            Request::Left { port, session } => self.leave(port, session),
            Request::Commands { port, session, commands } => {
                let port = self.ports.borrow().get(&port).cloned();
                // Without its port the commands drop here, and their credit with them.
                if let Some(port) = port {
                    port.carry_out(session, commands);
                }
            }
            Request::LetGo { port, session, credit_bytes, window_bytes, reply } => {
                // What fits into its socket does not count against a device.
                device::send_unsent(&self.resources);
                if let Some(port) = self.ports.borrow().get(&port) {
                    port.let_go(session, credit_bytes, window_bytes);
                }
                let _ = reply.send(());
            }
            // Whoever asked may have gone.
            Request::Count { reply } => drop(reply.send(self.count())),
            Request::Recall { reply } => drop(reply.send(self.resources.history.borrow().held())),
            Request::Survey { .. } | Request::Gather { .. } | Request::Disconnect { .. } => self.look_through(request),
            Request::SetRules { rules, reply } => {
                self.resources.set_rules(rules);
                self.follow_rules();
                // It has room for a reply of each shard.
                let _ = reply.try_send(self.resources.shard);
            }
            Request::Identify { identity, reply } => {
                self.resources.tls.identify(identity);
                let _ = reply.try_send(self.resources.shard);
            }
            Request::Settle { reply } => self.settle(reply),
            Request::Drain { wave, reply } => self.drain(wave, reply),
            Request::Pause { reply } => self.pause(reply),
            Request::HandOver { meanwhile, reply } => self.hand_over(meanwhile, reply),
            Request::Inherit { sockets } => self.inherit(sockets),
            Request::Resume => self.resume(),
        }
    }

    /// Has the open ports go by the rules as they stand. No socket is opened that could not be handed over.
    fn follow_rules(&self) {
        let may_open = !self.frozen.get() && !self.is_draining();
        for (id, port) in self.ports.borrow().iter() {
            port.follow_rules();
            if may_open && port.follow_balancers(&self.held) {
                self.left.borrow_mut().insert(*id, Instant::now());
            }
        }
    }

    /// Carries out what takes more than one turn: as a task.
    fn look_through(self: &Rc<Self>, request: Request) {
        let shard = self.clone();
        ring::spawn(async move {
            // Whoever asked may have gone.
            match request {
                Request::Survey { query, reply } => drop(reply.send(shard.survey(&query).await)),
                Request::Gather { query, reply } => drop(reply.send(shard.gather(&query).await)),
                Request::Disconnect { kind, identities, reply } => {
                    let _ = reply.send(shard.disconnect(kind, &identities).await);
                }
                _ => {}
            }
        });
    }

    fn join(self: &Rc<Self>, join: Join) {
        if self.frozen.get() && !self.is_draining() {
            return self.join_later(join);
        }
        let port = match self.port_for(join.port, &join.sources, join.identity.as_ref()) {
            Err(JoinRefusal::InUse) if self.was_left_just_now(join.port) => return self.join_later(join),
            Err(refusal) => {
                let _ = join.reply.send(Err(refusal));
                return;
            }
            Ok(port) => port,
        };
        let subscription = self.subscribe(join.port, join.session, join.module, join.outbox);
        port.join(join.session, join.sources, subscription);
        // Whoever asked may have gone; then its end of the outbox is gone, too.
        let _ = join.reply.send(Ok(()));
    }

    /// A tap opens no port. It is told at once whether its port is open.
    fn tap(&self, tap: TapJoin) {
        let TapJoin { port, session, filter, outbox, reply } = tap;
        let answer = if self.is_draining() {
            Err(JoinRefusal::Draining)
        } else {
            let is_open = self.ports.borrow().contains_key(&port);
            let state = if is_open { TapEvent::PortOpen } else { TapEvent::PortClosed };
            taps::begin(&self.resources, port, session, filter, outbox, state);
            Ok(())
        };
        // Whoever asked may have gone; then its end of the outbox is gone, too.
        let _ = reply.send(answer);
    }

    /// Tells the taps of a port whether it is open.
    fn tell_taps(&self, port: PortId, state: TapEvent) {
        let Resources { taps, counts, .. } = &*self.resources;
        if !taps.is_empty() {
            taps.tell(counts, port, state, |_| true);
        }
    }

    /// Whether a port may be in use by a socket of our own, or of a daemon before us: the kernel closes it when its last
    /// operation is done.
    fn was_left_just_now(&self, id: PortId) -> bool {
        if self.resumed_at.get().elapsed() < CLOSING_TIME_MAX {
            return true;
        }
        self.left.borrow().get(&id).is_some_and(|left_at| left_at.elapsed() < CLOSING_TIME_MAX)
    }

    fn join_later(&self, join: Join) {
        let peers = self.resources.shared.peers.clone();
        let shard = self.resources.shard;
        ring::spawn(async move {
            tokio::time::sleep(CLOSING_PAUSE).await;
            peers.ask(shard, Request::Join(join)).await;
        });
    }

    /// The port, opened if need be, with the sockets that `sources` need.
    fn port_for(&self, id: PortId, sources: &Sources, identity: Option<&Identity>) -> Result<Rc<Port>, JoinRefusal> {
        if self.is_draining() {
            return Err(JoinRefusal::Draining);
        }
        if let Some(port) = self.ports.borrow().get(&id) {
            port.check_identity(identity)?;
            port.open_sockets(sources, &self.held)?;
            return Ok(port.clone());
        }
        let slot = self.resources.shared.ports.reserve(1).ok_or(JoinRefusal::TooManyPorts)?;
        let port = Port::new(id, self.resources.clone(), slot, identity.cloned());
        port.open_sockets(sources, &self.held)?;
        self.resources.counts.one(Count::PortsOpened);
        let tls = identity.is_some();
        tracing::info!(server_protocol = id.transport.name(), server_port = id.number.get(), tls, "port opened");
        self.ports.borrow_mut().insert(id, port.clone());
        self.tell_taps(id, TapEvent::PortOpen);
        Ok(port)
    }

    /// Makes the port's end of an outbox and starts the task that serves it and holds its lease.
    fn subscribe(
        &self,
        port: PortId,
        session: SessionId,
        module: Option<Arc<str>>,
        outbox: Outbox,
    ) -> Rc<Subscription> {
        let (subscription, flusher) = Subscription::new(session, module, outbox);
        let peers = self.resources.shared.peers.clone();
        let shard = self.resources.shard;
        ring::spawn(async move {
            if flusher.run().await == Served::Left {
                // Through the mailbox, so that it comes after the commands that the session sent before.
                peers.ask(shard, Request::Left { port, session }).await;
            }
        });
        subscription
    }

    fn leave(&self, id: PortId, session: SessionId) {
        let Some(port) = self.ports.borrow().get(&id).cloned() else { return };
        port.leave(session);
        let mut left = self.left.borrow_mut();
        left.retain(|_, left_at| left_at.elapsed() < CLOSING_TIME_MAX);
        left.insert(id, Instant::now());
        drop(left);
        if port.is_empty() && !self.is_draining() {
            self.close(id, PortEnd::Left);
        }
    }

    fn close(&self, id: PortId, end: PortEnd) {
        self.ports.borrow_mut().remove(&id);
        self.resources.counts.one(Count::PortsClosed);
        self.tell_taps(id, TapEvent::PortClosed);
        tracing::info!(
            server_protocol = id.transport.name(),
            server_port = id.number.get(),
            end = end.name(),
            "port closed"
        );
    }

    fn count(&self) -> ShardCount {
        let resources = &self.resources;
        // Before the counts are taken, as it adds to them.
        let ports = self.ports.borrow().values().map(|port| port.count()).collect();
        let presences = resources.presences.borrow();
        let requests = resources.requests.borrow();
        ShardCount {
            shard: resources.shard,
            is_draining: self.is_draining(),
            ports,
            sessions: resources.sessions.get(),
            devices: resources.devices.get(),
            handshakes: resources.handshakes.get(),
            tasks: ring::tasks(),
            buffers_out: resources.pool.out(),
            buffers_lost: resources.pool.lost(),
            buffer_waits: resources.pool.waits(),
            backlog_bytes: presences.values().map(|presence| presence.backlog.bytes()).sum(),
            credit_bytes: presences.values().map(|presence| presence.window.used_bytes()).sum(),
            timer_lag: resources.timer_lag.count(),
            loop_turn: resources.loop_turn.count(),
            requests: requests.iter().map(|(route, times)| (*route, times.count())).collect(),
            counts: resources.counts.taken(),
        }
    }

    /// Stops everything that listens, and waits for what drivers have sent to be on its way to the ports: for half of the
    /// drain's time at most.
    fn settle(self: &Rc<Self>, reply: mpsc::Sender<usize>) {
        let time_max = self.resources.limits().delivery_time_max();
        let since = self.draining_since.get().unwrap_or_else(Instant::now);
        self.draining_since.set(Some(since));
        self.held.close();
        self.api.take().iter().for_each(|(_, api)| api.stop());
        self.ports.borrow().values().for_each(|port| port.stop_accepting());
        let shard = self.clone();
        ring::spawn(async move {
            tokio::time::sleep(DRAIN_GRACE.min(time_max / HASTEN_PART)).await;
            let settling = &shard.resources.settling;
            settling.begin();
            while !settling.is_settled() && since.elapsed() < time_max / 2 {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
            let _ = reply.send(shard.resources.shard).await;
        });
    }

    /// Has the ports of one wave end in good order; with the last one, all there is.
    fn drain(self: &Rc<Self>, wave: Wave, reply: Option<mpsc::Sender<usize>>) {
        self.ports.borrow().values().filter(|port| wave.has(port.id())).for_each(|port| port.drain());
        self.resources.settling.end();
        let Some(reply) = reply else { return };
        let time_max = self.resources.limits().delivery_time_max();
        let time_before_haste = time_max - time_max / HASTEN_PART;
        let shard = self.clone();
        ring::spawn(async move {
            while !shard.is_drained() {
                if shard.draining_since.get().is_some_and(|since| since.elapsed() >= time_before_haste) {
                    shard.ports.borrow().values().for_each(|port| port.hasten_drain());
                }
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
            shard.end_taps().await;
            let _ = reply.send(shard.resources.shard).await;
        });
    }

    /// Lets the taps of this shard's ports go, and gives all taps a little time: those that take nothing have no more.
    async fn end_taps(&self) {
        let Resources { taps, shared, .. } = &*self.resources;
        taps.finish();
        let until = Instant::now() + self.resources.limits().delivery_time_max() / TAPS_PART;
        while shared.taps.used() > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    fn is_draining(&self) -> bool {
        self.draining_since.get().is_some()
    }

    fn is_drained(&self) -> bool {
        let drained: Vec<PortId> =
            self.ports.borrow().iter().filter(|(_, port)| port.is_drained()).map(|(id, _)| *id).collect();
        drained.into_iter().for_each(|id| self.close(id, PortEnd::Drained));
        self.ports.borrow().is_empty() && self.resources.sessions.get() == 0 && self.resources.devices.get() == 0
    }
}
