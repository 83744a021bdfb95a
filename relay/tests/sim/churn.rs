//! Allocations that come and go on the same 5-tuples while the network repeats and delays requests.

use std::time::Duration;

use rand::Rng;

use super::client::Call;
use super::seeds::for_each_seed;
use super::world::{Setup, World, rough};

#[test]
fn ports_move_between_clients_under_churn_without_loss() {
    for_each_seed(&[64], |seed| {
        let setup = Setup { ports: (50_000, 50_019), impairment: rough(), ..Setup::default() };
        let mut world = World::with(seed, setup);
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
