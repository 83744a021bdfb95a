//! The parts of the map access that need `unsafe`: shared memory, plain values, the grace period.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use aya::Pod;
use turnpike_abi::{Allocation, Binding, Config, NextHop, Pinning, Route, RouteKey};

/// `linux/membarrier.h`: returns after every CPU has left what it was doing in the kernel with RCU.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// Waits until no program that is running now is running any more: what was deleted before may be
/// used again afterwards. Takes some milliseconds to tens of them.
///
/// # Errors
/// Where the kernel has no such barrier: in old ones, and with `nohz_full`.
pub(super) fn grace_period() -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A value that is nothing but its bytes, as the kernel copies it into and out of a map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T: Copy>(pub(super) T);

// SAFETY: each is `repr(C)`, made of integers only and without padding: their sizes are asserted in
// turnpike-abi to be the sums of their fields'.
unsafe impl Pod for Plain<RouteKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Route> {}
// SAFETY: as above.
unsafe impl Pod for Plain<NextHop> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Config> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Pinning> {}

/// What may lie in memory that the kernel program writes at the same time.
///
/// # Safety
/// It must consist of atomics only, and any bits must be a valid value.
pub unsafe trait InSharedMemory: Sync {}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Binding<AtomicU64> {}
// SAFETY: atomics only.
unsafe impl InSharedMemory for Allocation<AtomicU64> {}

/// The entries of an array map, mapped into this process.
#[derive(Debug)]
pub struct Mapped<T> {
    start: NonNull<T>,
    entries: usize,
    _entries: PhantomData<T>,
}

// SAFETY: it owns the mapping, and its entries may be used from any thread.
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: only shared references to the entries are given out, and those may be shared.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: InSharedMemory> Mapped<T> {
    /// Maps all entries of an array map that was made with `BPF_F_MMAPABLE`.
    pub(super) fn new(map: impl AsFd, entries: u32) -> io::Result<Mapped<T>> {
        // The kernel keeps entries at multiples of eight bytes.
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8) };
        let entries = entries as usize;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let fd = map.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses; the length is checked by it.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), entries * size_of::<T>(), protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapped { start, entries, _entries: PhantomData })
    }
}

impl<T> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` mapped that many entries, page aligned, valid whatever their bits are
        // (`InSharedMemory`), and they stay mapped until `drop`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.entries) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with the same length; references to the entries have ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.entries * size_of::<T>()) };
    }
}
