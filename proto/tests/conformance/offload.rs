//! What the kernel plane is told, and when: the driver double answers at once unless `hold_kernel` is set.

use std::sync::atomic::Ordering::Relaxed;

use super::lab::*;
use turnpike_proto::{Input, OffloadState, PlaneMemory, WhyNot};

const SECOND_NS: u64 = 1_000_000_000;
/// A lease ends two ticks of the slowest coarse clock early.
const MARGIN_NS: u64 = 20_000_000;

fn lab_with_slots(allocations: usize, bindings: usize) -> Lab {
    Lab::with(Setup { slots: Some((allocations, bindings)), ..Setup::default() })
}

/// A client with one channel in the kernel.
fn offloaded() -> (Lab, Client) {
    let mut lab = lab_with_slots(8, 8);
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    (lab, client)
}

impl Lab {
    fn binding_lease(&self, slot: usize) -> u64 {
        self.memory.bindings()[slot].lease_ns.load(Relaxed)
    }

    fn allocation_lease(&self, slot: usize) -> u64 {
        let words = &self.memory.allocations()[slot];
        let leases = [&words.to_peer, &words.to_client].map(|direction| direction.lease_ns.load(Relaxed));
        assert_eq!(leases[0], leases[1], "one lease for both directions");
        leases[0]
    }
}

#[test]
fn a_channel_is_offloaded_with_slots_generations_and_early_leases() {
    let (lab, client) = offloaded();
    let (_, binding) = lab.offloaded[0];
    let relayed = lab.open.values().next().copied().expect("one is open");
    assert_eq!((binding.client, binding.server), (client.address, addr(SERVER_V4)));
    assert_eq!((binding.relayed, binding.peer, binding.channel), (relayed, addr(PEER), 0x4000));
    assert!(!binding.internal);
    let end_ns = lab.now.mono_ns + 600 * SECOND_NS - MARGIN_NS;
    assert_eq!(lab.binding_lease(binding.binding.slot as usize), end_ns);
    assert_eq!(lab.allocation_lease(binding.allocation.slot as usize), end_ns);
    let words = &lab.memory.bindings()[binding.binding.slot as usize];
    assert_eq!(words.generation.load(Relaxed), u64::from(binding.binding.generation));
    let view = &lab.workers[0].inspect(None, 10).0[0];
    assert_eq!(view.offload, OffloadState::Active { channels: 1, of: 1 });
}

#[test]
fn without_a_plane_nothing_is_offloaded() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert!(lab.offloaded.is_empty());
    assert_eq!(lab.workers[0].inspect(None, 10).0[0].offload, OffloadState::Not(WhyNot::Off));
}

// RFC 8656 s. 8.2: the 5-tuple is free at once; the port is not before the kernel has forgotten it.
#[test]
fn r2_a_deletion_is_answered_at_once_and_holds_the_port_until_the_kernel_has_forgotten() {
    let (mut lab, mut client) = offloaded();
    lab.hold_kernel = true;
    let (_, binding) = lab.offloaded[0];
    client.refresh(&mut lab, 0).expect_success();
    assert_eq!(lab.binding_lease(binding.binding.slot as usize), 0);
    assert_eq!(lab.allocation_lease(binding.allocation.slot as usize), 0);
    assert_eq!((lab.open.len(), lab.ended.len()), (1, 0), "neither closed nor recorded yet");
    client.allocate(&mut lab);
    assert_eq!(lab.shared.ports_taken(), 2);
    // What the kernel has forwarded to the last.
    lab.memory.allocations()[binding.allocation.slot as usize].to_peer.packets.store(7, Relaxed);
    lab.memory.allocations()[binding.allocation.slot as usize].to_peer.bytes.store(700, Relaxed);
    lab.forget_withdrawn();
    assert_eq!((lab.open.len(), lab.ended.len(), lab.shared.ports_taken()), (1, 1, 1));
    let record = &lab.ended[0];
    assert_eq!((record.to_peer.kernel.packets, record.to_peer.kernel.bytes), (7, 700));
    client.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}

#[test]
fn a_shutdown_waits_for_the_kernel() {
    let (mut lab, _) = offloaded();
    lab.hold_kernel = true;
    lab.input(0, Input::Shutdown);
    assert_eq!(lab.workers[0].table_counts().relay_sockets, 1);
    lab.forget_withdrawn();
    assert_eq!(lab.ended.len(), 1);
    lab.assert_empty();
}
