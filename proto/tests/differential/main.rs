//! The same clients talk to this server and to another implementation of RFC 8656, `turn-server-proto`:
//! both have to say the same and to send the same data to the same places.
//!
//! Where they differ, [`DIFFERENCES`] says so and why; a difference that isn't listed fails the test,
//! and so does a listed one that has gone.

mod other;
mod ours;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use turnpike_proto::ErrorCode;
use turnpike_proto::addr::Family;
use turnpike_proto::auth::Key;
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};

use other::Other;
use ours::Ours;

const REALM: &str = "example.org";
const SERVER: &str = "192.0.2.1:3478";
const USERS: [(&str, &str); 2] = [("alice", "wonder"), ("bob", "builder")];
const PEER: &str = "198.51.100.7:4000";
const PEER_V6: &str = "[2001:db8:ffff::7]:4000";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Where the two differ on purpose: step, our outcome, theirs, and why.
struct Difference {
    step: &'static str,
    ours: Seen,
    theirs: Seen,
    why: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        step: "unsigned refresh",
        ours: Silence,
        theirs: Error(401),
        why: "RFC 8656 s. 5: nobody begins with it, so an answer would only serve reflection (conformance Q4)",
    },
    Difference {
        step: "unsigned permission",
        ours: Silence,
        theirs: Error(401),
        why: "RFC 8656 s. 5: nobody begins with it, so an answer would only serve reflection (conformance Q4)",
    },
    Difference {
        step: "unsigned channel",
        ours: Silence,
        theirs: Error(401),
        why: "RFC 8656 s. 5: nobody begins with it, so an answer would only serve reflection (conformance Q4)",
    },
    Difference {
        step: "unknown method",
        ours: Silence,
        theirs: Error(401),
        why: "RFC 8489 s. 6.3 discards unknown methods silently",
    },
    Difference {
        step: "class that the method lacks",
        ours: Silence,
        theirs: Error(401),
        why: "RFC 8489 s. 6.3: Data has no requests, so this one is discarded silently",
    },
    Difference {
        step: "TCP over UDP",
        ours: Error(442),
        theirs: Error(400),
        why: "they relay TCP, which RFC 6062 s. 5.1 allows over TCP only; we don't (RFC 8656 s. 7.2)",
    },
    Difference {
        step: "family 3",
        ours: Error(440),
        theirs: Error(400),
        why: "RFC 8656 s. 7.2: a family that isn't supported; they read it as a malformed attribute",
    },
    Difference {
        step: "send after a refused permission",
        ours: Silence,
        theirs: Peer(PEER_ADDRESS, b"hello"),
        why: "RFC 8656 s. 10.2: an error gives no permission; they keep those before the refused peer",
    },
    Difference {
        step: "permission for loopback",
        ours: Error(403),
        theirs: Success,
        why: "they have no peer policy and leave it to their caller (RFC 8656 s. 10.2, conformance Q1)",
    },
    Difference {
        step: "second peer for a channel",
        ours: Error(400),
        theirs: Success,
        why: "RFC 8656 s. 12.2: a channel that is bound to another peer is refused",
    },
    Difference {
        step: "channel 0x5000",
        ours: Error(400),
        theirs: Success,
        why: "RFC 8656 s. 12: the range ends at 0x4FFF; they keep RFC 5766's, which we do on request",
    },
    Difference {
        step: "send without fragments",
        ours: Peer(PEER_ADDRESS, b"hello"),
        theirs: Silence,
        why: "they don't know DONT-FRAGMENT in Send, so they may discard it (RFC 8656 s. 11.2); we set DF",
    },
    Difference {
        step: "channel data after the permission",
        ours: Peer(PEER_ADDRESS, b"hello"),
        theirs: Silence,
        why: "ours on purpose: a channel admits its own peer for its 600 s (conformance C3)",
    },
    Difference {
        step: "bound peer after the permission",
        ours: Channel(0x4000, b"hello"),
        theirs: Silence,
        why: "ours on purpose: a channel admits its own peer for its 600 s (conformance C3)",
    },
];

