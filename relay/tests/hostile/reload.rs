//! SIGHUP: what counts is what the configuration says now.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use turnpike_proto::auth::rest_password;
use turnpike_proto::wire::method;
use turnpike_testkit::becomes_true;

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, SERVER, Server};
use super::talker::{Talker, peer_socket};

const SECRET: &str = "north-star";
/// Long enough for a datagram, short enough to ask several times.
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
fn q1_a_stricter_policy_revokes_permissions_and_channels() {
    let Some(lab) = Lab::new("q1_a_stricter_policy_revokes_permissions_and_channels") else { return };
    let server = Server::start(&lab, ALLOW_PEERS);
    let [channel_peer, permission_peer] = [(); 2].map(|()| peer_socket(&lab.peer, PEER_V4));
    let mut by_channel = Talker::new(&lab.client, SERVER);
    let mut by_permission = Talker::new(&lab.client, SERVER);
    let address = |socket: &UdpSocket| socket.local_addr().expect("it is bound");
    let relayed = by_channel.allocate();
    assert_eq!(by_channel.bind(address(&channel_peer)).code, None);
    let relayed_too = by_permission.allocate();
    assert_eq!(by_permission.permit(address(&permission_peer)).code, None);

    let send_back = |peer: &UdpSocket, to| _ = peer.send_to(b"x", to).expect("the namespace has a route");
    let flows = |by_channel: &Talker, by_permission: &mut Talker| {
        [
            arrives(&channel_peer, || by_channel.channel_data(b"x")),
            arrives(&by_channel.socket, || send_back(&channel_peer, relayed)),
            arrives(&permission_peer, || by_permission.send_indication(address(&permission_peer), b"x")),
            arrives(&by_permission.socket, || send_back(&permission_peer, relayed_too)),
        ]
    };
    let flow = becomes_true(|| flows(&by_channel, &mut by_permission) == [true; 4]);
    assert!(flow, "as long as the peer is allowed");
    server.reload("");
    let is_refused = becomes_true(|| by_channel.bind(address(&channel_peer)).code == Some(403));
    assert!(is_refused, "nor can it be had again");
    assert!(
        becomes_true(|| !flows(&by_channel, &mut by_permission).contains(&true)),
        "nothing flows any more"
    );
    server.reload(ALLOW_PEERS);
    let again = becomes_true(|| by_channel.bind(address(&channel_peer)).code.is_none());
    assert!(again, "until the peer is allowed again");
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
    assert!(becomes_true(|| code("bob", "builder").is_none()), "a new user");
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
    talker.allocate();
    assert_eq!(answers(&mut talker, 30), 1500, "0 is no limit");
    server.reload("unauthenticated-rate = 10\n");
    assert!(becomes_true(|| answers(&mut talker, 1) < 50), "a portion is not answered whole");
    let start = Instant::now();
    let limited = answers(&mut talker, 30);
    println!("{limited} of 1500 answered at 10 per second");
    // One in eight, and those of the seconds that it took.
    assert!((130..300 + 10 * start.elapsed().as_secs() as usize).contains(&limited), "{limited}");
    server.stop();
}

/// How many of so many portions of 50 requests of a stranger are answered. A portion fits into our own socket's buffer.
fn answers(talker: &mut Talker, portions: u32) -> usize {
    let portion = |_| {
        for _ in 0..50 {
            let bare = talker.bare_allocate();
            talker.say(&bare);
        }
        // What comes before the answer to this, which whoever has credentials gets.
        let last = talker.signed(method::REFRESH, |builder| builder.lifetime(600));
        talker.say(&last);
        let answers = std::iter::from_fn(|| talker.hear());
        answers.take_while(|heard| heard[8..20] != last[8..20]).count()
    };
    (0..portions).map(portion).sum()
}

/// A configuration with a mistake changes nothing.
#[test]
#[ignore = "needs root: cargo xtask interop"]
fn a_faulty_configuration_is_not_loaded() {
    let Some(lab) = Lab::new("a_faulty_configuration_is_not_loaded") else { return };
    let server = Server::start(&lab, "");
    server.reload("user = [\"bob:builder\"]\nuser-quota = \"many\"\n");
    server.wait_for_log("not reloaded");
    Talker::new(&lab.client, SERVER).allocate();
    let mut bob = Talker::new(&lab.client, SERVER).named("bob", "builder");
    assert_eq!(bob.try_allocate().code, Some(401));
    let log = server.stop();
    assert!(log.0.contains("not reloaded") && log.0.contains("user-quota"), "{}", log.0);
}
