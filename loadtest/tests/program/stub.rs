//! A tiny TURN relay inside the test process, which spoils packets on purpose and exactly.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use stun_types::attribute::{ErrorCode, Nonce, Realm};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, IntegrityKey, LongTermCredentials, Message, MessageClass, MessageWrite,
    MessageWriteExt, MessageWriteVec,
};
use turn_types::attribute::{ChannelNumber, Lifetime, XorPeerAddress, XorRelayedAddress};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, REFRESH};
use turnpike_loadtest::engine::mmsg::Poller;

/// The stub's only user, and its realm and nonce.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "opensesame";
const REALM: &str = "example.org";
const NONCE: &str = "f00d";
/// Poller key of the listener; relay sockets count from 0.
const LISTENER: u64 = u64::MAX;

/// What the stub does to ChannelData on its way to the peer. 0 = never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spoil {
    pub drop_every: u64,
    pub duplicate_every: u64,
    pub corrupt_every: u64,
    /// Swaps a packet with the one after it.
    pub swap_every: u64,
    pub refuse_peers: bool,
    /// Makes allocations beyond so many without answering.
    pub mute_after: Option<usize>,
}

/// A running stub; ends when dropped.
pub struct Stub {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    allocations: AtomicUsize,
    made: AtomicUsize,
    seen: AtomicU64,
}

impl Stub {
    pub fn start(spoil: Spoil) -> Self {
        Self::start_at("127.0.0.1:0", spoil)
    }

    pub fn start_at(local: &str, spoil: Spoil) -> Self {
        let listener = UdpSocket::bind(local).expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let relay = Relay::new(listener, spoil, counts.clone());
        let flag = stop.clone();
        let thread = std::thread::spawn(move || relay.run(&flag));
        Self { address, counts, stop, thread: Some(thread) }
    }

    /// Allocations that exist now.
    pub fn allocations(&self) -> usize {
        self.counts.allocations.load(Ordering::SeqCst)
    }

    /// Allocations ever made.
    pub fn made(&self) -> usize {
        self.counts.made.load(Ordering::SeqCst)
    }

    /// ChannelData messages of clients so far.
    pub fn seen(&self) -> u64 {
        self.counts.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the stub doesn't panic");
        }
    }
}

struct Client {
    address: SocketAddr,
    relay: UdpSocket,
    channels: HashMap<u16, SocketAddr>,
}

struct Relay {
    listener: UdpSocket,
    spoil: Spoil,
    clients: Vec<Option<Client>>,
    by_address: HashMap<SocketAddr, usize>,
    poller: Poller,
    key: IntegrityKey,
    held_back: Option<(usize, SocketAddr, Vec<u8>)>,
    counts: Arc<Counts>,
}

