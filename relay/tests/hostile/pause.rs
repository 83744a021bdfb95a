//! A process that stood still: what has waited too long in its sockets reaches nobody.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use turnpike_testkit::becomes_true;

use super::lab::{Lab, PEER_V4};
use super::server::{ALLOW_PEERS, SERVER, Server};
use super::talker::{Talker, peer_socket};

const PAUSE: Duration = Duration::from_secs(3);
/// Between two datagrams of the call.
const APART: Duration = Duration::from_millis(20);
/// How long a datagram may wait, and what two clocks differ by.
const LATEST: Duration = Duration::from_millis(200 + 20);
/// After which the call says something again.
const SAY_AGAIN: Duration = Duration::from_millis(500);

/// Ends the pause on each path out of the test, or the server could not be stopped.
struct Paused<'a>(&'a Server);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// A call whose datagrams say when they were sent, and when those were sent that have arrived.
struct Call {
    begun: Instant,
    client: Talker,
    relayed: SocketAddr,
    peer: UdpSocket,
    sent: u64,
    last: Duration,
    at_peer: Vec<Duration>,
    at_client: Vec<Duration>,
}

impl Call {
    fn start(lab: &Lab) -> Call {
        let peer = peer_socket(&lab.peer, PEER_V4);
        let mut client = Talker::new(&lab.client, SERVER);
        let relayed = client.allocate();
        assert_eq!(client.bind(peer.local_addr().expect("it is bound")).code, None);
        peer.set_nonblocking(true).expect("sockets can");
        client.socket.set_nonblocking(true).expect("sockets can");
        let (begun, last) = (Instant::now(), Duration::ZERO);
        Call { begun, client, relayed, peer, sent: 0, last, at_peer: Vec::new(), at_client: Vec::new() }
    }

    /// A datagram in each direction.
    fn say(&mut self) {
        let millis = self.begun.elapsed().as_millis() as u64;
        self.client.channel_data(&millis.to_be_bytes());
        self.peer.send_to(&millis.to_be_bytes(), self.relayed).expect("the namespace has a route");
        self.sent += 2;
        self.last = Duration::from_millis(millis);
    }

    fn hear(&mut self) {
        let stamp = |bytes: &[u8]| {
            let stamp = bytes[bytes.len() - 8..].try_into().expect("eight bytes");
            Duration::from_millis(u64::from_be_bytes(stamp))
        };
        let mut buffer = [0; 100];
        while let Ok(len) = self.peer.recv(&mut buffer) {
            self.at_peer.push(stamp(&buffer[..len]));
        }
        while let Some(heard) = self.client.hear() {
            self.at_client.push(stamp(&heard));
        }
    }

    /// Goes on until the last datagram in each direction has arrived: none overtakes another, so all before it have
    /// arrived, too, or were dropped.
    fn go_on(&mut self) -> bool {
        self.say();
        becomes_true(|| {
            self.hear();
            let done = [&self.at_peer, &self.at_client].map(|stamps| stamps.last() == Some(&self.last));
            if done == [true; 2] {
                return true;
            }
            if self.begun.elapsed() - self.last > SAY_AGAIN {
                self.say();
            }
            false
        })
    }
}

#[test]
#[ignore = "needs root: cargo xtask interop"]
fn what_waited_through_a_pause_is_dropped_and_counted() {
    let Some(lab) = Lab::new("what_waited_through_a_pause_is_dropped_and_counted") else { return };
    for io in ["epoll", "auto"] {
        let lines = format!("{ALLOW_PEERS}io = \"{io}\"\noffload = \"off\"\nmax-queue-delay = 200\n");
        let server = Server::start(&lab, &lines);
        let mut call = Call::start(&lab);
        let went_on = {
            let _paused = Paused(&server);
            server.signal(Signal::STOP);
            assert!(becomes_true(|| server.is_stopped()), "SIGSTOP stops it");
            while call.begun.elapsed() < PAUSE {
                call.say();
                std::thread::sleep(APART);
            }
            call.begun.elapsed()
        };
        assert!(call.go_on(), "the server goes on");
        let dropped = server.stop().count("drop_late");
        let Call { sent, at_peer, at_client, .. } = call;
        let arrived = (at_peer.len() + at_client.len()) as u64;
        println!("io = {io}: {sent} sent, {arrived} arrived, {dropped} dropped");
        // Nothing was taken before the server went on.
        let oldest = went_on - LATEST;
        assert!(at_peer.iter().chain(&at_client).all(|stamp| *stamp >= oldest), "{at_peer:?}, {at_client:?}");
        assert_eq!(arrived + dropped, sent, "what is not there was counted");
        assert!(dropped > sent / 2, "most of it was too old: {dropped} of {sent}");
    }
}
