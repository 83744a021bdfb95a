//! One user, or a stranger, takes whatever there is to take: bounds hold and nobody else notices.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand::Rng;
use turnpike_driver::Driver;
use turnpike_driver::sim::Impairment;
use turnpike_proto::limits::{
    MAX_CHANNELS, MAX_PEERS_PER_REQUEST, MAX_PERMISSIONS, MAX_RESERVATIONS_PER_USER,
};
use turnpike_proto::wire::attr;

use super::client::{Call, Outcome};
use super::seeds::for_each_seed;
use super::world::{SERVER_V4, Setup, World, addr};

const CHANNEL: u16 = 0x4000;
const PAIR: &[u8] = &[0x80];

/// Bob, who is in a call with a peer.
struct Bystander {
    client: usize,
    peer: SocketAddr,
}

impl Bystander {
    fn join(world: &mut World) -> Self {
        let peer = world.peers(1)[0];
        let client = world.client_of("bob");
        world.allocate(client);
        assert_eq!(world.call(client, Call::bind(CHANNEL, peer)), Outcome::Success);
        Self { client, peer }
    }

    /// His call goes on, and he can make another one.
    #[track_caller]
    fn assert_unharmed(&self, world: &mut World) {
        let before = world.ledger.totals();
        world.send_data(self.client, self.peer, 100);
        world.settle();
        let after = world.ledger.totals();
        assert_eq!((after.0 - before.0, after.1 - before.1), (2, 2), "his data and the peer's answer arrive");
        let another = world.client_of("bob");
        assert_eq!(world.call(another, Call::allocate()), Outcome::Success);
        assert_eq!(world.call(another, Call::permit(&[self.peer])), Outcome::Success);
        assert_eq!(world.call(another, Call::refresh(0)), Outcome::Success);
    }
}

/// How many of these clients' latest calls ended in each way: success, error with the code.
fn tally(world: &World, clients: &[usize], code: u16) -> (usize, usize) {
    let count = |wanted| clients.iter().filter(|&&client| world.clients[client].outcome() == wanted).count();
    (count(Outcome::Success), count(Outcome::Error(code)))
}

// RFC 8656 s. 7.2: 486; conformance A9
#[test]
fn a_user_who_wants_all_ports_gets_his_quota_and_no_more() {
    for_each_seed(&[41], |seed| {
        let mut world = World::with(seed, Setup { workers: 4, user_quota: 10, ..Setup::default() });
        let bystander = Bystander::join(&mut world);
        let greedy: Vec<usize> = (0..100).map(|_| world.client()).collect();
        for round in 1..=2 {
            greedy.iter().for_each(|&client| world.start(client, Call::allocate()));
            world.settle();
            world.assert_holds(11);
            if round == 1 {
                assert_eq!(tally(&world, &greedy, 486), (10, 90));
            }
        }
        bystander.assert_unharmed(&mut world);
        world.delete_all();
        world.assert_nothing_left();
    });
}

#[test]
fn permissions_and_channels_of_one_allocation_are_bounded() {
    let mut world = World::new(42);
    let bystander = Bystander::join(&mut world);
    let client = world.allocated();
    world.clients[client].upkeep = false;
    let peers = |from: usize, count: usize| -> Vec<SocketAddr> {
        let ip = |n: usize| IpAddr::from(Ipv4Addr::from(0xcb00_7200 + n as u32));
        (from..from + count).map(|n| SocketAddr::new(ip(n), 4000)).collect()
    };
    let too_many = peers(0, MAX_PEERS_PER_REQUEST + 1);
    assert_eq!(world.call(client, Call::permit(&too_many)), Outcome::Error(508));
    for chunk in peers(0, MAX_PERMISSIONS).chunks(MAX_PEERS_PER_REQUEST) {
        assert_eq!(world.call(client, Call::permit(chunk)), Outcome::Success);
    }
    assert_eq!(world.call(client, Call::permit(&peers(MAX_PERMISSIONS, 1))), Outcome::Error(508));
    assert_eq!(world.call(client, Call::permit(&peers(0, 1))), Outcome::Success, "one that exists");

    let ip = peers(0, 1)[0].ip();
    for n in 0..MAX_CHANNELS as u16 {
        world.start(client, Call::bind(CHANNEL + n, SocketAddr::new(ip, 1 + n)));
    }
    world.settle();
    assert_eq!(world.clients[client].outcome(), Outcome::Success);
    let one_more = Call::bind(CHANNEL + MAX_CHANNELS as u16, SocketAddr::new(ip, 9999));
    assert_eq!(world.call(client, one_more), Outcome::Error(508));
    bystander.assert_unharmed(&mut world);
    world.delete_all();
    world.assert_nothing_left();
}

// RFC 8656 s. 7.2: EVEN-PORT; conformance Q8
#[test]
fn one_users_reservations_are_bounded() {
    let mut world = World::new(43);
    let bystander = Bystander::join(&mut world);
    let greedy: Vec<usize> = (0..MAX_RESERVATIONS_PER_USER + 20).map(|_| world.client()).collect();
    for &client in &greedy {
        world.start(client, Call::allocate().with(attr::EVEN_PORT, PAIR));
    }
    world.settle();
    assert_eq!(tally(&world, &greedy, 508), (MAX_RESERVATIONS_PER_USER, 20));
    assert_eq!(world.shared.reservations(), MAX_RESERVATIONS_PER_USER);
    world.assert_holds(MAX_RESERVATIONS_PER_USER + 1);
    let other = world.client_of("bob");
    let pair = Call::allocate().with(attr::EVEN_PORT, PAIR);
    assert_eq!(world.call(other, pair), Outcome::Success, "bob has reservations of his own");
    bystander.assert_unharmed(&mut world);
}

