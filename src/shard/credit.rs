//! A session's window: the bytes that it may have on their way to devices. Each request carries the credit that paid for
//! it, and the credit comes back when it drops, wherever that is.
//!
//! **Invariants.** Credits out never exceed the window; every request costs its data and [`REQUEST_BYTES`], so that none
//! queues for free; a request larger than the window takes the whole of it.
//! **Not here.** What happens when a driver waits too long for credit (`edge::session`).

use crate::policy::budget::Reservation;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a request costs beside its data.
pub const REQUEST_BYTES: usize = 64;

/// One session's window.
#[derive(Debug)]
pub struct Window {
    free: Arc<Semaphore>,
    bytes_max: u32,
}

/// What one request has paid. Dropping it gives the bytes back to the window.
#[derive(Debug)]
pub struct Credit {
    permit: OwnedSemaphorePermit,
    /// The memory of a message larger than the window accounts for.
    _large: Option<Reservation>,
}

impl Window {
    /// A window of `bytes_max`, all of it free.
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Window { free: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// Takes the credit for a request with `data_bytes`, if it is free.
    pub fn try_take(&self, data_bytes: usize, large: Option<Reservation>) -> Result<Credit, Option<Reservation>> {
        match self.free.clone().try_acquire_many_owned(self.cost(data_bytes)) {
            Ok(permit) => Ok(Credit { permit, _large: large }),
            Err(_) => Err(large),
        }
    }

    /// Waits until credit for `data_bytes` is free. May be raced.
    pub async fn free_for(&self, data_bytes: usize) {
        // The semaphore is never closed; the permit goes back at once, to be taken by `try_take`.
        let _ = self.free.acquire_many(self.cost(data_bytes)).await;
    }

    fn cost(&self, data_bytes: usize) -> u32 {
        u32::try_from(data_bytes.saturating_add(REQUEST_BYTES)).unwrap_or(u32::MAX).min(self.bytes_max)
    }
}

impl Credit {
    /// The bytes that were paid.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_data_is_not_free() {
        let window = Window::new(2 * REQUEST_BYTES);
        let first = window.try_take(0, None).unwrap();
        let _second = window.try_take(0, None).unwrap();
        assert!(window.try_take(0, None).is_err());
        assert_eq!(first.bytes(), REQUEST_BYTES);
        drop(first);
        assert!(window.try_take(0, None).is_ok());
    }

    #[test]
    fn a_request_larger_than_the_window_takes_it_whole() {
        let window = Window::new(1_000);
        let small = window.try_take(0, None).unwrap();
        assert!(window.try_take(1 << 20, None).is_err());
        drop(small);
        let large = window.try_take(1 << 20, None).unwrap();
        assert_eq!(large.bytes(), 1_000);
        assert!(window.try_take(0, None).is_err());
    }
}
