//! The receive buffers of a shard: a group that the kernel picks from when bytes are there, so that a device that is
//! silent pins none.
//!
//! **Invariants.** A buffer is the kernel's, or one [`Buffer`]'s, never both; every [`Buffer`] gives its id back; the
//! memory is allocated once and never freed, as the kernel may write into it until the process ends.
//! **Not here.** Which receive gets a buffer (`stream`).

use super::{spawn, submit};
use io_uring::{cqueue, opcode};
use std::alloc::{Layout, alloc_zeroed};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use tokio::sync::Notify;

/// The only group of a shard's ring.
pub(super) const GROUP: u16 = 0;

/// What a buffer is filled with before the kernel gets it, in debug builds: a write that comes late, or past its length,
/// shows when the buffer is given out the next time. Sanitizers do not see what the kernel writes. As it is zero, memory that
/// no buffer has used yet stays the kernel's: filling 16 MiB a shard was a third of what the tests took.
const PATTERN: u8 = 0;

/// Buffers that go back to the kernel together, while it has others: each time costs an operation and a turn of the loop.
const GIVEN_BACK_MIN: usize = 32;

/// The receive buffers of a shard. Clones are the same pool.
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    memory: *mut u8,
    buffer_bytes: usize,
    buffers: u16,
    /// Buffers that hold bytes, or are lost.
    out: Cell<usize>,
    /// Buffers that the kernel has, as far as completions were looked at.
    given: Cell<usize>,
    /// Buffers that no one can give back, as the task that received them ended first.
    lost: Cell<usize>,
    waits: Cell<u64>,
    /// Ids on their way back to the kernel.
    returned: RefCell<Vec<u16>>,
    return_due: Notify,
    freed: Notify,
}

/// Bytes that were received. Dropping it gives its buffer back: soon, where the kernel has few left.
pub struct Buffer {
    pool: Pool,
    id: u16,
    len: usize,
    has_more: bool,
}

impl Pool {
    /// Allocates `buffers` of `buffer_bytes` each, at least one byte in all, and gives them to the ring of the calling
    /// shard.
    ///
    /// # Errors
    /// That there is no memory for them.
    pub fn new(buffers: u16, buffer_bytes: usize) -> io::Result<Self> {
        let layout = Layout::array::<u8>(usize::from(buffers) * buffer_bytes).map_err(io::Error::other)?;
        assert!(layout.size() > 0);
        // SAFETY: the layout has a size. What is asked for as zero takes no memory before it is used.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        let pool = Pool(Rc::new(Inner {
            memory: memory.as_ptr(),
            buffer_bytes,
            buffers,
            out: Cell::new(0),
            given: Cell::new(0),
            lost: Cell::new(0),
            waits: Cell::new(0),
            returned: RefCell::new((0..buffers).collect()),
            return_due: Notify::new(),
            freed: Notify::new(),
        }));
        pool.0.return_due.notify_one();
        spawn(give_back(pool.clone()));
        Ok(pool)
    }

    /// Buffers that hold bytes, as far as completions were looked at.
    pub fn out(&self) -> usize {
        self.0.out.get() - self.0.lost.get()
    }

    /// Buffers that were lost with the task that received into them.
    pub fn lost(&self) -> usize {
        self.0.lost.get()
    }

    /// Bytes of one buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.0.buffer_bytes
    }

    /// How often a receive found no buffer.
    pub fn waits(&self) -> u64 {
        self.0.waits.get()
    }

    /// Waits until the kernel has a buffer, as far as is known here. Rare, so that it is best boxed.
    pub async fn freed(&self) {
        self.0.waits.set(self.0.waits.get() + 1);
        if self.0.given.get() == 0 {
            self.0.return_due.notify_one();
            self.0.freed.notified().await;
        }
    }

    /// The buffer that the kernel picked, by the flags of a receive that completed, with `len` bytes in it.
    pub(super) fn take(&self, flags: u32, len: usize) -> Option<Buffer> {
        let id = cqueue::buffer_select(flags)?;
        debug_assert!(id < self.0.buffers && len <= self.0.buffer_bytes);
        self.leave_kernel();
        let buffer = Buffer { pool: self.clone(), id, len, has_more: cqueue::sock_nonempty(flags) };
        if cfg!(debug_assertions) {
            assert!(buffer.rest().iter().all(|&byte| byte == PATTERN), "the kernel wrote past a receive's length");
        }
        Some(buffer)
    }

    /// Counts a buffer that the kernel may have picked for a receive whose result nobody takes.
    pub(super) fn lose(&self) {
        self.leave_kernel();
        self.0.lost.set(self.0.lost.get() + 1);
    }

    fn leave_kernel(&self) {
        self.0.out.set(self.0.out.get() + 1);
        // A receive that is lost may not have picked one.
        self.0.given.set(self.0.given.get().saturating_sub(1));
    }

    /// Whether what was returned is to go back to the kernel: enough of it, or the kernel has little else.
    fn is_return_due(&self) -> bool {
        self.0.returned.borrow().len() >= GIVEN_BACK_MIN || self.0.given.get() < GIVEN_BACK_MIN
    }

    fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: ids are below the number of buffers, so the result lies within the one allocation.
        unsafe { self.0.memory.add(usize::from(id) * self.0.buffer_bytes) }
    }
}

