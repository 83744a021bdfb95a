//! The path over ordinary memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use turnpike_abi::{Allocation, Binding, Config, Direction, NextHop, Route, RouteKey, Verdict};
use turnpike_ebpf::{Action, Frame, Maps, handle};
use turnpike_fixtures::{AllocationState, Limit, Outcome, Plane, Verdicts, World};

/// Some time after the machine was started, nanoseconds.
const NOW_NS: u64 = 1_000_000_000_000;

/// The host build of the path.
pub struct Host;

impl Plane for Host {
    fn run(&mut self, world: &World, frame: &[u8]) -> Outcome {
        run(world, frame, 64)
    }
}

/// Runs the path on a frame with this much room in front of it, bytes.
pub fn run(world: &World, frame: &[u8], headroom: usize) -> Outcome {
    let maps = HostMaps::new(world);
    let mut frame = HostFrame::new(frame, headroom);
    let action = handle(&mut frame, &maps);
    let traffic = |direction: &Direction<AtomicU64>| {
        [&direction.packets, &direction.bytes, &direction.rate_drops].map(|word| word.load(Relaxed))
    };
    Outcome {
        passed: action == Action::Pass,
        redirected: matches!(action, Action::Redirect(1)),
        frame: frame.bytes().to_vec(),
        verdicts: maps.verdicts.into_inner(),
        traffic: maps.allocations.iter().map(|a| [traffic(&a.to_peer), traffic(&a.to_client)]).collect(),
    }
}

struct HostMaps {
    config: Config,
    routes: HashMap<RouteKey, Route>,
    bindings: Vec<Binding<AtomicU64>>,
    allocations: Vec<Allocation<AtomicU64>>,
    next_hops: Vec<NextHop>,
    verdicts: RefCell<Verdicts>,
}

impl HostMaps {
    fn new(world: &World) -> HostMaps {
        let binding = |state: &turnpike_fixtures::BindingState| Binding {
            lease_ns: state.lease_ns.into(),
            generation: u64::from(state.generation).into(),
        };
        let allocation = |state: &AllocationState| Allocation {
            to_peer: direction(state, state.to_peer),
            to_client: direction(state, state.to_client),
        };
        HostMaps {
            config: world.config,
            routes: world.routes.iter().copied().collect(),
            bindings: world.bindings.iter().map(binding).collect(),
            allocations: world.allocations.iter().map(allocation).collect(),
            next_hops: world.next_hops.clone(),
            verdicts: RefCell::new([0; Verdict::COUNT]),
        }
    }
}

fn direction(state: &AllocationState, limit: Limit) -> Direction<AtomicU64> {
    let (rate, bucket) = match limit {
        Limit::None => ([0; 2], 0),
        Limit::Fresh(rate) => (rate.to_words(), 0),
        // At the end of its burst, in the bucket's sixteenths of a nanosecond.
        Limit::UsedUp(rate) => (rate.to_words(), (NOW_NS + rate.burst_ns()) * 16),
    };
    Direction {
        bucket: bucket.into(),
        price: rate[0].into(),
        burst: rate[1].into(),
        lease_ns: state.lease_ns.into(),
        generation: u64::from(state.generation).into(),
        ..Direction::default()
    }
}

impl Maps for HostMaps {
    type Word = AtomicU64;

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn route(&self, key: &RouteKey) -> Option<&Route> {
        self.routes.get(key)
    }

    fn binding(&self, slot: u32) -> Option<&Binding<AtomicU64>> {
        self.bindings.get(slot as usize)
    }

    fn allocation(&self, slot: u32) -> Option<&Allocation<AtomicU64>> {
        self.allocations.get(slot as usize)
    }

    fn next_hop(&self, slot: u32) -> Option<&NextHop> {
        self.next_hops.get(slot as usize)
    }

    fn now_ns(&self) -> u64 {
        NOW_NS
    }

    fn count(&self, verdict: Verdict) {
        self.verdicts.borrow_mut()[verdict as usize] += 1;
    }
}

/// Reading outside the frame panics: a missing comparison shows here as it would in the verifier.
pub struct HostFrame {
    memory: Vec<u8>,
    start: usize,
}

impl HostFrame {
    /// With this much room in front of it, bytes.
    pub fn new(frame: &[u8], headroom: usize) -> HostFrame {
        let mut memory = vec![0xa5; headroom];
        memory.extend(frame);
        HostFrame { memory, start: headroom }
    }

    /// What it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.memory[self.start + at..][..N].try_into().expect("it has this length")
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.memory[self.start + at..][..bytes.len()].copy_from_slice(bytes);
    }
}

impl Frame for HostFrame {
    fn has(&self, bytes: usize) -> bool {
        self.memory.len() - self.start >= bytes
    }

    fn u8_at(&self, at: usize) -> u8 {
        self.memory[self.start + at]
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.get(at))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.get(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.get(at))
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.memory.get(self.start + at).copied()
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.set(at, &value.to_ne_bytes());
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_ne_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.set(at, &value.to_ne_bytes());
    }

    fn move_start(&mut self, by: i32) -> bool {
        match self.start.checked_add_signed(by as isize) {
            Some(start) if start <= self.memory.len() => {
                self.start = start;
                true
            }
            _ => false,
        }
    }

    fn ingress(&self) -> u32 {
        1
    }
}
