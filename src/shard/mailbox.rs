//! What shards ask of each other, and the way to ask.
//!
//! **Invariants.** A mailbox is bounded, and its owner's request loop never waits, so shards cannot wait in a ring.
//! Requests of one session arrive in the order of sending.
//! **Not here.** Carrying requests out (`shard`, `port`).

use crate::policy::counts::ShardCount;
use crate::policy::ending::JoinRefusal;
use crate::policy::history::Moment;
use crate::policy::listing::{Kind, Page, Query, RowOf};
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::policy::rules::Rules;
use crate::policy::sources::Sources;
use crate::policy::tap_filter::TapFilter;
use crate::shard::commands::Commands;
use crate::shard::handover::{Handed, Meanwhile, Place};
use crate::shard::outbox::Outbox;
use crate::shard::tls::Identity;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait in one mailbox at most; senders wait beyond.
const MAILBOX_REQUESTS: usize = 1_024;

/// Everything that one shard may ask of another.
#[derive(Debug)]
pub enum Request {
    /// Let a session join a port of this shard, and open the port if need be.
    Join(Join),
    /// Let a session tap a port of this shard, open or not.
    Tap(TapJoin),
    /// A session has let go of its outbox. Sent by the subscription's own task alone, so that it comes after the
    /// session's commands.
    Left {
        /// The port it was joined to.
        port: PortId,
        /// The session.
        session: SessionId,
    },
    /// What a driver asks of devices.
    Commands {
        /// The port it is joined to.
        port: PortId,
        /// The driver's session.
        session: SessionId,
        /// What it has sent together.
        commands: Commands,
    },
    /// Let the device go that holds most of a session's credit, if that is still short.
    LetGo {
        /// The port the session is joined to.
        port: PortId,
        /// The session that waits.
        session: SessionId,
        /// What it waits for.
        credit_bytes: usize,
        /// What it has in all.
        window_bytes: usize,
        /// Told when it is done: what credit there was is back.
        reply: oneshot::Sender<()>,
    },
    /// Tell what there is and what was counted.
    Count {
        /// Where to.
        reply: oneshot::Sender<ShardCount>,
    },
    /// Tell what there was in the last minutes.
    Recall {
        /// Where to.
        reply: oneshot::Sender<Vec<(u32, Moment)>>,
    },
    /// Find the rows of a page.
    Survey {
        /// Which.
        query: Arc<Query>,
        /// Told when everything has been looked at.
        reply: oneshot::Sender<Page<RowOf>>,
    },
    /// Find the identities of all rows that match, or of more than are expected.
    Gather {
        /// Which, and how many are expected.
        query: Arc<Query>,
        /// Told when everything has been looked at.
        reply: oneshot::Sender<Vec<u128>>,
    },
    /// Disconnect drivers or devices.
    Disconnect {
        /// Of which kind they are.
        kind: Kind,
        /// Who they are.
        identities: Vec<u128>,
        /// Told how many of them were there.
        reply: oneshot::Sender<usize>,
    },
    /// Go by other rules.
    SetRules {
        /// Which.
        rules: Arc<Rules>,
        /// Told when they are in force on this shard.
        reply: mpsc::Sender<usize>,
    },
    /// Show another certificate to those that connect with TLS from here on.
    Identify {
        /// It, its key, and what is asked of the other end.
        identity: Identity,
        /// Told when this shard shows it.
        reply: mpsc::Sender<usize>,
    },
    /// Refuse joins and new devices, read no more of drivers, and say when what was read of them is on its way.
    Settle {
        /// Told when no session of this shard waits to send a command.
        reply: mpsc::Sender<usize>,
    },
    /// End the devices and ports of one wave. Every shard has settled before.
    Drain {
        /// Which ports.
        wave: Wave,
        /// Told when nothing of this shard is left; only the last wave asks.
        reply: Option<mpsc::Sender<usize>>,
    },
    /// Accept no driver for now, and say when those that have just connected are answered.
    Pause {
        /// Told then, or when they have had time enough.
        reply: mpsc::Sender<usize>,
    },
    /// List all sockets, to hand them over.
    HandOver {
        /// What happens until then, and from then on.
        meanwhile: Meanwhile,
        /// Told of duplicates.
        reply: oneshot::Sender<io::Result<Vec<Handed>>>,
    },
    /// Hold sockets of ports that are at home here, until drivers join them.
    Inherit {
        /// They.
        sockets: Vec<Handed>,
    },
    /// Go on after a pause or a handing over.
    Resume,
}

impl Request {
    /// How much there is to carry out.
    pub fn work(&self) -> usize {
        if let Request::Commands { commands, .. } = self { commands.len() } else { 1 }
    }
}