/// [`PEER`], for the list.
const PEER_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 4000);

/// What somebody saw of a server's reaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Silence,
    Success,
    Error(u16),
    /// A peer got this.
    Peer(SocketAddr, &'static [u8]),
    /// The client got ChannelData.
    Channel(u16, &'static [u8]),
    /// The client got a Data indication.
    Data(SocketAddr, &'static [u8]),
}

use Seen::{Channel, Data, Error, Peer, Silence, Success};

/// Payloads are few and known, so that outcomes can be constants.
const PAYLOADS: [&[u8]; 3] = [b"", b"hello", b"\x00\x01\x00\x00\x21\x12\xa4\x42not STUN"];

fn known_payload(bytes: &[u8]) -> &'static [u8] {
    PAYLOADS.into_iter().find(|payload| *payload == bytes).expect("one of ours")
}

/// A client that talks to both, with a nonce from each.
struct Dialog {
    address: SocketAddr,
    user: &'static str,
    password: &'static str,
    realm: &'static str,
    nonces: [Vec<u8>; 2],
    relayed: [Vec<SocketAddr>; 2],
    transactions: u64,
}

impl Dialog {
    fn new(address: &str) -> Self {
        Self {
            address: addr(address),
            user: "alice",
            password: "wonder",
            realm: REALM,
            nonces: Default::default(),
            relayed: Default::default(),
            transactions: u64::from(addr(address).port()) << 32,
        }
    }

    fn transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = [0xd1; 12];
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    fn sign(&self, server: usize, builder: MessageBuilder) -> Vec<u8> {
        builder
            .attribute(attr::USERNAME, self.user.as_bytes())
            .attribute(attr::REALM, self.realm.as_bytes())
            .attribute(attr::NONCE, &self.nonces[server])
            .finish_signed(&Key::md5(self.user, self.realm, self.password).expect("good credentials"))
    }

    /// Remembers what an answer tells, and reduces it to its outcome.
    fn read(&mut self, server: usize, bytes: &[u8]) -> Seen {
        if let [0x40..=0x4f, ..] = bytes {
            let (number, len) = channel::parse_header(bytes).expect("a header");
            return Channel(number, known_payload(&bytes[4..4 + usize::from(len)]));
        }
        let message = Message::parse(bytes).expect("well-formed");
        let addresses = |kind| {
            let found = message.attributes().filter(move |(found, _)| *found == kind);
            found.map(|(_, value)| decode_xor(value, message.transaction_id())).collect::<Vec<_>>()
        };
        if let Some(nonce) = message.attribute(attr::NONCE) {
            self.nonces[server] = nonce.to_vec();
        }
        match message.class() {
            Class::Success => {
                let relayed = addresses(attr::XOR_RELAYED_ADDRESS);
                if !relayed.is_empty() {
                    self.relayed[server] = relayed;
                }
                Success
            }
            Class::Error => {
                let value = message.attribute(attr::ERROR_CODE).expect("errors have a code");
                Error(u16::from(value[2]) * 100 + u16::from(value[3]))
            }
            _ => Data(addresses(attr::XOR_PEER_ADDRESS)[0], known_payload(message.data().expect("DATA"))),
        }
    }
}

/// XOR-MAPPED-ADDRESS and its kin, decoded once more, so that the test trusts neither side (RFC 8489 s. 14.2).
fn decode_xor(value: &[u8], transaction: TransactionId) -> SocketAddr {
    let mut mask = [0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    mask[4..].copy_from_slice(&transaction.0);
    let port = u16::from_be_bytes([value[2] ^ 0x21, value[3] ^ 0x12]);
    let ip: Vec<u8> = value[4..].iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    match value[1] {
        1 => SocketAddr::from((<[u8; 4]>::try_from(&ip[..]).expect("4 bytes"), port)),
        _ => SocketAddr::from((<[u8; 16]>::try_from(&ip[..]).expect("16 bytes"), port)),
    }
}

/// Both servers, side by side.
struct Pair {
    ours: Ours,
    theirs: Other,
    met: BTreeSet<&'static str>,
}

impl Pair {
    fn new() -> Self {
        Self { ours: Ours::new(), theirs: Other::new(), met: BTreeSet::new() }
    }

    fn sleep(&mut self, secs: u64) {
        self.ours.sleep(secs);
        self.theirs.sleep(secs);
    }

    /// Different bytes for each server, since nonces differ; everything else is the same.
    #[track_caller]
    fn send(&mut self, step: &'static str, client: &mut Dialog, bytes: [Vec<u8>; 2]) -> Seen {
        let sent = self.ours.client_sends(client.address, &bytes[0]);
        let ours = sent.into_iter().map(|(is_peer, to, payload)| match is_peer {
            true => Peer(to, known_payload(&payload)),
            false => client.read(0, &payload),
        });
        let ours = the_one(ours);
        let sent = self.theirs.receive(client.address, addr(SERVER), &bytes[1]);
        let theirs = sent.into_iter().map(|(from, to, payload)| match from == addr(SERVER) {
            true => client.read(1, &payload),
            false => Peer(to, known_payload(&payload)),
        });
        let theirs = the_one(theirs);
        self.compare(step, ours, theirs)
    }

    /// A request with the client's credentials.
    #[track_caller]
    fn request(
        &mut self,
        step: &'static str,
        client: &mut Dialog,
        method: u16,
        build: impl Fn(MessageBuilder) -> MessageBuilder,
    ) -> Seen {
        let id = client.transaction();
        let bytes = [0, 1].map(|server| client.sign(server, build(MessageBuilder::request(method, id))));
        self.send(step, client, bytes)
    }

    /// A message without credentials.
    #[track_caller]
    fn plain(&mut self, step: &'static str, client: &mut Dialog, builder: MessageBuilder) -> Seen {
        let bytes = builder.finish();
        self.send(step, client, [bytes.clone(), bytes])
    }

    #[track_caller]
    fn send_indication(&mut self, step: &'static str, client: &mut Dialog, peer: &str, data: &[u8]) -> Seen {
        let id = client.transaction();
        let builder = MessageBuilder::indication(method::SEND, id)
            .xor_address(attr::XOR_PEER_ADDRESS, addr(peer))
            .attribute(attr::DATA, data);
        self.plain(step, client, builder)
    }

    #[track_caller]
    fn channel_data(&mut self, step: &'static str, client: &mut Dialog, number: u16, data: &[u8]) -> Seen {
        let mut bytes = channel::header(number, data.len() as u16).to_vec();
        bytes.extend(data);
        self.send(step, client, [bytes.clone(), bytes])
    }

    /// A peer sends to the client's relayed address of its family.
    #[track_caller]
    fn peer_sends(&mut self, step: &'static str, client: &mut Dialog, peer: &str, data: &[u8]) -> Seen {
        let peer = addr(peer);
        let relayed = [0, 1].map(|server: usize| {
            let of_family = client.relayed[server].iter().find(|a| a.is_ipv4() == peer.is_ipv4());
            *of_family.expect("a relayed address of the peer's family")
        });
        let sent = self.ours.peer_sends(peer, relayed[0], data);
        let ours = the_one(sent.iter().map(|(.., payload)| client.read(0, payload)));
        let sent = self.theirs.receive(peer, relayed[1], data);
        let theirs = the_one(sent.iter().map(|(.., payload)| client.read(1, payload)));
        self.compare(step, ours, theirs)
    }

    /// Both the same, or as the list of differences says; gives ours.
    #[track_caller]
    fn compare(&mut self, step: &'static str, ours: Seen, theirs: Seen) -> Seen {
        match DIFFERENCES.iter().find(|known| known.step == step) {
            Some(known) => {
                let listed = (&known.ours, &known.theirs);
                assert_eq!(listed, (&ours, &theirs), "{step}: not as listed: {}", known.why);
                self.met.insert(step);
            }
            None => assert_eq!(ours, theirs, "{step}: left is ours, right is theirs"),
        }
        ours
    }

    #[track_caller]
    fn allocate(&mut self, client: &mut Dialog) {
        let transport = |b: MessageBuilder| b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let id = client.transaction();
        let challenge = transport(MessageBuilder::request(method::ALLOCATE, id));
        assert_eq!(self.plain("challenge", client, challenge), Error(401));
        assert_eq!(self.request("allocate", client, method::ALLOCATE, transport), Success);
    }
}

/// The one thing that happened, or silence.
#[track_caller]
fn the_one(mut seen: impl Iterator<Item = Seen>) -> Seen {
    let first = seen.next().unwrap_or(Silence);
    assert_eq!(seen.next(), None, "one reaction at most");
    first
}

/// Kinds and values.
type Attributes = &'static [(u16, &'static [u8])];

