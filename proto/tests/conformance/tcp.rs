//! Relaying TCP (RFC 6062): who may have it, connections from either side, how they are bound, and how they end.

use std::net::SocketAddr;

use turnpike_proto::addr::{RelayedTransport, Transport};
use turnpike_proto::limits::{MAX_CONNECTIONS_PER_ALLOCATION, MAX_UNBOUND_PER_ALLOCATION};
use turnpike_proto::settings::ServerConfig;
use turnpike_proto::stats::{ConnectionEvent, EndReason};
use turnpike_proto::wire::{Class, Message, MessageBuilder, attr, method};
use turnpike_proto::{ClientPath, ClientSocket, ConnectionId, Input, Verdict, Way, WorkerId};

use crate::lab::{Answer, Client, Lab, PEER, PEER_V6, SERVER_V4, Sent, Setup, addr, decode_xor};

const CLIENT: &str = "203.0.113.5:1000";
const OTHER_PEER: &str = "198.51.100.8:4000";
const TCP: [u8; 4] = [6, 0, 0, 0];

fn setup() -> Setup {
    Setup { config: ServerConfig { tcp_relay: true, ..ServerConfig::default() }, ..Setup::default() }
}

fn lab() -> Lab {
    Lab::with(setup())
}

fn connection(index: u32) -> ClientSocket {
    ClientSocket { index, generation: 1 + index }
}

fn client() -> Client {
    Client::new(CLIENT).over_tcp()
}

fn ask(client: &mut Client, lab: &mut Lab, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
    client.request(lab, method::ALLOCATE, |b| build(b.attribute(attr::REQUESTED_TRANSPORT, &TCP)))
}

fn allocate(client: &mut Client, lab: &mut Lab) -> SocketAddr {
    ask(client, lab, |b| b).expect_success().relayed()
}

/// A Connect, as it is sent.
fn connect_request(client: &mut Client, peer: &str) -> Vec<u8> {
    client.signed(method::CONNECT, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(peer)))
}

/// Begins a Connect, to which no answer is due yet.
fn begin_connect(client: &mut Client, lab: &mut Lab, peer: &str) -> ConnectionId {
    let request = connect_request(client, peer);
    client.send_unanswered(lab, &request);
    let (worker, id, to) = lab.connecting.pop().expect("a connection is to be made");
    assert_eq!((worker, to), (client.worker, addr(peer)));
    id
}

/// A Connect with its answer; the peer takes the connection.
fn connect(client: &mut Client, lab: &mut Lab, peer: &str) -> ConnectionId {
    let id = begin_connect(client, lab, peer);
    lab.input(client.worker, Input::PeerConnected(id));
    let answer = Answer::of(lab.take_one().payload);
    assert_eq!(answer.expect_success().attribute(attr::CONNECTION_ID), id.0.to_be_bytes());
    id
}

/// A new connection of a client, for data.
fn data_client(index: u32) -> Client {
    Client::new(&format!("203.0.113.5:{}", 2000 + index)).over_stream(Transport::Tcp, connection(index))
}

fn bind(client: &mut Client, lab: &mut Lab, id: ConnectionId) -> Answer {
    client.request(lab, method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &id.0.to_be_bytes()))
}

/// Peer and name of a ConnectionAttempt.
fn attempt(sent: &Sent) -> (SocketAddr, ConnectionId) {
    let message = Message::parse(&sent.payload).expect("well-formed");
    assert_eq!((message.class(), message.method()), (Class::Indication, method::CONNECTION_ATTEMPT));
    let peer = message.attribute(attr::XOR_PEER_ADDRESS).expect("present");
    let id = message.connection_id().expect("present").expect("well-formed");
    (decode_xor(peer, message.transaction_id()), id)
}

