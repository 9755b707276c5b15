//! Connections to the API that have not joined: how many there may be, and which one goes when there are more.
//!
//! **Invariants.** No more than the bound wait at a time, whatever remotes do: who is let go gives its socket back wherever
//! it waits, be it for its turn to compute, for the other end to take an answer, or for it to close. A newcomer is never
//! turned away for one that has sent nothing.
//! **Not here.** How long one may wait (`api`).

use crate::shard::resources::Resources;
use crate::shard::ring::Stream;
use crate::shard::waiting::Waiting;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The connections of one shard, in the order of their beginning.
#[derive(Clone)]
pub struct Handshakes(Rc<Inner>);

struct Inner {
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next: Cell<u64>,
    resources: Rc<Resources>,
}

/// One connection while it waits.
pub struct Handshake {
    all: Handshakes,
    number: u64,
    waiting: Waiting,
}

impl Handshakes {
    /// None yet.
    pub fn new(resources: Rc<Resources>) -> Self {
        Handshakes(Rc::new(Inner { waiting: RefCell::default(), next: Cell::new(0), resources }))
    }

    /// A connection begins to wait. Of too many, those that have waited longest are let go.
    pub fn begin(&self, stream: &Stream) -> Handshake {
        let number = self.0.next.replace(self.0.next.get() + 1);
        let waiting = Waiting::new(stream);
        let mut all = self.0.waiting.borrow_mut();
        all.insert(number, waiting.clone());
        let resources = &self.0.resources;
        let max = (resources.limits().handshakes_max / resources.shared.peers.shards()).max(1);
        while all.len() > max {
            let Some((_, longest)) = all.pop_first() else { break };
            longest.let_go();
        }
        self.0.resources.handshakes.set(all.len());
        Handshake { all: self.clone(), number, waiting }
    }
}

impl Handshake {
    /// What tells it that it is let go.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut waiting = self.all.0.waiting.borrow_mut();
        waiting.remove(&self.number);
        self.all.0.resources.handshakes.set(waiting.len());
    }
}