impl Relay {
    fn new(listener: UdpSocket, spoil: Spoil, counts: Arc<Counts>) -> Self {
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let poller = Poller::new().expect("epoll");
        poller.add(listener.as_fd(), LISTENER).expect("watched");
        let key = LongTermCredentials::new(USER.into(), PASSWORD.into())
            .to_key(REALM.into())
            .make_key(IntegrityAlgorithm::Sha1);
        Self {
            listener,
            spoil,
            clients: Vec::new(),
            by_address: HashMap::new(),
            poller,
            key,
            held_back: None,
            counts,
        }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut ready = Vec::new();
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::SeqCst) {
            self.poller.wait(5_000_000, &mut ready);
            for key in ready.drain(..) {
                if key == LISTENER {
                    while let Ok((length, from)) = self.listener.recv_from(&mut buffer) {
                        self.take_from_client(&mut buffer[..length], from);
                    }
                } else {
                    self.take_from_peer(key as usize, &mut buffer);
                }
            }
        }
    }

    fn take_from_client(&mut self, data: &mut [u8], from: SocketAddr) {
        if data[0] >> 6 != 1 {
            let answer = self.request(data, from);
            answer.map(|answer| self.listener.send_to(&answer, from));
            return;
        }
        let Some(&index) = self.by_address.get(&from) else { return };
        let Some(client) = &self.clients[index] else { return };
        let channel = u16::from_be_bytes([data[0], data[1]]);
        let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
        let Some(&peer) = client.channels.get(&channel) else { return };
        let seen = self.counts.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let now = |every: u64| every > 0 && seen.is_multiple_of(every);
        let payload = &mut data[4..4 + length];
        if now(self.spoil.drop_every) {
            return;
        }
        if now(self.spoil.corrupt_every) {
            payload[length - 1] ^= 1;
        }
        if now(self.spoil.swap_every) {
            self.held_back = Some((index, peer, payload.to_vec()));
            return;
        }
        for _ in 0..=u8::from(now(self.spoil.duplicate_every)) {
            client.relay.send_to(payload, peer).expect("loopback sends");
        }
        if let Some((index, peer, payload)) = self.held_back.take()
            && let Some(client) = &self.clients[index]
        {
            client.relay.send_to(&payload, peer).expect("loopback sends");
        }
    }

    fn take_from_peer(&mut self, index: usize, buffer: &mut [u8]) {
        let Some(client) = &self.clients[index] else { return };
        while let Ok((length, from)) = client.relay.recv_from(&mut buffer[4..]) {
            let bound = client.channels.iter().find(|(_, peer)| **peer == from);
            let Some((channel, _)) = bound else { continue };
            buffer[0..2].copy_from_slice(&channel.to_be_bytes());
            buffer[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            self.listener.send_to(&buffer[..4 + length], client.address).expect("loopback sends");
        }
    }

    fn request(&mut self, data: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        let request = Message::from_bytes(data).ok().filter(|m| m.has_class(MessageClass::Request))?;
        if !request.has_method(BINDING) && request.validate_integrity_with_key(&self.key).is_err() {
            return Some(refusal(&request, 401));
        }
        let mut answer = Message::builder_success(&request, MessageWriteVec::new());
        if request.has_method(ALLOCATE) {
            let relayed = self.allocate(from);
            if self.spoil.mute_after.is_some_and(|limit| self.by_address.len() > limit) {
                return None;
            }
            answer.push_attribute_unchecked(&XorRelayedAddress::new(relayed, request.transaction_id()));
            answer.push_attribute_unchecked(&Lifetime::new(600));
        } else if request.has_method(REFRESH) {
            if request.attribute::<Lifetime>().is_ok_and(|lifetime| lifetime.seconds() == 0) {
                self.delete(from);
            }
        } else if !request.has_method(BINDING) && self.spoil.refuse_peers {
            return Some(refusal(&request, 403));
        } else if request.has_method(CHANNEL_BIND) {
            let channel = request.attribute::<ChannelNumber>().ok()?.channel();
            let peer = request.attribute::<XorPeerAddress>().ok()?.addr(request.transaction_id());
            let index = *self.by_address.get(&from)?;
            self.clients[index].as_mut()?.channels.insert(channel, peer);
        }
        if !request.has_method(BINDING) {
            answer.add_message_integrity_with_key(&self.key, IntegrityAlgorithm::Sha1).expect("first");
        }
        Some(answer.finish())
    }

    fn allocate(&mut self, from: SocketAddr) -> SocketAddr {
        if let Some(Some(client)) = self.by_address.get(&from).map(|&index| &self.clients[index]) {
            return client.relay.local_addr().expect("bound");
        }
        let relay = UdpSocket::bind((self.listener.local_addr().expect("bound").ip(), 0)).expect("a port");
        relay.set_nonblocking(true).expect("a socket can be non-blocking");
        self.poller.add(relay.as_fd(), self.clients.len() as u64).expect("watched");
        let relayed = relay.local_addr().expect("bound");
        self.by_address.insert(from, self.clients.len());
        self.clients.push(Some(Client { address: from, relay, channels: HashMap::new() }));
        self.counts.allocations.fetch_add(1, Ordering::SeqCst);
        self.counts.made.fetch_add(1, Ordering::SeqCst);
        relayed
    }

    fn delete(&mut self, from: SocketAddr) {
        if let Some(index) = self.by_address.remove(&from) {
            self.clients[index] = None;
            self.counts.allocations.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn refusal(request: &Message<'_>, code: u16) -> Vec<u8> {
    let mut answer = Message::builder_error(request, MessageWriteVec::new());
    answer.push_attribute_unchecked(&ErrorCode::builder(code).build().expect("a known code"));
    answer.push_attribute_unchecked(&Realm::new(REALM).expect("short"));
    answer.push_attribute_unchecked(&Nonce::new(NONCE).expect("short"));
    answer.finish()
}