// P: it is the stronger way into a network
#[test]
fn x6_it_is_off_unless_the_operator_allows_it() {
    let mut lab = Lab::new();
    let mut client = client();
    ask(&mut client, &mut lab, |b| b).expect_error(442);
    client.allocate(&mut lab);
    let request = connect_request(&mut client, PEER);
    client.send_unanswered(&mut lab, &request);
    let bind = client.signed(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &[0, 0, 0, 1]));
    client.send_unanswered(&mut lab, &bind);
    assert_eq!(lab.verdicts(Verdict::DropUnsupported), 2);
}

// RFC 6062 s. 5.1
#[test]
fn x1_tcp_is_relayed_for_streams_of_either_kind_and_either_family() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut lab = lab();
        let mut client = Client::new(CLIENT).over_stream(transport, connection(3));
        let answer =
            ask(&mut client, &mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]));
        assert!(answer.expect_success().relayed().is_ipv6());
        assert_eq!(lab.created[0].relayed_transport, RelayedTransport::Tcp);
        assert_eq!(lab.workers[0].tcp_relay_counts().allocations, 1);
        client.refresh(&mut lab, 0).expect_success();
        assert_eq!(lab.workers[0].tcp_relay_counts().allocations, 0);
        lab.assert_empty();
    }
}

#[test]
fn x1_over_udp_or_with_what_only_datagrams_have_it_is_a_bad_request() {
    let mut lab = lab();
    ask(&mut Client::new(CLIENT), &mut lab, |b| b).expect_error(400);
    let mut client = client();
    for (kind, value) in
        [(attr::EVEN_PORT, &[0][..]), (attr::RESERVATION_TOKEN, &[7; 8]), (attr::DONT_FRAGMENT, &[])]
    {
        ask(&mut client, &mut lab, |b| b.attribute(kind, value)).expect_error(400);
    }
    client
        .request(&mut lab, method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[132, 0, 0, 0]))
        .expect_error(442);
    lab.assert_empty();
}

// Another program has the port: the next one is tried, as for UDP
#[test]
fn x1_a_taken_port_is_not_the_last_one() {
    let mut lab = Lab::with(Setup { ports: (50_000, 50_001), ..setup() });
    lab.occupied.insert(50_000);
    assert_eq!(allocate(&mut client(), &mut lab).port(), 50_001);
}

// RFC 6062 s. 5.2
#[test]
fn x2_connect_leads_to_a_name_that_a_new_connection_binds() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let id = connect(&mut control, &mut lab, PEER);
    assert_eq!(id.worker(), WorkerId(0));
    let mut data = data_client(1);
    bind(&mut data, &mut lab, id).expect_success();
    assert_eq!(lab.bound, [(id, data.path())]);
    assert_eq!(lab.workers[0].tcp_relay_counts().bound, 1);
    for event in [ConnectionEvent::Connected, ConnectionEvent::Bound] {
        assert_eq!(lab.connections(event), 1);
    }
    lab.sleep(120);
    assert!(lab.closed.is_empty(), "a bound connection has no deadline of its own");
}

#[test]
fn x2_a_connect_that_names_no_good_peer_is_refused_before_anything_is_sent() {
    let mut lab = lab();
    let mut client = client();
    let relayed = allocate(&mut client, &mut lab);
    client.request(&mut lab, method::CONNECT, |b| b).expect_error(400);
    let refused = [
        // The operator's network, ourselves, our listener, a port of ours where nobody listens.
        ("10.0.0.1:80", 403),
        ("127.0.0.1:80", 403),
        (SERVER_V4, 403),
        ("192.0.2.1:50000", 403),
        (&relayed.to_string(), 403),
        (PEER_V6, 443),
        ("198.51.100.7:0", 403),
    ];
    for (peer, code) in refused {
        let request = connect_request(&mut client, peer);
        client.exchange(&mut lab, &request).expect_error(code);
    }
    assert!(lab.connecting.is_empty());
}

