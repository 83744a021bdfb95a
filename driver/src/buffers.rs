//! Where received datagrams lie.
//!
//! One pool per worker, reused turn by turn from its first buffer on, so that small turns stay
//! in the processor's cache. Each buffer has room for the largest datagram there is, but the
//! memory behind the part that no datagram ever reached is never touched, so the system does
//! not back it: a pool costs what traffic has used, and at most its full size.
//!
//! ```text
//!   | headroom | payload, up to `capacity` bytes ... | gap | headroom | payload ...
//! ```

#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;

use crate::limits::MAX_DATAGRAM;

/// Free bytes in front of each payload: room to put a header there without a copy.
pub const HEADROOM: usize = 64;

/// Bytes of a buffer beyond the largest payload: what the kernel may put in front of it.
pub const MAX_PREFIX: usize = 256;

/// Distance between buffers beyond their size, bytes. An odd number of cache lines, so that
/// the first bytes of neighbours fall into different cache sets, which multiples of 4 KiB would not.
const STAGGER: usize = 192;

/// Fixed buffers of one size in one piece of memory.
///
/// The kernel writes to it, but only within a system call of the thread that owns the pool: never while
/// somebody reads a slice of it.
pub struct BufferPool {
    memory: NonNull<u8>,
    bytes: usize,
    capacity: usize,
    stride: usize,
}

// SAFETY: the pool owns its memory like a box does, and nothing in it depends on a thread.
unsafe impl Send for BufferPool {}

impl BufferPool {
    /// `count` buffers for payloads of up to `capacity` bytes each.
    ///
    /// # Panics
    /// If `count` or `capacity` is 0, or `capacity` above [`MAX_PREFIX`] + [`MAX_DATAGRAM`]: a fault of
    /// the caller.
    pub fn new(count: usize, capacity: usize) -> BufferPool {
        let most = MAX_PREFIX + MAX_DATAGRAM;
        assert!((1..=most).contains(&capacity), "capacity {capacity} is not 1 to {most}");
        let stride = (HEADROOM + capacity).next_multiple_of(64) + STAGGER;
        let bytes = count * stride;
        assert!(bytes > 0, "a pool has buffers");
        // SAFETY: a fresh mapping at an address that the system chooses; the result is checked.
        let memory = unsafe {
            let (access, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, -1, 0)
        };
        let memory = NonNull::new(memory.cast()).filter(|_| memory != libc::MAP_FAILED);
        let memory = memory.expect("address space for the buffers");
        BufferPool { memory, bytes, capacity, stride }
    }

    /// Bytes that a payload may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        self.bytes / self.stride
    }

    /// Where buffer `index`'s payload starts within the pool.
    pub fn payload_offset(&self, index: usize) -> usize {
        index * self.stride + HEADROOM
    }

    /// A range of the pool's bytes; `None` if it lies outside.
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start > range.end || range.end > self.bytes {
            return None;
        }
        // SAFETY: the range lies within the memory, all of which is initialised, and nobody writes to it
        // while the pool is borrowed: the kernel does so within system calls, before which the drivers
        // take the pool by `&mut`.
        Some(unsafe { slice::from_raw_parts(self.memory.as_ptr().add(range.start), range.len()) })
    }

    /// Where the kernel may write buffer `index`'s payload, up to [`Self::capacity`] bytes.
    ///
    /// # Panics
    /// If there is no such buffer.
    pub fn payload_pointer(&mut self, index: usize) -> *mut u8 {
        assert!(index < self.count(), "there is no buffer {index}");
        // SAFETY: the buffer lies within the memory.
        unsafe { self.memory.as_ptr().add(self.payload_offset(index)) }
    }

    /// Gives the memory behind all buffers back to the system. What was in them is gone; they can be used
    /// as before.
    pub fn release_memory(&mut self) {
        // SAFETY: it concerns memory that this pool owns, which reads as zeros afterwards; an error
        // changes nothing.
        unsafe { libc::madvise(self.memory.as_ptr().cast(), self.bytes, libc::MADV_DONTNEED) };
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and not unmapped before.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_have_headroom() {
        let pool = BufferPool::new(5, MAX_DATAGRAM);
        assert_eq!(pool.count(), 5);
        let mut end_of_previous = 0;
        for index in 0..pool.count() {
            let start = pool.payload_offset(index);
            assert!(start - end_of_previous >= HEADROOM, "buffer {index} has its headroom to itself");
            end_of_previous = start + pool.capacity();
        }
        assert!(pool.slice(end_of_previous - 1..end_of_previous).is_some(), "the last buffer is inside");
    }

    #[test]
    fn first_bytes_of_neighbours_lie_in_different_cache_sets() {
        let pool = BufferPool::new(16, MAX_DATAGRAM);
        let lines: std::collections::BTreeSet<usize> =
            (0..16).map(|index| pool.payload_offset(index) / 64 % 64).collect();
        assert_eq!(lines.len(), 16);
    }

    #[test]
    fn a_range_outside_is_refused() {
        let pool = BufferPool::new(1, 100);
        let start = pool.payload_offset(0);
        assert_eq!(pool.slice(start..start + 100).map(<[u8]>::len), Some(100));
        assert!(pool.slice(start..start + 100_000).is_none());
    }

    #[test]
    fn memory_that_was_given_back_can_be_used_again() {
        let mut pool = BufferPool::new(3, 10_000);
        for _ in 0..2 {
            for index in 0..3 {
                let pointer = pool.payload_pointer(index);
                // SAFETY: the payload has 10,000 bytes.
                unsafe { pointer.write_bytes(7, 10_000) };
                let start = pool.payload_offset(index);
                assert_eq!(pool.slice(start..start + 10_000), Some(&[7; 10_000][..]));
            }
            pool.release_memory();
            let start = pool.payload_offset(1);
            assert_eq!(pool.slice(start..start + 10_000), Some(&[0; 10_000][..]));
        }
    }

    #[test]
    fn an_untouched_pool_costs_no_memory() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
            let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("second field");
            pages * 4096
        };
        let before = resident();
        let pool = BufferPool::new(4096, MAX_DATAGRAM);
        let grown = resident().saturating_sub(before);
        // Half of it, since other tests of this process use memory at the same time.
        assert!(grown < 128 << 20, "256 MiB of buffers took {grown} bytes at once");
        assert_eq!(pool.slice(0..1), Some(&[0][..]));
    }
}
