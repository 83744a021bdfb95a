//! Streams over loopback connections, without any driver: a turn looks whether something is ready.

mod fallback;
mod hostile;
mod pauses;
mod proxy;
mod slow;
mod talk;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use turnpike_proto::ClientSocket;
use turnpike_proto::addr::{Alpn, TlsInfo, TlsVersion};
use turnpike_testkit::PATIENCE;
use turnpike_testkit::certificate::{self, Certificate};
use turnpike_testkit::stream::StreamClient;

use super::*;

const BOTH: Offer = Offer { plain: true, tls: true };

/// Streams of one listener, with a clock of its own.
struct Rig {
    streams: Streams,
    address: SocketAddr,
    certificate: Certificate,
    now_ns: u64,
    messages: Vec<(ClientSocket, Vec<u8>)>,
    /// What the TLS of each that has sent a message has agreed on.
    tls_infos: HashMap<ClientSocket, Option<TlsInfo>>,
    /// Of each that has sent a message: the path's client, and its own address.
    clients: HashMap<ClientSocket, [SocketAddr; 2]>,
    closed: Vec<CloseReason>,
    idle: Vec<ClientSocket>,
    /// Until then messages are to wait; those for which there is no patience left.
    pause_until_ns: u64,
    impatient: usize,
    /// What was told of frames that were dropped.
    told: Dropped,
}

impl Rig {
    fn new(offer: Offer, options: StreamOptions) -> Rig {
        let listeners = bind_stream_listeners("127.0.0.1:0".parse().expect("an address"), 1, offer);
        let listeners = listeners.expect("a free port");
        let address = listeners[0].local_addr();
        let certificate = Certificate::new(&["localhost"]);
        let mut config = certificate.server();
        config.alpn_protocols = vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new().expect("randomness");
        let config = Arc::new(config);
        let tls: TlsConfig = Arc::new(move || Arc::clone(&config));
        let options = StreamOptions { tls: Some(tls), ..options };
        let streams = Streams::new(listeners, options).expect("descriptors");
        let (messages, tls_infos, clients, closed, idle) = Default::default();
        let (pause_until_ns, impatient, told) = Default::default();
        Rig {
            streams,
            address,
            certificate,
            now_ns: 1,
            messages,
            tls_infos,
            clients,
            closed,
            idle,
            pause_until_ns,
            impatient,
            told,
        }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_nodelay(true).expect("an option");
        socket
    }

    /// A client's TLS, whose handshake has not begun.
    fn tls(
        &self,
        alpn: &[&[u8]],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConnection {
        let mut config = self.certificate.client_of(versions);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        certificate::tls(config, "localhost")
    }

    /// A client that has sent a first message, over TLS or without.
    fn talking(&mut self, is_tls: bool) -> (StreamClient, ClientSocket) {
        let (tls, socket) = match is_tls {
            true => {
                let (tls, socket) = self.connect_tls().into_parts();
                (Some(tls), socket)
            }
            false => (None, self.connect()),
        };
        let mut client = StreamClient::on(socket, tls).expect("connected");
        let socket = self.introduce(&mut client);
        (client, socket)
    }

    /// A client whose handshake is done.
    fn connect_tls(&mut self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut client = StreamOwned::new(self.tls(&[], rustls::ALL_VERSIONS), self.connect());
        self.shake_hands(&mut client);
        client
    }

    fn shake_hands(&mut self, client: &mut StreamOwned<ClientConnection, TcpStream>) {
        client.sock.set_nonblocking(true).expect("an option");
        let handshakes = self.streams.counters().handshakes.total();
        let deadline = Instant::now() + PATIENCE;
        while client.conn.is_handshaking() || self.streams.counters().handshakes.total() == handshakes {
            assert!(Instant::now() < deadline, "the handshake did not end: {:?}", self.closed);
            let _ = client.conn.complete_io(&mut client.sock);
            self.turn();
        }
        client.sock.set_nonblocking(false).expect("an option");
    }

    /// A turn, without waiting.
    fn turn(&mut self) {
        self.streams.turn(self.now_ns, true).expect("epoll works");
        while let Some(event) = self.streams.next_event(self.now_ns) {
            match event {
                StreamEvent::Message { bytes, .. } if self.now_ns < self.pause_until_ns => {
                    let is_paused = self.streams.pause(self.now_ns, &bytes, self.pause_until_ns);
                    self.impatient += usize::from(!is_paused);
                }
                StreamEvent::Message { path, client, bytes } => {
                    self.clients.insert(path.socket, [path.five_tuple.client.0, client.0]);
                    let bytes = self.streams.bytes(&bytes).to_vec();
                    self.tls_infos.insert(path.socket, path.tls);
                    self.messages.push((path.socket, bytes));
                }
                StreamEvent::Dropped { drops, .. } => {
                    self.told.full += drops.full;
                    self.told.old += drops.old;
                    self.told.closed += drops.closed;
                }
                StreamEvent::Idle(path) => self.idle.push(path.socket),
                StreamEvent::Closed { reason, .. } => self.closed.push(reason),
            }
        }
        self.streams.flush(self.now_ns);
    }

    /// Turns until something holds.
    fn until(&mut self, holds: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "it did not happen: {:?}", self.streams.counters());
            self.turn();
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn until_messages(&mut self, count: usize) -> Vec<Vec<u8>> {
        self.until(|rig| rig.messages.len() >= count);
        self.messages.drain(..).map(|(_, bytes)| bytes).collect()
    }

    /// Opens a connection by a first message; answers with its name.
    fn introduce(&mut self, client: &mut impl Write) -> ClientSocket {
        self.messages.clear();
        client.write_all(&request()).expect("sent");
        self.until(|rig| !rig.messages.is_empty());
        self.messages.pop().expect("a message").0
    }

    fn later(&mut self, duration: Duration) {
        self.now_ns += duration.as_nanos() as u64;
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.streams.counters().closed.of(reason)
    }
}

/// A Binding request.
fn request() -> Vec<u8> {
    [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat()
}

/// ChannelData as it is on a stream.
fn channel_data(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x40, 0x01];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().next_multiple_of(4), 0);
    frame
}

/// Reads ChannelData until so many bytes of payload have come.
fn read_frame(client: &mut impl Read) -> Vec<u8> {
    let mut header = [0; 4];
    client.read_exact(&mut header).expect("a header");
    assert_eq!(header[..2], [0x40, 0x01]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let mut payload = vec![0; len.next_multiple_of(4)];
    client.read_exact(&mut payload).expect("a payload");
    assert!(payload[len..].iter().all(|byte| *byte == 0));
    payload.truncate(len);
    payload
}
