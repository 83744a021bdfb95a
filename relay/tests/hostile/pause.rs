//! A process that stood still: what has waited too long in its sockets reaches nobody.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, SERVER, Server, within_a_second};
use super::talker::{Talker, peer_socket};

const PAUSE: Duration = Duration::from_secs(3);
/// Between two datagrams of the call.
const APART: Duration = Duration::from_millis(20);
/// The bound, and what a busy machine takes to deliver.
const LATEST: Duration = Duration::from_millis(200 + 300);

/// Ends the pause on each path out of the test, or the server could not be stopped.
struct Paused<'a>(&'a Server);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn what_waited_through_a_pause_is_dropped_and_counted() {
    let Some(lab) = Lab::new("what_waited_through_a_pause_is_dropped_and_counted") else { return };
    for io in ["epoll", "auto"] {
        let server = Server::start(&lab, &format!("{ALLOW_PEERS}io = \"{io}\"\noffload = \"off\"\n"));
        let peer = peer_socket(&lab.peer, PEER_V4, Duration::from_millis(500));
        let mut client = Talker::new(&lab.client, SERVER);
        let relayed = client.allocate();
        assert_eq!(client.bind(peer.local_addr().expect("it is bound")).code, None);
        client.socket.set_read_timeout(Some(Duration::from_millis(500))).expect("not zero");

        let begun = Instant::now();
        let stamp = || (begun.elapsed().as_millis() as u64).to_be_bytes();
        let mut sent = 0;
        {
            let _paused = Paused(&server);
            server.signal(Signal::STOP);
            assert!(within_a_second(|| server.is_stopped()).is_ok(), "SIGSTOP stops it");
            while begun.elapsed() < PAUSE {
                client.channel_data(&stamp());
                peer.send_to(&stamp(), relayed).expect("the namespace has a route");
                sent += 2;
                std::thread::sleep(APART);
            }
        }
        let age = |bytes: &[u8]| {
            let stamp = bytes[bytes.len() - 8..].try_into().expect("eight bytes");
            begun.elapsed().saturating_sub(Duration::from_millis(u64::from_be_bytes(stamp)))
        };
        let mut buffer = [0; 100];
        let mut ages = Vec::new();
        while let Ok((len, _)) = peer.recv_from(&mut buffer) {
            ages.push(age(&buffer[..len]));
        }
        // What the client's socket holds has waited for this loop, not for the relay: it is counted below.
        let mut heard = ages.len();
        while client.hear().is_some() {
            heard += 1;
        }
        let dropped = server.stop().count("drop_late");
        println!("io = {io}: {sent} sent during the pause, {heard} arrived, {dropped} dropped, {ages:?}");
        assert!(ages.iter().all(|age| *age <= LATEST), "{ages:?}");
        assert_eq!(heard as u64 + dropped, sent, "what is not there was counted");
        assert!(dropped > sent / 2, "most of it was too old: {dropped} of {sent}");
    }
}