const TRANSPORT: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);

/// Appends attributes as they are.
fn with(list: Attributes) -> impl Fn(MessageBuilder) -> MessageBuilder {
    |builder| list.iter().fold(builder, |builder, (kind, value)| builder.attribute(*kind, value))
}

fn to_peer(peers: &'static [&'static str]) -> impl Fn(MessageBuilder) -> MessageBuilder {
    |builder| peers.iter().fold(builder, |b, peer| b.xor_address(attr::XOR_PEER_ADDRESS, addr(peer)))
}

fn bound(number: u16, peer: &'static str) -> impl Fn(MessageBuilder) -> MessageBuilder {
    move |builder| {
        let [n0, n1] = number.to_be_bytes();
        builder
            .attribute(attr::CHANNEL_NUMBER, &[n0, n1, 0, 0])
            .xor_address(attr::XOR_PEER_ADDRESS, addr(peer))
    }
}

// RFC 8489 s. 6.3, 9.2.4
fn credentials(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.5:1000");
    let id = client.transaction();
    pair.plain("binding", &mut client, MessageBuilder::request(method::BINDING, id));
    pair.plain("binding indication", &mut client, MessageBuilder::indication(method::BINDING, id));
    pair.plain("unknown method", &mut client, MessageBuilder::request(0x0AB, id));
    pair.plain("class that the method lacks", &mut client, MessageBuilder::request(method::DATA, id));
    let request = MessageBuilder::request(method::ALLOCATE, id).finish();
    let request = Message::parse(&request).expect("well-formed");
    pair.plain("response", &mut client, MessageBuilder::success(&request));
    pair.plain("error response", &mut client, MessageBuilder::error(&request, ErrorCode::StaleNonce));
    for (step, method) in [
        ("unsigned allocate", method::ALLOCATE),
        ("unsigned refresh", method::REFRESH),
        ("unsigned permission", method::CREATE_PERMISSION),
        ("unsigned channel", method::CHANNEL_BIND),
    ] {
        let id = client.transaction();
        pair.plain(step, &mut client, with(&[TRANSPORT])(MessageBuilder::request(method, id)));
    }
    client.password = "guess";
    pair.request("wrong password", &mut client, method::ALLOCATE, with(&[TRANSPORT]));
    (client.user, client.password) = ("mallory", "wonder");
    pair.request("unknown user", &mut client, method::ALLOCATE, with(&[TRANSPORT]));
    (client.user, client.realm) = ("alice", "example.net");
    pair.request("wrong realm", &mut client, method::ALLOCATE, with(&[TRANSPORT]));
    client.realm = REALM;
    client.nonces = [b"stale".to_vec(), b"stale".to_vec()];
    pair.request("wrong nonce", &mut client, method::ALLOCATE, with(&[TRANSPORT]));
    for (step, method) in [
        ("refresh without allocation", method::REFRESH),
        ("permission without allocation", method::CREATE_PERMISSION),
        ("channel without allocation", method::CHANNEL_BIND),
    ] {
        pair.request(step, &mut client, method, bound(0x4000, PEER));
    }
    for (step, missing) in
        [("no user name", attr::USERNAME), ("no realm", attr::REALM), ("no nonce", attr::NONCE)]
    {
        let id = client.transaction();
        let bytes = [0, 1].map(|server: usize| {
            let key = Key::md5(client.user, REALM, client.password).expect("good credentials");
            let all = [
                (TRANSPORT.0, TRANSPORT.1),
                (attr::USERNAME, client.user.as_bytes()),
                (attr::REALM, REALM.as_bytes()),
                (attr::NONCE, &client.nonces[server]),
            ];
            let start = MessageBuilder::request(method::ALLOCATE, id);
            let left = all.into_iter().filter(|(kind, _)| *kind != missing);
            left.fold(start, |b, (kind, value)| b.attribute(kind, value)).finish_signed(&key)
        });
        pair.send(step, &mut client, bytes);
    }
}

