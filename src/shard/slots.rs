//! Room for devices of the whole process: places that are taken, waited for in turn, and given back.
//!
//! **Invariants.** What is free and what is taken is the limit and the surplus together. Where the limit is lowered below
//! what is taken, places that come back are kept until it is met.
//! **Not here.** What the limit is (`policy::limits`), and room that is not waited for (`policy::budget`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// The places. Clones are the same.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Semaphore,
    limit: AtomicUsize,
    /// Places that are taken beyond the limit, as it was lowered.
    surplus: AtomicUsize,
}

/// A place that is taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot(Option<Slots>);

impl Slots {
    /// As many places, all of them free.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Slots(Arc::new(Inner {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            surplus: AtomicUsize::new(0),
        }))
    }

    /// Takes a place, if one is free and nobody waits for it.
    pub fn take_now(&self) -> Option<Slot> {
        self.0.free.try_acquire().ok().map(|permit| {
            permit.forget();
            Slot(Some(self.clone()))
        })
    }

    /// Waits for a place, in turn. May be raced.
    pub async fn take(&self) -> Option<Slot> {
        // The semaphore is never closed.
        self.0.free.acquire().await.ok()?.forget();
        Some(Slot(Some(self.clone())))
    }

    /// Gives a place back that was [held](Slot::hold).
    pub fn give_back(&self) {
        // Relaxed, as everywhere here: the numbers guard no other memory.
        let kept = self.0.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |surplus| surplus.checked_sub(1));
        if kept.is_err() {
            self.0.free.add_permits(1);
        }
    }

    /// Changes how many places there are. Called by one thread at a time.
    pub fn set_limit(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.0.limit.swap(limit, Ordering::Relaxed);
        if limit < before {
            self.0.surplus.fetch_add(before - limit, Ordering::Relaxed);
            self.settle(self.0.free.forget_permits(before - limit));
        } else {
            self.settle(limit - before);
        }
    }

    /// Places that are taken.
    pub fn used(&self) -> usize {
        let all = self.0.limit.load(Ordering::Relaxed) + self.0.surplus.load(Ordering::Relaxed);
        all.saturating_sub(self.0.free.available_permits())
    }

    /// Makes up for as much of the surplus as there is; what is beyond becomes free.
    fn settle(&self, places: usize) {
        let less = |surplus: usize| Some(surplus.saturating_sub(places));
        let surplus = self.0.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
        self.0.free.add_permits(places.saturating_sub(surplus));
    }
}

impl Slot {
    /// Keeps the place taken until it is [given back](Slots::give_back) by hand.
    pub fn hold(mut self) {
        self.0 = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = &self.0 {
            slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_lowered_is_met_as_places_come_back() {
        let slots = Slots::new(4);
        let mut taken: Vec<_> = std::iter::from_fn(|| slots.take_now()).collect();
        assert_eq!((taken.len(), slots.used()), (4, 4));
        slots.set_limit(2);
        for used in [3, 2] {
            taken.pop();
            assert!(slots.take_now().is_none());
            assert_eq!(slots.used(), used);
        }
        taken.pop();
        assert_eq!(slots.used(), 1);
        assert!(slots.take_now().is_some_and(|_| slots.take_now().is_none()));
    }

    #[test]
    fn a_limit_that_is_raised_first_makes_up_for_what_is_beyond_it() {
        let slots = Slots::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take_now()).collect();
        slots.set_limit(1);
        slots.set_limit(2);
        assert!(slots.take_now().is_none());
        slots.set_limit(4);
        let last = slots.take_now();
        assert!(last.is_some() && slots.take_now().is_none());
        drop((taken, last));
        assert_eq!((slots.used(), std::iter::from_fn(|| slots.take_now().map(Slot::hold)).count()), (0, 4));
        slots.give_back();
        assert_eq!(slots.used(), 3);
    }
}
