//! What a drain waits for before it ends devices: the commands of drivers that were read and have not been sent on.
//!
//! **Invariants.** From the start of the settling nothing of drivers is taken up that was not taken up before it, until the
//! drain proper has begun.
//! **Not here.** Sending commands (`edge::session`), and what a drain does (`shard`).

use std::cell::Cell;
use tokio::sync::Notify;

/// The settling of one shard's sessions.
#[derive(Debug, Default)]
pub struct Settling {
    phase: Cell<Phase>,
    owing: Cell<usize>,
    ended: Notify,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    Settling,
    Over,
}

/// A session that has read commands and not yet sent them all.
pub struct Owing<'a>(&'a Settling);

impl Settling {
    /// Counts a session while it sends commands, which may wait for credit.
    pub fn owe(&self) -> Owing<'_> {
        self.owing.set(self.owing.get() + 1);
        Owing(self)
    }

    /// Waits while the shard settles; to be called before anything more of a driver is taken up.
    pub async fn pass(&self) {
        while self.is_held() {
            self.ended.notified().await;
        }
    }

    /// Whether [`pass`](Self::pass) would wait.
    pub fn is_held(&self) -> bool {
        self.phase.get() == Phase::Settling
    }

    /// Begins: sessions take up no more.
    pub fn begin(&self) {
        self.phase.set(Phase::Settling);
    }

    /// Whether no session owes anything.
    pub fn is_settled(&self) -> bool {
        self.owing.get() == 0
    }

    /// Ends it: sessions go on.
    pub fn end(&self) {
        self.phase.set(Phase::Over);
        self.ended.notify_waiters();
    }
}

impl Drop for Owing<'_> {
    fn drop(&mut self) {
        self.0.owing.set(self.0.owing.get() - 1);
    }
}