/// Allocates that ask for something else than one IPv4 address.
const ALLOCATES: [(&str, Attributes); 14] = [
    ("no transport", &[]),
    ("short transport", &[(attr::REQUESTED_TRANSPORT, &[17])]),
    ("SCTP", &[(attr::REQUESTED_TRANSPORT, &[132, 0, 0, 0])]),
    ("TCP over UDP", &[(attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0])]),
    ("unknown attribute", &[TRANSPORT, (0x7ABC, b"what")]),
    ("unknown optional attribute", &[TRANSPORT, (0xFABC, b"what"), (attr::REQUESTED_ADDRESS_FAMILY, &[1])]),
    ("family 3", &[TRANSPORT, (attr::REQUESTED_ADDRESS_FAMILY, &[3, 0, 0, 0])]),
    (
        "both family attributes",
        &[
            TRANSPORT,
            (attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]),
            (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
        ],
    ),
    ("additional IPv4", &[TRANSPORT, (attr::ADDITIONAL_ADDRESS_FAMILY, &[1, 0, 0, 0])]),
    (
        "pair and additional",
        &[TRANSPORT, (attr::EVEN_PORT, &[0x80]), (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])],
    ),
    ("token and even port", &[TRANSPORT, (attr::RESERVATION_TOKEN, b"12345678"), (attr::EVEN_PORT, &[0])]),
    (
        "token and family",
        &[TRANSPORT, (attr::RESERVATION_TOKEN, b"12345678"), (attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])],
    ),
    ("short token", &[TRANSPORT, (attr::RESERVATION_TOKEN, b"1234567"), (attr::EVEN_PORT, &[0])]),
    ("short lifetime", &[TRANSPORT, (attr::LIFETIME, &[0, 0]), (attr::REQUESTED_ADDRESS_FAMILY, &[9])]),
];

