//! Clients whose datagrams come to another worker than their allocation's.

use std::time::Duration;

use turnpike_proto::Verdict;

use super::client::{Call, Outcome};
use super::seeds::for_each_seed;
use super::world::{SERVER_V4, Setup, World, addr, rough};

const CHANNEL: u16 = 0x4000;
const CLIENTS: usize = 40;

/// Clients with a channel to one peer; half of them with a permission only.
fn in_call(world: &mut World) -> std::net::SocketAddr {
    let peer = world.peers(1)[0];
    for number in 0..CLIENTS {
        let client = world.client();
        world.start(client, Call::allocate());
        world.start(client, if number % 2 == 0 { Call::bind(CHANNEL, peer) } else { Call::permit(&[peer]) });
    }
    world.settle();
    peer
}

fn count(world: &World, verdict: Verdict) -> u64 {
    world.workers.iter().map(|worker| worker.inner.server().counts().verdicts.of(verdict)).sum()
}

#[test]
fn clients_keep_talking_when_they_come_to_other_workers() {
    for_each_seed(&[91, 92], |seed| {
        let mut world = World::with(seed, Setup { workers: 3, ..Setup::default() });
        let peer = in_call(&mut world);
        let before = world.allocations();
        for spread in 1..=4 {
            world.network.respread(spread);
            for client in 0..CLIENTS {
                world.send_data(client, peer, 100);
                assert_eq!(world.call(client, Call::refresh(1200)), Outcome::Success);
            }
            world.settle();
        }
        assert_eq!(world.allocations(), before, "no allocation has moved, none has doubled");
        let (sent, arrived) = world.ledger.totals();
        assert_eq!((sent, arrived), (8 * CLIENTS, 8 * CLIENTS), "there and back, four times");
        assert_eq!((count(&world, Verdict::DropNoAllocation), world.failures().len()), (0, 0));
        world.delete_all();
        world.assert_nothing_left();
    });
}

// Requests of one transaction, repeated and reordered, reach different workers while it goes on.
#[test]
fn no_client_gets_two_allocations_while_the_spread_changes() {
    for_each_seed(&[93], |seed| {
        let mut world = World::over(rough(), seed, Setup::default());
        let clients: Vec<usize> = (0..CLIENTS).map(|_| world.client()).collect();
        clients.iter().for_each(|client| world.start(*client, Call::allocate()));
        for spread in 1..200 {
            world.run_for(Duration::from_millis(7));
            world.network.respread(spread);
        }
        world.settle();
        assert_eq!(world.failures(), []);
        world.assert_holds(CLIENTS);
        world.delete_all();
        world.assert_nothing_left();
    });
}

#[test]
fn strangers_on_any_worker_stay_strangers() {
    let mut world = World::new(94);
    in_call(&mut world);
    let stranger = world.client();
    let server = addr(SERVER_V4);
    for spread in 0..4 {
        world.network.respread(spread);
        world.clients[stranger].endpoint.send_to(server, &[0x40, 0, 0, 1, 7], 0);
        world.settle();
    }
    assert_eq!(count(&world, Verdict::DropNoAllocation), 4);
}
