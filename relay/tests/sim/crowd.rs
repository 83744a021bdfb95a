//! Thousands of clients on four workers.

use std::time::Duration;

use rand::Rng;
use turnpike_driver::sim::Impairment;

use super::client::Call;
use super::world::{Setup, World};

const CLIENTS: usize = 5_000;
const CHANNEL: u16 = 0x4000;

#[test]
fn five_thousand_clients_on_four_workers_with_thin_traffic() {
    let delay = Duration::from_millis(5)..Duration::from_millis(30);
    let impairment = Impairment { loss: 0.01, duplicate: 0.01, reorder: 0.02, delay };
    let mut world = World::over(impairment, 21, Setup { workers: 4, ..Setup::default() });
    let peers = world.peers(40);
    for _ in 0..CLIENTS {
        let client = world.client();
        let peer = peers[2 * world.random.random_range(0..20)];
        world.start(client, Call::allocate());
        world.start(client, Call::bind(CHANNEL, peer));
        if world.random.random_bool(0.02) {
            world.run_for(Duration::from_millis(5));
        }
    }
    world.settle();
    world.assert_holds(CLIENTS);
    assert!(world.allocations().iter().all(|held| *held > CLIENTS / 8), "{:?}", world.allocations());

    for client in (0..CLIENTS).step_by(5) {
        let peer = peers.iter().copied().find(|peer| world.clients[client].channel_to(*peer).is_some());
        world.send_data(client, peer.expect("bound"), 100);
    }
    world.settle();
    let (sent, arrived) = world.ledger.totals();
    assert!(sent > CLIENTS / 5 && arrived * 100 > sent * 95, "{arrived} of {sent} arrived");

    world.delete_all();
    assert_eq!(world.failures(), []);
    assert_eq!(world.created_and_ended(), (CLIENTS as u64, CLIENTS as u64));
    world.assert_nothing_left();
}
