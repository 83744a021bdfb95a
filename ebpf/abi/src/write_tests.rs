extern crate std;

use core::net::SocketAddr;
use std::vec::Vec;

use core::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::{RouteTarget, Slots};

const SEED: [u64; 5] =
    [11, 0x9e37_79b9_7f4a_7c14, 0xc2b2_ae3d_27d4_eb4e, 0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];
const GENERATION: u32 = 7;

struct Memory {
    switch: Switch<AtomicU64>,
    buckets: Vec<Bucket<AtomicU64>>,
    bindings: Vec<Binding<AtomicU64>>,
}

impl Memory {
    fn new(bindings: u32) -> Memory {
        let memory = Memory {
            switch: Switch::default(),
            buckets: (0..buckets_for(bindings)).map(|_| Bucket::default()).collect(),
            bindings: (0..bindings).map(|_| Binding::default()).collect(),
        };
        memory.table().seed(SEED);
        memory
    }

    fn table(&self) -> RouteTable<'_> {
        RouteTable { switch: &self.switch, buckets: &self.buckets, bindings: &self.bindings }
    }

    /// What the program would find.
    fn find(&self, key: &RouteKey) -> Option<Route> {
        let place = self.switch.place(key);
        let places = [place, place.other()];
        let found = places.map(|place| self.buckets[place.bucket as usize].find(place.fingerprint));
        let lead = found.into_iter().find(|lead| *lead != Lead::NONE)?;
        let route = self.table().entry(lead)?.read(key)?;
        assert_eq!(lead.allocation(), route.allocation);
        Some(route)
    }
}

/// The two routes of a channel in a slot: a client's port for each.
fn routes(slot: u32) -> [(RouteKey, Route); 2] {
    let address = |last: u8, port: u32| SocketAddr::from(([192, 0, 2, last], port as u16));
    let (client, server) = (address(1 + (slot >> 16) as u8, slot), address(201, 3478));
    let (peer, relayed) = (address(101 + (slot >> 16) as u8, 9000), address(202, slot));
    let slots = Slots {
        allocation: slot,
        allocation_generation: 3,
        binding: slot,
        binding_generation: GENERATION,
        next_hop: 0xabcd,
        ingress: 0x8001,
    };
    let plain = crate::RouteFlags::default();
    let up = RouteTarget { source: relayed, destination: peer, channel: 0, flags: plain };
    let down = RouteTarget { source: server, destination: client, channel: 0x4001, flags: plain };
    let keys = [RouteKey::new(client, server, 0x4001), RouteKey::new(peer, relayed, 0)];
    [(keys[0], Route::new(&keys[0], &up, slots)), (keys[1], Route::new(&keys[1], &down, slots))]
}

#[test]
fn what_is_inserted_is_found_as_it_was_until_it_is_removed() {
    let memory = Memory::new(4);
    let table = memory.table();
    let all: Vec<_> = (0..4).flat_map(routes).collect();
    for (key, route) in &all {
        assert_eq!(memory.find(key), None);
        table.insert(key, route).unwrap();
        assert_eq!(memory.find(key), Some(*route));
    }
    let mut listed: Vec<_> = table.routes().collect();
    listed.sort_by_key(|(_, route)| (route.binding, route.channel));
    assert_eq!(listed, all);
    for (key, _) in &all {
        assert!(table.remove(key));
        assert!(!table.remove(key));
        assert_eq!(memory.find(key), None);
    }
    assert_eq!(table.routes().count(), 0);
}

#[test]
fn nothing_is_written_over_what_is_there() {
    let memory = Memory::new(2);
    let table = memory.table();
    let [(key, route), (other_key, _)] = routes(0);
    table.insert(&key, &route).unwrap();
    let elsewhere = Route { binding: 1, ..route };
    assert_eq!(table.insert(&key, &elsewhere), Err(NoInsert::KeyTaken));
    let same_place = RouteKey::new("192.0.2.9:9".parse().unwrap(), "192.0.2.8:8".parse().unwrap(), 0x4001);
    assert_eq!(table.insert(&same_place, &route), Err(NoInsert::SlotTaken));
    assert_eq!(table.insert(&other_key, &Route { binding: 2, ..route }), Err(NoInsert::NoSlot));
    assert_eq!(table.insert(&other_key, &Route { binding: u32::MAX, ..route }), Err(NoInsert::NoSlot));
    assert_eq!(table.routes().collect::<Vec<_>>(), [(key, route)]);
}

