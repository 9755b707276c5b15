//! Connections to the API that have not joined: how many there may be, and which one goes when there are more.
//!
//! **Invariants.** No more than the bound wait at a time, whatever remotes do; a newcomer is never turned away for one
//! that has sent nothing.
//! **Not here.** How long one may wait (`api`).

use crate::shard::resources::Resources;
use crate::shard::ring::Stream;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::oneshot;

/// The connections of one shard, in the order of their beginning.
#[derive(Clone)]
pub struct Handshakes(Rc<Inner>);

struct Inner {
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next: Cell<u64>,
    resources: Rc<Resources>,
}

struct Waiting {
    stream: Stream,
    /// Dropped when the connection is let go.
    _kept: oneshot::Receiver<()>,
}

/// One connection while it waits.
pub struct Handshake {
    all: Handshakes,
    number: u64,
    kept: oneshot::Sender<()>,
}

impl Handshakes {
    /// None yet.
    pub fn new(resources: Rc<Resources>) -> Self {
        Handshakes(Rc::new(Inner { waiting: RefCell::default(), next: Cell::new(0), resources }))
    }

    /// A connection begins to wait. Of too many, those that have waited longest are interrupted.
    pub fn begin(&self, stream: &Stream) -> Handshake {
        let number = self.0.next.replace(self.0.next.get() + 1);
        let mut waiting = self.0.waiting.borrow_mut();
        let (kept, keep) = oneshot::channel();
        waiting.insert(number, Waiting { stream: stream.clone(), _kept: keep });
        let resources = &self.0.resources;
        let max = (resources.limits().handshakes_max / resources.shared.peers.shards()).max(1);
        while waiting.len() > max {
            let Some((_, longest)) = waiting.pop_first() else { break };
            longest.stream.interrupt();
        }
        self.0.resources.handshakes.set(waiting.len());
        Handshake { all: self.clone(), number, kept }
    }
}

impl Handshake {
    /// Waits until the connection is let go, whose stream is then interrupted. May be raced.
    pub async fn let_go(&mut self) {
        self.kept.closed().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut waiting = self.all.0.waiting.borrow_mut();
        waiting.remove(&self.number);
        self.all.0.resources.handshakes.set(waiting.len());
    }
}
