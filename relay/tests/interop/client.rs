//! A TURN client made of the library `turn-client-proto` and a real socket.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use stun_types::attribute::ErrorCode;
use stun_types::message::{Message, MessageClass, Method, TransactionId};
use turn_client_proto::api::{Transmit, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::*;
use turn_client_proto::stun::Instant as ClientInstant;
use turn_client_proto::types::{AddressFamily, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;
use turnpike_testkit::PATIENCE;

use super::lab::{CLIENT_V4, CLIENT_V6, Namespace};
use super::relay::{PASSWORD, USER};

/// How long one turn of the loop waits for a datagram.
const TURN: Duration = Duration::from_millis(20);

/// A client with its socket in a namespace.
pub struct Client {
    turn: TurnClientUdp,
    socket: UdpSocket,
    start: Instant,
    /// How far this client's clock is ahead of the real one.
    ahead: Duration,
    events: VecDeque<TurnEvent>,
    data: VecDeque<(SocketAddr, Vec<u8>)>,
    answers: Vec<Answer>,
    closed: bool,
}

/// A response that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of which method.
    pub method: Method,
    /// The code of an error response, `None` for a success.
    pub error: Option<u16>,
    /// The transaction that it ends.
    pub id: TransactionId,
}

impl Client {
    /// A client that will ask `server` for a relayed address of the server's own family.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Client {
        let (own, family) = match server {
            SocketAddr::V4(_) => (CLIENT_V4, AddressFamily::IPV4),
            SocketAddr::V6(_) => (CLIENT_V6, AddressFamily::IPV6),
        };
        let socket = namespace.enter(|| UdpSocket::bind((own, 0))).expect("a port is free");
        socket.set_read_timeout(Some(TURN)).expect("a timeout that is not zero");
        let mut config = TurnConfig::new(TurnCredentials::new(USER, PASSWORD));
        config.set_address_family(family);
        let local = socket.local_addr().expect("it is bound");
        Client {
            turn: TurnClientUdp::allocate(local, server, config),
            socket,
            start: Instant::now(),
            ahead: Duration::ZERO,
            events: VecDeque::new(),
            data: VecDeque::new(),
            answers: Vec::new(),
            closed: false,
        }
    }

    /// Waits for the relayed address; `None` if the server refuses.
    pub fn allocate(&mut self) -> Option<SocketAddr> {
        self.until("an answer to Allocate", |client| {
            client.take_event(|event| match event {
                TurnEvent::AllocationCreated(_, relayed) => Some(Some(*relayed)),
                TurnEvent::AllocationCreateFailed(_) => Some(None),
                _ => None,
            })
        })
    }

    /// Installs a permission; whether the server agreed.
    pub fn permit(&mut self, peer: IpAddr) -> bool {
        // An earlier one that ran out is reported as failed too.
        self.events.clear();
        let now = self.now();
        self.turn.create_permission(TransportType::Udp, peer, now).expect("there is an allocation");
        self.until("an answer to CreatePermission", |client| {
            client.take_event(|event| match event {
                TurnEvent::PermissionCreated(_, ip) => (*ip == peer).then_some(true),
                TurnEvent::PermissionCreateFailed(_, ip) => (*ip == peer).then_some(false),
                _ => None,
            })
        })
    }

    /// Binds a channel; whether the server agreed.
    pub fn bind(&mut self, peer: SocketAddr) -> bool {
        let now = self.now();
        self.turn.bind_channel(TransportType::Udp, peer, now).expect("there is an allocation");
        self.until("an answer to ChannelBind", |client| {
            client.take_event(|event| match event {
                TurnEvent::ChannelCreated(_, address) => (*address == peer).then_some(true),
                TurnEvent::ChannelCreateFailed(_, address) => (*address == peer).then_some(false),
                _ => None,
            })
        })
    }

    /// Sends to a peer, by channel if there is one, else by Send indication.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        let now = self.now();
        let transmit = self.turn.send_to(TransportType::Udp, peer, data.to_vec(), now);
        let transmit = transmit.expect("there is a permission").expect("UDP sends at once").build();
        self.socket.send_to(&transmit.data, transmit.to).expect("the namespace has a route");
    }

    /// Waits for data from a peer.
    pub fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        self.until("data from a peer", |client| client.data.pop_front())
    }

    /// Moves this client's clock ahead, so that it refreshes what it holds, and waits for the
    /// successful answer to `method`.
    pub fn refresh_after(&mut self, time: Duration, method: Method) {
        self.answers.clear();
        self.ahead += time;
        self.until("a successful answer to a refresh", |client| client.succeeded(method).then_some(()));
    }

    /// Deletes the allocation by a Refresh with lifetime 0 (RFC 8656 s. 8).
    pub fn delete(&mut self) {
        self.answers.clear();
        let now = self.now();
        self.turn.delete(now).expect("there is an allocation");
        self.until("an answer to Refresh", |client| {
            client.succeeded(turn_client_proto::types::message::REFRESH).then_some(())
        });
    }

    /// The code of the last error response.
    pub fn last_error(&self) -> Option<u16> {
        self.answers.iter().rev().find_map(|answer| answer.error)
    }

    fn succeeded(&self, method: Method) -> bool {
        self.answers.iter().any(|answer| answer.method == method && answer.error.is_none())
    }

    fn now(&self) -> ClientInstant {
        ClientInstant::ZERO + self.start.elapsed() + self.ahead
    }

    /// Lets the client work until `done` has something; panics after [`PATIENCE`].
    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Client) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < deadline, "{what} did not come: {:?}", self.answers);
            assert!(!self.closed, "the client gave up before {what} came: {:?}", self.answers);
            self.turn();
        }
    }

    /// Sends what is due, receives one datagram, collects events.
    fn turn(&mut self) {
        let now = self.now();
        if matches!(self.turn.poll(now), TurnPollRet::Closed) {
            self.closed = true;
        }
        while let Some(transmit) = self.turn.poll_transmit(now) {
            self.socket.send_to(&transmit.data, transmit.to).expect("the namespace has a route");
        }
        let mut buffer = [0; 2048];
        if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            self.take(from, &buffer[..length]);
        }
        while let Some(event) = self.turn.poll_event() {
            self.events.push_back(event);
        }
    }

    fn take(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.answers.extend(answer(bytes));
        let local = self.socket.local_addr().expect("it is bound");
        let now = self.now();
        let datagram = Transmit::new(bytes.to_vec(), TransportType::Udp, from, local);
        if let TurnRecvRet::PeerData(data) = self.turn.recv(datagram, now) {
            self.data.push_back((data.peer, data.data().to_vec()));
        }
    }

    /// Removes the first event that `pick` likes.
    fn take_event<T>(&mut self, pick: impl Fn(&TurnEvent) -> Option<T>) -> Option<T> {
        let (index, found) =
            self.events.iter().enumerate().find_map(|(index, event)| Some((index, pick(event)?)))?;
        self.events.remove(index);
        Some(found)
    }
}

/// What a received datagram answers, if it is a response.
fn answer(bytes: &[u8]) -> Option<Answer> {
    let message = Message::from_bytes(bytes).ok()?;
    let error = match message.class() {
        MessageClass::Success => None,
        MessageClass::Error => Some(message.attribute::<ErrorCode>().ok()?.code()),
        MessageClass::Request | MessageClass::Indication => return None,
    };
    Some(Answer { method: message.method(), error, id: message.transaction_id() })
}
