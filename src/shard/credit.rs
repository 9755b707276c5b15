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

/// What requests have paid. Dropping it gives the bytes back to the window.
#[derive(Debug)]
pub struct Credit {
    window: Arc<Inner>,
    bytes: u32,
}

/// What one request has paid, out of what was paid for many. What is not taken stays there.
#[derive(Debug)]
pub struct Paid<'a> {
    all: &'a mut Credit,
    bytes: u32,
}

impl Window {
    /// A window of `bytes_max`, all of it free, whose memory is `memory`.
    pub fn new(bytes_max: usize, memory: Reservation) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Window(Arc::new(Inner { free: Semaphore::new(bytes_max as usize), bytes_max, _memory: memory }))
    }

    /// Takes credit, if so much is free.
    pub fn try_take(&self, bytes: usize) -> Option<Credit> {
        let bytes = u32::try_from(bytes).ok()?;
        self.0.free.try_acquire_many(bytes).ok()?.forget();
        Some(Credit { window: self.0.clone(), bytes })
    }

    /// Waits until so much is free. May be raced.
    pub async fn freed(&self, bytes: u32) {
        // The semaphore is never closed; the permit goes back at once, to be taken by `try_take`.
        let _ = self.0.free.acquire_many(bytes).await;
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> usize {
        self.0.free.available_permits()
    }

    /// Bytes that it has in all.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max as usize
    }

    /// Bytes that are out.
    pub fn used_bytes(&self) -> usize {
        (self.0.bytes_max as usize).saturating_sub(self.free_bytes())
    }

    /// What a request with `data_bytes` costs.
    pub fn cost(&self, data_bytes: usize) -> u32 {
        u32::try_from(data_bytes.saturating_add(REQUEST_BYTES)).unwrap_or(u32::MAX).min(self.0.bytes_max)
    }
}

impl Credit {
    /// The bytes that were paid.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Adds credit of the same window.
    pub fn add(&mut self, mut more: Credit) {
        debug_assert!(Arc::ptr_eq(&self.window, &more.window));
        self.bytes += std::mem::take(&mut more.bytes);
    }
}

impl<'a> Paid<'a> {
    /// So many bytes of `all`, or what is left of it.
    pub fn new(all: &'a mut Credit, bytes: u32) -> Self {
        let bytes = bytes.min(all.bytes);
        Paid { all, bytes }
    }

    /// Takes it.
    pub fn take(self) -> Credit {
        self.all.bytes -= self.bytes;
        Credit { window: self.all.window.clone(), bytes: self.bytes }
    }

    /// Adds it to credit of the same window.
    pub fn add_to(self, credit: &mut Credit) {
        debug_assert!(Arc::ptr_eq(&self.all.window, &credit.window));
        self.all.bytes -= self.bytes;
        credit.bytes += self.bytes;
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.window.free.add_permits(self.bytes());
        }
    }
}

/// Credits on their way back, those of one window together. They are back when it drops.
#[derive(Debug, Default)]
pub struct Returning(Option<Credit>);

impl Returning {
    /// Adds what one request had paid.
    pub fn add(&mut self, credit: Credit) {
        match &mut self.0 {
            Some(held) if Arc::ptr_eq(&held.window, &credit.window) => held.add(credit),
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
        let credit = window.try_take(10).unwrap();
        drop(window);
        assert_eq!(budget.used(), 1_000);
        drop(credit);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_request_without_data_is_not_free() {
        let (_, window) = window(2 * REQUEST_BYTES);
        let first = window.try_take(window.cost(0) as usize).unwrap();
        let _second = window.try_take(window.cost(0) as usize).unwrap();
        assert!(window.try_take(window.cost(0) as usize).is_none());
        assert_eq!((first.bytes(), window.used_bytes()), (REQUEST_BYTES, 2 * REQUEST_BYTES));
        drop(first);
        assert!(window.try_take(window.cost(0) as usize).is_some());
    }

    #[test]
    fn credit_that_is_split_and_added_comes_back_whole() {
        let (_, window) = window(1_000);
        let mut all = window.try_take(700).unwrap();
        let mut part = Paid::new(&mut all, 300).take();
        Paid::new(&mut all, 100).add_to(&mut part);
        let rest = Paid::new(&mut all, 900).take();
        assert_eq!((all.bytes(), part.bytes(), rest.bytes()), (0, 400, 300));
        drop(all);
        let mut returning = Returning::default();
        returning.add(part);
        returning.add(rest);
        assert_eq!(window.used_bytes(), 700);
        drop(returning);
        assert!(window.try_take(1_000).is_some());
        assert!(window.try_take(1_001).is_none());
    }

    #[test]
    fn a_request_larger_than_the_window_takes_it_whole() {
        let (_, window) = window(1_000);
        assert_eq!(window.cost(1 << 20), 1_000);
        let small = window.try_take(window.cost(0) as usize).unwrap();
        assert!(window.try_take(1_000).is_none());
        drop(small);
        assert!(window.try_take(1_000).is_some());
    }
}
