//! Clients behind a proxy that the operator trusts: the wire's 5-tuple is the key, the client's own address is what is
//! said and counted.

use std::net::SocketAddr;

use turnpike_proto::addr::{ClientAddr, Transport};
use turnpike_proto::wire::{MessageBuilder, attr, method};
use turnpike_proto::{ClientSocket, Input, OffloadState, Verdict, WhyNot};

use crate::lab::{Answer, Client, Lab, PEER, Setup, addr};

/// The proxy, as the server sees it.
const PROXY: &str = "198.51.100.99:7000";

fn proxied(client: &mut Client, own: SocketAddr, lab: &mut Lab, bytes: &[u8]) -> Option<Answer> {
    lab.take_sent();
    let input = Input::Proxied { path: client.path(), client: ClientAddr(own), bytes, tos: 0 };
    lab.input(client.worker, input);
    let sent = lab.take_sent().pop()?;
    assert_eq!(sent.to, client.address, "answers take the proxy's way");
    Some(Answer::of(sent.payload))
}

fn challenge(client: &mut Client, own: SocketAddr, lab: &mut Lab) {
    let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .finish();
    let answer = proxied(client, own, lab, &request).expect("a challenge");
    client.nonce = answer.expect_error(401).message().attribute(attr::NONCE).expect("a nonce").to_vec();
}

fn allocate(client: &mut Client, own: SocketAddr, lab: &mut Lab) -> Answer {
    challenge(client, own, lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    proxied(client, own, lab, &request).expect("an answer")
}

/// Binds channel 0x4000 to [`PEER`].
fn bind(client: &mut Client, own: SocketAddr, lab: &mut Lab) {
    let request = client.signed(method::CHANNEL_BIND, |b| {
        b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0]).xor_address(attr::XOR_PEER_ADDRESS, addr(PEER))
    });
    proxied(client, own, lab, &request).expect("an answer").expect_success();
}

#[test]
fn the_clients_own_address_is_what_it_is_told_and_what_is_written_down() {
    let own = addr("203.0.113.5:1000");
    for transport in Transport::ALL {
        let generation = transport.is_stream().into();
        let mut lab = Lab::new();
        let mut client = Client::new(PROXY).over_stream(transport, ClientSocket { index: 0, generation });
        let answer = allocate(&mut client, own, &mut lab);
        let mapped = answer.expect_success().message().xor_address(attr::XOR_MAPPED_ADDRESS);
        assert_eq!(mapped, Some(Ok(own)));
        let view = &lab.created[0];
        assert_eq!((view.client.0, view.five_tuple.client.0), (own, addr(PROXY)));

        // Data needs no header: the 5-tuple is the key.
        bind(&mut client, own, &mut lab);
        let sent = client.channel_data(&mut lab, 0x4000, b"data");
        assert_eq!(sent[0].to, addr(PEER));

        lab.input(0, Input::Disconnect { allocation: lab.created[0].id });
        assert_eq!((lab.ended[0].client.0, lab.ended[0].socket), (own, client.socket));
    }
}

#[test]
fn binding_says_the_clients_own_address() {
    let (own, mut lab) = (addr("[2001:db8:5::1]:1000"), Lab::new());
    let mut client = Client::new(PROXY);
    let request = MessageBuilder::request(method::BINDING, client.transaction()).finish();
    let answer = proxied(&mut client, own, &mut lab, &request).expect("an answer");
    assert_eq!(answer.message().xor_address(attr::XOR_MAPPED_ADDRESS), Some(Ok(own)));
}

// Q5: a nonce is of use to its client only, although others share the proxy
#[test]
fn q5_a_nonce_belongs_to_the_clients_own_address() {
    let (own, other) = (addr("203.0.113.5:1000"), addr("203.0.113.6:1000"));
    let mut lab = Lab::new();
    let mut client = Client::new(PROXY);
    challenge(&mut client, own, &mut lab);
    let request = client.signed(method::ALLOCATE, |b| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]));
    proxied(&mut client, other, &mut lab, &request).expect("an answer").expect_error(438);
    proxied(&mut client, own, &mut lab, &request).expect("an answer").expect_success();
}

// Q4: one client's flood leaves the others that come by the same proxy alone
#[test]
fn q4_the_limits_on_strangers_go_by_the_clients_own_addresses() {
    let mut lab = Lab::new();
    let ask = |lab: &mut Lab, own: SocketAddr| {
        let mut client = Client::new(PROXY);
        let request = MessageBuilder::request(method::ALLOCATE, client.transaction())
            .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .finish();
        proxied(&mut client, own, lab, &request).is_some()
    };
    let answered = (0..3000).filter(|_| ask(&mut lab, addr("203.0.113.5:1000"))).count();
    assert!(answered < 2000 && lab.verdicts(Verdict::DropUnauthenticatedRate) > 1000);
    assert!((0..100).all(|_| ask(&mut lab, addr("203.0.113.6:1000"))));
}

#[test]
fn a_refusal_names_the_clients_own_address() {
    let own = addr("203.0.113.5:1000");
    let mut lab = Lab::with(Setup { user_quota: 1, ..Setup::default() });
    Client::new("203.0.113.9:1").allocate(&mut lab);
    allocate(&mut Client::new(PROXY), own, &mut lab).expect_error(486);
    assert_eq!(lab.refused.last().expect("it is told").client, own);
}

#[test]
fn the_kernel_is_never_told_of_a_proxys_clients() {
    let own = addr("203.0.113.5:1000");
    let mut lab = Lab::with(Setup { slots: Some((8, 8)), ..Setup::default() });
    let mut client = Client::new(PROXY);
    allocate(&mut client, own, &mut lab).expect_success();
    bind(&mut client, own, &mut lab);
    assert!(lab.offloaded.is_empty());
    let (views, _) = lab.workers[0].inspect(None, 10);
    assert_eq!(views[0].offload, OffloadState::Not(WhyNot::Proxied));
}
