//! A client that says exactly what a test wants it to say, made of the core's codec and a real socket.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};

use crate::lab::{CLIENT_V4, CLIENT_V6, Namespace};
use crate::message::{self, Transactions, bare_allocate, binding};
pub use crate::message::{Answer, Login, Style, UDP};
use crate::{PASSWORD, PATIENCE, USER};

/// How long an answer is waited for before a request is sent again.
const RESEND: Duration = Duration::from_secs(2);

/// A client.
pub struct Talker {
    /// Its socket, in the client's namespace.
    pub socket: UdpSocket,
    server: SocketAddr,
    /// What it logs in with.
    pub login: Login,
    transactions: Transactions,
}

impl Talker {
    /// A client of the usual user.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Talker {
        let own: IpAddr = if server.is_ipv4() { CLIENT_V4 } else { CLIENT_V6 };
        Talker::on(namespace.enter(|| UdpSocket::bind((own, 0))).expect("a port is free"), server)
    }

    /// The same on any socket.
    pub fn on(socket: UdpSocket, server: SocketAddr) -> Talker {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
        Talker { socket, server, login: Login::new(USER, PASSWORD), transactions: Transactions::new() }
    }

    /// Another user.
    pub fn named(mut self, user: &str, password: &str) -> Talker {
        self.login = Login::new(user, password);
        self
    }

    /// A transaction id that was not used before.
    pub fn id(&mut self) -> TransactionId {
        self.transactions.next_id()
    }

    /// Sends bytes as they are.
    pub fn say(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.server).expect("the namespace has a route");
    }

    /// The next datagram.
    pub fn hear(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    /// Sends a request until it is answered, as clients do (RFC 8489 s. 6.2.1).
    #[track_caller]
    pub fn ask(&self, bytes: &[u8]) -> Answer {
        let usual = self.socket.read_timeout().expect("an option of every socket");
        let answer = self.ask_again(bytes, Instant::now() + PATIENCE);
        self.patient_for(usual.unwrap_or(PATIENCE));
        answer.unwrap_or_else(|| panic!("{} was not answered", self.user))
    }

    fn ask_again(&self, bytes: &[u8], deadline: Instant) -> Option<Answer> {
        self.patient_for(RESEND);
        while Instant::now() < deadline {
            self.say(bytes);
            while let Some(heard) = self.hear() {
                // RFC 7983 s. 7: data, which may come at any time.
                if heard.first().is_some_and(|first| *first >= 0x40) {
                    continue;
                }
                let answer = Answer::of(heard);
                // Another one is the answer to an earlier request that was sent twice.
                if answer.message().transaction_id().0 == bytes[8..20] {
                    return Some(answer);
                }
            }
        }
        None
    }

    /// Waits this long for what it hears next.
    pub fn patient_for(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).expect("a timeout that is not zero");
    }

    /// A signed request.
    pub fn signed(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Vec<u8> {
        let id = self.id();
        self.sign(build(MessageBuilder::request(method, id)))
    }

    /// Gets a nonce by an Allocate without credentials.
    #[track_caller]
    pub fn challenge(&mut self) -> Answer {
        let bare = self.bare_allocate();
        let answer = self.ask(&bare);
        self.heed(&answer);
        answer
    }

    /// An Allocate without credentials.
    pub fn bare_allocate(&mut self) -> Vec<u8> {
        bare_allocate(self.id())
    }

    /// A signed request and its answer.
    #[track_caller]
    pub fn request(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Answer {
        if self.nonce.is_empty() {
            self.challenge();
        }
        let bytes = self.signed(method, build);
        self.ask(&bytes)
    }

    /// Allocates; gives the answer, whatever it is.
    #[track_caller]
    pub fn try_allocate(&mut self) -> Answer {
        self.request(method::ALLOCATE, |builder| builder.attribute(attr::REQUESTED_TRANSPORT, &UDP))
    }

    /// Allocates; gives the relayed address.
    #[track_caller]
    pub fn allocate(&mut self) -> SocketAddr {
        self.try_allocate().relayed()
    }

    /// Refreshes the allocation, or deletes it with 0.
    #[track_caller]
    pub fn refresh(&mut self, lifetime_secs: u32) -> Answer {
        self.request(method::REFRESH, |builder| builder.lifetime(lifetime_secs))
    }

    /// Installs a permission.
    #[track_caller]
    pub fn permit(&mut self, peer: SocketAddr) -> Answer {
        self.request(method::CREATE_PERMISSION, |builder| builder.xor_address(attr::XOR_PEER_ADDRESS, peer))
    }

    /// Binds channel 0x4000.
    #[track_caller]
    pub fn bind(&mut self, peer: SocketAddr) -> Answer {
        self.request(method::CHANNEL_BIND, |builder| binding(builder, 0x4000, peer))
    }

    /// ChannelData on channel 0x4000.
    pub fn channel_data(&self, data: &[u8]) {
        self.say(&message::channel_data(0x4000, data));
    }

    /// A Send indication.
    pub fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let indication = message::send_indication(self.id(), peer, data);
        self.say(&indication.finish());
    }
}

impl Deref for Talker {
    type Target = Login;

    fn deref(&self) -> &Login {
        &self.login
    }
}

impl DerefMut for Talker {
    fn deref_mut(&mut self) -> &mut Login {
        &mut self.login
    }
}

/// A socket of a peer, which waits as long as what it hears may take.
pub fn peer_socket(namespace: &Namespace, ip: IpAddr) -> UdpSocket {
    let socket = namespace.enter(|| UdpSocket::bind((ip, 0))).expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    socket
}
