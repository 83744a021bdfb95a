//! The parts of the map access that need `unsafe`: shared memory, plain values, the grace period.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use aya::Pod;
use turnpike_abi::{Allocation, Binding, Books, Bucket, Config, Devices, NextHop, Pinning, Switch};

/// `linux/membarrier.h`: which commands there are, and the one that returns after every CPU has left what it was doing in
/// the kernel with RCU.
const MEMBARRIER_CMD_QUERY: libc::c_int = 0;
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
/// `linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// A way to wait until no program that is running now is running any more: what was deleted before may be used again
/// afterwards.
#[derive(Debug)]
pub struct Grace(Option<MapOfMaps>);

/// A map of maps: the kernel comes back from changing an entry only when no run of a program can see the former one.
#[derive(Debug)]
struct MapOfMaps {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// By membarrier(2), or where the kernel has no such barrier, as with `nohz_full`, by a map of maps.
    ///
    /// # Errors
    /// If there is neither.
    pub fn new() -> io::Result<Grace> {
        // SAFETY: the call takes numbers only.
        let commands = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) };
        let has_barrier = commands > 0 && commands & libc::c_long::from(MEMBARRIER_CMD_GLOBAL) != 0;
        if has_barrier { Ok(Grace(None)) } else { Grace::by_map() }
    }

    /// By a map of maps, also where there is another way.
    ///
    /// # Errors
    /// Without the privilege to make maps.
    pub fn by_map() -> io::Result<Grace> {
        let inner = create_map([BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0, 0])?;
        let outer = create_map([BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 1, 0, inner.as_raw_fd() as u32])?;
        Ok(Grace(Some(MapOfMaps { outer, inner })))
    }

    /// Waits: some milliseconds to tens of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self) -> io::Result<()> {
        let Some(MapOfMaps { outer, inner }) = &self.0 else {
            // SAFETY: the call takes numbers only.
            let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
            return if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        };
        let (key, value) = (0_u32, inner.as_raw_fd() as u32);
        let addresses = [&raw const key, &raw const value].map(|pointer| pointer as u64);
        bpf(BPF_MAP_UPDATE_ELEM, &[outer.as_raw_fd() as u64, addresses[0], addresses[1], 0]).map(drop)
    }
}

/// Kind, size of keys and of values, number of entries, flags, the inner map.
fn create_map(attributes: [u32; 6]) -> io::Result<OwnedFd> {
    let [a, b, c, d, e, f] = attributes.map(u64::from);
    let words = if cfg!(target_endian = "little") {
        [a | b << 32, c | d << 32, e | f << 32]
    } else {
        [b | a << 32, d | c << 32, f | e << 32]
    };
    let fd = bpf(BPF_MAP_CREATE, &words)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf(command: libc::c_int, attributes: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as it is told; the pointers among them are to values that live through the
    // call, of the sizes that the map was made with.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes) as libc::c_uint)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// A value that is nothing but its bytes, as the kernel copies it into and out of a map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T: Copy>(pub(super) T);

// SAFETY: each is `repr(C)`, made of integers only and without padding: their sizes are asserted in
// turnpike-abi to be the sums of their fields'.
unsafe impl Pod for Plain<NextHop> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Config> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Pinning> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Books> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Devices> {}

/// What may lie in memory that the kernel program writes at the same time.
///
/// # Safety
/// It must consist of atomics only, and any bits must be a valid value.
pub unsafe trait InSharedMemory: Sync {}

// SAFETY: atomics only.
unsafe impl InSharedMemory for Binding<AtomicU64> {}
// SAFETY: atomics only.
unsafe impl InSharedMemory for Allocation<AtomicU64> {}
// SAFETY: atomics only.
unsafe impl InSharedMemory for Bucket<AtomicU64> {}
// SAFETY: atomics only.
unsafe impl InSharedMemory for Switch<AtomicU64> {}
// SAFETY: an atomic.
unsafe impl InSharedMemory for AtomicU64 {}

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
