//! The table of routes as its one writer sees it.
//!
//! To change what a key leads to: [`RouteTable::remove`], a grace period, [`RouteTable::insert`].

use core::fmt;
use core::sync::atomic::AtomicU64;

use crate::table::{Bucket, Entry, Lead, Place};
use crate::{Address, Binding, Route, RouteKey, Store, Switch};

/// Why a route was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoInsert {
    /// There is one for that key, or for one that can't be told from it.
    KeyTaken,
    /// The binding's slot has another route in that direction.
    SlotTaken,
    /// There is no such slot.
    NoSlot,
    /// The buckets that it could be in are full: of a million it is one, in a full table.
    Full,
}

impl fmt::Display for NoInsert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoInsert::KeyTaken => "there is a route for that key",
            NoInsert::SlotTaken => "there is a route in that slot",
            NoInsert::NoSlot => "there is no such slot",
            NoInsert::Full => "no room beside other routes",
        })
    }
}

impl core::error::Error for NoInsert {}

/// Memory of a table: what `SWITCH`, `INDEX` and `ROUTES` have.
#[derive(Debug)]
pub struct RouteTable<'m, W = AtomicU64> {
    /// How keys are hashed.
    pub switch: &'m Switch<W>,
    /// A power of two of them, at least two.
    pub buckets: &'m [Bucket<W>],
    /// The slots of bindings, with their entries.
    pub bindings: &'m [Binding<W>],
}

/// How many buckets so many bindings need: a quarter of their words is used, so that nearly every route finds room.
pub const fn buckets_for(bindings: u32) -> u32 {
    if bindings < 2 { 2 } else { bindings.next_power_of_two() }
}

impl<'m, W: Store> RouteTable<'m, W> {
    /// Decides how keys are hashed, before there are any: by five random numbers.
    pub fn seed(&self, random: [u64; 5]) {
        for (word, random) in self.switch.multipliers.iter().zip(random) {
            // An even one would lose a bit.
            word.store(random | 1);
        }
        let bits = self.buckets.len().max(2).ilog2();
        self.switch.shift.store(u64::from(u64::BITS - bits));
    }

    /// Adds a route, to the entry of its binding's slot for its direction.
    ///
    /// # Errors
    /// See [`NoInsert`]: nothing has changed then.
    pub fn insert(&self, key: &RouteKey, route: &Route) -> Result<(), NoInsert> {
        let lead = Lead::new(entry_of(route), route.allocation).ok_or(NoInsert::NoSlot)?;
        let entry = self.entry(lead).ok_or(NoInsert::NoSlot)?;
        let place = self.switch.place(key);
        if self.word(place).is_some() {
            return Err(NoInsert::KeyTaken);
        }
        if self.word(self.switch.place(&entry.own_key())).is_some_and(|(_, own)| own.entry() == lead.entry())
        {
            return Err(NoInsert::SlotTaken);
        }
        let free = [place, place.other()].into_iter().find_map(|place| self.free_word(place));
        let word = free.ok_or(NoInsert::Full)?;
        entry.write(key, route);
        // Last: whoever finds the entry finds it written.
        word.store(place.fingerprint | lead.word());
        Ok(())
    }

    /// Takes a route out; `false` if there was none. A run of the program may still have it in hand.
    pub fn remove(&self, key: &RouteKey) -> bool {
        let place = self.switch.place(key);
        let Some((word, lead)) = self.word(place) else { return false };
        let Some(entry) = self.entry(lead).filter(|entry| entry.own_key() == *key) else { return false };
        word.store(0);
        entry.made_for.store(0);
        true
    }

    /// Every route that the program finds. Words that lead to none are freed on the way: there should be none.
    pub fn routes(&self) -> impl Iterator<Item = (RouteKey, Route)> {
        let words = self.buckets.iter().flat_map(|bucket| &bucket.words);
        words.filter_map(|word| {
            let value = word.load();
            let found = self.entry(Lead::of_word(value)).map(|entry| (entry.own_key(), entry));
            let found = found.filter(|(key, entry)| entry.has_route() && self.leads(*key, value));
            if found.is_none() && value != 0 {
                word.store(0);
            }
            found.map(|(key, entry)| (key, entry.read_route(entry.made_for.load())))
        })
    }

    /// Whether a word is where the program finds it for this key.
    fn leads(&self, key: RouteKey, value: u64) -> bool {
        let word = self.word(self.switch.place(&key));
        word.is_some_and(|(word, _)| word.load() == value)
    }

