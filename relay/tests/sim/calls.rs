//! Many clients in long calls over a bad network: what arrives is what was sent, where it belongs.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use turnpike_driver::sim::{SimCounters, TraceEntry};

use super::client::Call;
use super::seeds::for_each_seed;
use super::world::{Setup, World, rough};

const CHANNEL_TO_PEER: u16 = 0x4000;
const CHANNEL_TO_PARTNER: u16 = 0x4001;
const PEERS: u16 = 20;
/// Largest payload beyond its number: a usual MTU's worth.
const MAX_EXTRA_LEN: usize = 1000;

/// `clients` allocate, each bound to a peer and to its partner's relayed address, and permit a second peer.
fn connect(world: &mut World, clients: usize) -> Vec<[SocketAddr; 3]> {
    let peers: Vec<SocketAddr> = world.peers(2 * PEERS).into_iter().filter(SocketAddr::is_ipv4).collect();
    for _ in 0..clients {
        let client = world.client();
        world.start(client, Call::allocate());
    }
    world.settle();
    let mut targets = Vec::new();
    for client in 0..clients {
        let partner = world.clients[client ^ 1].relayed[0];
        let peer = peers[world.random.random_range(0..peers.len() - 1)];
        let permitted = peers[peers.len() - 1];
        world.start(client, Call::bind(CHANNEL_TO_PEER, peer));
        world.start(client, Call::bind(CHANNEL_TO_PARTNER, partner));
        world.start(client, Call::permit(&[permitted]));
        targets.push([peer, partner, permitted]);
    }
    world.settle();
    targets
}

/// Everybody talks for that long, then hangs up.
fn talk(world: &mut World, targets: &[[SocketAddr; 3]], time: Duration, pause: Duration) {
    let end_ns = world.now_ns() + time.as_nanos() as u64;
    while world.now_ns() < end_ns {
        for (client, targets) in targets.iter().enumerate() {
            let to = targets[world.random.random_range(0..targets.len())];
            let extra_len = world.random.random_range(0..MAX_EXTRA_LEN);
            world.send_data(client, to, extra_len);
        }
        world.run_for(pause);
    }
}

fn long_calls(seed: u64, clients: usize, time: Duration, pause: Duration) {
    let mut world = World::over(rough(), seed, Setup::default());
    let targets = connect(&mut world, clients);
    world.assert_holds(clients);
    assert!(world.allocations().iter().all(|held| *held > clients / 4), "each worker has its share");

    talk(&mut world, &targets, time, pause);
    world.settle();
    world.assert_holds(clients);
    let (sent, arrived) = world.ledger.totals();
    // Two ways with 10 % loss each let 81 % through.
    assert!((0.77..0.85).contains(&(arrived as f64 / sent as f64)), "{arrived} of {sent} arrived");

    world.delete_all();
    assert_eq!(world.failures(), [], "every call succeeded");
    assert_eq!(world.created_and_ended(), (clients as u64, clients as u64), "repetitions had no effect");
    world.assert_nothing_left();
}

// RFC 8489 s. 6.3.1, RFC 8656 s. 3, 8, 9, 11 and 12
#[test]
fn an_hour_of_200_calls_over_a_bad_network_mixes_nothing_up() {
    for_each_seed(&[1], |seed| long_calls(seed, 200, Duration::from_secs(3600), Duration::from_secs(60)));
}

#[test]
fn dense_traffic_over_a_bad_network_mixes_nothing_up() {
    for_each_seed(&[2, 3, 4], |seed| {
        long_calls(seed, 40, Duration::from_secs(10), Duration::from_millis(200));
    });
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    fn run(seed: u64) -> (Vec<TraceEntry>, SimCounters, (usize, usize)) {
        let mut world = World::over(rough(), seed, Setup::default());
        let targets = connect(&mut world, 20);
        talk(&mut world, &targets, Duration::from_secs(700), Duration::from_secs(10));
        world.delete_all();
        (world.network.trace(), world.network.counters(), world.ledger.totals())
    }
    for_each_seed(&[5], |seed| {
        let first = run(seed);
        assert!(first.0.len() > 1000);
        assert!(first == run(seed), "two runs differ");
        assert!(first.0 != run(seed ^ 1).0);
    });
}
