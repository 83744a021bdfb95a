//! What the core decides about IP headers (RFC 8656 s. 13 and 14): DSCP and ECN are copied, DF is set for
//! DONT-FRAGMENT within a family and never else.

use turnpike_proto::wire::{MessageBuilder, attr, method};

use crate::lab::*;

const EXPEDITED_ECT0: u8 = 46 << 2 | 0b10;

fn bound(client: &str, family: u8, peer: &str) -> (Lab, Client, std::net::SocketAddr) {
    let mut lab = Lab::new();
    let mut client = Client::new(client);
    let value = [family, 0, 0, 0];
    let answer = client.allocate_with(&mut lab, |b| b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &value));
    let relayed = answer.expect_success().relayed();
    client.bind(&mut lab, 0x4000, peer).expect_success();
    lab.take_sent();
    (lab, client, relayed)
}

fn send(client: &mut Client, peer: &str, dont_fragment: bool) -> Vec<u8> {
    let builder = MessageBuilder::indication(method::SEND, client.transaction())
        .xor_address(attr::XOR_PEER_ADDRESS, addr(peer));
    let builder = if dont_fragment { builder.attribute(attr::DONT_FRAGMENT, &[]) } else { builder };
    builder.attribute(attr::DATA, b"data").finish()
}

// RFC 8656 s. 14: all four values of ECN, with any DSCP; also between the families (s. 13)
#[test]
fn h1_h4_dscp_and_ecn_are_copied_both_ways() {
    for (client, family, peer) in [
        ("203.0.113.5:1000", 1, PEER),
        ("203.0.113.5:1000", 2, PEER_V6),
        ("[2001:db8:5::5]:1000", 1, PEER),
        ("[2001:db8:5::5]:1000", 2, PEER_V6),
    ] {
        let (mut lab, mut client, relayed) = bound(client, family, peer);
        let other_port = addr(peer).ip();
        let other_port = std::net::SocketAddr::new(other_port, 9);
        let indication = send(&mut client, peer, false);
        for tos in [0, 1, 2, 3, EXPEDITED_ECT0, 0xff] {
            lab.client_sends(0, client.path(), &[0x40, 0, 0, 1, 7], tos);
            lab.client_sends(0, client.path(), &indication, tos);
            lab.peer_sends(addr(peer), relayed, b"in", tos);
            lab.peer_sends(other_port, relayed, b"in", tos);
            let sent = lab.take_sent();
            assert_eq!(sent.len(), 4);
            assert!(sent.iter().all(|sent| sent.tos == tos), "{sent:?}");
        }
    }
}

// RFC 8656 s. 14: the server's own messages aren't anybody's data
#[test]
fn h1_answers_have_default_dscp() {
    let mut lab = Lab::new();
    let mut client = Client::new("203.0.113.5:1000");
    let request = MessageBuilder::request(method::BINDING, client.transaction()).finish();
    lab.client_sends(0, client.path(), &request, EXPEDITED_ECT0);
    assert_eq!(lab.take_one().tos, 0);
}

// RFC 8656 s. 11.2, 14
#[test]
fn h2_df_is_set_for_dont_fragment_and_nothing_else() {
    let (mut lab, mut client, relayed) = bound("203.0.113.5:1000", 1, PEER);
    let with = send(&mut client, PEER, true);
    let without = send(&mut client, PEER, false);
    lab.client_sends(0, client.path(), &with, 0);
    assert!(lab.take_one().dont_fragment);
    lab.client_sends(0, client.path(), &without, 0);
    lab.client_sends(0, client.path(), &[0x40, 0, 0, 1, 7], 0);
    lab.peer_sends(addr(PEER), relayed, b"in", 0);
    lab.peer_sends(addr("198.51.100.7:9"), relayed, b"in", 0);
    let sent = lab.take_sent();
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|sent| !sent.dont_fragment));
}

// RFC 8656 s. 13: DONT-FRAGMENT is ignored between the families
#[test]
fn h4_dont_fragment_is_ignored_between_the_families() {
    for (client, family, peer, honoured) in [
        ("203.0.113.5:1000", 2, PEER_V6, false),
        ("[2001:db8:5::5]:1000", 1, PEER, false),
        ("[2001:db8:5::5]:1000", 2, PEER_V6, true),
    ] {
        let (mut lab, mut client, _) = bound(client, family, peer);
        let indication = send(&mut client, peer, true);
        lab.client_sends(0, client.path(), &indication, 0);
        assert_eq!(lab.take_one().dont_fragment, honoured, "to {peer}");
    }
}
