//! Ports: all of them taken, some taken by others, pairs, and no descriptors left.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use rand::seq::SliceRandom;
use turnpike_proto::limits::{FOREIGN_PORT_EXHAUSTED_SECS, RESERVATION_LIFETIME_SECS, SECOND_NS};
use turnpike_proto::wire::attr;

use super::client::{Call, Outcome};
use super::seeds::for_each_seed;
use super::world::{Setup, World, addr};

/// EVEN-PORT with R = 1: also reserve the next port (RFC 8656 s. 18.7).
const PAIR: &[u8] = &[0x80];

fn narrow(count: u16) -> Setup {
    Setup { ports: (50_000, 50_000 + count - 1), ..Setup::default() }
}

fn allocate_all(world: &mut World, clients: impl IntoIterator<Item = usize>) -> Vec<Outcome> {
    let clients: Vec<usize> = clients.into_iter().collect();
    for &client in &clients {
        world.start(client, Call::allocate());
    }
    world.settle();
    clients.iter().map(|&client| world.clients[client].outcome()).collect()
}

fn count(outcomes: &[Outcome], wanted: Outcome) -> usize {
    outcomes.iter().filter(|outcome| **outcome == wanted).count()
}

// RFC 8656 s. 7.2: 508; conformance A14
#[test]
fn of_300_clients_for_100_ports_exactly_100_get_one_each() {
    for_each_seed(&[31, 32], |seed| {
        let mut world = World::with(seed, narrow(100));
        let clients: Vec<usize> = (0..300).map(|_| world.client()).collect();
        let outcomes = allocate_all(&mut world, clients.clone());
        assert_eq!(count(&outcomes, Outcome::Success), 100);
        assert_eq!(count(&outcomes, Outcome::Error(508)), 200);
        world.assert_holds(100);
        let relayed: HashSet<SocketAddr> =
            world.clients.iter().flat_map(|client| client.relayed.iter().copied()).collect();
        assert_eq!(relayed.len(), 100, "each port once");

        // Freed ports are of use at once: as many others get them as were given back.
        let mut holders: Vec<usize> =
            clients.iter().copied().filter(|&client| !world.clients[client].relayed.is_empty()).collect();
        holders.shuffle(&mut world.random);
        for &client in &holders[..40] {
            assert_eq!(world.call(client, Call::refresh(0)), Outcome::Success);
        }
        world.assert_holds(60);
        let waiting = clients.into_iter().filter(|client| !holders.contains(client));
        let outcomes = allocate_all(&mut world, waiting);
        assert_eq!(count(&outcomes, Outcome::Success), 40);
        world.delete_all();
        world.assert_nothing_left();
    });
}

#[test]
fn ports_that_somebody_else_has_are_passed_over() {
    let mut world = World::with(33, narrow(100));
    let occupied: Vec<SocketAddr> =
        (50_000..50_090).map(|port| SocketAddr::new(addr("192.0.2.1:0").ip(), port)).collect();
    occupied.iter().for_each(|address| world.network.occupy(*address));
    let clients: Vec<usize> = (0..10).map(|_| world.client()).collect();
    let outcomes = allocate_all(&mut world, clients);
    assert_eq!(count(&outcomes, Outcome::Success), 10, "10 ports are left");
    assert!(world.clients.iter().all(|client| !occupied.contains(&client.relayed[0])));
    world.assert_holds(10);
    world.delete_all();
    world.assert_nothing_left();
}

#[test]
fn every_port_occupied_is_508_and_leaves_nothing() {
    let mut world = World::with(34, narrow(8));
    let occupied: Vec<SocketAddr> =
        (50_000..50_008).map(|port| SocketAddr::new(addr("192.0.2.1:0").ip(), port)).collect();
    occupied.iter().for_each(|address| world.network.occupy(*address));
    let client = world.client();
    assert_eq!(world.call(client, Call::allocate()), Outcome::Error(508));
    assert_eq!(world.call(client, Call::allocate().with(attr::EVEN_PORT, PAIR)), Outcome::Error(508));
    world.assert_nothing_left();
    occupied.iter().for_each(|address| world.network.release(*address));
    // What others have is remembered for a while, so that not every request tries all of it: not for long, since
    // there is nothing else.
    world.run_for(Duration::from_secs(FOREIGN_PORT_EXHAUSTED_SECS.into()));
    assert_eq!(world.call(client, Call::allocate()), Outcome::Success);
}