// A UDP relay's port number says nothing about who has it for TCP
#[test]
fn x2_a_relayed_address_is_a_peer_for_what_it_relays_only() {
    let mut lab = lab();
    let mut tcp = client();
    allocate(&mut tcp, &mut lab);
    let other =
        allocate(&mut Client::new("203.0.113.6:1000").over_stream(Transport::Tcp, connection(5)), &mut lab);
    let mut udp = Client::new("203.0.113.7:1000");
    let datagrams = udp.allocate(&mut lab);
    begin_connect(&mut tcp, &mut lab, &other.to_string());
    let request = connect_request(&mut tcp, &datagrams.to_string());
    tcp.exchange(&mut lab, &request).expect_error(403);
    udp.bind(&mut lab, 0x4001, &other.to_string()).expect_error(403);
}

// RFC 6062 s. 5.2: while it is made, while it waits, while it carries data
#[test]
fn x2_a_peer_has_one_connection_at_a_time() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let again = |control: &mut Client, lab: &mut Lab| {
        let request = connect_request(control, PEER);
        control.exchange(lab, &request).expect_error(446);
    };
    let id = begin_connect(&mut control, &mut lab, PEER);
    again(&mut control, &mut lab);
    lab.input(0, Input::PeerConnected(id));
    again(&mut control, &mut lab);
    bind(&mut data_client(1), &mut lab, id).expect_success();
    again(&mut control, &mut lab);
    lab.input(0, Input::ConnectionClosed(id));
    let next = connect(&mut control, &mut lab, PEER);
    assert_ne!(next, id, "a name is not given again soon");
}

#[test]
fn x2_a_connection_that_fails_or_takes_30_seconds_is_447() {
    let mut lab = lab();
    let mut client = client();
    allocate(&mut client, &mut lab);
    let id = begin_connect(&mut client, &mut lab, PEER);
    lab.input(0, Input::PeerConnectFailed(id));
    Answer::of(lab.take_one().payload).expect_error(447);
    let id = begin_connect(&mut client, &mut lab, PEER);
    lab.sleep(29);
    assert!(lab.take_sent().is_empty());
    lab.sleep(2);
    Answer::of(lab.take_one().payload).expect_error(447);
    assert_eq!(lab.closed, [id]);
    lab.input(0, Input::PeerConnected(id));
    assert!(lab.take_sent().is_empty(), "it is too late");
    assert_eq!(
        (lab.connections(ConnectionEvent::Failed), lab.connections(ConnectionEvent::TimedOut)),
        (1, 1)
    );
    assert_eq!(lab.workers[0].table_counts().connections, 0);
}

// RFC 6062 s. 5.2: whoever has no allocation, or one that relays datagrams
#[test]
fn x2_connect_is_about_an_allocation_that_relays_tcp() {
    let mut lab = lab();
    let mut client = client();
    client.challenge(&mut lab);
    let request = connect_request(&mut client, PEER);
    client.exchange(&mut lab, &request).expect_error(437);
    client.allocate(&mut lab);
    let request = connect_request(&mut client, PEER);
    client.exchange(&mut lab, &request).expect_error(403);
}

#[test]
fn x2_data_of_such_an_allocation_goes_by_connections_only() {
    let mut lab = lab();
    let mut client = client();
    allocate(&mut client, &mut lab);
    client.permit(&mut lab, PEER).expect_success();
    client.bind(&mut lab, 0x4001, PEER).expect_error(403);
    assert!(client.send_indication(&mut lab, PEER, b"a datagram").is_empty());
    assert_eq!(lab.verdicts(Verdict::DropBadSend), 1);
}

// RFC 6062 s. 5.4
#[test]
fn x3_a_connection_bind_without_credentials_is_challenged() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let id = connect(&mut control, &mut lab, PEER);
    let mut data = data_client(1);
    let bare = MessageBuilder::request(method::CONNECTION_BIND, data.transaction())
        .attribute(attr::CONNECTION_ID, &id.0.to_be_bytes())
        .finish();
    let challenge = data.exchange(&mut lab, &bare);
    data.heed(&challenge);
    bind(&mut data, &mut lab, id).expect_success();
}

