//! Whose turn it is to compute: one handshake at a time, and half of the shard's time at most.
//!
//! **Invariants.** Who was answered comes first, as else its first turn was in vain, but a bounded number of times; then the
//! newest. Under a flood most of those that wait are about to be let go, the oldest first: in the order of their coming a
//! shard would compute for exactly those, and nobody would get to the end of a handshake. A handshake that says little at a
//! time is no newer for it. Waiting for a turn may be given up at any moment.
//! **Not here.** What is computed (`tls`).

use crate::shard::ring;
use crate::shard::waiting::Waiting;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Time that is computed in a row before there is a rest for as long.
const BURST: Duration = Duration::from_millis(4);
/// The longest rest: where the process had to wait for a core, that time was none of the handshakes'.
const REST_MAX: Duration = Duration::from_millis(20);

/// Turns of a handshake that come first: its messages may fill 64 KiB, and one turn sees the 4 KiB of a receive at most.
const ANSWERED_TURNS_MAX: usize = 16;

/// The turns of one shard. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Turns(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_taken: Cell<bool>,
    waiting: RefCell<BTreeMap<Rank, oneshot::Sender<Permit>>>,
    next: Cell<u64>,
    /// What was computed since the last rest.
    spent: Cell<Duration>,
    rest_until: Cell<Option<Instant>>,
}

/// How far whoever asks for a turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Begins,
    Answered,
}

/// The greatest is next.
type Rank = (Stage, u64);

/// What one handshake may claim of the turns.
#[derive(Debug)]
pub struct Claim {
    turns: Turns,
    number: u64,
    stage: Stage,
    answered_turns_left: usize,
}

/// A turn while it lasts.
#[derive(Debug)]
pub struct Turn {
    permit: Permit,
    began_at: Instant,
}

/// The right to a turn; it goes on to the next when it drops.
#[derive(Debug)]
struct Permit(Option<Turns>);

/// A place among those that wait.
struct Place<'a> {
    turns: &'a Turns,
    rank: Rank,
}

impl Claim {
    /// It was answered.
    pub fn answered(&mut self) {
        self.stage = Stage::Answered;
    }

    /// Waits for a turn; `None` once `waiting` is let go.
    pub async fn turn(&mut self, waiting: &Waiting) -> Option<Turn> {
        let rank = (if self.answered_turns_left > 0 { self.stage } else { Stage::Begins }, self.number);
        if rank.0 == Stage::Answered {
            self.answered_turns_left -= 1;
        }
        self.turns.turn(rank, waiting).await
    }
}

impl Turns {
    /// For one more handshake.
    pub fn claim(&self) -> Claim {
        let number = self.0.next.replace(self.0.next.get() + 1);
        Claim { turns: self.clone(), number, stage: Stage::Begins, answered_turns_left: ANSWERED_TURNS_MAX }
    }

    async fn turn(&self, rank: Rank, waiting: &Waiting) -> Option<Turn> {
        let rested = async {
            let permit = self.permit(rank).await;
            match self.0.rest_until.get() {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => {}
            }
            permit
        };
        let permit = tokio::select! {
            biased;
            () = waiting.until_let_go() => return None,
            permit = rested => permit,
        };
        // Between two turns the shard's other work goes on. An operation of the ring is not raced.
        ring::turn().await;
        (!waiting.is_let_go()).then(|| Turn { permit, began_at: Instant::now() })
    }

    async fn permit(&self, rank: Rank) -> Permit {
        if !self.0.is_taken.replace(true) {
            return Permit(Some(self.clone()));
        }
        let (give, given) = oneshot::channel();
        self.0.waiting.borrow_mut().insert(rank, give);
        let _place = Place { turns: self, rank };
        // No sender drops before it has given: it leaves the table with this.
        given.await.unwrap_or(Permit(None))
    }

    fn spend(&self, time: Duration) {
        let spent = self.0.spent.get() + time;
        let is_burst = spent >= BURST;
        self.0.spent.set(if is_burst { Duration::ZERO } else { spent });
        if is_burst {
            self.0.rest_until.set(Some(Instant::now() + spent.min(REST_MAX)));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.0.waiting.borrow_mut().remove(&self.rank);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        let next = turns.0.waiting.borrow_mut().pop_last();
        match next {
            // One that has just given up drops it again, for the next.
            Some((_, give)) => drop(give.send(Permit(Some(turns)))),
            None => turns.0.is_taken.set(false),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = &self.permit.0 {
            turns.spend(self.began_at.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::task::Poll;

    /// Polls once.
    async fn now<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_one_that_was_answered_comes_first_and_then_the_newest() {
        let turns = Turns::default();
        let first = turns.permit((Stage::Begins, 0)).await;
        let mut new = pin!(turns.permit((Stage::Begins, 3)));
        let mut answered = pin!(turns.permit((Stage::Answered, 1)));
        // However often it asks.
        let mut old = pin!(turns.permit((Stage::Begins, 2)));
        assert!(now(new.as_mut()).await.is_none());
        assert!(now(answered.as_mut()).await.is_none());
        assert!(now(old.as_mut()).await.is_none());
        drop(first);
        assert!(now(old.as_mut()).await.is_none() && now(new.as_mut()).await.is_none());
        drop(now(answered.as_mut()).await);
        assert!(now(old.as_mut()).await.is_none());
        drop(now(new.as_mut()).await);
        assert!(now(old.as_mut()).await.is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_turn_that_is_given_up_goes_to_the_next() {
        let turns = Turns::default();
        let first = turns.permit((Stage::Begins, 0)).await;
        let mut old = pin!(turns.permit((Stage::Begins, 1)));
        assert!(now(old.as_mut()).await.is_none());
        {
            let mut waits = Box::pin(turns.permit((Stage::Begins, 2)));
            assert!(now(waits.as_mut()).await.is_none());
            // One gives up before it is its turn, one when it has been given it.
            let mut gone = Box::pin(turns.permit((Stage::Begins, 3)));
            assert!(now(gone.as_mut()).await.is_none());
            drop(gone);
            drop(first);
            drop(waits);
        }
        assert!(now(old.as_mut()).await.is_some());
        assert!(turns.0.waiting.borrow().is_empty() && !turns.0.is_taken.get());
    }
}
