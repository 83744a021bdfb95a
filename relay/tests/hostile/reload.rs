//! SIGHUP: what counts is what the configuration says now, within a second.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use turnpike_proto::auth::rest_password;
use turnpike_proto::wire::{MessageBuilder, attr, method};

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, SERVER, Server, within_a_second};
use super::talker::{Talker, UDP, peer_socket};

const SECRET: &str = "north-star";
/// Long enough for a datagram on this machine, short enough to ask several times within a second.
const QUICK: Duration = Duration::from_millis(100);

/// Whether what `send` sends is received by `receive`, now.
fn arrives(receiver: &UdpSocket, send: impl FnOnce()) -> bool {
    receiver.set_nonblocking(true).expect("sockets can");
    let mut buffer = [0; 2048];
    while receiver.recv_from(&mut buffer).is_ok() {}
    receiver.set_nonblocking(false).expect("sockets can");
    receiver.set_read_timeout(Some(QUICK)).expect("not zero");
    send();
    receiver.recv_from(&mut buffer).is_ok()
}

/// Q1: a stricter policy takes back what a laxer one gave.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q1_a_stricter_policy_revokes_permissions_and_channels_within_a_second() {
    let name = "q1_a_stricter_policy_revokes_permissions_and_channels_within_a_second";
    let Some(lab) = Lab::new(name) else { return };
    let server = Server::start(&lab, ALLOW_PEERS);
    let [channel_peer, permission_peer] = [(); 2].map(|()| peer_socket(&lab.peer, PEER_V4, QUICK));
    let mut by_channel = Talker::new(&lab.client, SERVER);
    let mut by_permission = Talker::new(&lab.client, SERVER);
    let address = |socket: &UdpSocket| socket.local_addr().expect("it is bound");
    let relayed = by_channel.allocate();
    assert_eq!(by_channel.bind(address(&channel_peer)).code, None);
    let relayed_too = by_permission.allocate();
    assert_eq!(by_permission.permit(address(&permission_peer)).code, None);

    let send_back = |peer: &UdpSocket, to| _ = peer.send_to(b"x", to).expect("the namespace has a route");
    let mut flows = || {
        [
            arrives(&channel_peer, || by_channel.channel_data(b"x")),
            arrives(&by_channel.socket, || send_back(&channel_peer, relayed)),
            arrives(&permission_peer, || by_permission.send_indication(address(&permission_peer), b"x")),
            arrives(&by_permission.socket, || send_back(&permission_peer, relayed_too)),
        ]
    };
    assert_eq!(flows(), [true; 4], "as long as the peer is allowed");
    let start = Instant::now();
    server.reload("");
    let gone = within_a_second(|| !flows().contains(&true));
    println!("everything revoked after {gone:?}, all flows asked");
    assert!(gone.is_ok() && start.elapsed() < Duration::from_secs(2), "{:?}", flows());

    by_channel.socket.set_read_timeout(Some(super::talker::ANSWER)).expect("not zero");
    assert_eq!(by_channel.bind(address(&channel_peer)).code, Some(403), "nor can it be had again");
    server.reload(ALLOW_PEERS);
    let again = within_a_second(|| by_channel.bind(address(&channel_peer)).code.is_none());
    assert!(again.is_ok(), "until the peer is allowed again");
    server.stop();
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn users_secrets_and_quotas_are_reloaded() {
    let Some(lab) = Lab::new("users_secrets_and_quotas_are_reloaded") else { return };
    let server = Server::start(&lab, "");
    let code = |user: &str, password: &str| {
        let mut talker = Talker::new(&lab.client, SERVER).named(user, password);
        let code = talker.try_allocate().code;
        if code.is_none() {
            assert_eq!(talker.refresh(0).code, None);
        }
        code
    };
    let rest = format!("{}:carol", u32::MAX);
    let rest_key = rest_password(SECRET, &rest).to_string();
    assert_eq!(code("bob", "builder"), Some(401));
    assert_eq!(code(&rest, &rest_key), Some(401));
    let mut alice = Talker::new(&lab.client, SERVER);
    alice.allocate();

    server.reload(&format!("user = [\"bob:builder\"]\nauth-secret = [\"{SECRET}\"]\nuser-quota = 1\n"));
    assert!(within_a_second(|| code("bob", "builder").is_none()).is_ok(), "a new user");
    assert_eq!(code(&rest, &rest_key), None, "a new secret");
    assert_eq!(code("alice", "correct horse"), Some(401), "a user that was removed");
    assert_eq!(alice.refresh(600).code, Some(401), "with a user, his calls end");
    let mut first = Talker::new(&lab.client, SERVER).named("bob", "builder");
    first.allocate();
    assert_eq!(code("bob", "builder"), Some(486), "the new quota");
    let log = server.stop();
    assert!(log.records()[0].contains("user=\"alice\""), "{}", log.0);
    assert!(!log.0.contains(SECRET) && !log.0.contains(&rest_key), "{}", log.0);
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn q4_the_rate_of_unauthenticated_answers_is_reloaded() {
    let Some(lab) = Lab::new("q4_the_rate_of_unauthenticated_answers_is_reloaded") else { return };
    let server = Server::start(&lab, "unauthenticated-rate = 0\n");
    let mut talker = Talker::new(&lab.client, SERVER);
    talker.socket.set_read_timeout(Some(Duration::from_millis(20))).expect("not zero");
    // In portions that fit into our own socket's buffer.
    let mut answers = || {
        let portion = |_| {
            for _ in 0..50 {
                let bare = MessageBuilder::request(method::ALLOCATE, talker.id())
                    .attribute(attr::REQUESTED_TRANSPORT, &UDP);
                talker.say(&bare.finish());
            }
            std::iter::from_fn(|| talker.hear()).count()
        };
        (0..30).map(portion).sum::<usize>()
    };
    assert_eq!(answers(), 1500, "0 is no limit");
    server.reload("unauthenticated-rate = 10\n");
    std::thread::sleep(Duration::from_secs(1));
    let limited = answers();
    println!("{limited} of 1500 answered at 10 per second");
    // 100 at once, one in eight of the rest, and what a slow machine's seconds add.
    assert!((200..600).contains(&limited), "{limited}");
    server.stop();
}

/// A configuration with a mistake changes nothing.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_faulty_configuration_is_not_loaded() {
    let Some(lab) = Lab::new("a_faulty_configuration_is_not_loaded") else { return };
    let server = Server::start(&lab, "");
    server.reload("user = [\"bob:builder\"]\nuser-quota = \"many\"\n");
    std::thread::sleep(Duration::from_millis(500));
    Talker::new(&lab.client, SERVER).allocate();
    let mut bob = Talker::new(&lab.client, SERVER).named("bob", "builder");
    assert_eq!(bob.try_allocate().code, Some(401));
    let log = server.stop();
    assert!(log.0.contains("not reloaded") && log.0.contains("user-quota"), "{}", log.0);
}