// RFC 8656 s. 7.2, 8.2
fn allocations(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.6:1000");
    pair.plain(
        "challenge",
        &mut client,
        with(&[TRANSPORT])(MessageBuilder::request(method::ALLOCATE, TransactionId([1; 12]))),
    );
    for (step, attributes) in ALLOCATES {
        pair.request(step, &mut client, method::ALLOCATE, with(attributes));
    }
    pair.request("allocate IPv6", &mut client, method::ALLOCATE, |b| {
        with(&[TRANSPORT, (attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])])(b)
    });
    for server in &client.relayed {
        assert!(server.iter().map(|a| Family::of(&a.ip())).eq([Family::V6]), "{server:?}");
    }
    pair.request("second allocate", &mut client, method::ALLOCATE, with(&[TRANSPORT]));
    pair.request("refresh", &mut client, method::REFRESH, |b| b.lifetime(1000));
    pair.request("refresh of the other family", &mut client, method::REFRESH, |b| {
        b.attribute(attr::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
    });
    (client.user, client.password) = ("bob", "builder");
    pair.request("another user's refresh", &mut client, method::REFRESH, |b| b);
    pair.request("another user's permission", &mut client, method::CREATE_PERMISSION, to_peer(&[PEER_V6]));
    (client.user, client.password) = ("alice", "wonder");
    pair.request("delete", &mut client, method::REFRESH, |b| b.lifetime(0));
    pair.request("refresh after delete", &mut client, method::REFRESH, |b| b);
}

