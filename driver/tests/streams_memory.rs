//! What idle clients of TLS cost: a process of its own, since it is measured by what the process has.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ServerConfig, StreamOwned};
use turnpike_driver::streams::{Offer, StreamEvent, StreamOptions, Streams, bind_stream_listeners};
use turnpike_driver::{clock, heap};
use turnpike_testkit::PATIENCE;
use turnpike_testkit::certificate::{Certificate, tls};

const CLIENTS: usize = 2000;
const MOST_BYTES: usize = 40 << 10;
/// A Binding request.
const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

#[test]
fn an_idle_client_of_tls_costs_little_and_gives_it_back() {
    raise_descriptors();
    let offer = Offer { plain: false, tls: true };
    let listeners = bind_stream_listeners("127.0.0.1:0".parse().expect("an address"), 1, offer);
    let listeners = listeners.expect("a free port");
    let address = listeners[0].local_addr();
    let (server, client) = certificate();
    let options = StreamOptions { tls: Some(Arc::new(move || Arc::clone(&server))), ..Default::default() };
    let mut streams = Streams::new(listeners, options).expect("descriptors");
    // The first one pays for what all share.
    let first = connected(&mut streams, address, &client, 1);
    let before = resident_bytes();
    let clients = connected(&mut streams, address, &client, CLIENTS);
    assert_eq!(streams.counters().open_tls as usize, CLIENTS + 1);
    let each = resident_bytes().saturating_sub(before) / CLIENTS;
    println!("{each} bytes for each idle client of TLS");
    assert!(each <= MOST_BYTES, "{each} bytes each");
    drop((first, clients));
    while !streams.is_empty() {
        turn(&mut streams);
    }
    heap::release();
    let kept = resident_bytes().saturating_sub(before) / CLIENTS;
    println!("{kept} bytes of them are kept");
    assert!(kept <= each / 2, "{kept} of {each} bytes each are kept");
}

/// Clients of whom only the sockets stay, so that their memory doesn't count.
fn connected(
    streams: &mut Streams,
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    count: usize,
) -> Vec<TcpStream> {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let clients = (0..count).map(|_| connect(address, config)).collect::<Vec<_>>();
            is_done.store(true, Ordering::Relaxed);
            clients
        });
        while !is_done.load(Ordering::Relaxed) && !clients.is_finished() {
            turn(streams);
        }
        clients.join().expect("no client failed")
    })
}

fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TcpStream {
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut client = StreamOwned::new(tls(Arc::clone(config), "localhost"), socket);
    client.write_all(&REQUEST).expect("sent");
    client.read_exact(&mut [0; 20]).expect("an answer");
    client.into_parts().1
}

/// A turn that answers each message with itself.
fn turn(streams: &mut Streams) {
    let now_ns = clock::monotonic_ns();
    streams.turn(now_ns, true).expect("epoll works");
    let mut is_idle = true;
    while let Some(event) = streams.next_event(now_ns) {
        is_idle = false;
        if let StreamEvent::Message { path, bytes, .. } = event {
            let answer = streams.bytes(&bytes).to_vec();
            streams.send_answer(now_ns, path.socket, &answer);
        }
    }
    streams.flush(now_ns);
    if is_idle {
        thread::sleep(Duration::from_micros(50));
    }
}

fn certificate() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let certificate = Certificate::new(&["localhost"]);
    let mut server = certificate.server();
    server.ticketer = rustls::crypto::ring::Ticketer::new().expect("randomness");
    let mut client = certificate.client();
    client.resumption = rustls::client::Resumption::disabled();
    (Arc::new(server), Arc::new(client))
}

fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the maximum");
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}
