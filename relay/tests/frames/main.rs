//! The committed eBPF object in the kernel, through BPF_PROG_TEST_RUN: no interface, no traffic.
//!
//! The same tables run over the host build in `ebpf/program/tests`. They need CAP_BPF and CAP_NET_ADMIN,
//! so they are ignored by a plain `cargo test`; `cargo xtask frames` runs them.

mod agreement;
mod attach;
mod bench;
mod kernel;
mod limits;
mod pinning;
mod wire;

use turnpike_fixtures::host;
use turnpike_testkit::rig as lab;

use kernel::Kernel;
use turnpike_abi::{NextHop, Verdict};
use turnpike_fixtures::{PEER_HOP, Plane, Scene, all, check};
use turnpike_offload::Grace;

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn every_fixture_is_treated_as_written() {
    let Some(mut kernel) = Kernel::new() else { return };
    let cases = all();
    // The kernel doesn't run programs on less than an Ethernet header.
    let failures: Vec<String> =
        cases.iter().filter_map(|case| check(case, &kernel.run(&case.world, &case.frame)).err()).collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_lease_ends_by_itself() {
    let Some(mut kernel) = Kernel::new() else { return };
    let scene = Scene { client_v6: false, relay_v6: false, other_v6: false };
    let frame = scene.from_client(Scene::TO_PEER, b"data").bytes();
    let mut world = scene.world();
    world.bindings[0].lease_ns = kernel::monotonic_ns() + 2_000_000_000;
    assert!(kernel.run(&world, &frame).redirected);
    // The program's clock may be two ticks late, 20 ms at most.
    while kernel::monotonic_ns() < world.bindings[0].lease_ns + 20_000_000 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let outcome = kernel.run(&world, &frame);
    assert!(outcome.passed);
    assert_eq!(outcome.verdicts[Verdict::PassLease as usize], 1);
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_device_that_is_not_known_is_a_counted_drop() {
    let Some(mut kernel) = Kernel::new() else { return };
    let scene = Scene { client_v6: false, relay_v6: false, other_v6: false };
    let mut world = scene.world();
    let hop = &mut world.next_hops[usize::from(PEER_HOP)];
    *hop = NextHop { ifindex: 0x7fff_0000, ..*hop };
    let outcome = kernel.run(&world, &scene.from_client(Scene::TO_PEER, b"data").bytes());
    assert!(!outcome.passed && !outcome.redirected);
    assert_eq!(outcome.verdicts[Verdict::DropRedirect as usize], 1);
}

/// With `nohz_full` there is no membarrier(2) for it.
#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_grace_period_can_be_waited_for_in_two_ways() {
    if Kernel::new().is_none() {
        return;
    }
    let by_map = Grace::by_map().expect("maps can be made");
    for _ in 0..3 {
        by_map.wait().expect("an entry can be changed");
    }
    Grace::new().expect("there is one of them").wait().expect("it works");
}

#[test]
#[ignore = "needs root: cargo xtask frames"]
fn a_route_is_never_changed_in_place() {
    let Some(mut kernel) = Kernel::new() else { return };
    let world = Scene { client_v6: false, relay_v6: true, other_v6: false }.world();
    let maps = &mut kernel.xdp.maps;
    let (key, route) = world.routes[0];
    maps.insert_route(&key, &route).unwrap();
    let other = turnpike_abi::Route { binding: 9, ..route };
    maps.insert_route(&key, &other).unwrap_err();
    let elsewhere = turnpike_abi::Route { next_hop: 9, ..route };
    maps.insert_route(&world.routes[2].0, &elsewhere).unwrap_err();
    assert_eq!(maps.routes(), [(key, route)]);
    assert!(maps.remove_route(&key));
    maps.grace_period().unwrap();
    assert!(!maps.remove_route(&key));
    maps.insert_route(&key, &other).unwrap();
}
