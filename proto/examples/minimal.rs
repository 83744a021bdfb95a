//! A working TURN relay in one thread of std sockets: what the core asks of its driver, and no more. It is the one
//! that README.md shows.
//!
//! `cargo run -p turnpike-proto --example minimal -- 127.0.0.1:3478`: user `alice`, password `wonder`, relaying to
//! loopback.

// The core is pure; what drives it isn't.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};

use turnpike_proto::{Input, Now, Origin, Output, PortError, Server, WorkerId};
use turnpike_proto::{auth::Credentials, settings::Settings, shared::Shared};

fn serve(listener: UdpSocket) -> Result<(), Box<dyn std::error::Error>> {
    let server_address = listener.local_addr()?;
    let mut credentials = Credentials::new("example.org");
    credentials.add_user("alice", "wonder")?;
    let mut settings = Settings::new(credentials, [1; 32]); // a real seed comes from the system's generator
    settings.serve_at(server_address);
    settings.peers.allow_loopback = true; // to be tried on one machine
    let mut server = Server::new(Shared::new(settings), WorkerId(0), [2; 32]);

    listener.set_nonblocking(true)?;
    let mut sockets = HashMap::from([(None, listener)]);
    let (start, mut buffer) = (Instant::now(), [0; 65_536]);
    loop {
        let now = Now::new(start.elapsed(), SystemTime::UNIX_EPOCH.elapsed()?);
        for (relay, socket) in &sockets {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let client = Origin::client(from, server_address, 0);
                let origin = relay.map_or(client, |relay| Origin::peer(relay, from));
                server.handle_input(now, Input::datagram(origin, &buffer[..len]));
            }
        }
        server.handle_input(now, Input::Tick);
        while let Some(output) = server.poll_output() {
            match output {
                Output::Transmit { egress, to, payload, .. } => {
                    let _ = sockets[&egress.relay()].send_to(&payload, to); // may be lost, as datagrams are
                }
                Output::OpenPort { relay, address, .. } => match UdpSocket::bind(address.0) {
                    Ok(socket) => {
                        socket.set_nonblocking(true)?;
                        sockets.insert(Some(relay), socket);
                        server.handle_input(now, Input::PortOpened(relay));
                    }
                    Err(_) => server.handle_input(now, Input::PortFailed(relay, PortError::InUse)),
                },
                Output::ClosePort(relay) => {
                    sockets.remove(&Some(relay));
                    server.handle_input(now, Input::PortClosed(relay));
                }
                _ => {} // for logs, for pairs of ports, for a kernel's data path
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    serve(UdpSocket::bind(std::env::args().nth(1).unwrap_or("127.0.0.1:3478".into()))?)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use turnpike_proto::auth::Key;
    use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};

    use super::*;

    /// How long something may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn loopback() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("an option");
        socket
    }

    /// Sends until what is wanted comes to the other socket: datagrams get lost, and what was sent twice is answered
    /// twice.
    fn exchange(
        (from, bytes, to): (&UdpSocket, &[u8], SocketAddr),
        back: &UdpSocket,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Vec<u8> {
        let (start, mut buffer) = (Instant::now(), [0; 2048]);
        while start.elapsed() < PATIENCE {
            from.send_to(bytes, to).expect("sent");
            while let Ok((len, _)) = back.recv_from(&mut buffer) {
                if is_wanted(&buffer[..len]) {
                    return buffer[..len].to_vec();
                }
            }
        }
        panic!("it did not arrive");
    }

    /// Asks once without a nonce, once with it.
    fn ask(
        client: &UdpSocket,
        server: SocketAddr,
        method: u16,
        add: impl Fn(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        let key = Key::md5("alice", "example.org", "wonder").expect("good credentials");
        let mut nonce = b"none yet".to_vec();
        for round in 0..2 {
            let transaction = TransactionId([method as u8 * 2 + round; 12]);
            let request = add(MessageBuilder::request(method, transaction))
                .attribute(attr::USERNAME, b"alice")
                .attribute(attr::REALM, b"example.org")
                .attribute(attr::NONCE, &nonce)
                .finish_signed(&key);
            let answer = exchange((client, &request, server), client, |bytes| {
                Message::parse(bytes).is_ok_and(|answer| answer.transaction_id() == transaction)
            });
            let message = Message::parse(&answer).expect("well-formed");
            match message.class() {
                Class::Success => return answer,
                _ => nonce = message.attribute(attr::NONCE).expect("a nonce").to_vec(),
            }
        }
        panic!("refused");
    }

    #[test]
    fn relays_between_a_client_and_a_peer_on_loopback() {
        let listener = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("bound");
        // It ends with the test's process.
        std::thread::spawn(move || serve(listener).map_err(|fault| fault.to_string()));
        let (client, peer) = (loopback(), loopback());
        let peer_address = peer.local_addr().expect("bound");
        let answer = ask(&client, server, method::ALLOCATE, |b| {
            b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        });
        let message = Message::parse(&answer).expect("well-formed");
        let relayed = message.xor_address(attr::XOR_RELAYED_ADDRESS).expect("present").expect("well-formed");
        ask(&client, server, method::CHANNEL_BIND, |b| {
            b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, peer_address)
        });
        let framed = |data: &[u8]| [&channel::header(0x4000, data.len() as u16)[..], data].concat();
        exchange((&client, &framed(b"hello"), server), &peer, |bytes| bytes == b"hello");
        exchange((&peer, b"there", relayed), &client, |bytes| bytes == framed(b"there"));
        assert!(UdpSocket::bind(relayed).is_err(), "the relay has it");
        ask(&client, server, method::REFRESH, |b| b.lifetime(0));
        let start = Instant::now();
        while UdpSocket::bind(relayed).is_err() {
            assert!(start.elapsed() < PATIENCE, "the port is free again");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn is_what_the_readme_shows() {
        let (here, readme) = (include_str!("minimal.rs"), include_str!("../README.md"));
        let program = here.find("use std::").zip(here.find("\nfn main()"));
        let (start, end) = program.expect("both stand above");
        assert!(readme.contains(&here[start..end]), "copy it there");
    }
}
