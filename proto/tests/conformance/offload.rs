//! What the kernel plane is told, and when: the driver double answers at once unless `hold_kernel` is set.

use std::sync::atomic::Ordering::Relaxed;

use turnpike_proto::settings::ServerConfig;
use turnpike_proto::wire::{attr, method};
use turnpike_proto::{Input, OffloadBinding, OffloadState, PlaneMemory, SlotName, Verdict, WhyNot};

use super::lab::*;

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

/// The kernel plane as a test looks at it.
trait Kernel {
    fn binding(&self, at: usize) -> OffloadBinding;
    fn state(&self, worker: usize) -> OffloadState;
    fn in_ns(&self, secs: u64) -> u64;
    fn binding_lease(&self, slot: usize) -> u64;
    fn allocation_lease(&self, slot: usize) -> u64;
}

impl Kernel for Lab {
    fn binding(&self, at: usize) -> OffloadBinding {
        self.offloaded[at].1
    }

    fn state(&self, worker: usize) -> OffloadState {
        self.workers[worker].inspect(None, 10).0[0].offload
    }

    fn in_ns(&self, secs: u64) -> u64 {
        self.now.mono_ns + secs * SECOND_NS - MARGIN_NS
    }

    fn binding_lease(&self, slot: usize) -> u64 {
        self.memory.bindings()[slot].to_peer.lease_ns.load(Relaxed)
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
    assert_eq!(words.to_client.generation.load(Relaxed), u64::from(binding.binding.generation));
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

/// The thread that fills the kernel's maps stands still: ports and records go on, and only slots are kept.
#[test]
fn a_kernel_that_never_answers_keeps_slots_and_no_port() {
    let mut lab = Lab::with(Setup { slots: Some((8, 8)), ports: (50_000, 50_000), ..Setup::default() });
    lab.hold_kernel = true;
    for number in 1..=4_usize {
        let mut client = Client::new(&format!("203.0.113.{number}:1000"));
        client.allocate(&mut lab);
        client.bind(&mut lab, 0x4000, PEER).expect_success();
        let slot = lab.binding(0).allocation.slot as usize;
        client.refresh(&mut lab, 0).expect_success();
        lab.memory.allocations()[slot].to_peer.packets.store(number as u64, Relaxed);
        assert_eq!((lab.shared.ports_taken(), lab.ended.len()), (1, number - 1), "it waits for a moment");
        lab.sleep_ns(SECOND_NS / 2);
        assert_eq!((lab.shared.ports_taken(), lab.open.len(), lab.ended.len()), (0, 0, number));
        assert_eq!(lab.ended[number - 1].to_peer.kernel.packets, number as u64);
        let taken = lab.shared.plane().expect("there is one").taken();
        assert_eq!((taken.allocations, taken.bindings), (number, number), "no slot has another owner");
    }
    lab.forget_withdrawn();
    assert_eq!(lab.ended.len(), 4, "each record once");
    lab.assert_empty();
}

/// A kernel plane that answers late finds nothing of the port's next owner.
#[test]
fn a_late_answer_does_not_close_the_ports_next_owner() {
    let mut lab = Lab::with(Setup { slots: Some((8, 8)), ports: (50_000, 50_000), ..Setup::default() });
    lab.hold_kernel = true;
    let mut first = Client::new("203.0.113.1:1000");
    first.allocate(&mut lab);
    first.bind(&mut lab, 0x4000, PEER).expect_success();
    first.refresh(&mut lab, 0).expect_success();
    lab.sleep_ns(SECOND_NS / 2);
    let mut second = Client::new("203.0.113.2:1000");
    second.allocate(&mut lab);
    second.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.forget_withdrawn();
    assert_eq!((lab.open.len(), lab.ended.len()), (1, 1));
    assert_eq!(second.channel_data(&mut lab, 0x4000, b"still there").len(), 1);
    second.refresh(&mut lab, 0).expect_success();
    lab.forget_withdrawn();
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

// RFC 8656 s. 8.2, 12.2: what is renewed is renewed by a store; no command is needed.
#[test]
fn leases_follow_every_refresh_and_end_with_the_earlier_of_allocation_and_channel() {
    let (mut lab, mut client) = offloaded();
    let leases = |lab: &Lab| (lab.allocation_lease(0), lab.binding_lease(0));
    lab.sleep(100);
    client.refresh(&mut lab, 3600).expect_success();
    assert_eq!(leases(&lab), (lab.in_ns(3600), lab.in_ns(500)), "the channel ends first");
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(leases(&lab), (lab.in_ns(3600), lab.in_ns(600)));
    lab.sleep(60);
    client.refresh(&mut lab, 600).expect_success();
    assert_eq!(leases(&lab), (lab.in_ns(600), lab.in_ns(540)));
    lab.sleep(300);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(leases(&lab), (lab.in_ns(300), lab.in_ns(300)), "the allocation ends first");
    assert_eq!(lab.offloaded.len(), 1, "told once");
}

#[test]
fn a_channel_that_expires_is_withdrawn_and_leaves_its_allocation_alone() {
    let (mut lab, mut client) = offloaded();
    client.refresh(&mut lab, 3600).expect_success();
    lab.sleep(600);
    assert_eq!((lab.offloaded.len(), lab.binding_lease(0), lab.open.len()), (0, 0, 1));
    assert_eq!(lab.state(0), OffloadState::Not(WhyNot::NoChannel));
    assert_eq!(lab.allocation_lease(0), lab.in_ns(3000));
    client.bind(&mut lab, 0x4000, "198.51.100.8:4000").expect_success();
    assert_eq!(lab.binding(0).peer, addr("198.51.100.8:4000"));
    assert_eq!(lab.binding(0).binding, SlotName { slot: 0, generation: 2 }, "another name");
    lab.sleep(3600);
    lab.assert_empty();
}

#[test]
fn a_port_waits_for_channels_that_had_ended_before() {
    let (mut lab, mut client) = offloaded();
    lab.hold_kernel = true;
    client.refresh(&mut lab, 3600).expect_success();
    lab.sleep(600);
    let expired = lab.withdrawing.clone();
    assert_eq!(expired.len(), 1);
    client.refresh(&mut lab, 0).expect_success();
    assert_eq!((lab.open.len(), lab.ended.len(), lab.withdrawing.clone()), (1, 0, expired));
    assert_eq!(lab.workers[0].table_counts().ending, 1);
    lab.forget_withdrawn();
    assert_eq!(lab.ended.len(), 1);
    lab.assert_empty();
}

#[test]
fn each_half_waits_for_its_own_channels_and_the_record_for_all() {
    let mut lab = lab_with_slots(8, 8);
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate_with(&mut lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]));
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER_V6).expect_success();
    lab.hold_kernel = true;
    let v6 = [2, 0, 0, 0];
    client
        .request(&mut lab, method::REFRESH, |b| b.lifetime(0).attribute(attr::REQUESTED_ADDRESS_FAMILY, &v6))
        .expect_success();
    assert_eq!((lab.open.len(), lab.withdrawing.len()), (2, 1));
    assert_eq!((lab.binding_lease(0), lab.binding_lease(1)), (lab.in_ns(600), 0));
    assert_eq!(lab.allocation_lease(0), lab.in_ns(600), "the other half lives");
    let v6 = lab.withdrawing.remove(0);
    client.refresh(&mut lab, 0).expect_success();
    let v4 = lab.withdrawing.remove(0);
    lab.input(0, Input::OffloadWithdrawn(v4.1));
    assert_eq!((lab.open.len(), lab.ended.len()), (1, 0), "one half's port is free");
    lab.input(0, Input::OffloadWithdrawn(v6.1));
    assert_eq!((lab.open.len(), lab.ended.len()), (0, 1));
    lab.assert_empty();
}

