//! A ring of receive buffers that the kernel picks from (io_uring_register_buf_ring(2)).
//!
//! **Invariants.** A [`Buffer`] exists once while the process has it and not at all while the kernel has it. The memory is
//! never freed, as the kernel may write into it until the process ends.
//! **Not here.** Who receives into them (`uring`).

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// What the kernel wants the ring's address to be a multiple of.
const PAGE_BYTES: usize = 4096;
/// Between buffers, so that their first bytes do not all meet in one set of a cache.
const GAP_BYTES: usize = 64;

/// A buffer that the kernel has filled and the process has.
#[derive(Debug)]
pub struct Buffer {
    id: u16,
    len: u32,
}

/// A ring of buffers of one size.
#[derive(Debug)]
pub struct Buffers {
    entries: NonNull<BufRingEntry>,
    entry_count: u16,
    bytes: NonNull<u8>,
    bytes_each: usize,
    tail: u16,
}

impl Buffers {
    /// Registers `count` buffers as a group; a power of two.
    ///
    /// # Errors
    /// What io_uring_register(2) says.
    pub fn register(ring: &IoUring, group: u16, count: u16, bytes_each: usize) -> io::Result<Buffers> {
        let entries: NonNull<BufRingEntry> = zeroed(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let bytes = zeroed(usize::from(count) * (bytes_each + GAP_BYTES))?;
        // SAFETY: the memory holds `count` entries, begins at a page and is never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr().addr() as u64, count, group, 0)? };
        let mut buffers = Buffers { entries, entry_count: count, bytes, bytes_each, tail: 0 };
        for id in 0..count {
            buffers.give_back(Buffer { id, len: 0 });
        }
        Ok(buffers)
    }

    /// The buffer that a completion names, with so many bytes in it.
    ///
    /// # Safety
    /// The kernel has named it once, and it was not given back since.
    pub unsafe fn filled(&self, id: u16, len: u32) -> Buffer {
        Buffer { id: id & (self.entry_count - 1), len: len.min(self.bytes_each as u32) }
    }

    /// The bytes in a buffer.
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let at = usize::from(buffer.id) * (self.bytes_each + GAP_BYTES);
        // SAFETY: in range, as `filled` bounds both numbers; the kernel does not write while the process has the buffer.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(at), buffer.len as usize) }
    }

    /// Lets the kernel fill a buffer again.
    pub fn give_back(&mut self, buffer: Buffer) {
        let slot = usize::from(self.tail & (self.entry_count - 1));
        let at = usize::from(buffer.id) * (self.bytes_each + GAP_BYTES);
        // SAFETY: the slot is in range and the kernel does not read it before the tail is past it. The fields are set one
        // by one, as the reserved field of the first entry is the tail.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(slot);
            entry.set_addr(self.bytes.as_ptr().add(at).addr() as u64);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(buffer.id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned field of the ring's memory, and shared with the kernel as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Memory at a page that is never freed.
fn zeroed(bytes: usize) -> io::Result<NonNull<u8>> {
    let layout = Layout::from_size_align(bytes.max(1), PAGE_BYTES).map_err(io::Error::other)?;
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    Ok(NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)))
}
