//! Addresses as clients and peers see them: listeners, wildcards, public addresses, one whole session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use turn_client_proto::types::message::{CHANNEL_BIND, REFRESH};
use turnpike_testkit::talker::peer_socket;
use turnpike_testkit::{PATIENCE, becomes_true};

use super::client::Client;
use super::lab::{
    CLIENT_V4, CLIENT_V6, Lab, PEER_V4, PEER_V6, RELAY_V4, RELAY_V4_SECOND, RELAY_V6, RELAY_V6_SECOND,
    RELAYED_V4, RELAYED_V6,
};
use super::process::Process;
use super::relay::{Options, PORT, Relay, is_coturn, is_turnpike};
use super::stun;

const ALMOST_A_CHANNEL: Duration = Duration::from_secs(590);

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, PORT)
}

fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("the datagram is relayed");
    (from, buffer[..length].to_vec())
}

/// Every address of the server answers from itself, and names the client's own address.
fn assert_answers(lab: &Lab, servers: &[IpAddr]) {
    for &server in servers {
        let answer = stun::binding(&lab.client, at(server)).unwrap_or_else(|| panic!("{server} is silent"));
        assert_eq!(answer.from, at(server), "answered from another address than was asked");
        let own = if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        assert_eq!(answer.mapped, SocketAddr::new(own, answer.port));
    }
}

/// RFC 8489 s. 6.3.1.2: the answer's source is the request's destination.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn several_listeners_answer_each_from_its_address() {
    let Some(lab) = Lab::new("several_listeners_answer_each_from_its_address") else { return };
    let servers = [RELAY_V4, RELAY_V4_SECOND, RELAY_V6];
    let relay = Relay::start(&lab, &Options { listen: servers.map(at).to_vec(), ..Options::default() });
    assert_answers(&lab, &servers);
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn wildcard_listeners_answer_from_the_address_that_was_asked() {
    let name = "wildcard_listeners_answer_from_the_address_that_was_asked";
    // coturn answers from the interface's first address.
    let Some(lab) = Lab::new(name).filter(|_| is_turnpike(name)) else { return };
    let listen = vec![at(Ipv4Addr::UNSPECIFIED.into()), at(Ipv6Addr::UNSPECIFIED.into())];
    let relay = Relay::start(&lab, &Options { listen, ..Options::default() });
    assert_answers(&lab, &[RELAY_V4, RELAY_V4_SECOND, RELAY_V6, RELAY_V6_SECOND]);
    // The allocation's 5-tuple has the address that was asked (RFC 8656 s. 3), so all works there too.
    session(&lab, at(RELAY_V4_SECOND), RELAYED_V4, RELAYED_V4, PEER_V4);
    relay.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn coturns_stun_client_gets_its_address() {
    let Some(lab) = Lab::new("coturns_stun_client_gets_its_address") else { return };
    let relay = Relay::start(&lab, &Options::default());
    let mut command = lab.client.command(Path::new("turnutils_stunclient"));
    command.args(["-p", &PORT.to_string(), &RELAY_V4.to_string()]);
    let outcome = Process::start(command).wait(PATIENCE);
    let expected = format!("UDP reflexive addr: {CLIENT_V4}:");
    assert!(outcome.output.contains(&expected), "{}", outcome.output);
    relay.stop();
}

/// RFC 8656 s. 7 to 12 from beginning to end: allocate, permission, channel, data, refresh, delete.
///
/// Clients know the relayed address as `public`, peers as `local`.
fn session(lab: &Lab, server: SocketAddr, public: IpAddr, local: IpAddr, peer: IpAddr) {
    let peer_socket = peer_socket(&lab.peer, peer);
    let peer = peer_socket.local_addr().expect("it is bound");
    let mut client = Client::new(&lab.client, server);
    let relayed = client.allocate().expect("the server has a port");
    assert_eq!(relayed.ip(), public);
    assert!((49152..=65535).contains(&relayed.port()), "{relayed} is outside the port range");
    let local = SocketAddr::new(local, relayed.port());

    assert!(client.permit(peer.ip()), "the peer is allowed");
    client.send(peer, b"by indication");
    assert_eq!(receive(&peer_socket), (local, b"by indication".to_vec()));
    peer_socket.send_to(b"and back", local).expect("the namespace has a route");
    assert_eq!(client.receive(), (peer, b"and back".to_vec()));

    assert!(client.bind(peer), "the peer is allowed");
    client.send(peer, b"by channel");
    assert_eq!(receive(&peer_socket), (local, b"by channel".to_vec()));
    peer_socket.send_to(b"", local).expect("the namespace has a route");
    peer_socket.send_to(b"and back again", local).expect("the namespace has a route");
    assert_eq!(client.receive(), (peer, Vec::new()));
    assert_eq!(client.receive(), (peer, b"and back again".to_vec()));

    // The client asked for 1800 s; its channel has to be renewed within 600 (RFC 8656 s. 12).
    client.refresh_after(ALMOST_A_CHANNEL, CHANNEL_BIND);
    client.refresh_after(ALMOST_A_CHANNEL, CHANNEL_BIND);
    client.refresh_after(ALMOST_A_CHANNEL, REFRESH);
    assert!(client.permit(peer.ip()), "this client's permission is over after 300 s, and can be had again");
    client.send(peer, b"after the refresh");
    assert_eq!(receive(&peer_socket), (local, b"after the refresh".to_vec()));

    // RFC 8656 s. 8: a Refresh with lifetime 0 deletes at once, so the port can be bound again.
    client.delete();
    // coturn keeps it a while.
    assert!(
        is_coturn() || becomes_true(|| lab.relay.enter(|| UdpSocket::bind(local)).is_ok()),
        "{local} is still bound after its allocation was deleted"
    );
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_library_client_has_a_whole_session() {
    let Some(lab) = Lab::new("a_library_client_has_a_whole_session") else { return };
    let relay = Relay::start(&lab, &Options::default());
    session(&lab, at(RELAY_V4), RELAYED_V4, RELAYED_V4, PEER_V4);
    session(&lab, at(RELAY_V6), RELAYED_V6, RELAYED_V6, PEER_V6);
    relay.stop();
}

/// Behind a NAT: clients only ever see the public address, peers' datagrams come to the local one.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_public_address_is_what_clients_see() {
    let Some(lab) = Lab::new("a_public_address_is_what_clients_see") else { return };
    let public = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5));
    let relay = Relay::start(&lab, &Options { external: Some((public, RELAYED_V4)), ..Options::default() });
    session(&lab, at(RELAY_V4), public, RELAYED_V4, PEER_V4);
    between_clients(&lab, public);
    relay.stop();
}

/// Two clients reach each other by their public addresses although no NAT here could hairpin.
fn between_clients(lab: &Lab, public: IpAddr) {
    let mut clients = [Client::new(&lab.client, at(RELAY_V4)), Client::new(&lab.client, at(RELAY_V4))];
    let relayed = clients.each_mut().map(|client| client.allocate().expect("the server has a port"));
    assert_eq!(relayed.map(|address| address.ip()), [public, public]);
    let [one, two] = &mut clients;
    assert!(one.permit(public) && two.permit(public), "our own relayed addresses are always allowed");
    one.send(relayed[1], b"by indication");
    assert_eq!(two.receive(), (relayed[0], b"by indication".to_vec()));
    assert!(one.bind(relayed[1]) && two.bind(relayed[0]), "our own relayed addresses are always allowed");
    two.send(relayed[0], b"by channel");
    assert_eq!(one.receive(), (relayed[1], b"by channel".to_vec()));
}