#[test]
fn exhausted_descriptors_are_508_until_there_are_some_again() {
    let mut world = World::new(35);
    world.network.fail_ports_after(10);
    let clients: Vec<usize> = (0..30).map(|_| world.client()).collect();
    let outcomes = allocate_all(&mut world, clients.clone());
    assert_eq!(count(&outcomes, Outcome::Success), 10);
    assert_eq!(count(&outcomes, Outcome::Error(508)), 20);
    world.assert_holds(10);
    world.network.fail_ports_after(usize::MAX);
    let waiting: Vec<usize> =
        clients.into_iter().filter(|&client| world.clients[client].relayed.is_empty()).collect();
    let outcomes = allocate_all(&mut world, waiting);
    assert_eq!(count(&outcomes, Outcome::Success), 20);
    world.delete_all();
    world.assert_nothing_left();
}

// RFC 8656 s. 7.2: ADDRESS-ERROR-CODE for the half that could not be had
#[test]
fn a_dual_allocation_with_descriptors_for_one_half_is_one_half() {
    let mut world = World::new(36);
    world.network.fail_ports_after(1);
    let client = world.client();
    let dual = Call::allocate().with(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(world.call(client, dual), Outcome::Success);
    assert_eq!(world.clients[client].relayed.len(), 1);
    world.assert_holds(1);
    world.delete_all();
    world.assert_nothing_left();
}

/// Two clients on different workers.
fn on_two_workers(world: &mut World) -> (usize, usize) {
    let first = world.allocated();
    let before = world.allocations();
    loop {
        let second = world.allocated();
        let now = world.allocations();
        let here = before.iter().position(|held| *held == 1);
        let grown = before.iter().zip(&now).position(|(before, now)| before != now);
        world.call(second, Call::refresh(0));
        if here != grown {
            world.call(first, Call::refresh(0));
            return (first, second);
        }
    }
}

// RFC 8656 s. 7.2: EVEN-PORT and RESERVATION-TOKEN
#[test]
fn a_reserved_port_is_redeemed_from_another_five_tuple_on_another_worker() {
    for_each_seed(&[37], |seed| {
        let mut world = World::new(seed);
        let (first, second) = on_two_workers(&mut world);
        world.assert_holds(0);
        for _ in 0..20 {
            let pair = Call::allocate().with(attr::EVEN_PORT, PAIR);
            assert_eq!(world.call(first, pair), Outcome::Success);
            let (even, token) = (world.clients[first].relayed[0], world.clients[first].token);
            assert_eq!((even.port() % 2, world.shared.reservations()), (0, 1));
            let redeem = Call::allocate().with(attr::RESERVATION_TOKEN, &token.expect("asked for a pair"));
            assert_eq!(world.call(second, redeem.clone()), Outcome::Success);
            let odd = world.clients[second].relayed[0];
            assert_eq!((odd.ip(), odd.port()), (even.ip(), even.port() + 1));
            assert!(world.allocations().iter().all(|held| *held == 1), "one on each worker");
            world.assert_holds(2);
            world.delete_all();
            assert_eq!(world.call(second, redeem), Outcome::Error(508), "a token works once");
            world.assert_holds(0);
        }
        let later_ns = world.now_ns() + u64::from(RESERVATION_LIFETIME_SECS) * SECOND_NS;
        world.run_until(later_ns);
        world.assert_nothing_left();
    });
}

// RFC 8656 s. 7.2: held for at least 30 s, and for nobody but its user
#[test]
fn a_reservation_ends_after_30_seconds_and_is_of_no_use_to_others() {
    let mut world = World::new(38);
    let client = world.client();
    let (other, friend) = (world.client_of("bob"), world.client());
    world.call(client, Call::allocate().with(attr::EVEN_PORT, PAIR));
    let end_ns = world.now_ns() + u64::from(RESERVATION_LIFETIME_SECS) * SECOND_NS;
    let token = world.clients[client].token.expect("asked for a pair");
    let redeem = Call::allocate().with(attr::RESERVATION_TOKEN, &token);
    assert_eq!(world.call(other, redeem.clone()), Outcome::Error(508));
    world.run_until(end_ns - 1);
    assert_eq!(world.shared.reservations(), 1);
    world.run_until(end_ns);
    assert_eq!(world.shared.reservations(), 0);
    assert_eq!(world.call(friend, redeem), Outcome::Error(508));
    world.assert_holds(1);
}
