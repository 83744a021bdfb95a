//! Target `frame`: Ethernet frames to the kernel program, built for the host.
//!
//! Checks that no frame makes it read where nothing is, that what passes is untouched, and that what is sent is what
//! the routes say about a datagram that any host would take.

use std::net::SocketAddr;

use turnpike_abi::Verdict;
use turnpike_fixtures::host::Host;
use turnpike_fixtures::{Checksum, MAC, Parsed, Plane, Scene, parse};

/// Changes of a frame at most.
const MAX_CHANGES: usize = 8;

/// The bytes behind the first one as a frame, and as changes of a sound one and then its payload. The first one chooses
/// the families.
pub fn run(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let [client_v6, relay_v6, other_v6] = [1, 2, 4].map(|bit| choice & bit != 0);
    let scene = Scene { client_v6, relay_v6, other_v6 };
    check(scene, rest);
    let (changes, payload) = rest.split_at(rest.len().min(usize::from(choice >> 5) % MAX_CHANGES * 2));
    let datagram = match choice >> 3 & 3 {
        0 => scene.from_peer(payload),
        1 => scene.from_client(Scene::TO_OTHER, payload),
        _ => scene.from_client(Scene::TO_PEER, payload),
    };
    let mut frame = datagram.bytes();
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % frame.len();
        frame[at] = change[1];
    }
    check(scene, &frame);
}

fn check(scene: Scene, frame: &[u8]) {
    let outcome = Host.run(&scene.world(), frame);
    assert!(outcome.verdicts.iter().sum::<u64>() > 0, "something is counted");
    if outcome.passed {
        assert_eq!(outcome.frame, frame, "what passes is untouched");
        assert!(outcome.traffic.iter().flatten().flatten().all(|count| *count == 0), "and uncharged");
        return;
    }
    let sent = parse(frame).expect("a host would take it");
    if !outcome.redirected {
        assert_eq!(outcome.verdicts[Verdict::DropNotTurn as usize], 1, "nothing here has a limit");
        assert!([false, true].map(|v6| scene.server(v6)).contains(&sent.destination));
        assert!(!matches!(sent.payload[..], [] | [0..=3 | 13 | 64..=127, ..]), "userspace takes such");
        return;
    }
    assert!(sent.to_mac == MAC && sent.ttl > 1);
    let got = parse(&outcome.frame).expect("a host would take it");
    let (source, destination, payload) = expected(scene, &sent).expect("there is a route");
    assert_eq!((got.source, got.destination), (source, destination));
    assert_eq!((got.tos, got.ttl), (sent.tos, sent.ttl - 1));
    assert_eq!(got.payload, payload);
    // A damaged datagram stays damaged, so that nobody takes it for whole.
    assert_eq!(got.checksum, sent.checksum);
    assert!(got.checksum != Checksum::None || source.is_ipv4() && sent.source.is_ipv4());
}

/// What the scene's routes say: from where, to where, with what.
fn expected(scene: Scene, sent: &Parsed) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let (server, other_server) = (scene.server(scene.client_v6), scene.server(scene.other_v6));
    let (client, other) = (scene.client(), scene.other());
    if (sent.source, sent.destination) == (scene.peer(), scene.relayed()) {
        return Some((server, client, channel_data(Scene::TO_PEER, &sent.payload)));
    }
    let (header, rest) = sent.payload.split_at_checked(4)?;
    let [channel, length] = [0, 2].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let data = rest.get(..usize::from(length))?;
    let ways = [
        ((client, server, Scene::TO_PEER), (scene.relayed(), scene.peer(), data.to_vec())),
        ((client, server, Scene::TO_OTHER), (other_server, other, channel_data(Scene::BACK, data))),
        ((other, other_server, Scene::BACK), (server, client, channel_data(Scene::TO_OTHER, data))),
    ];
    let way = ways.into_iter().find(|(from, _)| *from == (sent.source, sent.destination, channel));
    way.map(|(_, to)| to)
}

/// RFC 8656 s. 12.4
fn channel_data(channel: u16, data: &[u8]) -> Vec<u8> {
    [&channel.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}
