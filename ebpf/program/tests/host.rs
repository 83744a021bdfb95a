//! The path on the host: the tables of fixtures, and frames that nobody thought of.

use proptest::prelude::*;
use turnpike_abi::Verdict;
use turnpike_fixtures::host::{self, Host};
use turnpike_fixtures::{Plane, Scene, VLAN, all, check};

#[test]
fn every_fixture_is_treated_as_written() {
    let cases = all();
    let failures: Vec<String> =
        cases.iter().filter_map(|case| check(case, &Host.run(&case.world, &case.frame)).err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert!(cases.len() > 1000, "{} cases", cases.len());
}

#[test]
fn every_pass_verdict_has_a_fixture() {
    let cases = all();
    // Needs a driver without headroom: the host's frames have it as they like.
    let elsewhere = [Verdict::PassHeadroom];
    for verdict in Verdict::ALL.iter().filter(|verdict| verdict.is_pass() && !elsewhere.contains(verdict)) {
        assert!(cases.iter().any(|case| case.counts.contains(verdict)), "{verdict:?}");
    }
}

#[test]
fn without_headroom_the_frame_passes_unchanged() {
    for scene in Scene::all() {
        let datagram = scene.from_peer(b"data");
        let outcome = host::run(&scene.world(), &datagram.bytes(), 0);
        if scene.relay_v6 && !scene.client_v6 {
            assert!(outcome.redirected, "the header shrinks");
            continue;
        }
        assert!(outcome.passed && outcome.frame == datagram.bytes(), "{scene:?}");
        assert_eq!(outcome.verdicts[Verdict::PassHeadroom as usize], 1);
        assert_eq!(outcome.traffic[0], [[0; 3]; 2], "it will be charged in userspace");
    }
}

fn scenes() -> impl Strategy<Value = Scene> {
    any::<[bool; 3]>().prop_map(|[client_v6, relay_v6, other_v6]| Scene { client_v6, relay_v6, other_v6 })
}

/// No tag, a priority, or a VLAN that is an interface of its own.
fn tags() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![2 => Just(None), 1 => (0..16_u16, prop_oneof![Just(0), Just(VLAN)]).prop_map(|(p, v)| Some(p << 12 | v))]
}

/// The next hop's VLAN, or 0.
fn vlans() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), 1..0xfff_u16]
}

proptest! {
    #[test]
    fn what_is_sent_is_what_was_said(
        scene in scenes(),
        data in prop::collection::vec(any::<u8>(), 0..1400),
        tos in any::<u8>(),
        ttl in 2..=255_u8,
        way in 0..3,
        tag in tags(),
        out in vlans(),
    ) {
        let (mut sent, receive): (_, fn(Scene, &_, &[u8]) -> _) = match way {
            0 => (scene.from_client(Scene::TO_PEER, &data), Scene::at_peer),
            1 => (scene.from_peer(&data), Scene::at_client),
            _ => (scene.from_client(Scene::TO_OTHER, &data), Scene::at_other),
        };
        (sent.tos, sent.ttl, sent.tag) = (tos, ttl, tag);
        let mut world = scene.world();
        let is_tagged = tag.is_some_and(|control| control & 0xfff == VLAN);
        world.routes.iter_mut().for_each(|(_, route)| route.ingress = if is_tagged { 0b1000 } else { 0b10 });
        world.next_hops.iter_mut().for_each(|hop| *hop = hop.in_vlan(out));
        let outcome = Host.run(&world, &sent.bytes());
        prop_assert!(outcome.redirected);
        let mut expected = receive(scene, &sent, &data);
        expected.tag = (out != 0).then_some(out);
        let ip = if out == 0 { 14 } else { 18 };
        expected.identification = u16::from_be_bytes([outcome.frame[ip + 4], outcome.frame[ip + 5]]);
        prop_assert_eq!(expected.bytes(), outcome.frame);
    }

    #[test]
    fn no_frame_panics_and_what_passes_is_untouched(
        scene in scenes(),
        from_peer in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 0..40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        tag in tags(),
        out in vlans(),
    ) {
        let mut datagram =
            if from_peer { scene.from_peer(&data) } else { scene.from_client(Scene::TO_PEER, &data) };
        datagram.tag = tag;
        let mut world = scene.world();
        world.routes.iter_mut().for_each(|(_, route)| route.ingress = 0b1010);
        world.next_hops.iter_mut().for_each(|hop| *hop = hop.in_vlan(out));
        let mut frame = datagram.bytes();
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if is_cut {
            frame.truncate(cut.index(frame.len()));
        }
        let outcome = Host.run(&world, &frame);
        prop_assert_eq!(outcome.verdicts.iter().sum::<u64>(), 1, "one frame, one verdict");
        if outcome.passed {
            prop_assert_eq!(outcome.frame, frame);
            prop_assert_eq!(outcome.traffic, vec![[[0; 3]; 2]; 2]);
        } else {
            let is_garbage = outcome.verdicts[Verdict::DropNotTurn as usize] == 1;
            prop_assert!(outcome.redirected || is_garbage, "nothing here has a limit");
        }
    }

    #[test]
    fn noise_panics_nobody(scene in scenes(), frame in prop::collection::vec(any::<u8>(), 0..128)) {
        let outcome = Host.run(&scene.world(), &frame);
        prop_assert!(outcome.passed);
        prop_assert_eq!(outcome.frame, frame);
    }
}
