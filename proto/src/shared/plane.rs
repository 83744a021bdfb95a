//! Slots of the memory that the core shares with the kernel program: who has which, and what is in them.
//!
//! The core owns the slots and writes leases, limits and generations itself, as atomic stores; the program
//! reads them for each packet, and writes the buckets and counters. So renewing costs no command, and a
//! lease of 0 ends forwarding at once. What finds a slot (the routes) is somebody else's business: they
//! name slot and generation, so a route that is left over never means a new owner.
//!
//! ```text
//!   allocation slot: two directions { bucket, rate | packets, bytes, drops | lease, generation }
//!   binding slot:    two entries { a route of the mirror's | lease, generation }
//! ```
//!
//! Shared by all workers, touched by control messages only. Dropping a slot is the only way to give it back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use turnpike_abi::{Allocation, Binding, Direction, LEASE_MARGIN_NS, Rate};

use crate::inspect::WhyNot;
use crate::limits::USER_SHARE_OF_FREE;
use crate::stats::Traffic;

/// Memory shared with the kernel program, or plain memory in tests.
pub trait PlaneMemory: Send + Sync {
    /// The slots of allocations.
    fn allocations(&self) -> &[Allocation<AtomicU64>];
    /// The slots of channel bindings.
    fn bindings(&self) -> &[Binding<AtomicU64>];
}

/// Names a slot; an old name never means a new owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName {
    /// Index into the memory.
    pub slot: u32,
    /// Whose it is; never 0, which is what memory begins with.
    pub generation: u32,
}

/// Slots that are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotsTaken {
    /// Slots of allocations.
    pub allocations: usize,
    /// Slots of channel bindings.
    pub bindings: usize,
}

/// Names a user to the kernel plane as long as he has a channel there; an old number never means somebody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserNumber(pub u64);

/// Who has slots of channel bindings.
#[derive(Debug, Default)]
struct Users {
    /// Who has none is not in here.
    held: BTreeMap<Arc<str>, Held>,
    /// The latest number.
    last: UserNumber,
}

/// What a user has.
#[derive(Debug, Default)]
struct Held {
    number: UserNumber,
    slots: usize,
}

impl Users {
    /// A user has taken a slot.
    fn one_more(&mut self, user: &Arc<str>) -> (Arc<str>, UserNumber) {
        let held = self.held.entry(Arc::clone(user)).or_default();
        if held.slots == 0 {
            self.last.0 += 1;
            held.number = self.last;
        }
        held.slots += 1;
        (Arc::clone(user), held.number)
    }
}

/// The slots and who has them.
pub struct Plane {
    memory: Arc<dyn PlaneMemory>,
    allocations: Mutex<Pool>,
    bindings: Mutex<Pool>,
    users: Mutex<Users>,
    exhausted: AtomicU64,
    /// Another process has the memory now: nothing is written to it any more.
    is_given_away: AtomicBool,
}

impl Plane {
    /// All slots of the memory, free.
    pub fn new(memory: Arc<dyn PlaneMemory>) -> Arc<Self> {
        let allocations = Mutex::new(Pool::new(memory.allocations().len()));
        let bindings = Mutex::new(Pool::new(memory.bindings().len()));
        Arc::new(Self {
            memory,
            allocations,
            bindings,
            users: Mutex::default(),
            exhausted: AtomicU64::new(0),
            is_given_away: AtomicBool::new(false),
        })
    }

    /// Another process has taken the memory over, with all slots: what happens to them here from now on changes nothing
    /// in it.
    pub fn give_away(&self) {
        self.is_given_away.store(true, Ordering::Relaxed);
    }

    /// How many slots are taken.
    pub fn taken(&self) -> SlotsTaken {
        let taken = |pool: &Mutex<Pool>| pool.lock().unwrap_or_else(PoisonError::into_inner).taken;
        SlotsTaken { allocations: taken(&self.allocations), bindings: taken(&self.bindings) }
    }

    /// How many channel bindings fit.
    pub fn binding_slots(&self) -> usize {
        self.memory.bindings().len()
    }

