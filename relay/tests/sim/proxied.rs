//! Clients behind a proxy that the operator trusts, over UDP.

use std::net::SocketAddr;

use turnpike::config::ProxyUdp;
use turnpike::worker::proxied::Proxies;
use turnpike_driver::sim::Impairment;
use turnpike_proto::Verdict;
use turnpike_proto::wire::proxy::{self, Proxied};

use super::client::{Call, Outcome, Proxy};
use super::seeds::for_each_seed;
use super::world::{SERVER_V4, Setup, World, addr, rough};

const CHANNEL: u16 = 0x4000;
const CLIENTS: usize = 20;

/// All clients of the simulation have addresses of this network.
fn trusting(over_udp: ProxyUdp) -> Proxies {
    Proxies::new(vec!["198.51.100.0/24".parse().expect("a prefix")], over_udp)
}

fn own(number: usize) -> SocketAddr {
    SocketAddr::new([203, 0, 113, 100 + number as u8].into(), 40_000)
}

fn client(world: &mut World, each: bool) -> usize {
    let number = world.client();
    world.clients[number].proxy = Some(Proxy { own: own(number), each, has_said: false });
    number
}

fn count(world: &World, verdict: Verdict) -> u64 {
    world.workers.iter().map(|worker| worker.inner.server().counts().verdicts.of(verdict)).sum()
}

/// What the workers know of whoever has an allocation: own address, proxy's address.
fn known(world: &World) -> Vec<(SocketAddr, SocketAddr)> {
    let views = world.workers.iter().flat_map(|worker| worker.inner.server().inspect(None, 100).0);
    let mut known: Vec<_> = views.map(|view| (view.client.0, view.five_tuple.client.0)).collect();
    known.sort();
    known
}

#[test]
fn a_proxys_clients_keep_their_own_addresses_wherever_their_datagrams_arrive() {
    for (over_udp, each) in [(ProxyUdp::Each, true), (ProxyUdp::First, false), (ProxyUdp::First, true)] {
        for_each_seed(&[131, 132], |seed| {
            let setup = Setup { workers: 3, ..Setup::default() };
            let mut world = World::behind(trusting(over_udp), Impairment::NONE, seed, setup);
            let peer = world.peers(1)[0];
            for number in 0..CLIENTS {
                let client = client(&mut world, each);
                world.start(client, Call::allocate());
                world.start(
                    client,
                    if number % 2 == 0 { Call::bind(CHANNEL, peer) } else { Call::permit(&[peer]) },
                );
                // Between any two requests of the first ones.
                world.network.respread(number as u32);
            }
            world.settle();
            for spread in 1..=4 {
                world.network.respread(spread);
                for client in 0..CLIENTS {
                    world.send_data(client, peer, 100);
                    assert_eq!(world.call(client, Call::refresh(1200)), Outcome::Success);
                }
                world.settle();
            }
            let (sent, arrived) = world.ledger.totals();
            assert_eq!((sent, arrived), (8 * CLIENTS, 8 * CLIENTS), "there and back, four times");
            for number in 0..CLIENTS {
                assert_eq!(world.clients[number].mapped, Some(own(number)));
                assert_eq!(known(&world)[number], (own(number), world.clients[number].endpoint.address()));
            }
            assert_eq!((count(&world, Verdict::DropProxyHeader), world.failures().len()), (0, 0));
            world.delete_all();
            world.assert_nothing_left();
        });
    }
}

// A first datagram that is lost takes its header along: the proxy's next one has none, and is refused until the
// proxy begins anew. One in front of each datagram needs no luck.
#[test]
fn a_header_on_each_datagram_survives_any_network() {
    for_each_seed(&[133], |seed| {
        let mut world = World::behind(trusting(ProxyUdp::Each), rough(), seed, Setup::default());
        let clients: Vec<usize> = (0..CLIENTS).map(|_| client(&mut world, true)).collect();
        clients.iter().for_each(|client| world.start(*client, Call::allocate()));
        world.settle();
        assert_eq!(world.failures(), []);
        assert_eq!(known(&world).len(), CLIENTS);
        world.delete_all();
        world.assert_nothing_left();
    });
}

#[test]
fn who_is_trusted_has_to_say_for_whom_he_speaks() {
    for over_udp in [ProxyUdp::Each, ProxyUdp::First] {
        let mut world = World::behind(trusting(over_udp), Impairment::NONE, 134, Setup::default());
        let silent = world.client();
        assert_eq!(world.call(silent, Call::allocate()), Outcome::TimedOut);
        assert!(count(&world, Verdict::DropProxyHeader) >= 7, "each one of them");
        // Data of nobody's is nobody's, header or not.
        world.clients[silent].endpoint.send_to(addr(SERVER_V4), &[0x40, 0, 0, 1, 7], 0);
        world.settle();
        assert_eq!(known(&world).len(), 0);
    }
    let mut world = World::behind(trusting(ProxyUdp::Off), Impairment::NONE, 135, Setup::default());
    let direct = world.allocated();
    assert_eq!(world.clients[direct].mapped, Some(world.clients[direct].endpoint.address()));
}

#[test]
fn from_anybody_else_a_header_is_refused_and_counted() {
    let mut world = World::new(136);
    let stranger = client(&mut world, true);
    assert_eq!(world.call(stranger, Call::allocate()), Outcome::TimedOut);
    assert!(count(&world, Verdict::DropProxyUntrusted) >= 7);
    assert_eq!(count(&world, Verdict::DropNotTurn), 0, "it is counted once, for what it is");
    let answered = world.allocated();
    assert_eq!(world.clients[answered].mapped, Some(world.clients[answered].endpoint.address()));
}

// The proxy has given a client's port to another one: what the first one has stays its own.
#[test]
fn another_client_on_a_proxys_port_gets_nothing_of_the_first_ones() {
    let mut world = World::behind(trusting(ProxyUdp::First), Impairment::NONE, 137, Setup::default());
    let first = client(&mut world, false);
    world.allocate(first);
    let second = Proxied { source: own(50), destination: addr(SERVER_V4), is_stream: false };
    world.clients[first].endpoint.send_to(addr(SERVER_V4), &proxy::write(&second), 0);
    world.settle();
    assert_eq!(known(&world)[0].0, own(0), "an allocation is whose it was");
}