impl Buffer {
    /// Whether more lay behind these bytes when they were received, be it the end of the stream alone.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// What lies behind the bytes that were received.
    fn rest(&self) -> &[u8] {
        // SAFETY: as in `deref`; these bytes were initialised when the memory was allocated.
        unsafe {
            std::slice::from_raw_parts(self.pool.address(self.id).add(self.len), self.pool.0.buffer_bytes - self.len)
        }
    }

    /// Gives the buffer back with nothing in it of what was received.
    pub fn wipe(mut self) {
        self.fill(0);
    }

    fn fill(&mut self, byte: u8) {
        // SAFETY: the buffer is this value's alone until its id is given back.
        unsafe { self.pool.address(self.id).write_bytes(byte, self.len) };
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel has written `len` bytes there, and does not touch the buffer until its id is given back,
        // which is when this value drops.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.id), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            // Ready for being given out again.
            self.fill(PATTERN);
        }
        self.pool.0.out.set(self.pool.0.out.get() - 1);
        self.pool.0.returned.borrow_mut().push(self.id);
        if self.pool.is_return_due() {
            self.pool.0.return_due.notify_one();
        }
    }
}

/// Gives ids back when it is told, once a turn at most: sorted, one operation a run of neighbours. Ends with its shard.
async fn give_back(pool: Pool) {
    let mut ids = Vec::new();
    let mut under_way = Vec::new();
    loop {
        pool.0.return_due.notified().await;
        std::mem::swap(&mut ids, &mut *pool.0.returned.borrow_mut());
        ids.sort_unstable();
        for run in ids.chunk_by(|&a, &b| b == a + 1) {
            let entry = opcode::ProvideBuffers::new(
                pool.address(run[0]),
                pool.0.buffer_bytes as i32,
                run.len() as u16,
                GROUP,
                run[0],
            );
            // SAFETY: the memory lives as long as the process, and the ids belong to no `Buffer` any more.
            under_way.push((run.len(), unsafe { submit((), entry.build()) }));
        }
        for (count, operation) in under_way.drain(..) {
            let back = operation.await;
            pool.0.given.set(pool.0.given.get() + count);
            if let Err(error) = back.outcome() {
                tracing::error!(%error, count, "receive buffers could not be given back to the kernel");
                (0..count).for_each(|_| pool.lose());
            }
        }
        // Told of nothing, those who wait for a buffer would ask here again at once.
        if !ids.is_empty() {
            pool.0.freed.notify_waiters();
        }
        ids.clear();
    }
}