#[test]
fn answers_that_are_late_repeated_or_about_somebody_else_change_nothing() {
    let (mut lab, mut client) = offloaded();
    lab.hold_kernel = true;
    let name = lab.binding(0).binding;
    let stale = SlotName { generation: name.generation + 1, ..name };
    let unknown = SlotName { slot: 7, ..name };
    for other in [stale, unknown] {
        lab.input(0, Input::OffloadFailed(other, WhyNot::Refused));
        lab.input(0, Input::OffloadWithdrawn(other));
    }
    lab.input(0, Input::OffloadWithdrawn(name));
    assert_eq!(lab.state(0), OffloadState::Active { channels: 1, of: 1 });
    assert_eq!(lab.workers[0].table_counts().offloaded, 1, "it was not being withdrawn");

    client.refresh(&mut lab, 0).expect_success();
    lab.input(0, Input::OffloadDone(name));
    lab.input(0, Input::OffloadFailed(name, WhyNot::NextHop));
    lab.input(0, Input::OffloadWithdrawn(stale));
    assert_eq!(lab.open.len(), 1);
    lab.input(0, Input::OffloadWithdrawn(name));
    lab.input(0, Input::OffloadWithdrawn(name));
    lab.input(0, Input::OffloadDone(name));
    lab.assert_empty();
    // The slot's next owner isn't touched by answers about the one before.
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    lab.input(0, Input::OffloadDone(name));
    lab.input(0, Input::OffloadWithdrawn(name));
    assert_eq!(lab.state(0), OffloadState::Not(WhyNot::Pending));
}