    /// How often a slot was wanted and none was left.
    pub fn exhausted(&self) -> u64 {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// A slot for an allocation: counters at zero, no lease yet. `spent` are the words of its buckets so far.
    pub(crate) fn take_allocation(self: &Arc<Self>, rate: Rate, spent: [u64; 2]) -> Option<AllocationSlot> {
        let slot = self.take(&self.allocations)?;
        let memory = &self.memory.allocations()[slot as usize];
        let generation = next_generation(&memory.to_peer.generation);
        for (direction, spent) in [&memory.to_peer, &memory.to_client].into_iter().zip(spent) {
            direction.bucket.store(spent, Ordering::Relaxed);
            direction.packets.store(0, Ordering::Relaxed);
            direction.bytes.store(0, Ordering::Relaxed);
            direction.rate_drops.store(0, Ordering::Relaxed);
            store_rate(direction, rate);
            // Release: who sees the generation sees the counters and the limit that go with it.
            direction.generation.store(u64::from(generation), Ordering::Release);
        }
        Some(AllocationSlot { plane: Arc::clone(self), name: SlotName { slot, generation } })
    }

    /// A slot for a channel binding of a user, without a lease yet; else why there is none.
    pub(crate) fn take_binding(self: &Arc<Self>, user: &Arc<str>) -> Result<BindingSlot, WhyNot> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.held.get(user).map_or(0, |held| held.slots);
        let free = self.binding_slots() - self.taken().bindings;
        if free > 0 && held >= USER_SHARE_OF_FREE * free {
            return Err(WhyNot::UserShare);
        }
        let slot = self.take(&self.bindings).ok_or(WhyNot::NoSlot)?;
        let user = users.one_more(user);
        drop(users);
        let memory = &self.memory.bindings()[slot as usize];
        let generation = next_generation(&memory.to_peer.generation);
        for entry in [&memory.to_peer, &memory.to_client] {
            entry.generation.store(u64::from(generation), Ordering::Release);
        }
        let name = SlotName { slot, generation };
        Ok(BindingSlot { plane: Arc::clone(self), name, user })
    }

    /// The slot of an allocation, as it is: another process had it. `None` if there is no such slot, if it is taken, or
    /// means something else by now.
    pub(crate) fn claim_allocation(self: &Arc<Self>, name: SlotName) -> Option<AllocationSlot> {
        let memory = self.memory.allocations().get(name.slot as usize)?;
        if memory.to_peer.generation.load(Ordering::Relaxed) != u64::from(name.generation) {
            return None;
        }
        let is_free = self.allocations.lock().unwrap_or_else(PoisonError::into_inner).claim(name.slot);
        is_free.then(|| AllocationSlot { plane: Arc::clone(self), name })
    }

    /// The slot of a channel binding, as it is: another process had it.
    pub(crate) fn claim_binding(self: &Arc<Self>, name: SlotName, user: &Arc<str>) -> Option<BindingSlot> {
        let memory = self.memory.bindings().get(name.slot as usize)?;
        if memory.to_peer.generation.load(Ordering::Relaxed) != u64::from(name.generation) {
            return None;
        }
        if !self.bindings.lock().unwrap_or_else(PoisonError::into_inner).claim(name.slot) {
            return None;
        }
        let user = self.users.lock().unwrap_or_else(PoisonError::into_inner).one_more(user);
        Some(BindingSlot { plane: Arc::clone(self), name, user })
    }

    fn take(&self, pool: &Mutex<Pool>) -> Option<u32> {
        let slot = pool.lock().unwrap_or_else(PoisonError::into_inner).take();
        if slot.is_none() {
            self.exhausted.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }
}

/// The generation lives in the memory, so that it goes on when somebody else takes the memory over.
fn next_generation(word: &AtomicU64) -> u32 {
    (word.load(Ordering::Relaxed) as u32).wrapping_add(1).max(1)
}

fn store_rate(direction: &Direction<AtomicU64>, rate: Rate) {
    let [price, burst] = rate.to_words();
    // Whoever reads between the two pairs a price with the other burst, for one packet.
    direction.burst.store(burst, Ordering::Relaxed);
    direction.price.store(price, Ordering::Relaxed);
}

/// When the lease of a thing ends that ends at `ends_ns`.
fn lease_until(ends_ns: u64) -> u64 {
    ends_ns.saturating_sub(LEASE_MARGIN_NS)
}

/// An allocation's slot; dropping it gives it back.
pub(crate) struct AllocationSlot {
    plane: Arc<Plane>,
    name: SlotName,
}

impl AllocationSlot {
    pub(crate) fn name(&self) -> SlotName {
        self.name
    }

    pub(crate) fn words(&self) -> &Allocation<AtomicU64> {
        &self.plane.memory.allocations()[self.name.slot as usize]
    }

