//! Who talks to the server, and with whose keys.

use std::net::SocketAddr;

use turnpike_proto::addr::{ClientAddr, FiveTuple, Transport};
use turnpike_proto::auth::{Key, rest_password};
use turnpike_proto::wire::{Message, MessageBuilder, attr};
use turnpike_proto::{ClientPath, ClientSocket, ErrorCode};

/// The realm of everybody.
pub const REALM: &str = "example.org";

/// Somebody who is known.
pub(super) struct User {
    pub(super) name: String,
    pub(super) md5: Key,
    pub(super) sha256: Key,
}

/// A client, bound to one worker as the kernel's hash would do.
pub(super) struct Client {
    pub(super) path: ClientPath,
    pub(super) worker: usize,
    pub(super) user: usize,
    pub(super) nonce: Vec<u8>,
    pub(super) transactions: u8,
    /// Its last datagram, for repeating it.
    pub(super) last: Vec<u8>,
}

pub(super) const STATIC_USERS: [(&str, &str); 2] = [("alice", "wonder"), ("bob", "builder")];
/// A REST name that expires an hour after the start.
const REST_USER: &str = "1700003600:carol";

pub(super) fn users() -> Vec<User> {
    let rest = rest_password("north", REST_USER);
    let all = STATIC_USERS.into_iter().chain([(REST_USER, rest.as_str())]);
    all.map(|(name, password)| User {
        name: name.to_owned(),
        md5: Key::md5(name, REALM, password).expect("good credentials"),
        sha256: Key::sha256(name, REALM, password).expect("good credentials"),
    })
    .collect()
}

/// Two workers' worth of clients: same user on both, same address on UDP and TCP (A13), both families.
pub(super) fn clients(rest: bool) -> Vec<Client> {
    let udp = Transport::Udp;
    [
        ("203.0.113.5:1000", udp, 0, 0),
        ("203.0.113.5:1001", udp, 1, 0),
        ("[2001:db8:5::1]:1000", udp, 0, 1),
        ("203.0.113.6:1000", udp, 1, if rest { 2 } else { 1 }),
        ("203.0.113.5:1000", Transport::Tcp, 1, 0),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (address, transport, worker, user))| {
        let client: SocketAddr = address.parse().expect("an address");
        let server = if client.is_ipv4() { "192.0.2.1:3478" } else { "[2001:db8::1]:3478" };
        let server = server.parse().expect("an address");
        let five_tuple = FiveTuple { client: ClientAddr(client), server, transport };
        let socket = ClientSocket { index: number as u32, generation: transport.is_stream().into() };
        let path = ClientPath::new(five_tuple, socket);
        Client { path, worker, user, nonce: Vec::new(), transactions: 0, last: Vec::new() }
    })
    .collect()
}

/// Whether an answer is, bit by bit, what the user's key makes of it.
pub(super) fn is_signed(bytes: &[u8], user: &User) -> bool {
    let Ok(answer) = Message::parse(bytes) else { return false };
    [&user.md5, &user.sha256].into_iter().any(|key| {
        let code = answer.attribute(attr::ERROR_CODE).map(|v| u16::from(v[2]) * 100 + u16::from(v[3]));
        let code = code.and_then(|code| ErrorCode::ALL.iter().find(|known| known.code() == code));
        let start = match code {
            Some(code) => MessageBuilder::error(&answer, *code),
            None => MessageBuilder::success(&answer),
        };
        let rest = answer.attributes().filter(|(kind, _)| *kind != attr::ERROR_CODE);
        rest.fold(start, |builder, (kind, value)| builder.attribute(kind, value)).finish_signed(key) == bytes
    })
}