#[test]
fn the_kernels_word_may_change_as_often_as_it_likes() {
    let (mut lab, mut client) = offloaded();
    client.bind(&mut lab, 0x4001, "198.51.100.8:4000").expect_success();
    let name = lab.binding(0).binding;
    assert_eq!(lab.state(0), OffloadState::Active { channels: 2, of: 2 });
    for why_not in WhyNot::ALL {
        lab.input(0, Input::OffloadFailed(name, *why_not));
        assert_eq!(lab.state(0), OffloadState::Active { channels: 1, of: 2 });
        let id = lab.created[0].id;
        let detail = lab.workers[0].inspect_one(lab.now, id).expect("it lives");
        assert_eq!(detail.channels[0].offload, OffloadState::Not(*why_not));
        lab.input(0, Input::OffloadDone(name));
        lab.input(0, Input::OffloadDone(name));
        assert_eq!(lab.state(0), OffloadState::Active { channels: 2, of: 2 });
    }
}

#[test]
fn who_has_his_share_is_named_and_counted_once_for_each_channel() {
    let mut lab = lab_with_slots(1, 4);
    let mut client = Client::new("203.0.113.1:1000");
    client.allocate(&mut lab);
    let user = client.login.user.clone();
    for (channel, port) in (0x4000..).zip(4000..4004) {
        client.bind(&mut lab, channel, &format!("198.51.100.7:{port}")).expect_success();
    }
    client.bind(&mut lab, 0x4003, "198.51.100.7:4003").expect_success();
    assert_eq!(lab.over_share, [], "eight times as many as are left, and there are four");
    let (_, last) = *lab.offloaded.last().expect("all of them");
    assert!(lab.offloaded.iter().all(|(_, binding)| binding.user == last.user), "they are one user's");
    // The mirror has no next hop for him: that is counted for each channel, and not again when it is said again.
    for _ in 0..2 {
        lab.input(0, Input::OffloadFailed(last.binding, WhyNot::NextHopShare));
    }
    assert_eq!(lab.over_share, [(user.into(), WhyNot::NextHopShare)]);
    assert_eq!(lab.workers[0].counts().not_offloaded.of(WhyNot::NextHopShare), 1);
}