// RFC 8656 s. 7.2, 8.2: ADDITIONAL-ADDRESS-FAMILY
fn dual_allocations(pair: &mut Pair) {
    let mut dual = Dialog::new("203.0.113.7:1000");
    pair.plain(
        "challenge",
        &mut dual,
        with(&[TRANSPORT])(MessageBuilder::request(method::ALLOCATE, TransactionId([2; 12]))),
    );
    pair.request("allocate both", &mut dual, method::ALLOCATE, |b| {
        with(&[TRANSPORT, (attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])])(b)
    });
    assert!(dual.relayed.iter().all(|relayed| relayed.len() == 2), "{:?}", dual.relayed);
    pair.request("permission in both", &mut dual, method::CREATE_PERMISSION, to_peer(&[PEER, PEER_V6]));
    pair.send_indication("send over IPv6", &mut dual, PEER_V6, b"hello");
    pair.request("delete one half", &mut dual, method::REFRESH, |b| {
        b.lifetime(0).attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
    });
    pair.send_indication("send over the half that is gone", &mut dual, PEER_V6, b"hello");
    pair.send_indication("send over the half that stays", &mut dual, PEER, b"hello");
}

// RFC 8656 s. 9, 10.2
fn permissions(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.8:1000");
    pair.allocate(&mut client);
    pair.peer_sends("peer without permission", &mut client, PEER, b"hello");
    pair.send_indication("send without permission", &mut client, PEER, b"hello");
    pair.request("permission without peer", &mut client, method::CREATE_PERMISSION, |b| b);
    pair.request("permission for half an address", &mut client, method::CREATE_PERMISSION, |b| {
        b.attribute(attr::XOR_PEER_ADDRESS, &[0, 1, 0, 0])
    });
    pair.request(
        "permission of the other family",
        &mut client,
        method::CREATE_PERMISSION,
        to_peer(&[PEER_V6]),
    );
    pair.request(
        "permission for two families",
        &mut client,
        method::CREATE_PERMISSION,
        to_peer(&[PEER, PEER_V6]),
    );
    pair.send_indication("send after a refused permission", &mut client, PEER, b"hello");
    pair.request("permission", &mut client, method::CREATE_PERMISSION, to_peer(&[PEER, "198.51.100.9:1"]));
    pair.request(
        "permission for loopback",
        &mut client,
        method::CREATE_PERMISSION,
        to_peer(&["127.0.0.1:1"]),
    );
    for payload in PAYLOADS {
        pair.send_indication("send", &mut client, PEER, payload);
        pair.peer_sends("peer", &mut client, PEER, payload);
    }
    pair.peer_sends("peer from another port", &mut client, "198.51.100.7:1234", b"hello");
    pair.send_indication("send to another port", &mut client, "198.51.100.7:1234", b"hello");
    pair.sleep(299);
    pair.send_indication("send within the permission", &mut client, PEER, b"hello");
    pair.sleep(2);
    pair.send_indication("send after the permission", &mut client, PEER, b"hello");
    pair.peer_sends("peer after the permission", &mut client, PEER, b"hello");
}

// RFC 8656 s. 12
fn channels(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.9:1000");
    pair.allocate(&mut client);
    pair.channel_data("unbound channel", &mut client, 0x4000, b"hello");
    pair.request("channel without number", &mut client, method::CHANNEL_BIND, to_peer(&[PEER]));
    pair.request("channel without peer", &mut client, method::CHANNEL_BIND, |b| {
        b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
    });
    pair.request("channel of the other family", &mut client, method::CHANNEL_BIND, bound(0x4000, PEER_V6));
    pair.request("channel 0x3FFF", &mut client, method::CHANNEL_BIND, bound(0x3FFF, PEER));
    pair.request("channel 0x8000", &mut client, method::CHANNEL_BIND, bound(0x8000, PEER));
    pair.request("channel", &mut client, method::CHANNEL_BIND, bound(0x4000, PEER));
    pair.request("channel again", &mut client, method::CHANNEL_BIND, bound(0x4000, PEER));
    pair.request("second channel for a peer", &mut client, method::CHANNEL_BIND, bound(0x4001, PEER));
    for payload in PAYLOADS {
        pair.channel_data("channel data", &mut client, 0x4000, payload);
        pair.peer_sends("peer with channel", &mut client, PEER, payload);
    }
    pair.send_indication("send to a bound peer", &mut client, PEER, b"hello");
    pair.peer_sends("other port of a bound peer", &mut client, "198.51.100.7:1234", b"hello");
    pair.request(
        "second peer for a channel",
        &mut client,
        method::CHANNEL_BIND,
        bound(0x4000, "198.51.100.9:1"),
    );
    pair.request("channel 0x5000", &mut client, method::CHANNEL_BIND, bound(0x5000, "198.51.100.10:1"));
}