    /// Lets the kernel forward until shortly before `ends_ns`; 0 stops it at once.
    pub(crate) fn lease(&self, ends_ns: u64) {
        if self.plane.is_given_away.load(Ordering::Relaxed) {
            return;
        }
        let words = self.words();
        for direction in [&words.to_peer, &words.to_client] {
            direction.lease_ns.store(lease_until(ends_ns), Ordering::Release);
        }
    }

    /// The words of its buckets: to peers, and to the client.
    pub(crate) fn buckets(&self) -> [u64; 2] {
        let words = self.words();
        [&words.to_peer, &words.to_client].map(|direction| direction.bucket.load(Ordering::Relaxed))
    }

    pub(crate) fn set_rate(&self, rate: Rate) {
        let words = self.words();
        store_rate(&words.to_peer, rate);
        store_rate(&words.to_client, rate);
    }

    /// What the kernel has forwarded: to peers, and to the client.
    pub(crate) fn traffic(&self) -> [Traffic; 2] {
        let words = self.words();
        [&words.to_peer, &words.to_client].map(|direction| Traffic {
            packets: direction.packets.load(Ordering::Relaxed),
            bytes: direction.bytes.load(Ordering::Relaxed),
            rate_drops: direction.rate_drops.load(Ordering::Relaxed),
        })
    }
}

impl Drop for AllocationSlot {
    fn drop(&mut self) {
        self.lease(0);
        self.plane.allocations.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.name.slot);
    }
}

/// A channel binding's slot; dropping it gives it back.
pub(crate) struct BindingSlot {
    plane: Arc<Plane>,
    name: SlotName,
    /// Whose share it counts towards.
    user: (Arc<str>, UserNumber),
}

impl BindingSlot {
    pub(crate) fn name(&self) -> SlotName {
        self.name
    }

    /// Whose it is, in a number.
    pub(crate) fn user(&self) -> UserNumber {
        self.user.1
    }

    /// Whose share it counts towards.
    pub(crate) fn user_name(&self) -> &Arc<str> {
        &self.user.0
    }

    /// Lets the kernel forward until shortly before `ends_ns`; 0 stops it at once.
    pub(crate) fn lease(&self, ends_ns: u64) {
        if self.plane.is_given_away.load(Ordering::Relaxed) {
            return;
        }
        let words = &self.plane.memory.bindings()[self.name.slot as usize];
        for entry in [&words.to_peer, &words.to_client] {
            entry.lease_ns.store(lease_until(ends_ns), Ordering::Release);
        }
    }
}

impl Drop for BindingSlot {
    fn drop(&mut self) {
        self.lease(0);
        let mut users = self.plane.users.lock().unwrap_or_else(PoisonError::into_inner);
        match users.held.get_mut(&self.user.0) {
            Some(held) if held.slots > 1 => held.slots -= 1,
            _ => drop(users.held.remove(&self.user.0)),
        }
        drop(users);
        self.plane.bindings.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.name.slot);
    }
}

/// Free slots of one kind: those never used yet, and those given back.
#[derive(Debug)]
struct Pool {
    slots: u32,
    /// Of slots that were ever used: whether it is taken.
    is_taken: Vec<bool>,
    /// Given back; one that was claimed since is in here, too.
    returned: Vec<u32>,
    taken: usize,
}

impl Pool {
    fn new(slots: usize) -> Self {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        Self { slots, is_taken: Vec::new(), returned: Vec::new(), taken: 0 }
    }

    fn take(&mut self) -> Option<u32> {
        while let Some(slot) = self.returned.pop() {
            if self.claim(slot) {
                return Some(slot);
            }
        }
        let next = self.is_taken.len() as u32;
        self.claim(next).then_some(next)
    }

    /// Takes this very slot; `false` if it is taken, or there is no such slot.
    fn claim(&mut self, slot: u32) -> bool {
        if slot >= self.slots {
            return false;
        }
        let used = self.is_taken.len() as u32;
        if slot >= used {
            self.is_taken.resize(slot as usize + 1, false);
            self.returned.extend((used..slot).rev());
        }
        let is_free = !std::mem::replace(&mut self.is_taken[slot as usize], true);
        self.taken += usize::from(is_free);
        is_free
    }

    fn give_back(&mut self, slot: u32) {
        self.taken -= 1;
        self.is_taken[slot as usize] = false;
        self.returned.push(slot);
    }
}

