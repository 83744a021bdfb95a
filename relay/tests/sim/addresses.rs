//! Both families on both sides, addresses behind a NAT, and what the network says about peers.

use std::net::{IpAddr, SocketAddr};

use turnpike_proto::settings::RelayIp;
use turnpike_proto::wire::attr;

use super::client::{Call, Outcome, Received};
use super::ledger::Via;
use super::seeds::for_each_seed;
use super::world::{SERVER_V4, SERVER_V6, Setup, World, addr, rough};

const CHANNEL: u16 = 0x4000;
const V6: &[u8] = &[2, 0, 0, 0];

/// A dual allocation of a client of either family.
fn dual(world: &mut World, address: &str) -> usize {
    let client = world.client_at(addr(address), "alice");
    let call = Call::allocate().with(attr::ADDITIONAL_ADDRESS_FAMILY, V6);
    assert_eq!(world.call(client, call), Outcome::Success);
    let families: Vec<bool> = world.clients[client].relayed.iter().map(SocketAddr::is_ipv4).collect();
    assert_eq!(families, [true, false]);
    client
}

// RFC 8656 s. 7.2 and 13: any family of client with any family of relayed address
#[test]
fn clients_of_both_families_reach_peers_of_both_families() {
    for_each_seed(&[51], |seed| {
        let mut world = World::over(rough(), seed, Setup::default());
        let peers = world.peers(4);
        let clients = ["198.51.100.1:1000", "[2001:db8:c::1]:1000"].map(|text| dual(&mut world, text));
        for client in clients {
            assert_eq!(world.clients[client].mapped, Some(world.clients[client].endpoint.address()));
            world.start(client, Call::bind(CHANNEL, peers[0]));
            world.start(client, Call::bind(CHANNEL + 1, peers[1]));
            world.start(client, Call::permit(&[peers[2], peers[3]]));
            let partner = world.clients[clients[usize::from(client == clients[0])]].relayed.clone();
            world.start(client, Call::bind(CHANNEL + 2, partner[0]));
            world.start(client, Call::permit(&partner[1..]));
        }
        world.settle();
        for _ in 0..10 {
            for client in clients {
                let partner = world.clients[clients[usize::from(client == clients[0])]].relayed.clone();
                for to in peers.iter().chain(&partner) {
                    world.send_data(client, *to, 200);
                }
            }
            world.settle();
        }
        let (sent, arrived) = world.ledger.totals();
        assert!(sent >= 120 && arrived * 10 > sent * 6, "{arrived} of {sent}");
        assert_eq!(world.failures(), []);
        world.delete_all();
        world.assert_nothing_left();
    });
}

// RFC 8656 s. 7.2: without REQUESTED-ADDRESS-FAMILY it is IPv4, for IPv6 clients too
#[test]
fn the_family_asked_for_is_relayed_and_ipv4_by_default() {
    let mut world = World::new(52);
    for address in ["198.51.100.1:1000", "[2001:db8:c::1]:1000"] {
        let client = world.client_at(addr(address), "alice");
        assert!(world.allocate(client).is_ipv4());
        world.call(client, Call::refresh(0));
        let call = Call::allocate().with(attr::REQUESTED_ADDRESS_FAMILY, V6);
        assert_eq!(world.call(client, call), Outcome::Success);
        assert!(world.clients[client].relayed[0].is_ipv6());
        let peer = addr("203.0.113.1:4000");
        assert_eq!(world.call(client, Call::permit(&[peer])), Outcome::Error(443));
        world.call(client, Call::refresh(0));
    }
    world.assert_nothing_left();
}

// RFC 8656 s. 3: the relay behind a NAT that doesn't hairpin
#[test]
fn external_addresses_are_all_that_clients_see_and_reach_each_other() {
    let (local, external): (IpAddr, IpAddr) = (addr("10.0.0.5:0").ip(), addr("192.0.2.50:0").ip());
    let relays = vec![RelayIp { local, external: Some(external) }];
    for_each_seed(&[53], |seed| {
        let setup = Setup { relays: relays.clone(), ..Setup::default() };
        let mut world = World::over(rough(), seed, setup);
        let clients: Vec<usize> = (0..20).map(|_| world.allocated()).collect();
        assert!(world.clients.iter().all(|client| client.relayed[0].ip() == external));
        for &client in &clients {
            let partner = world.clients[client ^ 1].relayed[0];
            // One of the two has a channel, the other a permission.
            let call = if client % 2 == 0 { Call::bind(CHANNEL, partner) } else { Call::permit(&[partner]) };
            world.start(client, call);
        }
        world.settle();
        for _ in 0..10 {
            for &client in &clients {
                let partner = world.clients[client ^ 1].relayed[0];
                world.send_data(client, partner, 300);
            }
            world.settle();
        }
        let (sent, arrived) = world.ledger.totals();
        assert!(sent == 200 && arrived > 120, "{arrived} of {sent}");
        assert_eq!(world.failures(), []);
        world.delete_all();
        world.assert_nothing_left();
    });
}