#[test]
fn x3_only_what_waits_is_bound_and_only_once_by_its_own_user() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let connecting = begin_connect(&mut control, &mut lab, PEER);
    bind(&mut data_client(1), &mut lab, connecting).expect_error(400);
    lab.input(0, Input::PeerConnected(connecting));
    let id = connecting;
    let mut stranger =
        Client::named("203.0.113.9:1", "bob", "builder").over_stream(Transport::Tcp, connection(9));
    bind(&mut stranger, &mut lab, id).expect_error(441);
    bind(&mut data_client(2), &mut lab, ConnectionId(id.0 ^ 1)).expect_error(400);
    // No such worker.
    bind(&mut data_client(3), &mut lab, ConnectionId(u32::MAX)).expect_error(400);
    data_client(4).request(&mut lab, method::CONNECTION_BIND, |b| b).expect_error(400);
    bind(&mut Client::new("203.0.113.5:4000"), &mut lab, id).expect_error(400);
    // The connection that carries the allocation can't be given away.
    bind(&mut control, &mut lab, id).expect_error(400);
    bind(&mut data_client(5), &mut lab, id).expect_success();
    bind(&mut data_client(6), &mut lab, id).expect_error(400);
    assert_eq!(lab.bound.len(), 1);
}

// The connection goes to the worker that has the peer's, with its request
#[test]
fn x3_a_connection_bind_on_another_worker_is_handed_over_once_it_is_authentic() {
    let mut lab = lab();
    let mut control = client().on_worker(1);
    allocate(&mut control, &mut lab);
    let id = connect(&mut control, &mut lab, PEER);
    assert_eq!(id.worker(), WorkerId(1));
    let mut wrong = data_client(1);
    wrong.challenge(&mut lab);
    wrong.password = "wrong".to_owned();
    bind(&mut wrong, &mut lab, id).expect_error(401);
    assert!(lab.handed_over.is_empty());
    let mut data = data_client(2);
    data.challenge(&mut lab);
    let request =
        data.signed(method::CONNECTION_BIND, |b| b.attribute(attr::CONNECTION_ID, &id.0.to_be_bytes()));
    data.send_unanswered(&mut lab, &request);
    let (path, worker, handed) = lab.handed_over.pop().expect("handed over");
    assert_eq!((path, worker, &handed), (data.path(), WorkerId(1), &request));
    // There it has another number.
    let path = ClientPath { socket: connection(40), ..path };
    lab.client_sends(1, path, &handed, 0);
    Answer::of(lab.take_one().payload).expect_success();
    assert_eq!(lab.bound, [(id, path)]);
}

// RFC 6062 s. 5.3
#[test]
fn x4_a_permitted_peers_connection_is_told_and_bound() {
    let mut lab = lab();
    let mut control = client();
    let relayed = allocate(&mut control, &mut lab);
    control.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    let id = lab.peer_connects(PEER, relayed).expect("it has a permission");
    assert_eq!(attempt(&lab.take_one()), (addr(PEER), id));
    bind(&mut data_client(1), &mut lab, id).expect_success();
    assert_eq!(lab.connections(ConnectionEvent::Accepted), 1);
}

#[test]
fn x4_others_are_closed_and_counted_and_nobody_is_told() {
    let mut lab = lab();
    let mut control = client();
    let relayed = allocate(&mut control, &mut lab);
    control.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    assert_eq!(lab.peer_connects(OTHER_PEER, relayed), None);
    assert_eq!(lab.connections(ConnectionEvent::NoPermission), 1);
    // Its address may be reached, but not by what listens there for clients.
    control.permit(&mut lab, "192.0.2.1:50000").expect_success();
    lab.take_sent();
    assert_eq!(lab.peer_connects(SERVER_V4, relayed), None);
    assert_eq!(lab.connections(ConnectionEvent::Denied), 1);
    lab.sleep(301);
    lab.take_sent();
    assert_eq!(lab.peer_connects(PEER, relayed), None, "the permission has ended");
    assert!(lab.take_sent().is_empty());
}

