//! Amounts that the whole process shares: bytes reserved by sessions, sessions, open ports.
//!
//! **Invariants.** Nothing is reserved beyond the limit as it stands; dropping a [`Reservation`] gives exactly its amount back,
//! from whichever thread.
//! **Not here.** What the limits are (`limits`), and waiting for room: a budget only says yes or no.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit and how much of it is in use, shared by every shard.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: AtomicUsize,
    used: AtomicUsize,
}

/// An amount taken from a budget; dropping it gives the amount back.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// A budget of `limit` with nothing in use.
    pub fn new(limit: usize) -> Self {
        Budget(Arc::new(Inner { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) }))
    }

    /// Takes `amount`, or nothing where it does not fit.
    pub fn reserve(&self, amount: usize) -> Option<Reservation> {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let fits = |used: usize| used.checked_add(amount).filter(|&sum| sum <= limit);
        // Relaxed: the number guards no other memory.
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reservation { budget: self.clone(), amount })
    }

    /// Changes the limit. Below what is in use, nothing is given until enough of that is back.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// How much is in use.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// The amount.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Takes `more` on top, or nothing where it does not fit.
    pub fn grow(&mut self, more: usize) -> bool {
        match self.budget.reserve(more) {
            Some(mut taken) => {
                self.amount += std::mem::take(&mut taken.amount);
                true
            }
            None => false,
        }
    }

    /// Splits everything off that is above `keep`.
    pub fn split_above(&mut self, keep: usize) -> Reservation {
        let above = self.amount.saturating_sub(keep);
        self.amount -= above;
        Reservation { budget: self.budget.clone(), amount: above }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_that_does_not_fit_takes_nothing() {
        let budget = Budget::new(10);
        let first = budget.reserve(7).expect("fits");
        assert!(budget.reserve(4).is_none() && budget.reserve(usize::MAX).is_none());
        assert_eq!(budget.used(), 7);
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_limit_that_is_lowered_below_what_is_in_use_gives_nothing_until_that_is_back() {
        let budget = Budget::new(10);
        let (first, second) = (budget.reserve(5), budget.reserve(5));
        budget.set_limit(6);
        drop(first);
        assert!(budget.reserve(2).is_none());
        let third = budget.reserve(1);
        assert!(third.is_some() && second.is_some());
        budget.set_limit(7);
        assert!(budget.reserve(1).is_some());
    }

    #[test]
    fn growing_and_splitting_keep_the_sum() {
        let budget = Budget::new(10);
        let mut base = budget.reserve(2).expect("fits");
        assert!(base.grow(6) && !base.grow(3));
        let above = base.split_above(2);
        assert_eq!((base.amount(), above.amount(), budget.used()), (2, 6, 8));
        drop(above);
        assert_eq!(budget.used(), 2);
        drop(base);
        assert_eq!(budget.used(), 0);
    }
}