#[test]
fn what_finds_no_slot_stays_in_userspace_until_one_is_free() {
    let mut lab = lab_with_slots(2, 1);
    let mut clients: Vec<Client> = (1..=3).map(|n| Client::new(&format!("203.0.113.{n}:1000"))).collect();
    for client in &mut clients {
        client.allocate(&mut lab);
        client.bind(&mut lab, 0x4000, PEER).expect_success();
    }
    let states = |lab: &Lab| lab.workers[0].inspect(None, 10).0.iter().map(|v| v.offload).collect::<Vec<_>>();
    let none = OffloadState::Not(WhyNot::NoSlot);
    assert_eq!(states(&lab), [OffloadState::Active { channels: 1, of: 1 }, none, none]);
    let plane = lab.shared.plane().expect("there is one");
    assert_eq!((plane.taken().allocations, plane.taken().bindings), (2, 1));
    assert!(plane.exhausted() >= 2);
    assert_eq!(clients[2].channel_data(&mut lab, 0x4000, b"still works").len(), 1);

    clients[0].refresh(&mut lab, 0).expect_success();
    clients[2].bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(states(&lab), [none, OffloadState::Active { channels: 1, of: 1 }]);
    lab.sleep(600);
    lab.assert_empty();
}

#[test]
fn clients_on_streams_take_no_slots() {
    let mut lab = lab_with_slots(2, 2);
    let mut client = Client::new("203.0.113.5:1000").over_tcp();
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.state(0), OffloadState::Not(WhyNot::Stream));
    assert_eq!(lab.shared.plane().expect("there is one").taken(), Default::default());
}

#[test]
fn a_stricter_policy_takes_channels_out_of_the_kernel_at_once() {
    let (mut lab, mut client) = offloaded();
    client.bind(&mut lab, 0x4001, "198.51.100.8:4000").expect_success();
    lab.hold_kernel = true;
    let setup = Setup { deny: vec!["198.51.100.7/32"], ..Setup::default() };
    setup.enforce(&lab.shared);
    lab.input_all(|| Input::PolicyChanged);
    assert_eq!((lab.binding_lease(0), lab.binding_lease(1)), (0, lab.in_ns(600)));
    assert_eq!(lab.withdrawing.len(), 1);
    assert_eq!(lab.state(0), OffloadState::Active { channels: 1, of: 1 });
}

#[test]
fn a_peer_that_is_one_of_our_relayed_addresses_is_marked() {
    let (mut lab, mut client) = offloaded();
    let relayed = Client::new("203.0.113.6:1000").on_worker(1).allocate(&mut lab);
    client.bind(&mut lab, 0x4001, &relayed.to_string()).expect_success();
    assert_eq!((lab.binding(0).internal, lab.binding(1).internal), (false, true));
    assert_eq!(lab.binding(1).peer, relayed);
}

/// A client with a limit of 8 Mbit/s: 100,000 bytes at once, 1000 in each further millisecond.
fn limited() -> (Lab, Client, SlotName) {
    let config = ServerConfig { max_bitrate_bits: 8_000_000, ..ServerConfig::default() };
    let mut lab = Lab::with(Setup { slots: Some((2, 2)), config, ..Setup::default() });
    let mut client = Client::new("203.0.113.5:1000");
    client.allocate(&mut lab);
    client.bind(&mut lab, 0x4000, PEER).expect_success();
    let slot = lab.binding(0).allocation;
    (lab, client, slot)
}

fn sent_until_dropped(lab: &mut Lab, client: &Client) -> u64 {
    (0..10_000).take_while(|_| client.channel_data(lab, 0x4000, &[0; 1000]).len() == 1).count() as u64
}