/// Memory that no kernel sees: for tests.
#[derive(Debug)]
pub struct PlainMemory {
    allocations: Box<[Allocation<AtomicU64>]>,
    bindings: Box<[Binding<AtomicU64>]>,
}

impl PlainMemory {
    /// So many slots of each kind.
    pub fn new(allocations: usize, bindings: usize) -> Arc<Self> {
        Arc::new(Self {
            allocations: (0..allocations).map(|_| Allocation::default()).collect(),
            bindings: (0..bindings).map(|_| Binding::default()).collect(),
        })
    }
}

impl PlaneMemory for PlainMemory {
    fn allocations(&self) -> &[Allocation<AtomicU64>] {
        &self.allocations
    }

    fn bindings(&self) -> &[Binding<AtomicU64>] {
        &self.bindings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_clean_when_it_is_taken_and_has_another_name_each_time() {
        let memory = PlainMemory::new(1, 1);
        let plane = Plane::new(Arc::<PlainMemory>::clone(&memory));
        let first = plane.take_allocation(Rate::UNLIMITED, [0; 2]).expect("one is free");
        first.words().to_peer.packets.store(5, Ordering::Relaxed);
        first.lease(10_000_000_000);
        assert!(plane.take_allocation(Rate::UNLIMITED, [0; 2]).is_none(), "there is one");
        assert_eq!(plane.exhausted(), 1);
        let name = first.name();
        drop(first);
        assert_eq!(memory.allocations()[0].to_client.lease_ns.load(Ordering::Relaxed), 0);
        let rate = Rate::new(1_000_000, 100);
        let second = plane.take_allocation(rate, [7, 8]).expect("it came back");
        assert_ne!(second.name(), name);
        assert_eq!(second.traffic(), [Traffic::default(); 2]);
        assert_eq!(second.words().to_client.generation.load(Ordering::Relaxed), 2);
        let words = &memory.allocations()[0].to_peer;
        assert_eq!(
            [words.price.load(Ordering::Relaxed), words.burst.load(Ordering::Relaxed)],
            rate.to_words()
        );
        assert_eq!(plane.taken(), SlotsTaken { allocations: 1, bindings: 0 });
    }

    #[test]
    fn a_lease_ends_two_ticks_early_and_zero_stays_zero() {
        let memory = PlainMemory::new(0, 2);
        let plane = Plane::new(Arc::<PlainMemory>::clone(&memory));
        let slot = plane.take_binding(&"alice".into()).expect("one is free");
        let lease = || memory.bindings()[0].to_client.lease_ns.load(Ordering::Relaxed);
        slot.lease(1_000_000_000);
        assert_eq!(lease(), 980_000_000);
        slot.lease(0);
        assert_eq!(lease(), 0);
        slot.lease(5);
        assert_eq!(lease(), 0);
    }

    #[test]
    fn one_user_leaves_slots_for_the_next_ones() {
        let plane = Plane::new(PlainMemory::new(0, 90));
        let [alice, bob] = ["alice", "bob"].map(Arc::<str>::from);
        let take_all = |user: &Arc<str>| {
            let mut slots = Vec::new();
            loop {
                match plane.take_binding(user) {
                    Ok(slot) => slots.push(slot),
                    Err(why) => return (slots, why),
                }
            }
        };
        let (mut of_alice, why) = take_all(&alice);
        assert_eq!((of_alice.len(), why), (80, WhyNot::UserShare), "eight of nine");
        let (of_bob, why) = take_all(&bob);
        assert_eq!((of_bob.len(), why), (9, WhyNot::UserShare), "about as much of the rest");
        let numbers = [&of_alice, &of_bob].map(|slots| slots[0].user());
        assert_ne!(numbers[0], numbers[1]);
        assert!(of_alice.iter().all(|slot| slot.user() == numbers[0]));
        // What is given back is anybody's who has less.
        of_alice.truncate(10);
        assert!(plane.take_binding(&alice).is_ok());
        drop((of_alice, of_bob));
        assert_eq!(plane.taken(), SlotsTaken::default());
        assert!(plane.users.lock().unwrap().held.is_empty(), "nobody is remembered");
    }

    #[test]
    fn generations_are_never_zero() {
        assert_eq!(next_generation(&AtomicU64::new(0)), 1);
        assert_eq!(next_generation(&AtomicU64::new(u64::from(u32::MAX))), 1);
    }
}
