//! What ends by itself, to the nanosecond of virtual time.

use std::net::SocketAddr;

use rand::Rng;
use turnpike_proto::limits::SECOND_NS;

use super::client::{Call, Outcome, Received};
use super::ledger::Via;
use super::seeds::for_each_seed;
use super::world::{Setup, World, rough};

const CHANNEL: u16 = 0x4000;

/// A client that refreshes nothing, and its relayed address.
fn forgetful(world: &mut World) -> (usize, SocketAddr) {
    let client = world.client();
    world.clients[client].upkeep = false;
    let relayed = world.allocate(client);
    (client, relayed)
}

/// A peer's datagram at that moment; gives how it reached the client, if it did.
fn from_peer_at(world: &mut World, client: usize, peer: usize, at_ns: u64) -> Option<Via> {
    world.run_until(at_ns);
    let relayed = world.clients[client].relayed[0];
    world.peers[peer].endpoint.send_to(relayed, b"peer", 0);
    world.settle();
    match world.clients[client].inbox.pop()? {
        Received::Data { via, payload, .. } => {
            assert_eq!(payload, b"peer");
            Some(via)
        }
        icmp => panic!("{icmp:?}"),
    }
}

/// Client's data at that moment; gives whether the peer got it.
fn to_peer_at(world: &mut World, client: usize, peer: usize, at_ns: u64) -> bool {
    world.run_until(at_ns);
    let address = world.peers[peer].endpoint.address();
    world.with_client(client, |client, _| client.send_data(address, b"client", 0));
    world.settle();
    world.peers[peer].inbox.pop().is_some_and(|(_, payload, _)| payload == b"client")
}

// RFC 8656 s. 9: 300 s, not refreshed by data
#[test]
fn a_permission_lives_exactly_300_seconds() {
    let mut world = World::new(11);
    let peer = world.peers(1)[0];
    let (client, _) = forgetful(&mut world);
    assert_eq!(world.call(client, Call::permit(&[peer])), Outcome::Success);
    let end_ns = world.now_ns() + 300 * SECOND_NS;

    assert!(to_peer_at(&mut world, client, 0, end_ns - 1));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns - 1), Some(Via::Data));
    assert!(!to_peer_at(&mut world, client, 0, end_ns));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns), None);
    assert!(!to_peer_at(&mut world, client, 0, end_ns + 1));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns + 1), None);
    world.assert_holds(1);
}

// RFC 8656 s. 9: CreatePermission sets it to 300 s again
#[test]
fn a_refreshed_permission_lives_300_seconds_from_its_refresh() {
    let mut world = World::new(12);
    let peer = world.peers(1)[0];
    let (client, _) = forgetful(&mut world);
    world.call(client, Call::permit(&[peer]));
    let first_ns = world.now_ns();
    world.run_until(first_ns + 200 * SECOND_NS);
    assert_eq!(world.call(client, Call::permit(&[peer])), Outcome::Success);
    assert!(to_peer_at(&mut world, client, 0, first_ns + 500 * SECOND_NS - 1));
    assert!(!to_peer_at(&mut world, client, 0, first_ns + 500 * SECOND_NS));
}

// RFC 8656 s. 12: 600 s; a live channel admits its own peer although its permission ended after 300 s
#[test]
fn a_channel_lives_exactly_600_seconds_and_admits_only_its_peer_after_300() {
    let mut world = World::new(13);
    let peer = world.peers(1)[0];
    let other_port = SocketAddr::new(peer.ip(), peer.port() + 1);
    let neighbour = world.network.endpoint(other_port);
    let (client, relayed) = forgetful(&mut world);
    assert_eq!(world.call(client, Call::refresh(3600)), Outcome::Success);
    assert_eq!(world.call(client, Call::bind(CHANNEL, peer)), Outcome::Success);
    let bound_ns = world.now_ns();

    world.run_until(bound_ns + 300 * SECOND_NS - 1);
    neighbour.send_to(relayed, b"permitted", 0);
    world.settle();
    let received = world.clients[client].inbox.pop();
    assert!(matches!(received, Some(Received::Data { via: Via::Data, from, .. }) if from == other_port));
    world.run_until(bound_ns + 300 * SECOND_NS);
    neighbour.send_to(relayed, b"no more", 0);
    world.settle();
    assert!(world.clients[client].inbox.is_empty());

    let end_ns = bound_ns + 600 * SECOND_NS;
    assert!(to_peer_at(&mut world, client, 0, end_ns - 1));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns - 1), Some(Via::Channel(CHANNEL)));
    assert!(!to_peer_at(&mut world, client, 0, end_ns));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns), None);
    assert!(!to_peer_at(&mut world, client, 0, end_ns + 1));
}

// RFC 8656 s. 6 and 8: the lifetime asked for, not refreshed by data
#[test]
fn an_allocation_lives_exactly_as_long_as_it_was_told() {
    let mut world = World::new(14);
    let peer = world.peers(1)[0];
    let (client, _) = forgetful(&mut world);
    assert_eq!(world.call(client, Call::refresh(1000)), Outcome::Success);
    let end_ns = world.now_ns() + 1000 * SECOND_NS;
    world.run_until(end_ns - 100 * SECOND_NS);
    assert_eq!(world.call(client, Call::bind(CHANNEL, peer)), Outcome::Success);

    assert!(to_peer_at(&mut world, client, 0, end_ns - 1));
    world.assert_holds(1);
    assert!(!to_peer_at(&mut world, client, 0, end_ns));
    assert_eq!(from_peer_at(&mut world, client, 0, end_ns), None);
    assert_eq!(world.call(client, Call::refresh(600)), Outcome::Error(437));
    world.assert_nothing_left();
}

// RFC 8656 s. 8.2: a shorter lifetime takes effect, too
#[test]
fn a_shortened_allocation_ends_at_its_new_time() {
    let mut world = World::new(15);
    let (client, _) = forgetful(&mut world);
    world.call(client, Call::refresh(3600));
    assert_eq!(world.call(client, Call::refresh(600)), Outcome::Success);
    let end_ns = world.now_ns() + 600 * SECOND_NS;
    world.run_until(end_ns - 1);
    world.assert_holds(1);
    world.run_until(end_ns);
    world.assert_nothing_left();
}

#[test]
fn clients_that_vanish_leave_nothing_behind_after_their_lifetimes() {
    for_each_seed(&[16], |seed| {
        let mut world = World::over(rough(), seed, Setup::default());
        let peers = world.peers(20);
        let clients: Vec<usize> = (0..100).map(|_| world.client()).collect();
        for &client in &clients {
            let peer = peers[2 * world.random.random_range(0..10)];
            world.start(client, Call::allocate());
            world.start(client, Call::bind(CHANNEL, peer));
            world.start(client, Call::permit(&[peers[0], peers[2]]));
        }
        world.settle();
        world.assert_holds(100);
        for &client in &clients {
            world.with_client(client, |client, _| client.vanish());
        }
        let deadline_ns = world.now_ns() + 600 * SECOND_NS;
        world.run_until(deadline_ns);
        assert_eq!(world.created_and_ended(), (100, 100));
        world.assert_nothing_left();
    });
}