#[test]
fn x4_who_is_not_bound_in_30_seconds_is_closed() {
    let mut lab = lab();
    let mut control = client();
    let relayed = allocate(&mut control, &mut lab);
    control.permit(&mut lab, OTHER_PEER).expect_success();
    let accepted = lab.peer_connects(OTHER_PEER, relayed).expect("it has a permission");
    lab.take_sent();
    let made = begin_connect(&mut control, &mut lab, PEER);
    lab.sleep(20);
    lab.input(0, Input::PeerConnected(made));
    lab.sleep(11);
    assert_eq!(lab.closed, [accepted]);
    // Its own 30 s begin with the answer to Connect.
    lab.sleep(18);
    assert_eq!(lab.closed.len(), 1);
    lab.sleep(2);
    assert_eq!(lab.closed, [accepted, made]);
    assert_eq!(lab.connections(ConnectionEvent::Unbound), 2);
    bind(&mut data_client(1), &mut lab, made).expect_error(400);
}

// RFC 6062 s. 5.5
#[test]
fn x5_connections_end_with_their_allocation() {
    for way in 0..3 {
        let mut lab = lab();
        let mut control = client();
        allocate(&mut control, &mut lab);
        let bound = connect(&mut control, &mut lab, PEER);
        bind(&mut data_client(1), &mut lab, bound).expect_success();
        let waiting = connect(&mut control, &mut lab, OTHER_PEER);
        let connecting = begin_connect(&mut control, &mut lab, "198.51.100.9:1");
        match way {
            0 => drop(control.refresh(&mut lab, 0).expect_success().clone()),
            1 => lab.input(0, Input::ClientGone(control.path())),
            _ => lab.sleep(601),
        }
        lab.closed.sort();
        let mut all = [bound, waiting, connecting];
        all.sort();
        // What nobody bound has ended before, where time passed.
        assert_eq!(lab.closed, all);
        assert_eq!(lab.ended.len(), 1);
        lab.assert_empty();
    }
}

#[test]
fn x5_a_half_takes_its_connections_along() {
    let mut lab = lab();
    let mut control = client();
    ask(&mut control, &mut lab, |b| b.attribute(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]))
        .expect_success();
    let v4 = connect(&mut control, &mut lab, PEER);
    let v6 = connect(&mut control, &mut lab, PEER_V6);
    let delete = |b: MessageBuilder| b.lifetime(0).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    control.request(&mut lab, method::REFRESH, delete).expect_success();
    assert_eq!(lab.closed, [v6]);
    bind(&mut data_client(1), &mut lab, v4).expect_success();
}

#[test]
fn x5_connections_are_bounded_and_those_that_wait_more_so() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let peer = |n: usize| format!("198.51.100.{}:{}", n / 100, 1000 + n);
    let mut made = 0;
    while made < MAX_CONNECTIONS_PER_ALLOCATION - MAX_UNBOUND_PER_ALLOCATION {
        let id = connect(&mut control, &mut lab, &peer(made));
        bind(&mut data_client(made as u32), &mut lab, id).expect_success();
        made += 1;
    }
    for more in 0..MAX_UNBOUND_PER_ALLOCATION {
        begin_connect(&mut control, &mut lab, &peer(made + more));
    }
    let request = connect_request(&mut control, &peer(999));
    control.exchange(&mut lab, &request).expect_error(508);
    assert_eq!(lab.connections(ConnectionEvent::TooMany), 1);
    lab.sleep(31);
    lab.take_sent();
    begin_connect(&mut control, &mut lab, &peer(999));
}

