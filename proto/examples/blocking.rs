//! A working TURN relay in one thread of blocking std sockets: what the core asks of its driver, and no more.
//!
//! `cargo run --example blocking -- 127.0.0.1:3478`: user `demo`, password `demo`, relaying to loopback.

// The core is pure; what drives it isn't.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]

use std::collections::HashMap;
use std::error::Error;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use turnpike_proto::addr::{ClientAddr, FiveTuple, PeerAddr, Transport};
use turnpike_proto::auth::Credentials;
use turnpike_proto::settings::Settings;
use turnpike_proto::shared::Shared;
use turnpike_proto::{
    ClientPath, ClientSocket, Egress, Forward, Input, Now, Output, PortError, RelaySocket, Server, WorkerId,
};

fn main() -> Result<(), Box<dyn Error>> {
    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:3478".into());
    let mut relay = Relay::bind(listen.parse()?)?;
    println!("listening on {}", relay.listener.local_addr()?);
    loop {
        relay.turn()?;
    }
}

struct Relay {
    server: Server,
    listener: UdpSocket,
    relays: HashMap<RelaySocket, UdpSocket>,
    started: Instant,
}

impl Relay {
    fn bind(listen: SocketAddr) -> Result<Relay, Box<dyn Error>> {
        let listener = UdpSocket::bind(listen)?;
        listener.set_read_timeout(Some(Duration::from_millis(1)))?;
        let listen = listener.local_addr()?;
        let mut credentials = Credentials::new("example.org");
        credentials.add_user("demo", "demo")?;
        // A real relay takes its seeds from the operating system's generator.
        let mut settings = Settings::new(credentials, [1; 32]);
        settings.relays.general.push(listen.ip().into());
        settings.peers.allow_loopback = true;
        settings.peers.listeners.push(listen);
        Ok(Relay {
            server: Server::new(Shared::new(settings), WorkerId(0), [2; 32]),
            listener,
            relays: HashMap::new(),
            started: Instant::now(),
        })
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { mono_ns: self.started.elapsed().as_nanos() as u64, unix_secs: unix.as_secs() }
    }

    /// Takes what has arrived, for a millisecond at most, and does what the core wants done.
    fn turn(&mut self) -> Result<(), Box<dyn Error>> {
        let mut buffer = [0; 65_536];
        if let Ok((len, client)) = self.listener.recv_from(&mut buffer) {
            let (now, bytes, server) = (self.now(), &buffer[..len], self.listener.local_addr()?);
            let five_tuple = FiveTuple { client: ClientAddr(client), server, transport: Transport::Udp };
            let path = ClientPath { five_tuple, socket: ClientSocket::listener(0) };
            match self.server.forward_client(now, &path, bytes, 0) {
                Forward::Slow => self.server.handle_input(now, Input::FromClient { path, bytes, tos: 0 }),
                forward => self.send(forward, bytes),
            }
        }
        for relay in self.relays.keys().copied().collect::<Vec<_>>() {
            while let Ok((len, peer)) = self.relays[&relay].recv_from(&mut buffer) {
                let (now, bytes, peer) = (self.now(), &buffer[..len], PeerAddr(peer));
                match self.server.forward_peer(now, relay, peer, bytes, 0) {
                    Forward::Slow => {
                        self.server.handle_input(now, Input::FromPeer { relay, peer, bytes, tos: 0 })
                    }
                    forward => self.send(forward, bytes),
                }
            }
        }
        self.server.handle_input(self.now(), Input::Tick);
        while let Some(output) = self.server.poll_output() {
            self.perform(output);
        }
        Ok(())
    }

    fn send(&self, forward: Forward, bytes: &[u8]) {
        let Forward::Route(route) = forward else { return };
        let payload = &bytes[route.payload_start as usize..][..route.payload_len as usize];
        let header = route.header.map(Vec::from).unwrap_or_default();
        self.transmit(route.egress, route.to, &[&header, payload].concat());
    }

    fn transmit(&self, egress: Egress, to: SocketAddr, payload: &[u8]) {
        let socket = match egress {
            Egress::Client { .. } => Some(&self.listener),
            Egress::Relay(relay) => self.relays.get(&relay),
        };
        // A datagram that can't be sent is lost, as datagrams are.
        let _ = socket.map(|socket| socket.send_to(payload, to));
    }