#[test]
fn a_full_table_has_room_for_all_of_its_routes() {
    let bindings = 1 << 16;
    let memory = Memory::new(bindings);
    let table = memory.table();
    let all: Vec<_> = (0..bindings).flat_map(routes).collect();
    let refused = all.iter().filter(|(key, route)| table.insert(key, route).is_err()).count();
    assert_eq!(refused, 0, "of {}", all.len());
    assert!(all.iter().all(|(key, route)| memory.find(key) == Some(*route)));
    assert_eq!(table.routes().count(), all.len());
}

#[test]
fn full_buckets_refuse_and_their_neighbours_help() {
    let memory = Memory::new(64);
    let table = memory.table();
    // All keys meet in one bucket.
    memory.switch.shift.store(63, Relaxed);
    let mut outcomes = (0..64).flat_map(routes).map(|(key, route)| (table.insert(&key, &route), key));
    let room = 2 * crate::BUCKET_WORDS;
    let (inserted, refused): (Vec<_>, Vec<_>) = outcomes.by_ref().partition(|(outcome, _)| outcome.is_ok());
    assert_eq!(inserted.len(), room);
    assert!(refused.iter().all(|(outcome, _)| *outcome == Err(NoInsert::Full)));
    assert!(inserted.iter().all(|(_, key)| memory.find(key).is_some()));
    assert!(table.remove(&inserted[3].1));
    assert_eq!(table.insert(&refused[0].1, &routes(63)[0].1), Ok(()));
}

#[test]
fn words_that_lead_nowhere_find_nothing_and_are_freed() {
    let memory = Memory::new(4);
    let table = memory.table();
    let [(key, route), _] = routes(0);
    let [(other_key, other), _] = routes(1);
    table.insert(&key, &route).unwrap();
    assert_eq!(table.insert(&other_key, &Route { binding: 1 << 17, ..other }), Err(NoInsert::NoSlot));
    // A word for the other key, to the first one's entry; and one to no entry at all.
    let place = memory.switch.place(&other_key);
    table.free_word(place).unwrap().store(place.fingerprint | 1, Relaxed);
    let third = memory.switch.place(&routes(2)[0].0);
    table.free_word(third).unwrap().store(third.fingerprint | 1 << 18, Relaxed);
    assert_eq!(memory.find(&other_key), None);
    assert_eq!(memory.find(&routes(2)[0].0), None);
    assert!(!table.remove(&other_key), "it is the first one's");
    assert_eq!(table.insert(&other_key, &other), Err(NoInsert::KeyTaken));
    assert_eq!(table.routes().collect::<Vec<_>>(), [(key, route)]);
    table.insert(&other_key, &other).unwrap();
    assert_eq!(table.routes().count(), 2);
}

#[test]
fn a_lost_word_can_be_made_again() {
    let memory = Memory::new(2);
    let table = memory.table();
    let [(key, route), _] = routes(0);
    table.insert(&key, &route).unwrap();
    memory.buckets.iter().flat_map(|bucket| &bucket.words).for_each(|word| word.store(0, Relaxed));
    assert_eq!(table.routes().count(), 0);
    table.insert(&key, &route).unwrap();
    assert_eq!(memory.find(&key), Some(route));
}

/// A route that was read while another took its place: the generation tells, whenever it happened.
#[test]
fn half_a_route_is_not_of_its_slots_generation() {
    let memory = Memory::new(1);
    let table = memory.table();
    let entry = &memory.bindings[0].to_peer;
    let [(key, route), _] = routes(0);
    entry.generation.store(GENERATION.into(), Relaxed);
    table.insert(&key, &route).unwrap();
    assert!(entry.is_of(entry.read(&key).unwrap().binding_generation));
    let read = entry.read(&key).unwrap();
    table.remove(&key);
    assert!(!entry.is_of(entry.read(&key).unwrap().binding_generation), "let go");
    entry.generation.store(u64::from(GENERATION) + 1, Relaxed);
    table.insert(&key, &Route { binding_generation: GENERATION + 1, ..route }).unwrap();
    assert!(!entry.is_of(read.binding_generation));
    assert!(entry.is_of(entry.read(&key).unwrap().binding_generation));
}
