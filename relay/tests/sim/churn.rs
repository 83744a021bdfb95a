//! Allocations that come and go on the same 5-tuples while the network repeats and delays requests.

use std::time::Duration;

use rand::Rng;
use turnpike_driver::sim::Impairment;

use super::client::{Call, Outcome};
use super::seeds::for_each_seed;
use super::world::{SERVER_V4, Setup, World, addr, rough};

// RFC 8489 s. 6.3.1: a late copy of Allocate brings nothing back, one of Refresh 0 deletes nothing new
#[test]
fn late_copies_neither_revive_nor_delete_anything() {
    for_each_seed(&[61, 62], |seed| {
        // Slower than the first retransmissions: requests overtake each other and come late.
        let delay = Duration::from_millis(5)..Duration::from_millis(700);
        let impairment = Impairment { reorder: 0.5, delay, ..rough() };
        let mut world = World::over(impairment, seed, Setup::default());
        let clients: Vec<usize> = (0..50).map(|_| world.client()).collect();
        for _ in 0..10 {
            for &client in &clients {
                for call in [Call::allocate(), Call::refresh(600), Call::refresh(0), Call::allocate()] {
                    world.start(client, call);
                }
            }
            world.settle();
            world.assert_holds(50);
            world.delete_all();
            clients.iter().for_each(|&client| world.clients[client].upkeep = true);
        }
        assert_eq!(world.failures(), []);
        assert_eq!(world.created_and_ended(), (1000, 1000));
        world.assert_nothing_left();
    });
}

#[test]
fn a_repeated_deletion_gets_its_answer_and_spares_the_next_allocation() {
    let mut world = World::new(63);
    let client = world.allocated();
    assert_eq!(world.call(client, Call::refresh(0)), Outcome::Success);
    let deletion = world.clients[client].last_request.clone();
    assert_eq!(world.call(client, Call::allocate()), Outcome::Success);
    let before = world.network.counters().sent;
    world.clients[client].endpoint.send_to(addr(SERVER_V4), &deletion, 0);
    world.settle();
    assert_eq!(world.network.counters().sent - before, 2, "it is answered");
    world.assert_holds(1);
}

#[test]
fn ports_move_between_clients_under_churn_without_loss() {
    for_each_seed(&[64], |seed| {
        let setup = Setup { ports: (50_000, 50_019), ..Setup::default() };
        let mut world = World::over(rough(), seed, setup);
        let clients: Vec<usize> = (0..30).map(|_| world.client()).collect();
        for _ in 0..20 {
            for &client in &clients {
                let has_one = !world.clients[client].relayed.is_empty();
                if world.random.random_bool(0.6) {
                    world.start(client, if has_one { Call::refresh(0) } else { Call::allocate() });
                }
            }
            world.settle();
            let held = world.clients.iter().filter(|client| !client.relayed.is_empty()).count();
            assert!(held <= 20);
            assert!(world.allocations().iter().sum::<usize>() >= held, "nobody lost what he had");
        }
        world.delete_all();
        // An Allocate that was refused may come again when a port is free, and nobody knows of that one then.
        world.run_for(Duration::from_secs(600));
        world.assert_nothing_left();
    });
}
