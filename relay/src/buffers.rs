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

use std::ops::Range;

/// Free bytes in front of each payload: room to put a header there without a copy.
pub const HEADROOM: usize = 64;

/// Largest payload that a buffer has to hold, bytes: the IPv6 maximum without jumbograms
/// (RFC 8200 s. 4.5) is 65,527; the IPv4 one is smaller.
pub const MAX_DATAGRAM: usize = 65_535;

/// Distance between buffers beyond their size, bytes. An odd number of cache lines, so that
/// the first bytes of neighbours fall into different cache sets, which multiples of 4 KiB would not.
const STAGGER: usize = 192;

/// Fixed buffers of one size in one piece of memory.
pub struct BufferPool {
    memory: Box<[u8]>,
    capacity: usize,
    stride: usize,
}

impl BufferPool {
    /// `count` buffers for payloads of up to `capacity` bytes each.
    ///
    /// # Panics
    /// If `capacity` is 0 or above [`MAX_DATAGRAM`]: a fault of the caller.
    pub fn new(count: usize, capacity: usize) -> BufferPool {
        assert!((1..=MAX_DATAGRAM).contains(&capacity), "capacity {capacity} is not 1 to {MAX_DATAGRAM}");
        let stride = (HEADROOM + capacity).next_multiple_of(64) + STAGGER;
        BufferPool { memory: vec![0; count * stride].into_boxed_slice(), capacity, stride }
    }

    /// Bytes that a payload may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many buffers there are.
    pub fn count(&self) -> usize {
        self.memory.len() / self.stride
    }

    /// Where buffer `index`'s payload starts within the pool.
    pub fn payload_offset(&self, index: usize) -> usize {
        index * self.stride + HEADROOM
    }

    /// A range of the pool's bytes; `None` if it lies outside.
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        self.memory.get(range)
    }

    /// All of the pool's memory, to be handed to the system together with [`Self::payload_offset`].
    pub fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
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
