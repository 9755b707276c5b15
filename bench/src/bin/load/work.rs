//! What a thread lends to its sessions and devices while they work.
//!
//! **Invariants.** The time is that of the present turn of the loop; nothing here outlives the turn.
//! **Not here.** The loop (`worker`).

use crate::payload::Pattern;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::tally::Tally;

/// Bytes of one read of a device.
pub const READ_BYTES: usize = 64 << 10;

/// What a thread lends.
#[derive(Debug)]
pub struct Work<'a> {
    /// What is run.
    pub plan: &'a Plan,
    /// What the threads share.
    pub shared: &'a Shared,
    /// What messages carry.
    pub pattern: &'a Pattern,
    /// What this thread measures.
    pub tally: &'a mut Tally,
    /// A buffer for what is read at once.
    pub read: &'a mut [u8],
    /// A buffer for what is sent at once.
    pub scratch: &'a mut Vec<u8>,
    /// The time.
    pub now_ns: u64,
}
