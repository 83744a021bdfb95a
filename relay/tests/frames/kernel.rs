//! The path in the kernel, with maps of its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aya::programs::{TestRun, TestRunOptions};
use turnpike_abi::{Direction, NextHop};
use turnpike_fixtures::{AllocationState, Limit, Outcome, Plane, World};
use turnpike_offload::maps::Sizes;
use turnpike_offload::xdp::Xdp;

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// Longer than any frame of the tables, bytes.
const LARGEST: usize = 4096;
/// The loopback device: test runs come in there, and go out there.
const LOOPBACK: u32 = 1;

/// A loaded object that is attached to nothing.
pub struct Kernel {
    /// The object.
    pub xdp: Xdp,
    /// What was written to `NEXT_HOPS`.
    next_hops: Vec<(u32, NextHop)>,
}

impl Kernel {
    /// Loads the object. Without the privileges: says so and returns `None`, or fails if `CI=true`.
    pub fn new() -> Option<Kernel> {
        Kernel::with(Sizes::SMALL)
    }

    /// Loads the object with maps of these sizes.
    pub fn with(sizes: Sizes) -> Option<Kernel> {
        let loaded = match std::env::var_os("TURNPIKE_EBPF_OBJECT") {
            Some(path) => {
                Xdp::load_object(&std::fs::read(path).expect("the object named can be read"), sizes)
            }
            None => Xdp::load(sizes),
        };
        match loaded {
            Ok(mut xdp) => {
                xdp.maps.add_device(LOOPBACK).expect("loopback is a device");
                Some(Kernel { xdp, next_hops: Vec::new() })
            }
            Err(error) if may_load() => panic!("the object does not load: {error}"),
            Err(error) => {
                turnpike_testkit::skip("frames", &format!("the eBPF object can't be loaded: {error}"));
                None
            }
        }
    }

    /// Makes the maps what the world says; from one world to the next only what differs.
    pub fn set(&mut self, world: &World) {
        let maps = &mut self.xdp.maps;
        for (key, _) in maps.routes() {
            maps.remove_route(&key);
        }
        // Nothing runs the program at this time: there is no grace period to wait for.
        for (key, route) in &world.routes {
            maps.insert_route(key, route).expect("there is room");
        }
        maps.attend_until(world.attended_until_ns);
        if maps.config().expect("it can be read") != world.config {
            maps.replace_config(&world.config).expect("it can be written");
        }
        let hops: Vec<_> = (0..).zip(world.next_hops.iter().copied()).collect();
        if self.next_hops != hops {
            self.xdp.maps.replace_next_hops(&hops).expect("they can be written");
            self.next_hops = hops;
        }
        self.set_state(world);
    }

    fn set_state(&self, world: &World) {
        for (slot, state) in self.xdp.maps.bindings().iter().zip(&world.bindings) {
            for entry in [&slot.to_peer, &slot.to_client] {
                entry.lease_ns.store(state.lease_ns, Relaxed);
                entry.generation.store(state.generation.into(), Relaxed);
            }
        }
        for (slot, state) in self.xdp.maps.allocations().iter().zip(&world.allocations) {
            set_direction(&slot.to_peer, state, state.to_peer);
            set_direction(&slot.to_client, state, state.to_client);
        }
    }

    /// Packets, bytes and drops of so many allocations.
    pub fn traffic(&self, allocations: usize) -> Vec<[[u64; 3]; 2]> {
        let traffic = |direction: &Direction<AtomicU64>| {
            [&direction.packets, &direction.bytes, &direction.rate_drops].map(|word| word.load(Relaxed))
        };
        let slots = self.xdp.maps.allocations()[..allocations].iter();
        slots.map(|slot| [traffic(&slot.to_peer), traffic(&slot.to_client)]).collect()
    }
}

impl Plane for Kernel {
    fn run(&mut self, world: &World, frame: &[u8]) -> Outcome {
        self.set(world);
        let before = self.xdp.maps.counters().verdicts().expect("they can be read");
        let mut after = vec![0; LARGEST];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut after), ..TestRunOptions::new() };
        let program = self.xdp.program().expect("the object has it");
        let result = program.test_run(options).expect("the kernel runs it");
        after.truncate(result.data_size_out as usize);
        let mut verdicts = self.xdp.maps.counters().verdicts().expect("they can be read");
        verdicts.iter_mut().zip(before).for_each(|(count, before)| *count -= before);
        Outcome {
            passed: result.return_value == XDP_PASS,
            redirected: result.return_value == XDP_REDIRECT,
            sent_back: result.return_value == XDP_TX,
            frame: after,
            verdicts,
            traffic: self.traffic(world.allocations.len()),
        }
    }
}

fn set_direction(slot: &Direction<AtomicU64>, state: &AllocationState, limit: Limit) {
    let (rate, bucket) = match limit {
        Limit::None => ([0; 2], 0),
        Limit::Fresh(rate) => (rate.to_words(), 0),
        // Somewhat beyond its burst from now on, in the bucket's sixteenths of a nanosecond.
        Limit::UsedUp(rate) => (rate.to_words(), (monotonic_ns() + rate.burst_ns() + 500_000_000) * 16),
    };
    let words = [
        (&slot.bucket, bucket),
        (&slot.price, rate[0]),
        (&slot.burst, rate[1]),
        (&slot.packets, 0),
        (&slot.bytes, 0),
        (&slot.rate_drops, 0),
        (&slot.lease_ns, state.lease_ns),
        (&slot.generation, state.generation.into()),
    ];
    for (word, value) in words {
        word.store(value, Relaxed);
    }
}

/// The clock that leases are in, nanoseconds.
pub fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Whether this process holds CAP_BPF and CAP_NET_ADMIN.
fn may_load() -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok())
        .is_some_and(|held| held & NEEDED == NEEDED)
}
