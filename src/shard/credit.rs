//! A session's window: the bytes that it may have on their way to devices. Each request carries the credit that paid for
//! it, and the credit comes back when it drops, wherever that is.
//!
//! **Invariants.** Credits out never exceed the window; every request costs its data and [`REQUEST_BYTES`], so that none
//! queues for free; a request larger than the window takes the whole of it.
//! **Not here.** What happens when a driver waits too long for credit (`edge::session`).

use crate::policy::budget::Reservation;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What a request costs beside its data.
pub const REQUEST_BYTES: usize = 64;

/// One session's window. Clones are the same.
#[derive(Debug, Clone)]
pub struct Window(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Semaphore,
    bytes_max: u32,
    /// Held until the last credit is back, as writes may outlive their session.
    _memory: Reservation,
}

/// What one request has paid. Dropping it gives the bytes back to the window.
#[derive(Debug)]
pub struct Credit {
    window: Arc<Inner>,
    bytes: u32,
    /// The memory of a message larger than the window accounts for.
    _large: Option<Reservation>,
}

impl Window {
    /// A window of `bytes_max`, all of it free, whose memory is `memory`.
    pub fn new(bytes_max: usize, memory: Reservation) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Window(Arc::new(Inner { free: Semaphore::new(bytes_max as usize), bytes_max, _memory: memory }))
    }

    /// Takes the credit for a request with `data_bytes`, if it is free; gives `large` back where it is not.
    pub fn try_take(&self, data_bytes: usize, large: Option<Reservation>) -> Result<Credit, Option<Reservation>> {
        let bytes = self.permits(data_bytes);
        match self.0.free.try_acquire_many(bytes) {
            Ok(permit) => {
                permit.forget();
                Ok(Credit { window: self.0.clone(), bytes, _large: large })
            }
            Err(_) => Err(large),
        }
    }

    /// Takes the credit of several requests that cost `bytes` in all, to be split, if it is free.
    pub fn try_take_together(&self, bytes: usize) -> Option<Credit> {
        let bytes = u32::try_from(bytes).ok().filter(|&bytes| bytes <= self.0.bytes_max)?;
        self.0.free.try_acquire_many(bytes).ok()?.forget();
        Some(Credit { window: self.0.clone(), bytes, _large: None })
    }

    /// Waits until credit for `data_bytes` is free. May be raced.
    pub async fn free_for(&self, data_bytes: usize) {
        // The semaphore is never closed; the permit goes back at once, to be taken by `try_take`.
        let _ = self.0.free.acquire_many(self.permits(data_bytes)).await;
    }

    /// Bytes that are out.
    pub fn used_bytes(&self) -> usize {
        (self.0.bytes_max as usize).saturating_sub(self.0.free.available_permits())
    }

    /// What a request with `data_bytes` costs.
    pub fn cost(&self, data_bytes: usize) -> usize {
        self.permits(data_bytes) as usize
    }

    fn permits(&self, data_bytes: usize) -> u32 {
        u32::try_from(data_bytes.saturating_add(REQUEST_BYTES)).unwrap_or(u32::MAX).min(self.0.bytes_max)
    }
}

impl Credit {
    /// Takes out what one request costs: [`Window::cost`] of its data.
    pub fn split(&mut self, cost: usize, large: Option<Reservation>) -> Credit {
        let bytes = u32::try_from(cost).unwrap_or(u32::MAX).min(self.bytes);
        self.bytes -= bytes;
        Credit { window: self.window.clone(), bytes, _large: large }
    }

    /// The bytes that were paid.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.window.free.add_permits(self.bytes());
    }
}

/// Credits on their way back, those of one window together. They are back when it drops.
#[derive(Debug, Default)]
pub struct Returning(Option<Credit>);

impl Returning {
    /// Adds what one request had paid.
    pub fn add(&mut self, mut credit: Credit) {
        match &mut self.0 {
            Some(held) if Arc::ptr_eq(&held.window, &credit.window) => held.bytes += std::mem::take(&mut credit.bytes),
            other => *other = Some(credit),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::budget::Budget;

    fn window(bytes_max: usize) -> (Budget, Window) {
        let budget = Budget::new(bytes_max);
        let memory = budget.reserve(bytes_max).unwrap();
        (budget, Window::new(bytes_max, memory))
    }

    #[test]
    fn the_windows_memory_is_held_until_the_last_credit_is_back() {
        let (budget, window) = window(1_000);
        let credit = window.try_take(10, None).unwrap();
        drop(window);
        assert_eq!(budget.used(), 1_000);
        drop(credit);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_without_data_is_not_free() {
        let (_, window) = window(2 * REQUEST_BYTES);
        let first = window.try_take(0, None).unwrap();
        let _second = window.try_take(0, None).unwrap();
        assert!(window.try_take(0, None).is_err());
        assert_eq!((first.bytes(), window.used_bytes()), (REQUEST_BYTES, 2 * REQUEST_BYTES));
        drop(first);
        assert!(window.try_take(0, None).is_ok());
    }

    #[test]
    fn credits_taken_and_given_back_together_are_as_many_as_one_by_one() {
        let (_, window) = window(1_000);
        let mut together = window.try_take_together(700).unwrap();
        let credits = [together.split(300, None), together.split(400, None)];
        drop(together);
        assert!(window.try_take_together(301).is_none());
        let mut returning = Returning::default();
        credits.into_iter().for_each(|credit| returning.add(credit));
        assert!(window.try_take_together(301).is_none());
        drop(returning);
        assert!(window.try_take_together(1_000).is_some());
        assert!(window.try_take_together(1_001).is_none());
    }

    #[test]
    fn a_request_larger_than_the_window_takes_it_whole() {
        let (_, window) = window(1_000);
        let small = window.try_take(0, None).unwrap();
        assert!(window.try_take(1 << 20, None).is_err());
        drop(small);
        let large = window.try_take(1 << 20, None).unwrap();
        assert_eq!(large.bytes(), 1_000);
        assert!(window.try_take(0, None).is_err());
    }
}