// The policy in force is asked for each connection, and about those that there are
#[test]
fn x2_what_a_new_policy_refuses_is_closed_and_not_made_again() {
    let mut lab = lab();
    let mut control = client();
    let relayed = allocate(&mut control, &mut lab);
    control.permit(&mut lab, OTHER_PEER).expect_success();
    let bound = connect(&mut control, &mut lab, PEER);
    bind(&mut data_client(1), &mut lab, bound).expect_success();
    let stays = connect(&mut control, &mut lab, OTHER_PEER);
    Setup { deny: vec!["198.51.100.7/32"], ..setup() }.enforce(&lab.shared);
    lab.input_all(|| Input::PolicyChanged);
    assert_eq!(lab.closed, [bound]);
    let request = connect_request(&mut control, PEER);
    control.exchange(&mut lab, &request).expect_error(403);
    // Between the change and the sweep a connection is refused where it would be bound, or taken.
    Setup { deny: vec!["198.51.100.0/24"], ..setup() }.enforce(&lab.shared);
    assert_eq!(lab.peer_connects("198.51.100.8:4001", relayed), None);
    bind(&mut data_client(2), &mut lab, stays).expect_error(403);
    assert_eq!(lab.closed, [bound, stays]);
}

#[test]
fn x5_a_removed_users_connections_go_with_its_allocation() {
    let mut lab = lab();
    let mut control = client();
    allocate(&mut control, &mut lab);
    let id = connect(&mut control, &mut lab, PEER);
    let others = Setup { users: vec![("bob", "builder")], ..setup() }.credentials();
    lab.shared.auth.replace_credentials(others).expect("the same realm");
    lab.input_all(|| Input::Tick);
    assert_eq!((lab.closed.clone(), lab.ended[0].reason), (vec![id], EndReason::UserRemoved));
}

// Bytes are counted for the allocation, and held back by its limit, never dropped
#[test]
fn x5_the_bandwidth_limit_holds_a_stream_back() {
    let config =
        ServerConfig { tcp_relay: true, max_bitrate_bits: 8_000_000, burst_ms: 100, ..Default::default() };
    let mut lab = Lab::with(Setup { config, ..Setup::default() });
    let mut control = client();
    allocate(&mut control, &mut lab);
    let id = connect(&mut control, &mut lab, PEER);
    bind(&mut data_client(1), &mut lab, id).expect_success();
    let mut carried = 0;
    let again_ns = loop {
        match lab.workers[0].allowance(lab.now, id, Way::ToPeer, 65_536) {
            Ok(bytes) => {
                lab.workers[0].count_stream(lab.now, id, Way::ToPeer, bytes);
                carried += bytes;
            }
            Err(again_ns) => break again_ns,
        }
    };
    assert!((98_000..=100_000).contains(&carried), "100 ms at a megabyte per second: {carried}");
    assert!(lab.workers[0].allowance(lab.now, id, Way::ToClient, 65_536).is_ok(), "each way has its own");
    let pause_ns = again_ns - lab.now.mono_ns;
    assert!((5_000_000..=50_000_000).contains(&pause_ns), "{pause_ns}");
    lab.sleep_ns(pause_ns);
    assert!(lab.workers[0].allowance(lab.now, id, Way::ToPeer, 65_536).is_ok_and(|bytes| bytes >= 1024));
    lab.workers[0].count_stream(lab.now, id, Way::ToClient, 77);
    control.refresh(&mut lab, 0).expect_success();
    let record = &lab.ended[0];
    assert_eq!((record.to_peer.total().bytes, record.to_client.total().bytes), (carried as u64, 77));
    assert_eq!((record.to_peer.total().packets, record.to_peer.total().rate_drops), (0, 0));
    let counts = lab.workers[0].tcp_relay_counts();
    assert_eq!((counts.bytes_to_peer, counts.bytes_to_client), (carried as u64, 77));
    assert_eq!(lab.workers[0].counts().to_peer().bytes, carried as u64);
}