/// All workers in threads of their own until each has nothing to do.
fn race(world: &mut World) {
    let now = world.network.now();
    std::thread::scope(|scope| {
        for worker in &mut world.workers {
            scope.spawn(move || {
                let mut idle_turns = 0;
                while idle_turns < 3 {
                    let events = worker.inner.driver().wait(None).expect("the simulation never fails");
                    worker.inner.turn(now, events);
                    worker.inner.driver().flush();
                    idle_turns = if events == 0 { idle_turns + 1 } else { 0 };
                }
            });
        }
    });
}

/// Clients of both users ask for allocations that four racing threads handle; gives the successes of each.
fn race_for_allocations(setup: Setup) -> (usize, usize, World) {
    let mut world = World::with(44, Setup { workers: 4, ..setup });
    let users = ["alice", "bob"];
    let clients: Vec<usize> = (0..400).map(|n| world.client_of(users[n % 2])).collect();
    for &client in &clients {
        // For the nonce: afterwards one datagram is enough.
        world.start(client, Call::refresh(600));
    }
    world.settle();
    for &client in &clients {
        world.start(client, Call::allocate());
    }
    race(&mut world);
    world.settle();
    let successes = |user: usize| {
        let own = clients.iter().skip(user).step_by(2);
        own.filter(|&&client| world.clients[client].outcome() == Outcome::Success).count()
    };
    (successes(0), successes(1), world)
}

#[test]
fn quotas_are_exact_when_four_workers_race() {
    for _ in 0..3 {
        let (alice, bob, mut world) = race_for_allocations(Setup { user_quota: 50, ..Setup::default() });
        assert_eq!((alice, bob), (50, 50));
        world.assert_holds(100);
        world.delete_all();
        world.assert_nothing_left();

        let setup = Setup { user_quota: 150, total_quota: 200, ..Setup::default() };
        let (alice, bob, mut world) = race_for_allocations(setup);
        assert_eq!(alice + bob, 200);
        assert!(alice <= 150 && bob <= 150);
        world.delete_all();
        world.assert_nothing_left();
    }
}

#[test]
fn ports_are_given_once_when_four_workers_race() {
    let (alice, bob, mut world) = race_for_allocations(Setup { ports: (50_000, 50_099), ..Setup::default() });
    assert_eq!(alice + bob, 100);
    world.assert_holds(100);
    world.delete_all();
    world.assert_nothing_left();
}

/// Bytes that begin like STUN, like ChannelData or like nothing.
fn garbage(world: &mut World) -> Vec<u8> {
    let len = world.random.random_range(0..120);
    let mut bytes: Vec<u8> = (0..len).map(|_| world.random.random()).collect();
    if len >= 20 && world.random.random_bool(0.7) {
        let kind: u16 =
            [0x0001, 0x0003, 0x0004, 0x0008, 0x0009, 0x0016, 0x0103][world.random.random_range(0..7)];
        bytes[..2].copy_from_slice(&kind.to_be_bytes());
        bytes.truncate(len / 4 * 4);
        let body_len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&body_len.to_be_bytes());
        bytes[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    }
    bytes
}

#[test]
fn strangers_leave_no_state_whatever_they_send() {
    for_each_seed(&[45], |seed| {
        let mut world = World::new(seed);
        let bystander = Bystander::join(&mut world);
        let before: Vec<_> = world.workers.iter().map(|w| w.inner.server().table_counts()).collect();
        for n in 0..2000u16 {
            let stranger = world.network.endpoint(SocketAddr::new(addr("203.0.113.200:0").ip(), 1000 + n));
            for _ in 0..3 {
                let bytes = garbage(&mut world);
                stranger.send_to(addr(SERVER_V4), &bytes, 0);
            }
            world.settle();
        }
        let after: Vec<_> = world.workers.iter().map(|w| w.inner.server().table_counts()).collect();
        assert_eq!(before, after);
        bystander.assert_unharmed(&mut world);
    });
}

#[test]
fn changed_copies_of_authentic_requests_have_no_effect() {
    for_each_seed(&[46], |seed| {
        let mut world = World::new(seed);
        let peer = world.peers(1)[0];
        let client = world.allocated();
        let server = addr(SERVER_V4);
        for call in [Call::bind(CHANNEL, peer), Call::permit(&[peer]), Call::refresh(0)] {
            assert_eq!(world.call(client, Call::refresh(600)), Outcome::Success);
            // Makes the request without sending it: it is lost on the way.
            let lost = Impairment { loss: 1.0, ..Impairment::NONE };
            world.network.set_impairment(lost);
            world.start(client, call);
            let request = world.clients[client].last_request.clone();
            world.network.set_impairment(Impairment::NONE);
            let held: Vec<_> = world.workers.iter().map(|w| w.inner.server().table_counts()).collect();
            for _ in 0..300 {
                let mut changed = request.clone();
                let bit = world.random.random_range(0..8 * changed.len());
                changed[bit / 8] ^= 1 << (bit % 8);
                world.clients[client].endpoint.send_to(server, &changed, 0);
                world.turn_worker(0);
                world.turn_worker(1);
                // What the server says to it must not confuse the real request's transaction.
                while world.clients[client].endpoint.recv().is_some() {}
            }
            let after: Vec<_> = world.workers.iter().map(|w| w.inner.server().table_counts()).collect();
            assert_eq!(held, after);
            world.settle();
            assert_eq!(world.clients[client].outcome(), Outcome::Success, "the real one, sent again");
        }
        world.assert_nothing_left();
    });
}