#[test]
fn both_planes_charge_one_bucket_in_each_direction() {
    let (mut lab, client, slot) = limited();
    let words = |lab: &Lab| std::sync::Arc::clone(&lab.memory);
    let memory = words(&lab);
    let to_peer = &memory.allocations()[slot.slot as usize].to_peer;
    assert_eq!(to_peer.rate().burst_ns(), 100_000_000);
    // The kernel sends 60 datagrams, userspace has what is left.
    for _ in 0..60 {
        assert!(turnpike_abi::charge(&to_peer.bucket, &to_peer.rate(), lab.now.mono_ns, 1000));
    }
    assert_eq!(sent_until_dropped(&mut lab, &client), 40);
    assert!(!turnpike_abi::charge(&to_peer.bucket, &to_peer.rate(), lab.now.mono_ns, 1000));
    assert_eq!(lab.verdicts(Verdict::DropRateToPeer), 1);
    let relayed = *lab.open.values().next().expect("one is open");
    assert_eq!(lab.peer_data(PEER, relayed, &[0; 1000]).len(), 1, "the other direction has its own");
    lab.sleep_ns(10_000_000);
    assert_eq!(sent_until_dropped(&mut lab, &client), 10);
}

#[test]
fn a_new_limit_holds_at_once_in_both_planes() {
    let (mut lab, client, slot) = limited();
    let id = lab.created[0].id;
    sent_until_dropped(&mut lab, &client);
    lab.input(0, Input::SetRate { allocation: id, bits_per_sec: 0 });
    assert_eq!(sent_until_dropped(&mut lab, &client), 10_000);
    let memory = std::sync::Arc::clone(&lab.memory);
    let words = &memory.allocations()[slot.slot as usize];
    assert!(words.to_peer.rate().is_unlimited() && words.to_client.rate().is_unlimited());
    lab.sleep(1);
    lab.input(0, Input::SetRate { allocation: id, bits_per_sec: 800_000 });
    assert_eq!(sent_until_dropped(&mut lab, &client), 10);
    assert_eq!(lab.workers[0].inspect(None, 1).0[0].bitrate_bits, 800_000);
    lab.input(0, Input::SetRate { allocation: id + 1, bits_per_sec: 1000 });
}

// What was spent while no slot was free stays spent.
#[test]
fn a_late_slot_takes_the_bucket_along() {
    let config = ServerConfig { max_bitrate_bits: 8_000_000, ..ServerConfig::default() };
    let mut lab = Lab::with(Setup { slots: Some((1, 2)), config, ..Setup::default() });
    let mut first = Client::new("203.0.113.5:1000");
    first.allocate(&mut lab);
    let mut second = Client::new("203.0.113.6:1000");
    second.allocate(&mut lab);
    second.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(sent_until_dropped(&mut lab, &second), 100);
    first.refresh(&mut lab, 0).expect_success();
    second.bind(&mut lab, 0x4000, PEER).expect_success();
    assert_eq!(lab.offloaded.len(), 1);
    assert_eq!(sent_until_dropped(&mut lab, &second), 0);
}

// A driver that is late: the lease has ended by itself, before the allocation has.
#[test]
fn a_lease_needs_nobody_to_end() {
    let (mut lab, _) = offloaded();
    let lease = lab.binding_lease(0);
    lab.oversleep(601);
    assert!(lease < lab.now.mono_ns && lab.offloaded.len() == 1);
    lab.input_all(|| Input::Tick);
    lab.assert_empty();
}

// RFC 1191, RFC 8201: the way to a permitted peer is looked up again; forged errors about anybody else, and about
// anything but the size, cost nothing.
#[test]
fn only_a_permitted_peers_smaller_mtu_has_its_way_looked_up_again() {
    let (mut lab, _) = offloaded();
    let (relayed, stranger) = (lab.binding(0).relayed, "198.51.100.99:4000");
    for (peer, icmp_type, icmp_code) in [(stranger, 3, 4), (PEER, 3, 3), (PEER, 11, 0)] {
        lab.icmp(relayed, addr(peer), icmp_type, icmp_code, 1280);
    }
    assert_eq!(lab.path_mtu_fell, [] as [std::net::IpAddr; 0]);
    lab.icmp(relayed, addr(PEER), 3, 4, 1280);
    assert_eq!(lab.path_mtu_fell, [addr(PEER).ip()]);
}