// RFC 8656 s. 11.2, 12.6
fn data(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.10:1000");
    pair.send_indication("send without allocation", &mut client, PEER, b"hello");
    pair.channel_data("channel data without allocation", &mut client, 0x4000, b"hello");
    pair.allocate(&mut client);
    pair.request("channel", &mut client, method::CHANNEL_BIND, bound(0x4000, PEER));
    let id = client.transaction();
    let send = |builder: MessageBuilder| builder.xor_address(attr::XOR_PEER_ADDRESS, addr(PEER));
    let indication = || MessageBuilder::indication(method::SEND, id);
    pair.plain("send without data", &mut client, send(indication()));
    pair.plain("send without peer", &mut client, indication().attribute(attr::DATA, b"hello"));
    let unknown = send(indication()).attribute(attr::DATA, b"hello").attribute(0x7ABC, b"what");
    pair.plain("send with an unknown attribute", &mut client, unknown);
    let optional = send(indication()).attribute(attr::DATA, b"hello").attribute(0xFABC, b"what");
    pair.plain("send with an unknown optional attribute", &mut client, optional);
    let fragment = send(indication()).attribute(attr::DATA, b"hello").attribute(attr::DONT_FRAGMENT, b"");
    pair.plain("send without fragments", &mut client, fragment);
    let padded = b"\x40\x00\x00\x05hello\x00\x00\x00".to_vec();
    pair.send("padded channel data", &mut client, [padded.clone(), padded]);
    let short = b"\x40\x00\x00\x06hello".to_vec();
    pair.send("channel data longer than its datagram", &mut client, [short.clone(), short]);
    let broken = b"\x40\x00\x00".to_vec();
    pair.send("half a channel header", &mut client, [broken.clone(), broken]);
}

// RFC 8656 s. 6, 9, 12
fn lifetimes(pair: &mut Pair) {
    let mut client = Dialog::new("203.0.113.11:1000");
    pair.allocate(&mut client);
    pair.request("channel", &mut client, method::CHANNEL_BIND, bound(0x4000, PEER));
    pair.sleep(301);
    pair.peer_sends("other port after the permission", &mut client, "198.51.100.7:1234", b"hello");
    pair.channel_data("channel data after the permission", &mut client, 0x4000, b"hello");
    pair.peer_sends("bound peer after the permission", &mut client, PEER, b"hello");
    pair.request("refresh", &mut client, method::REFRESH, |b| b.lifetime(3600));
    pair.sleep(300);
    pair.channel_data("channel data after the channel", &mut client, 0x4000, b"hello");
    pair.request("rebind after the channel", &mut client, method::CHANNEL_BIND, bound(0x4001, PEER));
    pair.sleep(3000);
    pair.request("an hour later", &mut client, method::REFRESH, |b| b.lifetime(600));
    pair.sleep(601);
    pair.request("refresh after the end", &mut client, method::REFRESH, |b| b.lifetime(600));
}

#[test]
fn both_servers_say_the_same_except_where_the_list_says_why() {
    let mut pair = Pair::new();
    credentials(&mut pair);
    allocations(&mut pair);
    dual_allocations(&mut pair);
    permissions(&mut pair);
    channels(&mut pair);
    data(&mut pair);
    lifetimes(&mut pair);
    let listed: BTreeSet<_> = DIFFERENCES.iter().map(|known| known.step).collect();
    assert_eq!(listed, pair.met, "left: listed; right: met");
}
