//! The driver for every Linux: epoll, recvmmsg and sendmmsg.
//!
//! A turn waits once, then takes a bounded number of datagrams from each socket that has any,
//! listeners first. Buffers belong to the driver: sockets cost nothing but themselves. What is
//! to be sent is queued as ranges of those buffers and leaves at the turn's end with one system
//! call per socket and batch.
//!
//! It decides nothing about TURN, and nothing that a peer sends can close or disable a socket.
#![allow(unsafe_code)]
// The kernel's length fields have other widths in other C libraries.
#![allow(clippy::unnecessary_cast)]

mod poller;
mod recv;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ClientSocket, Egress, RelaySocket, Route};

use self::poller::Poller;
use self::recv::Receiver;
use super::coalesce::Coalescer;
use super::eventfd::EventFd;
use super::kernel::errors::drain_errors;
use super::kernel::{
    Losses, MAX_RELAY_SOCKETS, check_listeners, not_reserved, opened, relay_of, relay_token, wait_precisely,
};
use super::{Datagram, Driver, DriverCounters, Event, Ingress, Waker};
use crate::buffers::BufferPool;
use crate::reserved::Reserved;
use crate::send::batch::{Envelope, Payload};
use crate::send::queue::{SendQueue, Senders, routed};
use crate::sockets::{ListenerSocket, SocketOptions};
use crate::{clock, heap};

/// Datagrams per system call, and per listener and turn. More gains nothing: the call's own
/// cost is spread thin by then.
const BATCH: usize = 64;
/// Datagrams from all relay sockets in one turn: what stays in the processor's cache.
const RELAY_DATAGRAMS: usize = 256;
/// Descriptors looked at in one turn. Not above [`RELAY_DATAGRAMS`], so that each gets a buffer;
/// the kernel reports those left out first the next time.
const READY: usize = 256;
/// With nothing to do for this long, the memory behind the buffers goes back to the system.
const IDLE_BEFORE_RELEASE: Duration = Duration::from_secs(10);

const WAKER_TOKEN: u64 = u64::MAX;
/// Listener `i` has this token less `i`. Relay sockets have their generation in the upper half and
/// an index below [`MAX_RELAY_SOCKETS`] in the lower one, so they never come near.
const LISTENER_TOKEN: u64 = u64::MAX - 1;

/// The sockets of a worker.
struct Sockets {
    listeners: Vec<ListenerSocket>,
    listener_losses: Vec<Losses>,
    relays: Vec<Option<OpenRelay>>,
    open: usize,
}

struct OpenRelay {
    generation: u32,
    socket: Socket,
    losses: Losses,
}

impl Sockets {
    fn losses(&mut self, relay: RelaySocket) -> Option<&mut Losses> {
        let open = self.relays.get_mut(relay.index as usize)?.as_mut()?;
        (open.generation == relay.generation).then_some(&mut open.losses)
    }

    /// Keeps a socket under its name; a socket with an older generation of that name is closed.
    fn insert(&mut self, relay: RelaySocket, socket: Socket) {
        let index = relay.index as usize;
        if index >= self.relays.len() {
            self.relays.resize_with(index + 1, || None);
        }
        let open = OpenRelay { generation: relay.generation, socket, losses: Losses::default() };
        self.open += usize::from(self.relays[index].replace(open).is_none());
    }

    /// Closes a socket; returns what it had lost since that was last counted, or `None` if there is none
    /// of that name.
    fn remove(&mut self, relay: RelaySocket) -> Option<u64> {
        self.relay(relay)?;
        let mut open = self.relays[relay.index as usize].take()?;
        self.open -= 1;
        if self.open == 0 {
            self.relays = Vec::new();
        }
        Some(open.losses.last_news(open.socket.as_fd()))
    }
}

impl Senders for Sockets {
    fn listener(&self, index: u32) -> Option<&ListenerSocket> {
        self.listeners.get(index as usize)
    }

