//! A group of provided buffers: the kernel takes one for each datagram, and gets it back in a turn.
//!
//! ```text
//!   in the ring ──► taken by the kernel for a datagram ──► in use by this turn ──► given back ──► in the ring
//!        ▲ grow()                                                  └──► kept back, after shrink()
//! ```
//!
//! The kernel takes buffers in turn, so all that are in the ring go through the processor's cache and have
//! memory behind them. Few are, until they were too few once: nothing is lost then.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::buffers::BufferPool;

/// The kernel wants the entries at the start of a page.
const ALIGNMENT: usize = 4096;

/// Buffers that are in the ring at first.
const FEWEST: u16 = 32;

/// The buffers `base` to `base + count` of the pool.
pub(super) struct BufferGroup {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    count: u16,
    base: usize,
    tail: u16,
    in_use: Vec<u16>,
    /// Not given to the kernel.
    kept: Vec<u16>,
    /// How many the kernel may have, or this turn in its stead.
    offered: u16,
}

// SAFETY: it owns its entries like a box does, and nothing in it depends on a thread.
unsafe impl Send for BufferGroup {}

impl BufferGroup {
    /// A group of `count` buffers, which must be a power of two, all in the ring. The pool and the group
    /// have to outlive `ring`.
    pub(super) fn new(
        ring: &Ring,
        group: u16,
        base: usize,
        count: u16,
        pool: &mut BufferPool,
    ) -> io::Result<BufferGroup> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two, not {count}");
        let size = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, ALIGNMENT).expect("a small number of pages");
        // SAFETY: the layout's size is not 0, since count is a power of two.
        let Some(entries) = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>()) else {
            handle_alloc_error(layout)
        };
        let in_use = Vec::with_capacity(usize::from(count));
        let kept = (0..count).rev().collect();
        let offered = count.min(FEWEST);
        let mut group_of_buffers =
            BufferGroup { entries, layout, count, base, tail: 0, in_use, kept, offered };
        group_of_buffers.offer(pool);
        group_of_buffers.publish();
        // SAFETY: the entries stay until the group is dropped, which the caller does after the ring.
        unsafe { ring.register_buffers(entries.as_ptr() as u64, count, group)? };
        Ok(group_of_buffers)
    }

    /// The kernel has taken this buffer; returns its number in the pool, `None` if it is none of ours.
    pub(super) fn taken(&mut self, buffer: u16) -> Option<usize> {
        if buffer >= self.count {
            return None;
        }
        self.in_use.push(buffer);
        Some(self.base + usize::from(buffer))
    }

    /// The kernel found none left: it is to have twice as many, from the next turn on. `false` if it had all.
    pub(super) fn grow(&mut self) -> bool {
        let before = self.offered;
        self.offered = before.saturating_mul(2).min(self.count);
        self.offered > before
    }

    /// Keeps buffers back, as they come back, until the kernel has as few as at first.
    pub(super) fn shrink(&mut self) {
        self.offered = self.count.min(FEWEST);
    }

    /// Gives all taken buffers back to the kernel, or keeps them, so that it has as many as it may.
    pub(super) fn give_back(&mut self, pool: &mut BufferPool) {
        if self.in_use.is_empty() && self.out() >= self.offered {
            return;
        }
        while let Some(buffer) = self.in_use.pop() {
            self.kept.push(buffer);
        }
        self.offer(pool);
        self.publish();
    }

    /// Buffers that the kernel has.
    fn out(&self) -> u16 {
        self.count - (self.kept.len() + self.in_use.len()) as u16
    }

    /// The last that were kept come first: they are most likely in the cache.
    fn offer(&mut self, pool: &mut BufferPool) {
        while self.out() < self.offered
            && let Some(buffer) = self.kept.pop()
        {
            self.put(buffer, pool);
        }
    }

    fn put(&mut self, buffer: u16, pool: &mut BufferPool) {
        let place = usize::from(self.tail & (self.count - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the place is below the number of entries; the kernel reads an entry only after the tail
        // was published behind it. An entry's unused field is the ring's tail in the first one: it is
        // not touched here.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(place);
            entry.set_addr(pool.payload_pointer(self.base + usize::from(buffer)) as u64);
            entry.set_len(pool.capacity() as u32);
            entry.set_bid(buffer);
        }
    }

    fn publish(&self) {
        // SAFETY: the entries are initialised and the first one's address is given; the kernel and we
        // access the tail as an atomic of two bytes, to which it is aligned.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferGroup {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and not freed before.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
    }
}
