//! The maps, and words in them that both planes write.

use core::cell::UnsafeCell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, DevMapHash, PerCpuArray};
use turnpike_abi::{
    Allocation, Books, Bucket, Charge, Config, Devices, Entry, MAX_INTERFACES, NextHop, Switch, Verdict, Word,
};
use turnpike_ebpf::Maps;

// Sizes are those of a small relay; the loader sets them to what is configured.
/// Channel bindings, two routes each.
const BINDINGS_DEFAULT: u32 = 1024;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(2, 0);
#[map]
static SWITCH: Array<Switch<SharedWord>> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// A power of two of them.
#[map]
static INDEX: Array<Bucket<SharedWord>> = Array::with_max_entries(BINDINGS_DEFAULT, BPF_F_MMAPABLE);
#[map]
static ROUTES: Array<Entry<SharedWord>> = Array::with_max_entries(2 * BINDINGS_DEFAULT, BPF_F_MMAPABLE);
#[map]
static ALLOCATIONS: Array<Allocation<SharedWord>> = Array::with_max_entries(BINDINGS_DEFAULT, BPF_F_MMAPABLE);
#[map]
static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(BINDINGS_DEFAULT, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT as u32, 0);
/// What became of what was sent, for each CPU.
#[map]
static BOOKS: PerCpuArray<Books> = PerCpuArray::with_max_entries(1, 0);
/// How the kernel calls the devices of our interfaces.
#[map]
static DEVICES: Array<Devices> = Array::with_max_entries(1, 0);
/// The coarse clock as it was at a tick, for each CPU.
#[map]
static CLOCK: PerCpuArray<Tick> = PerCpuArray::with_max_entries(1, 0);
/// Devices that frames may be redirected to, by index.
#[map]
pub static DEVS: DevMapHash = DevMapHash::with_max_entries(MAX_INTERFACES as u32, 0);

/// A word in a map.
///
/// `AtomicU64` cannot be compiled for eBPF, whose exchange instructions lack the orderings that it
/// wants; the intrinsics become single instructions.
#[repr(transparent)]
pub struct SharedWord(UnsafeCell<u64>);

// SAFETY: every access is a single aligned load or an atomic instruction.
unsafe impl Sync for SharedWord {}

impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the word is aligned and lives as long as the map.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: as above.
        let (found, swapped) = unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0.get(), current, new) };
        if swapped { Ok(found) } else { Err(found) }
    }

    #[inline(always)]
    fn fetch_add(&self, value: u64) -> u64 {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.0.get(), value) }
    }
}

/// What the coarse clock said when the tick counter had this value.
#[repr(C)]
struct Tick {
    jiffies: u64,
    coarse_ns: u64,
}

/// The kernel's maps and clock.
pub struct KernelMaps;

impl KernelMaps {
    /// Adds to a verdict's count.
    #[inline(always)]
    pub fn add(&self, verdict: Verdict, number: u64) {
        if let Some(count) = VERDICTS.get_ptr_mut(verdict as u32) {
            // SAFETY: each CPU has its own, and a program is not interrupted by another of ours on it.
            unsafe { *count = (*count).wrapping_add(number) };
        }
    }

    /// This processor's books.
    #[inline(always)]
    pub fn books(&self) -> Option<&'static mut Books> {
        // SAFETY: each CPU has its own, and neither the program nor what follows it is interrupted by another of ours.
        BOOKS.get_ptr_mut(0).map(|books| unsafe { &mut *books })
    }

    /// What is known of devices.
    #[inline(always)]
    pub fn devices(&self) -> Option<&'static mut Devices> {
        // SAFETY: whole words, which processors may write at once: each would write the same, or find it out again.
        DEVICES.get_ptr_mut(0).map(|devices| unsafe { &mut *devices })
    }

    /// The place of one of the devices that frames are sent by.
    #[inline(always)]
    pub fn place_of_device(&self, ifindex: u32) -> Option<u32> {
        let config = self.config(self.switch()?.config.load() as u32)?;
        let mut place = 0;
        while place < config.devices.len() {
            if config.devices[place] == ifindex {
                return Some(place as u32);
            }
            place += 1;
        }
        None
    }

    /// A datagram that was charged was not sent: it doesn't count. The limit stays charged, as in userspace.
    #[inline(always)]
    pub fn take_back(&self, charge: Charge) {
        if charge.is_none() {
            return;
        }
        let Some(allocation) = ALLOCATIONS.get(charge.slot()) else { return };
        let (direction, verdict) = match charge.to_client() {
            true => (&allocation.to_client, Verdict::ChannelToClient),
            false => (&allocation.to_peer, Verdict::ChannelToPeer),
        };
        direction.packets.fetch_add(u64::MAX);
        direction.bytes.fetch_add((charge.bytes() as u64).wrapping_neg());
        self.add(verdict, u64::MAX);
    }
}

impl Maps for KernelMaps {
    type Word = SharedWord;

    #[inline(always)]
    fn switch(&self) -> Option<&Switch<SharedWord>> {
        SWITCH.get(0)
    }

    #[inline(always)]
    fn config(&self, place: u32) -> Option<&Config> {
        CONFIG.get(place)
    }

    #[inline(always)]
    fn bucket(&self, place: u32) -> Option<&Bucket<SharedWord>> {
        INDEX.get(place)
    }

    #[inline(always)]
    fn entry(&self, place: u32) -> Option<&Entry<SharedWord>> {
        ROUTES.get(place)
    }

    #[inline(always)]
    fn allocation(&self, slot: u32) -> Option<&Allocation<SharedWord>> {
        ALLOCATIONS.get(slot)
    }

    #[inline(always)]
    fn next_hop(&self, slot: u32) -> Option<&NextHop> {
        NEXT_HOPS.get(slot)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // The coarse clock moves with the tick, so it is asked once in a tick: that call is a sixth of
        // the whole path, the tick counter a single load. At worst the value is one tick late.
        // SAFETY: the helper takes nothing and only reads the counter.
        let jiffies = unsafe { bpf_jiffies64() };
        let Some(tick) = CLOCK.get_ptr_mut(0) else { return u64::MAX };
        // SAFETY: each CPU has its own, and a program is not interrupted by another of ours on it.
        let tick = unsafe { &mut *tick };
        if tick.jiffies != jiffies {
            // SAFETY: the helper takes nothing and only reads the clock.
            tick.coarse_ns = unsafe { bpf_ktime_get_coarse_ns() };
            tick.jiffies = jiffies;
        }
        tick.coarse_ns
    }

    #[inline(always)]
    fn queue(&self, place: u32, first: Charge, second: Charge) {
        if let Some(books) = self.books() {
            books.queue(place, first, second);
        }
    }

    #[inline(always)]
    fn send_back(&self, place: u32, first: Charge, second: Charge) {
        if let Some(books) = self.books() {
            books.send_back(place, first, second);
        }
    }

    #[inline(always)]
    fn count(&self, verdict: Verdict) {
        self.add(verdict, 1);
    }
}