    fn relay(&self, relay: RelaySocket) -> Option<&Socket> {
        let open = self.relays.get(relay.index as usize)?.as_ref()?;
        (open.generation == relay.generation).then_some(&open.socket)
    }
}

/// A relay socket that epoll reported.
#[derive(Clone, Copy)]
struct ReadyRelay {
    relay: RelaySocket,
    has_error: bool,
    has_data: bool,
}

/// The epoll driver of one worker.
pub struct EpollDriver {
    options: SocketOptions,
    sockets: Sockets,
    poller: Poller,
    waker: Arc<EventFd>,
    coalescer: Coalescer,
    pool: BufferPool,
    /// Buffers were used, or a deadline came, since memory was given back.
    has_worked: bool,
    /// The pool's first buffer that this turn has not used.
    next_buffer: usize,
    receiver: Receiver,
    queue: SendQueue,
    reserved: Arc<Reserved>,
    events: Vec<Event>,
    /// Answers to commands, for the next turn.
    answers: Vec<Event>,
    ready_listeners: Vec<bool>,
    ready_relays: Vec<ReadyRelay>,
    counters: DriverCounters,
    /// The system's clock when this turn's waiting was over, nanoseconds.
    woken_ns: u64,
}

impl EpollDriver {
    /// Makes a driver for these listeners: their order gives their [`ClientSocket`] numbers, from 0.
    ///
    /// # Errors
    /// If there are more than 64 listeners, or the system has no descriptors left.
    pub fn new(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<EpollDriver> {
        check_listeners(listeners.len())?;
        let poller = Poller::new(READY)?;
        let waker = Arc::new(EventFd::new()?);
        poller.add(waker.as_fd(), WAKER_TOKEN)?;
        for (listener, index) in listeners.iter().zip(0..) {
            poller.add(listener.as_fd(), LISTENER_TOKEN - index)?;
        }
        let buffers = listeners.len() * BATCH + RELAY_DATAGRAMS;
        Ok(EpollDriver {
            options,
            ready_listeners: vec![false; listeners.len()],
            ready_relays: Vec::with_capacity(READY),
            sockets: Sockets {
                listener_losses: vec![Losses::default(); listeners.len()],
                listeners,
                relays: Vec::new(),
                open: 0,
            },
            poller,
            waker,
            coalescer: Coalescer::new(options.coalesce),
            has_worked: false,
            pool: BufferPool::new(buffers, options.datagram_bytes),
            next_buffer: 0,
            receiver: Receiver::new(),
            queue: SendQueue::new(),
            reserved: Arc::default(),
            events: Vec::with_capacity(buffers),
            answers: Vec::new(),
            counters: DriverCounters::default(),
            woken_ns: 0,
        })
    }

    /// Shares the ports that are kept with other workers' drivers.
    #[must_use]
    pub fn with_reserved(mut self, reserved: Arc<Reserved>) -> Self {
        self.reserved = reserved;
        self
    }

    /// Sorts what epoll reported; whether the waker was called.
    fn sort_ready(&mut self) -> bool {
        // With more ready than fit, listeners and waker may be among those left out. All clients
        // share the listeners, so they are asked in every turn however many relay sockets are busy.
        let ask_all = self.poller.is_saturated();
        let mut is_woken = ask_all;
        self.ready_listeners.fill(ask_all);
        self.ready_relays.clear();
        for (token, mask) in self.poller.ready() {
            if token == WAKER_TOKEN {
                is_woken = true;
            } else if let Some(ready) = self.ready_listeners.get_mut((LISTENER_TOKEN - token) as usize) {
                *ready = true;
            } else {
                self.ready_relays.push(ReadyRelay {
                    relay: relay_of(token as u32, (token >> 32) as u32),
                    has_error: mask & libc::EPOLLERR as u32 != 0,
                    has_data: mask & libc::EPOLLIN as u32 != 0,
                });
            }
        }
        is_woken && self.waker.take()
    }

    fn receive_from_listener(&mut self, index: usize) {
        let listener = &self.sockets.listeners[index];
        let local = listener.local_addr();
        let is_wildcard = listener.is_wildcard();
        let first = self.next_buffer;
        let count = self.receiver.receive(listener.as_fd(), &mut self.pool, first, BATCH);
        for offset in 0..count {
            let Some(received) = self.receiver.received(offset, local.port()) else { continue };
            // Without the address it was sent to, nobody could answer it.
            let asked = if is_wildcard { received.ancillary.server } else { Some(local) };
            let Some(server) = asked else { continue };
            self.counters.socket_overflow +=
                self.sockets.listener_losses[index].news(received.ancillary.overflow);
            let ingress = Ingress::Client { socket: ClientSocket(index as u32), server };
            self.events.push(received.event(self.woken_ns, ingress, first + offset));
        }
        self.next_buffer += count;
    }

    /// Takes each ready relay socket's errors and a fair share of its datagrams.
    fn receive_from_relays(&mut self) {
        let mut budget = RELAY_DATAGRAMS;
        for place in 0..self.ready_relays.len() {
            let ready = self.ready_relays[place];
            if ready.has_error {
                self.receive_errors(ready.relay);
            }
            if ready.has_data {
                let share = (budget / (self.ready_relays.len() - place)).clamp(1, BATCH);
                budget -= self.receive_from_relay(ready.relay, share.min(budget));
            }
        }
    }

    /// Returns how many datagrams there were.
    fn receive_from_relay(&mut self, relay: RelaySocket, share: usize) -> usize {
        let Some(socket) = self.sockets.relay(relay) else { return 0 };
        let first = self.next_buffer;
        let count = self.receiver.receive(socket.as_fd(), &mut self.pool, first, share);
        for offset in 0..count {
            // A relay socket does not ask for the destination: its port matters to nobody.
            let Some(received) = self.receiver.received(offset, 0) else { continue };
            if let Some(losses) = self.sockets.losses(relay) {
                self.counters.socket_overflow += losses.news(received.ancillary.overflow);
            }
            self.events.push(received.event(self.woken_ns, Ingress::Relay(relay), first + offset));
        }
        self.next_buffer += count;
        count
    }

    fn receive_errors(&mut self, relay: RelaySocket) {
        if let Some(socket) = self.sockets.relay(relay) {
            drain_errors(socket, relay, &mut self.events);
        }
    }

    /// An open relay socket itself.
    #[cfg(test)]
    pub(super) fn relay_socket(&self, relay: RelaySocket) -> Option<&Socket> {
        self.sockets.relay(relay)
    }

    /// Queues a datagram; `envelope` is `None` if the socket was closed.
    fn enqueue(&mut self, envelope: Option<Envelope>, header: Option<[u8; 4]>, payload: Payload) {
        if self.queue.batch.is_full() {
            self.flush();
        }
        match envelope {
            Some(envelope) => self.queue.push(envelope, header, payload),
            None => self.counters.send_failed += 1,
        }
    }

    /// Waits for something to happen; with nothing there, first a little without looking if that lets more
    /// of it gather.
    fn wait_until_ready(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout.is_none_or(|timeout| timeout > self.options.coalesce)
            && let Some(pause) = self.coalescer.pause(clock::monotonic_ns())
        {
            self.poller.wait(Some(Duration::ZERO))?;
            if self.poller.has_ready() {
                return Ok(());
            }
            wait_precisely();
            self.coalescer.begin(clock::monotonic_ns());
            // Sleeping outside of epoll, so that what arrives meanwhile doesn't wake this thread.
            std::thread::sleep(pause);
        }
        if !self.has_worked {
            self.poller.wait(timeout)?;
            // At a deadline the core may free what a crowd has left.
            self.has_worked = !self.poller.has_ready();
            return Ok(());
        }
        let longest = timeout.map_or(IDLE_BEFORE_RELEASE, |timeout| timeout.min(IDLE_BEFORE_RELEASE));
        self.poller.wait(Some(longest))?;
        if !self.poller.has_ready() && longest == IDLE_BEFORE_RELEASE {
            self.pool.release_memory();
            (self.events, self.answers) = (Vec::new(), Vec::new());
            heap::release();
            self.has_worked = false;
        }
        Ok(())
    }

    fn try_open(&mut self, relay: RelaySocket, address: RelayedAddr) -> io::Result<()> {
        // Taken first, so that nothing is kept of what fails.
        let socket = self.reserved.take_or_bind(address.0, &self.options)?;
        if relay.index as usize >= MAX_RELAY_SOCKETS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.poller.add(socket.as_fd(), relay_token(relay))?;
        self.sockets.insert(relay, socket);
        Ok(())
    }
}

impl Driver for EpollDriver {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.flush();
        self.events.clear();
        self.events.append(&mut self.answers);
        self.next_buffer = 0;
        let timeout = if self.events.is_empty() { timeout } else { Some(Duration::ZERO) };
        self.wait_until_ready(timeout)?;
        self.woken_ns = clock::realtime_ns();
        if self.sort_ready() {
            self.events.push(Event::Woken);
        }
        for index in 0..self.ready_listeners.len() {
            if self.ready_listeners[index] {
                self.receive_from_listener(index);
            }
        }
        self.receive_from_relays();
        if self.next_buffer > 0 {
            self.has_worked = true;
            self.coalescer.observe(clock::monotonic_ns(), self.next_buffer);
        }
        Ok(self.events.len())
    }