    /// The word that a key's place has, and where it leads.
    fn word(&self, place: Place) -> Option<(&'m W, Lead)> {
        let mut words = [place, place.other()].into_iter().flat_map(|place| self.words(place));
        words.find_map(|word| Some((word, Lead::of(word.load() ^ place.fingerprint)?)))
    }

    fn free_word(&self, place: Place) -> Option<&'m W> {
        self.words(place).iter().find(|word| word.load() == 0)
    }

    fn words(&self, place: Place) -> &'m [W] {
        self.buckets.get(place.bucket as usize).map_or(&[], |bucket| &bucket.words)
    }

    fn entry(&self, lead: Lead) -> Option<&'m Entry<W>> {
        let binding = self.bindings.get(lead.entry() as usize / 2)?;
        Some(if lead.entry().is_multiple_of(2) { &binding.to_peer } else { &binding.to_client })
    }
}

/// The place of the entry that a route belongs into: a client is sent ChannelData, a peer is not.
fn entry_of(route: &Route) -> u32 {
    route.binding.saturating_mul(2).saturating_add(u32::from(route.channel != 0))
}

impl<W: Store> Entry<W> {
    fn own_key(&self) -> RouteKey {
        let [a, b, c, d, flow] = [0, 1, 2, 3, 4].map(|i| self.key[i].load());
        RouteKey::from_words(Address::from_v6_words(a, b), Address::from_v6_words(c, d), flow)
    }

    fn has_route(&self) -> bool {
        self.made_for.load() as u32 != 0
    }

    /// Whoever reads any of it, and then the slot's generation, sees that it is another one.
    fn write(&self, key: &RouteKey, route: &Route) {
        self.made_for.store(0);
        let [source, destination] = [route.source, route.destination].map(Address::v6_words);
        let ports = u64::from(route.ports) | u64::from(route.channel) << 32 | u64::from(route.flags.0) << 48;
        let slots = u64::from(route.allocation) | u64::from(route.allocation_generation) << 32;
        let rest =
            u64::from(route.next_hop) | u64::from(route.checksum) << 16 | u64::from(route.ingress) << 32;
        let route_words = [source[0], source[1], destination[0], destination[1], ports, slots, rest];
        let words = self.key.iter().zip(key.words()).chain(self.route.iter().zip(route_words));
        words.for_each(|(word, value)| word.store(value));
        let made_for = u64::from(route.binding_generation) | u64::from(route.binding) << 32;
        self.made_for.store(made_for);
    }
}

/// Every interleaving of a run of the program and two writers: `RUSTFLAGS="--cfg loom" cargo test -p turnpike-abi --lib`.
#[cfg(loom)]
#[cfg(test)]
mod interleavings {
    extern crate std;

    use loom::sync::atomic::AtomicU64;
    use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
    use std::sync::Arc;

    use crate::{Entry, Route, RouteKey, Store, Word};

    #[derive(Default)]
    struct Shared(AtomicU64);

    impl Word for Shared {
        fn load(&self) -> u64 {
            self.0.load(Acquire)
        }

        fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
            self.0.compare_exchange(current, new, Relaxed, Relaxed)
        }

        fn fetch_add(&self, value: u64) -> u64 {
            self.0.fetch_add(value, Relaxed)
        }
    }

    impl Store for Shared {
        fn store(&self, value: u64) {
            self.0.store(value, Release);
        }
    }

    fn route(generation: u32) -> Route {
        let ports = 1000 + generation;
        Route { ports, next_hop: 40 + generation as u16, binding_generation: generation, ..Route::default() }
    }

    /// The slot gets another owner while it is read, without any grace period: one of the two routes is used, or none.
    fn reuse(before: RouteKey, after: RouteKey) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(move || {
            let entry = Arc::new(Entry::<Shared>::default());
            entry.generation.store(1);
            entry.write(&before, &route(1));
            let writer = Arc::clone(&entry);
            let writer = loom::thread::spawn(move || {
                writer.made_for.store(0);
                writer.generation.store(2);
                writer.write(&after, &route(2));
            });
            if let Some(read) = entry.read(&before)
                && entry.is_of(read.binding_generation)
            {
                assert!(read == route(1) || read == route(2) && before == after, "{read:?}");
            }
            writer.join().expect("no panic");
            assert_eq!(entry.read(&after), Some(route(2)));
        });
    }

    #[test]
    fn a_slot_with_another_route_is_never_read_by_halves() {
        let key = |channel| RouteKey::from_wire(Default::default(), Default::default(), 7, channel);
        reuse(key(1), key(1));
        reuse(key(1), key(2));
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
