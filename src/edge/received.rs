//! What was received of a connection to the API and is not answered yet.
//!
//! **Invariants.** What goes beyond a few KiB is reserved for as long as it is held, room that is spare included. All of it
//! is wiped: a head may have a private key in it.
//! **Not here.** How long a head may be, and what it says (`api`).

use crate::policy::budget::{Budget, Reservation};
use crate::protocol::wiped;
use std::ops::Deref;
use zeroize::Zeroizing;

/// Bytes that reserve no memory; a driver's head is about 500.
pub const FREE_BYTES: usize = 4 << 10;

/// Bytes of a connection, from the start of the next head.
pub struct Received {
    bytes: Zeroizing<Vec<u8>>,
    memory: Option<Reservation>,
}

impl Received {
    /// What came first.
    pub fn new(first: Vec<u8>) -> Self {
        Received { bytes: Zeroizing::new(first), memory: None }
    }

    /// Reserves what a head may take, where this one takes more than is free; false where there is no room.
    pub fn reserve(&mut self, budget: &Budget, head_bytes_max: usize) -> bool {
        if self.bytes.len() > FREE_BYTES && self.memory.is_none() {
            self.memory = budget.reserve(head_bytes_max);
            return self.memory.is_some();
        }
        true
    }

    /// Appends what came next.
    pub fn extend(&mut self, more: &[u8]) {
        wiped::extend(&mut self.bytes, more);
    }

    /// Drops so many bytes from the start, and gives back the memory that the rest does not need.
    pub fn forget(&mut self, count: usize) {
        if count > 0 {
            self.bytes = Zeroizing::new(self.bytes[count..].to_vec());
        }
        if self.bytes.len() <= FREE_BYTES {
            self.memory = None;
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_long_head_is_reserved_for_as_long_as_it_is_held() {
        let budget = Budget::new(10 << 10);
        let mut received = Received::new(vec![b'a'; FREE_BYTES]);
        assert!(received.reserve(&budget, 10 << 10) && budget.used() == 0);
        received.extend(b"b");
        assert!(received.reserve(&budget, 10 << 10) && received.reserve(&budget, 10 << 10));
        assert_eq!(budget.used(), 10 << 10);
        assert!(!Received::new(vec![0; FREE_BYTES + 1]).reserve(&budget, 1), "there is no room for another");
        received.forget(0);
        assert_eq!(budget.used(), 10 << 10);
        received.forget(FREE_BYTES);
        assert_eq!((&*received, budget.used()), (&b"b"[..], 0));
        assert!(received.bytes.capacity() < FREE_BYTES);
    }
}