    fn event(&self, index: usize) -> Event {
        self.events[index]
    }

    fn bytes(&self, datagram: &Datagram) -> &[u8] {
        let start = self.pool.payload_offset(datagram.buffer as usize);
        self.pool
            .slice(start..start + datagram.len as usize)
            .expect("the datagram was described by this driver in this turn")
    }

    fn forward(&mut self, datagram: &Datagram, segment_start: usize, route: &Route) {
        let start = self.pool.payload_offset(datagram.buffer as usize);
        let envelope = self.sockets.envelope(route.egress, route.to, route.tos, route.dont_fragment);
        self.enqueue(envelope, route.header, routed(datagram, segment_start, route, start));
    }

    fn transmit(&mut self, egress: Egress, to: SocketAddr, payload: Vec<u8>, tos: u8, dont_fragment: bool) {
        let envelope = self.sockets.envelope(egress, to, tos, dont_fragment);
        self.enqueue(envelope, None, Payload::Owned(payload));
    }

    fn open_port(&mut self, relay: RelaySocket, address: RelayedAddr) {
        let outcome = self.try_open(relay, address);
        self.answers.push(opened(relay, outcome));
    }

    fn open_pair(&mut self, relay: RelaySocket, address: RelayedAddr, reserve: RelayedAddr) {
        match self.reserved.bind(reserve.0, &self.options) {
            Ok(()) => self.open_port(relay, address),
            Err(error) => self.answers.push(not_reserved(relay, &error)),
        }
    }

    fn release_port(&mut self, address: RelayedAddr) {
        self.reserved.release(address.0);
    }

    fn close_port(&mut self, relay: RelaySocket) {
        // What was queued before the end still belongs to the allocation.
        self.flush();
        if let Some(lost) = self.sockets.remove(relay) {
            self.counters.socket_overflow += lost;
            self.answers.push(Event::PortClosed(relay));
        }
    }

    fn flush(&mut self) {
        if !self.queue.batch.is_empty() {
            self.queue.send_all(&self.pool, &self.sockets, &mut self.counters);
        }
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.waker.clone()
    }

    fn open_ports(&self) -> usize {
        self.sockets.open
    }

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}