/// A part of the ports: those at home at `index`, were there `count` shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wave {
    /// Which part, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl Wave {
    /// Whether a port is in it.
    pub fn has(self, port: PortId) -> bool {
        port.home(self.count) == self.index
    }
}

/// A session's wish to join a port.
#[derive(Debug)]
pub struct Join {
    /// The port.
    pub port: PortId,
    /// The session.
    pub session: SessionId,
    /// Its driver's `X-Module-ID`.
    pub module: Option<Arc<str>>,
    /// From which sources it accepts devices.
    pub sources: Sources,
    /// Who the port is to its devices; `None` where they speak no TLS.
    pub identity: Option<Identity>,
    /// Where its messages go.
    pub outbox: Outbox,
    /// Told once the port is open, or why it is not.
    pub reply: oneshot::Sender<Result<(), JoinRefusal>>,
}

/// A session's wish to tap a port.
#[derive(Debug)]
pub struct TapJoin {
    /// The port.
    pub port: PortId,
    /// The session.
    pub session: SessionId,
    /// What it wants to be told.
    pub filter: TapFilter,
    /// Where that goes.
    pub outbox: Outbox,
    /// Told once it taps, or why it does not.
    pub reply: oneshot::Sender<Result<(), JoinRefusal>>,
}

/// The way to every shard's mailbox.
#[derive(Debug, Clone)]
pub struct Peers(Arc<[mpsc::Sender<Request>]>);

impl Peers {
    /// Mailboxes for `shards` shards: the way to them, and each one's receiving end.
    pub fn new(shards: usize) -> (Self, Vec<mpsc::Receiver<Request>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(MAILBOX_REQUESTS)).unzip();
        (Peers(senders.into()), receivers)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// Sends a request to the home of `port`, waiting while its mailbox is full. May not be raced: the request would be
    /// lost.
    pub async fn ask_home(&self, port: PortId, request: Request) {
        self.ask(port.home(self.shards()), request).await;
    }

    /// Sends a request to one shard, as [`ask_home`](Self::ask_home) does.
    pub async fn ask(&self, shard: usize, request: Request) {
        // A mailbox closes only with its thread, and then the process ends.
        let _ = self.0[shard].send(request).await;
    }

    /// Asks every shard, and waits until each that lives has replied; says how many those are.
    pub async fn ask_all(&self, request: impl Fn(mpsc::Sender<usize>) -> Request) -> usize {
        let (reply, mut replies) = mpsc::channel(self.shards());
        for shard in 0..self.shards() {
            self.ask(shard, request(reply.clone())).await;
        }
        // A shard whose thread has ended drops what it was asked.
        drop(reply);
        let mut replied = 0;
        while replies.recv().await.is_some() {
            replied += 1;
        }
        replied
    }

    /// Has every shard resume; one whose mailbox is full holds none of the others up.
    pub async fn resume(&self) {
        let is_full = |shard: &usize| matches!(self.0[*shard].try_send(Request::Resume), Err(TrySendError::Full(_)));
        let full: Vec<usize> = (0..self.shards()).filter(is_full).collect();
        for shard in full {
            self.ask(shard, Request::Resume).await;
        }
    }

    /// Duplicates of every shard's sockets. Where shards share one, it is listed for each.
    ///
    /// # Errors
    /// That there is no descriptor left.
    pub async fn hand_over(&self, meanwhile: Meanwhile) -> io::Result<Vec<Handed>> {
        let mut replies = Vec::with_capacity(self.shards());
        for shard in 0..self.shards() {
            let (reply, listed) = oneshot::channel();
            self.ask(shard, Request::HandOver { meanwhile, reply }).await;
            replies.push(listed);
        }
        let mut all = Vec::new();
        for listed in replies {
            // A shard that is gone ends the process.
            all.extend(listed.await.unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        Ok(all)
    }

    /// Gives sockets of ports to their homes.
    pub async fn inherit(&self, sockets: Vec<Handed>) {
        let mut dealt: Vec<Vec<Handed>> = (0..self.shards()).map(|_| Vec::new()).collect();
        for handed in sockets {
            if let Place::Port(port, _) = handed.place {
                dealt[port.home(self.shards())].push(handed);
            }
        }
        for (shard, sockets) in dealt.into_iter().enumerate().filter(|(_, sockets)| !sockets.is_empty()) {
            self.ask(shard, Request::Inherit { sockets }).await;
        }
    }

    /// Asks every shard for its counts.
    pub async fn count(&self) -> Vec<ShardCount> {
        let mut replies = Vec::with_capacity(self.shards());
        for shard in 0..self.shards() {
            let (reply, counted) = oneshot::channel();
            self.ask(shard, Request::Count { reply }).await;
            replies.push(counted);
        }
        let mut counts = Vec::with_capacity(replies.len());
        for counted in replies {
            counts.extend(counted.await);
        }
        counts
    }
}