#[test]
fn behind_an_external_address_peers_are_reached_from_the_local_one() {
    let (local, external): (IpAddr, IpAddr) = (addr("10.0.0.5:0").ip(), addr("192.0.2.50:0").ip());
    let relays = vec![RelayIp { local, external: Some(external) }];
    let mut world = World::with(54, Setup { relays, ..Setup::default() });
    let peer = world.peers(1)[0];
    let client = world.allocated();
    let port = world.clients[client].relayed[0].port();
    world.call(client, Call::permit(&[peer]));
    world.with_client(client, |client, _| client.send_data(peer, b"out", 0));
    world.settle();
    let seen = SocketAddr::new(local, port);
    assert_eq!(world.peers[0].inbox.pop(), Some((seen, b"out".to_vec(), 0)));
    // A private address that is not a relayed one stays out of reach, ours or not.
    for other in ["10.0.0.5:22", "10.0.0.6:50000"] {
        assert_eq!(world.call(client, Call::bind(CHANNEL, addr(other))), Outcome::Error(403));
    }
}

// RFC 8656 s. 11.5 and 18.13: Data indications with ICMP; conformance D4, D5
#[test]
fn an_unreachable_peer_is_reported_and_harms_nothing() {
    let mut world = World::new(55);
    let peers = world.peers(2);
    let client = dual(&mut world, "198.51.100.1:1000");
    for (peer, icmp_type, icmp_code) in [(peers[0], 3, 3), (peers[1], 1, 4)] {
        let closed = SocketAddr::new(peer.ip(), 9);
        world.call(client, Call::permit(&[peer]));
        world.with_client(client, |client, _| client.send_data(closed, b"knock", 0));
        world.settle();
        let report = Received::Icmp { peer: closed, icmp_type, icmp_code };
        assert_eq!(world.clients[client].inbox, std::slice::from_ref(&report), "by a Send indication");
        world.clients[client].inbox.clear();

        let number = CHANNEL + u16::from(icmp_type);
        assert_eq!(world.call(client, Call::bind(number, closed)), Outcome::Success);
        world.with_client(client, |client, _| client.send_data(closed, b"knock", 0));
        world.settle();
        assert_eq!(world.clients[client].inbox, [report], "on a channel");
        world.clients[client].inbox.clear();

        world.send_data(client, peer, 10);
        world.settle();
    }
    assert_eq!(world.ledger.totals(), (4, 4), "both peers are reached and answer");
    world.network.set_port_unreachable(false);
    world.with_client(client, |client, _| client.send_data(SocketAddr::new(peers[0].ip(), 10), b"knock", 0));
    world.settle();
    assert!(world.clients[client].inbox.is_empty());
}

// RFC 8656 s. 11.2 and 14: DSCP and ECN copied both ways, DF only if asked for
#[test]
fn dscp_ecn_and_dont_fragment_arrive_as_sent() {
    let mut world = World::new(56);
    let peer = world.peers(1)[0];
    let client = world.allocated();
    let relayed = world.clients[client].relayed[0];
    world.call(client, Call::permit(&[peer]));
    for (tos, dont_fragment) in [(0xb8, false), (0x2e, true), (0, true)] {
        world.with_client(client, |client, _| client.send_indication(peer, b"data", tos, dont_fragment));
        world.settle();
        assert_eq!(world.peers[0].inbox.pop(), Some((relayed, b"data".to_vec(), tos)));
        let sent = world.network.trace().last().copied().expect("just sent");
        assert_eq!((sent.from, sent.to, sent.dont_fragment), (relayed, peer, dont_fragment));
    }
    world.call(client, Call::bind(CHANNEL, peer));
    world.with_client(client, |client, _| client.send_data(peer, b"", 0xb9));
    world.settle();
    assert_eq!(world.peers[0].inbox.pop(), Some((relayed, Vec::new(), 0xb9)), "an empty datagram, too");
    world.peers[0].endpoint.send_to(relayed, b"", 0x03);
    world.settle();
    let received = world.clients[client].inbox.pop();
    let data = Received::Data { via: Via::Channel(CHANNEL), from: peer, payload: Vec::new(), tos: 0x03 };
    assert_eq!(received, Some(data));
}

// Conformance Q3: our own listeners are no peers
#[test]
fn the_relays_own_listeners_are_out_of_reach() {
    let mut world = World::new(57);
    let client = dual(&mut world, "198.51.100.1:1000");
    for listener in [SERVER_V4, SERVER_V6].map(addr) {
        assert_eq!(world.call(client, Call::bind(CHANNEL, listener)), Outcome::Error(403));
        assert_eq!(world.call(client, Call::permit(&[listener])), Outcome::Error(403));
        // A permission holds for the address, whose relayed ports are allowed; the port is checked with the data.
        let any_port = SocketAddr::new(listener.ip(), 0);
        assert_eq!(world.call(client, Call::permit(&[any_port])), Outcome::Success);
        let before = world.network.counters().sent;
        world.with_client(client, |client, _| client.send_data(listener, b"\0\x01\0\0", 0));
        world.settle();
        assert_eq!(world.network.counters().sent - before, 1, "only the client's own datagram");
    }
}
