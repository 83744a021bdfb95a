//! A client of a laboratory, whose datagrams are there at once.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use turnpike_proto::addr::{ClientAddr, FiveTuple, TlsInfo, Transport};
use turnpike_proto::wire::{MessageBuilder, TransactionId, attr, method};
use turnpike_proto::{ClientPath, ClientSocket};

use super::{Answer, Lab, SERVER_V4, SERVER_V6, Sent, addr};
use crate::message::{Login, UDP, bare_allocate, binding, channel_data, send_indication};

/// A client with its credentials, bound to one worker as the kernel's hash would do.
#[derive(Clone)]
pub struct Client {
    /// Its own address.
    pub address: SocketAddr,
    /// The worker that gets its datagrams.
    pub worker: usize,
    /// What it logs in with.
    pub login: Login,
    /// By what it reaches the server.
    pub transport: Transport,
    /// The socket at the server's end.
    pub socket: ClientSocket,
    /// What its TLS has agreed on, if it has any.
    pub tls: Option<TlsInfo>,
    next_transaction: u64,
}

impl Client {
    /// A client of the first user, on worker 0, over UDP.
    pub fn new(address: &str) -> Self {
        Self::named(address, "alice", "wonder")
    }

    /// A client of another user.
    pub fn named(address: &str, user: &str, password: &str) -> Self {
        Self {
            address: addr(address),
            worker: 0,
            login: Login::new(user, password),
            transport: Transport::Udp,
            socket: ClientSocket::listener(0),
            tls: None,
            next_transaction: u64::from(addr(address).port()) << 32,
        }
    }

    /// Its datagrams reach this worker.
    pub fn on_worker(mut self, worker: usize) -> Self {
        self.worker = worker;
        self
    }

    /// It is connected by TCP, as the server's first connection.
    pub fn over_tcp(self) -> Self {
        self.over_stream(Transport::Tcp, ClientSocket { index: 0, generation: 1 })
    }

    /// It is connected by TCP or TLS.
    pub fn over_stream(mut self, transport: Transport, socket: ClientSocket) -> Self {
        (self.transport, self.socket) = (transport, socket);
        self
    }

    /// Its 5-tuple and the socket at the server's end.
    pub fn path(&self) -> ClientPath {
        let server = addr(if self.address.is_ipv4() { SERVER_V4 } else { SERVER_V6 });
        let five_tuple = FiveTuple { client: ClientAddr(self.address), server, transport: self.transport };
        ClientPath { tls: self.tls, ..ClientPath::new(five_tuple, self.socket) }
    }

    /// A transaction id that it has not used before.
    pub fn transaction(&mut self) -> TransactionId {
        self.next_transaction += 1;
        let mut id = [0xc0; 12];
        id[4..].copy_from_slice(&self.next_transaction.to_be_bytes());
        TransactionId(id)
    }

    /// Sends bytes and takes the server's one answer.
    #[track_caller]
    pub fn exchange(&self, lab: &mut Lab, bytes: &[u8]) -> Answer {
        let mut sent = self.send(lab, bytes);
        assert_eq!(sent.len(), 1, "one answer was expected: {sent:?}");
        let sent = sent.remove(0);
        assert_eq!(sent.to, self.address);
        Answer::of(sent.payload)
    }

    /// Sends bytes to which no answer is due.
    #[track_caller]
    pub fn send_unanswered(&self, lab: &mut Lab, bytes: &[u8]) {
        let sent = self.send(lab, bytes);
        assert!(sent.is_empty(), "no answer was expected: {sent:?}");
    }

    /// A request with credentials, signed.
    pub fn signed(&mut self, method: u16, build: impl FnOnce(MessageBuilder) -> MessageBuilder) -> Vec<u8> {
        let id = self.transaction();
        self.signed_as(method, id, build)
    }

    /// The same with a transaction id of the test's choice.
    pub fn signed_as(
        &self,
        method: u16,
        id: TransactionId,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Vec<u8> {
        self.sign(build(MessageBuilder::request(method, id)))
    }

    /// Gets a nonce by a request without credentials.
    #[track_caller]
    pub fn challenge(&mut self, lab: &mut Lab) {
        let bare = bare_allocate(self.transaction());
        let challenge = self.exchange(lab, &bare);
        challenge.expect_error(401);
        self.nonce = challenge.attribute(attr::NONCE);
    }

    /// An authenticated request and its answer.
    #[track_caller]
    pub fn request(
        &mut self,
        lab: &mut Lab,
        method: u16,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        if self.nonce.is_empty() {
            self.challenge(lab);
        }
        let bytes = self.signed(method, build);
        self.exchange(lab, &bytes)
    }

    /// Allocates with more attributes; gives the answer, whatever it is.
    #[track_caller]
    pub fn allocate_with(
        &mut self,
        lab: &mut Lab,
        build: impl FnOnce(MessageBuilder) -> MessageBuilder,
    ) -> Answer {
        self.request(lab, method::ALLOCATE, |b| build(b.attribute(attr::REQUESTED_TRANSPORT, &UDP)))
    }

    /// Allocates; gives the relayed address.
    #[track_caller]
    pub fn allocate(&mut self, lab: &mut Lab) -> SocketAddr {
        let answer = self.allocate_with(lab, |b| b);
        answer.expect_success().relayed()
    }

    /// Refreshes its allocation, or deletes it with 0.
    #[track_caller]
    pub fn refresh(&mut self, lab: &mut Lab, lifetime_secs: u32) -> Answer {
        self.request(lab, method::REFRESH, |b| b.lifetime(lifetime_secs))
    }

    /// Installs a permission.
    #[track_caller]
    pub fn permit(&mut self, lab: &mut Lab, peer: &str) -> Answer {
        self.request(lab, method::CREATE_PERMISSION, |b| b.xor_address(attr::XOR_PEER_ADDRESS, addr(peer)))
    }

    /// Binds a channel to a peer.
    #[track_caller]
    pub fn bind(&mut self, lab: &mut Lab, number: u16, peer: &str) -> Answer {
        self.request(lab, method::CHANNEL_BIND, |b| binding(b, number, addr(peer)))
    }

    /// ChannelData; gives what left the server because of it.
    pub fn channel_data(&self, lab: &mut Lab, number: u16, data: &[u8]) -> Vec<Sent> {
        self.send(lab, &channel_data(number, data))
    }

    /// A Send indication; gives what left the server because of it.
    pub fn send_indication(&mut self, lab: &mut Lab, peer: &str, data: &[u8]) -> Vec<Sent> {
        let indication = send_indication(self.transaction(), addr(peer), data);
        self.send(lab, &indication.finish())
    }

    fn send(&self, lab: &mut Lab, bytes: &[u8]) -> Vec<Sent> {
        lab.take_sent();
        lab.client_sends(self.worker, self.path(), bytes, 0);
        lab.take_sent()
    }
}

impl Deref for Client {
    type Target = Login;

    fn deref(&self) -> &Login {
        &self.login
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Login {
        &mut self.login
    }
}