    fn perform(&mut self, output: Output) {
        let now = self.now();
        match output {
            Output::Transmit { egress, to, payload, .. } => self.transmit(egress, to, &payload),
            // A relay without EVEN-PORT's reservations: they fail.
            Output::OpenPort { relay, reserve: Some(_), .. } => {
                self.server.handle_input(now, Input::PortFailed(relay, PortError::Exhausted));
            }
            Output::ReleasePort(_) => {}
            Output::OpenPort { relay, address, .. } => {
                let opened = UdpSocket::bind(address.0).and_then(|s| s.set_nonblocking(true).map(|()| s));
                let input = match opened {
                    Ok(socket) => {
                        self.relays.insert(relay, socket);
                        Input::PortOpened(relay)
                    }
                    Err(error) if error.kind() == ErrorKind::AddrInUse => {
                        Input::PortFailed(relay, PortError::InUse)
                    }
                    Err(_) => Input::PortFailed(relay, PortError::Exhausted),
                };
                self.server.handle_input(now, input);
            }
            Output::ClosePort(relay) => {
                self.relays.remove(&relay);
                self.server.handle_input(now, Input::PortClosed(relay));
            }
            // There is no kernel plane and nobody to tell of new allocations.
            Output::Offload(_) | Output::Withdraw(_) | Output::Created(_) | Output::PathMtuFell(_) => {}
            Output::Ended(record) => println!("ended: {record:?}"),
            Output::UserDisconnected { user, allocations } => {
                println!("disconnected: {user}: {allocations:?}")
            }
            Output::Refused(request) => println!("refused: {request:?}"),
            Output::OldChannelNumber { channel } => {
                println!("channel {channel:#06x} is outside RFC 8656's range")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use turnpike_proto::auth::Key;
    use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, channel, method};

    use super::*;

    /// Lets the relay work until something reaches the socket.
    fn receive(relay: &mut Relay, socket: &UdpSocket) -> Vec<u8> {
        let mut buffer = [0; 2048];
        for _ in 0..2000 {
            relay.turn().expect("the relay works");
            if let Ok((len, _)) = socket.recv_from(&mut buffer) {
                return buffer[..len].to_vec();
            }
        }
        panic!("nothing arrived");
    }

    fn loopback() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("an option");
        socket
    }

    /// Asks once without a nonce, once with it.
    fn ask(
        relay: &mut Relay,
        socket: &UdpSocket,
        method: u16,
        add: impl Fn(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        let key = Key::md5("demo", "example.org", "demo").expect("good credentials");
        let mut nonce = b"none yet".to_vec();
        for round in 0..2 {
            let request = add(MessageBuilder::request(method, TransactionId([method as u8 * 2 + round; 12])))
                .attribute(attr::USERNAME, b"demo")
                .attribute(attr::REALM, b"example.org")
                .attribute(attr::NONCE, &nonce)
                .finish_signed(&key);
            socket.send_to(&request, relay.listener.local_addr().expect("bound")).expect("sent");
            let answer = receive(relay, socket);
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
        let mut relay = Relay::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let (client, peer) = (loopback(), loopback());
        let peer_address = peer.local_addr().expect("bound");
        let answer = ask(&mut relay, &client, method::ALLOCATE, |b| {
            b.attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        });
        let message = Message::parse(&answer).expect("well-formed");
        let relayed = message.xor_address(attr::XOR_RELAYED_ADDRESS).expect("present").expect("well-formed");
        ask(&mut relay, &client, method::CHANNEL_BIND, |b| {
            b.attribute(attr::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .xor_address(attr::XOR_PEER_ADDRESS, peer_address)
        });
        let data = [&channel::header(0x4000, 5)[..], b"hello"].concat();
        client.send_to(&data, relay.listener.local_addr().expect("bound")).expect("sent");
        assert_eq!(receive(&mut relay, &peer), b"hello");
        peer.send_to(b"there", relayed).expect("sent");
        assert_eq!(receive(&mut relay, &client), [&channel::header(0x4000, 5)[..], b"there"].concat());
        ask(&mut relay, &client, method::REFRESH, |b| b.lifetime(0));
        assert!(relay.relays.is_empty());
    }
}
