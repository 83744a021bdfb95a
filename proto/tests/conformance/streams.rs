//! Clients over TCP and TLS: what is the same as over UDP, and what a connection changes (RFC 8656 s. 3.1, 15, 16).

use turnpike_proto::addr::Transport;
use turnpike_proto::stats::EndReason;
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{ClientSocket, Input, Verdict};

use crate::lab::{Client, Lab, PEER, Setup, addr};

const CLIENT: &str = "203.0.113.5:1000";
const CHANNEL: u16 = 0x4001;

fn connection(index: u32, generation: u32) -> ClientSocket {
    ClientSocket { index, generation }
}

fn both() -> [Client; 2] {
    [Transport::Tcp, Transport::Tls]
        .map(|transport| Client::new(CLIENT).over_stream(transport, connection(7, 3)))
}

fn channel_data(payload: &[u8]) -> Vec<u8> {
    [&turnpike_proto::wire::channel::header(CHANNEL, payload.len() as u16), payload].concat()
}

// RFC 8656 s. 12.5
#[test]
fn c6_over_a_stream_channel_data_is_padded_with_zeros() {
    for mut client in both() {
        let mut lab = Lab::new();
        let relayed = client.allocate(&mut lab);
        client.bind(&mut lab, CHANNEL, PEER).expect_success();
        for len in 0..9 {
            let data = vec![0xAB; len];
            let sent = lab.peer_data(PEER, relayed, &data);
            let padding = vec![0; len.next_multiple_of(4) - len];
            assert_eq!(sent[0].payload, [channel_data(&data), padding].concat());
        }
    }
}

// RFC 8656 s. 16: neither DSCP nor ECN of the peer's datagram
#[test]
fn h3_nothing_of_a_peers_ip_header_reaches_a_stream() {
    let mut client = Client::new(CLIENT).over_tcp();
    let mut lab = Lab::new();
    let relayed = client.allocate(&mut lab);
    client.permit(&mut lab, PEER).expect_success();
    lab.take_sent();
    lab.peer_sends(addr(PEER), relayed, b"as a Data indication", 0xB9);
    client.bind(&mut lab, CHANNEL, PEER).expect_success();
    lab.peer_sends(addr(PEER), relayed, b"as ChannelData", 0xB9);
    assert!(lab.take_sent().iter().all(|sent| sent.tos == 0));
}

#[test]
fn a_closed_connection_ends_its_allocation_at_once() {
    for mut client in both() {
        let mut lab = Lab::with(Setup { user_quota: 1, ports: (50_000, 50_000), ..Setup::default() });
        client.allocate(&mut lab);
        client.bind(&mut lab, CHANNEL, PEER).expect_success();
        lab.input(client.worker, Input::ClientGone(client.path()));
        assert_eq!((lab.ended.len(), lab.ended[0].reason), (1, EndReason::ConnectionClosed));
        assert_eq!(lab.ended[0].five_tuple, client.path().five_tuple);
        assert_eq!(lab.held(), (0, 0));
        lab.assert_empty();
        // Quota and the only port are free again, for the same address over a new connection.
        client.socket = connection(7, 4);
        client.allocate(&mut lab);
    }
}

#[test]
fn a_connection_closed_while_its_port_is_being_opened_leaves_nothing() {
    let mut lab = Lab::new();
    let mut client = Client::new(CLIENT).over_tcp();
    client.challenge(&mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    lab.hold_ports = true;
    client.send_unanswered(&mut lab, &request);
    lab.input(client.worker, Input::ClientGone(client.path()));
    lab.hold_ports = false;
    lab.open_pending();
    assert!(lab.take_sent().is_empty() && lab.ended.is_empty());
    lab.assert_empty();
}

// A number that is used again must not carry one user's data to another
#[test]
fn nothing_of_an_earlier_connection_reaches_a_later_one() {
    let mut lab = Lab::new();
    let mut before = Client::new(CLIENT).over_stream(Transport::Tcp, connection(7, 3));
    before.allocate(&mut lab);
    before.bind(&mut lab, CHANNEL, PEER).expect_success();

    // The same address and port, the same index, before anybody has said that the first one is closed.
    let mut after = Client::named(CLIENT, "bob", "builder").over_stream(Transport::Tcp, connection(7, 4));
    let send = MessageBuilder::indication(method::SEND, TransactionId([1; 12]))
        .xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
        .attribute(attr::DATA, b"stranger")
        .finish();
    after.send_unanswered(&mut lab, &channel_data(b"stranger"));
    after.send_unanswered(&mut lab, &send);
    assert_eq!(lab.verdicts(Verdict::DropStale), 2);

    // Its first request ends what the other one left, and it gets its own.
    let relayed = after.allocate(&mut lab);
    assert_eq!((lab.ended.len(), lab.ended[0].reason), (1, EndReason::ConnectionClosed));
    assert_eq!(&*lab.ended[0].user, "alice");
    assert!(lab.peer_data(PEER, relayed, b"for the first").is_empty(), "no permission is inherited");

    // Late news of the first connection change nothing.
    lab.input(0, Input::ClientGone(before.path()));
    after.refresh(&mut lab, 600).expect_success();
}

// A connection is one worker's, so there is nothing to hand over and nobody to ask
#[test]
fn one_five_tuple_on_two_workers_is_two_connections() {
    let mut lab = Lab::new();
    let mut first = Client::new(CLIENT).over_tcp();
    let mut second = Client::new(CLIENT).over_tcp().on_worker(1);
    first.allocate(&mut lab);
    second.allocate(&mut lab);
    lab.input(0, Input::ClientGone(first.path()));
    second.refresh(&mut lab, 0).expect_success();
    lab.assert_empty();
}
