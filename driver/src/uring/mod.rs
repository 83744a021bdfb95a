//! The driver for Linux 6.1 and newer: io_uring.
//!
//! Every socket has one request to receive that lasts (multishot); datagrams land in buffers of two
//! groups, so that a flood at relayed addresses can't take those of the listeners. A turn is one system
//! call: it sends what the last turn queued, and waits.
//!
//! ```text
//!   wait: requests to send ─► enter ─► what was refused, singly ─► buffers back ─► completions ─► events
//! ```
//!
//! A lasting request ends when buffers or completions run out, by an empty datagram, and by an ICMP
//! error; nothing is lost then. It is made again in the next turn, after the buffers were given back:
//! otherwise it would end at once, again and again.
#![allow(unsafe_code)]

mod group;
mod probe;
mod ring;
mod sockets;

use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ClientSocket, Egress, RelaySocket, Route};

use self::group::BufferGroup;
pub use self::probe::probe;
use self::ring::{Completion, Ring, Waiting};
use self::sockets::{FIXED_RELAYS, Sockets, Target};
use super::coalesce::Coalescer;
use super::eventfd::EventFd;
use super::kernel::cmsg::{CONTROL_BYTES, RawAddr};
use super::kernel::errors::drain_errors;
use super::kernel::{
    Ancillary, MAX_RELAY_SOCKETS, check_listeners, empty_header, not_reserved, opened, relay_of,
    sending_relay, wait_precisely,
};
use super::{Datagram, Driver, DriverCounters, Event, Ingress, Waker};
use crate::buffers::BufferPool;
use crate::reserved::Reserved;
use crate::send::batch::{Envelope, Payload};
use crate::send::queue::{SendQueue, Senders, routed};
use crate::sockets::{ListenerSocket, SocketOptions};
use crate::{clock, heap};

/// Sizes of a worker's ring. All are powers of two.
#[derive(Clone, Copy, Debug)]
pub struct RingSizes {
    /// Requests that are submitted at once.
    pub requests: u32,
    /// Completions that wait at once.
    pub completions: u32,
    /// Buffers for all listeners together.
    pub listener_buffers: u16,
    /// Buffers for all relay sockets together.
    pub relay_buffers: u16,
}

impl Default for RingSizes {
    /// Buffers are offered as bursts need them; more than these would only fall out of the processor's cache.
    fn default() -> Self {
        RingSizes { requests: 512, completions: 4096, listener_buffers: 256, relay_buffers: 512 }
    }
}

/// What the kernel puts in front of a datagram: `io_uring_recvmsg_out`, address, control messages.
const OUT_BYTES: usize = size_of::<[u32; 4]>();
/// Room for an address; more than it needs, so that control messages are aligned.
const NAME_BYTES: usize = 32;
const PREFIX_BYTES: usize = OUT_BYTES + NAME_BYTES + CONTROL_BYTES;

const LISTENER_GROUP: u16 = 0;
const RELAY_GROUP: u16 = 1;

/// With nothing to do for this long, the memory behind the buffers goes back to the system.
const IDLE_BEFORE_RELEASE: Duration = Duration::from_secs(10);

/// What a request is for, in the upper four bits of its user data; below it 32 bits of generation and 28
/// of index, which is more than [`MAX_RELAY_SOCKETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listener,
    Relay,
    Waker,
    Send,
    Cancel,
}

const KIND_SHIFT: u32 = 60;
const INDEX_BITS: u32 = 28;

impl Kind {
    fn tag(self, low: u64) -> u64 {
        (self as u64) << KIND_SHIFT | low
    }

    fn of(user_data: u64) -> Option<Kind> {
        let kinds = [Kind::Listener, Kind::Relay, Kind::Waker, Kind::Send, Kind::Cancel];
        kinds.get((user_data >> KIND_SHIFT) as usize).copied()
    }

    fn relay(relay: RelaySocket) -> u64 {
        Kind::Relay.tag(u64::from(relay.generation) << INDEX_BITS | u64::from(relay.index))
    }
}

fn relay_in(user_data: u64) -> RelaySocket {
    let index = user_data as u32 & ((1 << INDEX_BITS) - 1);
    relay_of(index, (user_data >> INDEX_BITS) as u32)
}

/// A lasting request that has ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Listener(u32),
    Relay(RelaySocket),
    Waker,
}

/// The io_uring driver of one worker.
pub struct UringDriver {
    // Dropped first: while it lives the kernel may use what follows.
    ring: Ring,
    listener_group: BufferGroup,
    relay_group: BufferGroup,
    pool: BufferPool,
    /// The shape of every datagram that is received.
    shape: Box<libc::msghdr>,
    options: SocketOptions,
    sockets: Sockets,
    waker: Arc<EventFd>,
    coalescer: Coalescer,
    queue: SendQueue,
    reserved: Arc<Reserved>,
    events: Vec<Event>,
    /// Answers to commands, for the next turn.
    answers: Vec<Event>,
    ended: Vec<Ended>,
    /// Relay sockets whose ICMP errors were too many for one turn.
    more_errors: Vec<RelaySocket>,
    refused: Vec<Completion>,
    /// Buffers were used, or a deadline came, since memory was given back.
    has_worked: bool,
    counters: DriverCounters,
    /// The system's clock when this turn's waiting was over, nanoseconds.
    woken_ns: u64,
    /// The ring failed outside of waiting; the next wait says so.
    failure: Option<io::Error>,
}

// SAFETY: the only pointers are null ones in `shape`; everything else may be sent by itself. The ring
// belongs to the thread that first submits, and refuses others.
unsafe impl Send for UringDriver {}

impl UringDriver {
    /// Makes a driver for these listeners: their order gives their [`ClientSocket`] numbers, from 0.
    ///
    /// # Errors
    /// If there are more than 64 listeners, or the kernel doesn't offer what is needed.
    pub fn new(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<UringDriver> {
        UringDriver::with_sizes(listeners, options, RingSizes::default())
    }

    /// Shares the ports that are kept with other workers' drivers.
    #[must_use]
    pub fn with_reserved(mut self, reserved: Arc<Reserved>) -> Self {
        self.reserved = reserved;
        self
    }

    /// [`UringDriver::new`] with other sizes.
    ///
    /// # Errors
    /// As there.
    pub fn with_sizes(
        listeners: Vec<ListenerSocket>,
        options: SocketOptions,
        sizes: RingSizes,
    ) -> io::Result<UringDriver> {
        check_listeners(listeners.len())?;
        let ring = Ring::new(sizes.requests, sizes.completions)?;
        ring.reserve_files(listeners.len() as u32 + FIXED_RELAYS)?;
        for (listener, slot) in listeners.iter().zip(0..) {
            ring.set_file(slot, listener.as_fd().as_raw_fd())?;
        }
        let (near, far) = (sizes.listener_buffers, sizes.relay_buffers);
        let mut pool =
            BufferPool::new(usize::from(near) + usize::from(far), PREFIX_BYTES + options.datagram_bytes);
        let listener_group = BufferGroup::new(&ring, LISTENER_GROUP, 0, near, &mut pool)?;
        let relay_group = BufferGroup::new(&ring, RELAY_GROUP, usize::from(near), far, &mut pool)?;
        let mut shape = Box::new(empty_header().msg_hdr);
        shape.msg_namelen = NAME_BYTES as _;
        shape.msg_controllen = CONTROL_BYTES as _;
        let mut ended: Vec<Ended> = (0..listeners.len() as u32).map(Ended::Listener).collect();
        ended.push(Ended::Waker);
        Ok(UringDriver {
            ring,
            listener_group,
            relay_group,
            pool,
            shape,
            coalescer: Coalescer::new(options.coalesce),
            options,
            sockets: Sockets::new(listeners),
            waker: Arc::new(EventFd::new()?),
            queue: SendQueue::new(),
            reserved: Arc::default(),
            events: Vec::new(),
            answers: Vec::new(),
            ended,
            more_errors: Vec::new(),
            refused: Vec::new(),
            has_worked: false,
            counters: DriverCounters::default(),
            woken_ns: 0,
            failure: None,
        })
    }

    // Before waiting

    /// Queues the turn's sends; those that need DF go at once, since DF is the socket's.
    fn push_sends(&mut self) -> io::Result<()> {
        if self.queue.batch.is_empty() {
            return Ok(());
        }
        if self.queue.batch.has_dont_fragment() {
            self.queue.send_all(&self.pool, &self.sockets, &mut self.counters);
            return Ok(());
        }
        self.queue.assemble(&self.pool);
        for place in 0..self.queue.batch.count() {
            let target = self.sockets.target(self.queue.batch.message(place).envelope.sender);
            let header = &raw const self.queue.header(place).msg_hdr;
            let Some(target) = target else {
                // Closed since it was queued.
                self.queue.count_failure(place, &mut self.counters);
                continue;
            };
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
            let request = match target {
                Target::Slot(slot) => opcode::SendMsg::new(types::Fixed(slot), header).flags(flags).build(),
                Target::Descriptor(fd) => opcode::SendMsg::new(types::Fd(fd), header).flags(flags).build(),
            };
            // Only refusals have a completion.
            let request = request.flags(squeue::Flags::SKIP_SUCCESS).user_data(Kind::Send.tag(place as u64));
            // SAFETY: header, batch and pool are not touched until `finish_sends`, after submission; with
            // MSG_DONTWAIT a send is carried out there or fails, so that nothing is used later.
            unsafe { self.ring.push(&request)? };
        }
        Ok(())
    }

    /// After submission: what was refused is sent again or counted, then the batch is forgotten.
    fn finish_sends(&mut self) {
        let mut refused = std::mem::take(&mut self.refused);
        let is_send = |completion: &Completion| Kind::of(completion.user_data) == Some(Kind::Send);
        self.ring.take(is_send, &mut refused);
        for completion in refused.drain(..) {
            self.handle_refusal(&completion);
        }
        self.refused = refused;
        if !self.queue.batch.is_empty() {
            self.queue.clear();
        }
    }

    fn handle_refusal(&mut self, completion: &Completion) {
        let place = (completion.user_data & ((1 << INDEX_BITS) - 1)) as usize;
        let Some(errno) = completion.errno() else { return };
        let sender = self.queue.batch.message(place).envelope.sender;
        match self.sockets.socket(sender) {
            Some(socket) if errno != libc::EAGAIN => {
                self.queue.retry(socket, place, &self.pool, &mut self.counters);
            }
            _ => self.queue.count_failure(place, &mut self.counters),
        }
        // The error may have been an ICMP message for another peer, and the send has taken it away from
        // the request that receives: nobody else would look into the queue.
        if let Some(relay) = sending_relay(sender) {
            self.more_errors.push(relay);
        }
    }

    /// Makes the lasting requests again that have ended.
    fn arm_ended(&mut self) -> io::Result<()> {
        let mut ended = std::mem::take(&mut self.ended);
        let outcome = ended.drain(..).try_for_each(|what| self.arm(what));
        self.ended = ended;
        outcome
    }

    fn arm(&mut self, what: Ended) -> io::Result<()> {
        let shape = &raw const *self.shape;
        let request = match what {
            Ended::Listener(index) => opcode::RecvMsgMulti::new(types::Fixed(index), shape, LISTENER_GROUP)
                .build()
                .user_data(Kind::Listener.tag(u64::from(index))),
            Ended::Relay(relay) => {
                let slot = self.sockets.slot(relay.index);
                let Some(open) = self.sockets.held(relay).filter(|open| !open.closing) else { return Ok(()) };
                open.armed = true;
                let fd = types::Fd(open.socket.as_raw_fd());
                let request = match slot {
                    Some(slot) => opcode::RecvMsgMulti::new(types::Fixed(slot), shape, RELAY_GROUP).build(),
                    None => opcode::RecvMsgMulti::new(fd, shape, RELAY_GROUP).build(),
                };
                request.user_data(Kind::relay(relay))
            }
            Ended::Waker => {
                let fd = types::Fd(self.waker.as_fd().as_raw_fd());
                let request = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
                request.user_data(Kind::Waker.tag(0))
            }
        };
        // SAFETY: the shape is boxed and lives as long as the driver; the groups' buffers outlive the ring.
        unsafe { self.ring.push(&request) }
    }

    fn give_back(&mut self) {
        self.listener_group.give_back(&mut self.pool);
        self.relay_group.give_back(&mut self.pool);
    }

    // Waiting

    fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let gather = match timeout {
            Some(timeout) if timeout <= self.options.coalesce => None,
            _ => self.coalescer.pause(clock::monotonic_ns()),
        };
        if let Some(pause) = gather {
            wait_precisely();
            self.ring.submit_and_look()?;
            if self.ring.has_completions() {
                return Ok(());
            }
            self.coalescer.begin(clock::monotonic_ns());
            if !self.ring.can_gather() {
                // Nothing wakes this thread outside of the ring.
                std::thread::sleep(pause);
                return self.ring.submit_and_wait(Waiting { timeout, gather: None });
            }
        }
        if !self.has_worked {
            self.ring.submit_and_wait(Waiting { timeout, gather })?;
            // At a deadline the core may free what a crowd has left.
            self.has_worked = !self.ring.has_completions();
            return Ok(());
        }
        let longest = timeout.map_or(IDLE_BEFORE_RELEASE, |timeout| timeout.min(IDLE_BEFORE_RELEASE));
        self.ring.submit_and_wait(Waiting { timeout: Some(longest), gather })?;
        if !self.ring.has_completions() && longest == IDLE_BEFORE_RELEASE {
            // The buffers are in the ring, but the kernel writes to them within system calls only.
            self.pool.release_memory();
            self.listener_group.shrink();
            self.relay_group.shrink();
            (self.events, self.answers) = (Vec::new(), Vec::new());
            (self.ended, self.more_errors) = (Vec::new(), Vec::new());
            heap::release();
            self.has_worked = false;
        }
        Ok(())
    }

    // After waiting

    fn handle_completions(&mut self) {
        let before = self.events.len();
        while let Some(completion) = self.ring.pop() {
            match Kind::of(completion.user_data) {
                Some(Kind::Listener) => self.handle_listener(&completion),
                Some(Kind::Relay) => self.handle_relay(&completion),
                Some(Kind::Waker) => {
                    if self.waker.take() {
                        self.events.push(Event::Woken);
                    }
                    if !completion.more() {
                        self.ended.push(Ended::Waker);
                    }
                }
                // A cancellation that came too late; what it was for has its own completion.
                Some(Kind::Cancel) | Some(Kind::Send) | None => {}
            }
        }
        let received = self.events.len() - before;
        if received > 0 {
            self.has_worked = true;
            self.coalescer.observe(clock::monotonic_ns(), received);
        }
    }

    fn handle_listener(&mut self, completion: &Completion) {
        let index = completion.user_data as u32;
        if !completion.more() {
            self.ended.push(Ended::Listener(index));
        }
        if completion.errno() == Some(libc::ENOBUFS) {
            self.listener_group.grow();
        }
        let Some(buffer) = completion.buffer().and_then(|buffer| self.listener_group.taken(buffer)) else {
            return;
        };
        let Some(listener) = self.sockets.listeners.get_mut(index as usize) else { return };
        let local = listener.socket.local_addr();
        let Some(received) = Received::read(&self.pool, buffer, completion.result, local.port()) else {
            return;
        };
        self.counters.socket_overflow += listener.losses.news(received.ancillary.overflow);
        // Without the address it was sent to, nobody could answer it.
        let asked = if listener.socket.is_wildcard() { received.ancillary.server } else { Some(local) };
        if let Some(server) = asked {
            let ingress = Ingress::Client { socket: ClientSocket(index), server };
            self.events.push(received.event(self.woken_ns, ingress, buffer));
        }
    }

    fn handle_relay(&mut self, completion: &Completion) {
        let relay = relay_in(completion.user_data);
        let buffer = completion.buffer().and_then(|buffer| self.relay_group.taken(buffer));
        let Some(open) = self.sockets.held(relay) else { return };
        open.armed = completion.more();
        let (armed, closing) = (open.armed, open.closing);
        if completion.errno() == Some(libc::ENOBUFS) {
            self.relay_group.grow();
        }
        if closing {
            if !armed {
                self.finish_close(relay);
            }
            return;
        }
        if let Some(buffer) = buffer
            && let Some(received) = Received::read(&self.pool, buffer, completion.result, 0)
        {
            self.counters.socket_overflow += open.losses.news(received.ancillary.overflow);
            self.events.push(received.event(self.woken_ns, Ingress::Relay(relay), buffer));
        }
        if !armed {
            if completion.errno().is_some_and(|errno| errno != libc::ENOBUFS) {
                self.more_errors.push(relay);
            }
            self.ended.push(Ended::Relay(relay));
        }
    }

    /// Reports ICMP errors, of each socket a bounded number in each turn.
    fn drain_errors(&mut self) {
        for relay in std::mem::take(&mut self.more_errors) {
            if let Some(socket) = self.sockets.relay(relay)
                && !drain_errors(socket, relay, &mut self.events)
            {
                self.more_errors.push(relay);
            }
        }
    }

    // Commands

    /// An open relay socket itself.
    #[cfg(test)]
    pub(super) fn relay_socket(&self, relay: RelaySocket) -> Option<&socket2::Socket> {
        self.sockets.relay(relay)
    }

    /// Queues a datagram; `envelope` is `None` if the socket was closed.
    fn enqueue(&mut self, envelope: Option<Envelope>, header: Option<[u8; 4]>, payload: Payload) {
        if self.queue.batch.is_full() {
            self.flush();
        }
        match envelope {
            Some(envelope) if self.failure.is_none() => self.queue.push(envelope, header, payload),
            _ => self.counters.send_failed += 1,
        }
    }

    fn try_open(&mut self, relay: RelaySocket, address: RelayedAddr) -> io::Result<()> {
        // Taken first, so that nothing is kept of what fails.
        let socket = self.reserved.take_or_bind(address.0, &self.options)?;
        if relay.index as usize >= MAX_RELAY_SOCKETS || self.sockets.is_taken(relay) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if let Some(slot) = self.sockets.slot(relay.index) {
            self.ring.set_file(slot, socket.as_raw_fd())?;
        }
        self.sockets.insert(relay, socket);
        self.ended.push(Ended::Relay(relay));
        Ok(())
    }

    /// Lets go of a relay socket that no request uses any more: only then its port becomes free.
    fn finish_close(&mut self, relay: RelaySocket) {
        if let Some(slot) = self.sockets.slot(relay.index) {
            // It can't fail: the slot exists, and emptying it needs no memory.
            let _ = self.ring.set_file(slot, -1);
        }
        let Some(mut open) = self.sockets.remove(relay) else { return };
        self.counters.socket_overflow += open.losses.last_news(open.socket.as_fd());
        self.answers.push(Event::PortClosed(relay));
    }
}

impl Driver for UringDriver {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if !self.ended.is_empty() {
            self.flush();
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            self.give_back();
            self.arm_ended()?;
        }
        self.push_sends()?;
        self.events.clear();
        self.events.append(&mut self.answers);
        let is_busy = !self.events.is_empty() || !self.more_errors.is_empty() || self.ring.has_completions();
        self.submit_and_wait(if is_busy { Some(Duration::ZERO) } else { timeout })?;
        self.woken_ns = clock::realtime_ns();
        self.finish_sends();
        self.give_back();
        self.handle_completions();
        self.drain_errors();
        // Sockets that the kernel has let go of meanwhile.
        self.events.append(&mut self.answers);
        Ok(self.events.len())
    }

    fn event(&self, index: usize) -> Event {
        self.events[index]
    }

    fn bytes(&self, datagram: &Datagram) -> &[u8] {
        let start = self.pool.payload_offset(datagram.buffer as usize) + PREFIX_BYTES;
        self.pool
            .slice(start..start + datagram.len as usize)
            .expect("the datagram was described by this driver in this turn")
    }

    fn forward(&mut self, datagram: &Datagram, segment_start: usize, route: &Route) {
        let start = self.pool.payload_offset(datagram.buffer as usize) + PREFIX_BYTES;
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
        let Some(open) = self.sockets.held(relay).filter(|open| !open.closing) else { return };
        if !open.armed {
            return self.finish_close(relay);
        }
        open.closing = true;
        self.sockets.open -= 1;
        // An armed socket would keep its port: its request has to end first.
        let request = opcode::AsyncCancel::new(Kind::relay(relay)).build().user_data(Kind::Cancel.tag(0));
        // SAFETY: it points to nothing.
        let pushed = unsafe { self.ring.push(&request.flags(squeue::Flags::SKIP_SUCCESS)) };
        self.failure = self.failure.take().or(pushed.err());
    }

    fn flush(&mut self) {
        if self.queue.batch.is_empty() {
            return;
        }
        match self.push_sends().and_then(|()| self.ring.submit()) {
            Ok(()) => self.finish_sends(),
            // What was queued stays where it is: the kernel may still look at it.
            Err(error) => self.failure = Some(error),
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

/// A datagram, or a run of them, as the kernel describes it in front of its bytes.
struct Received {
    from: SocketAddr,
    len: u32,
    truncated: bool,
    ancillary: Ancillary,
}

impl Received {
    /// Reads what a completion with this result has left in a buffer.
    fn read(pool: &BufferPool, buffer: usize, result: i32, local_port: u16) -> Option<Received> {
        let len = usize::try_from(result).ok()?.checked_sub(PREFIX_BYTES)?;
        let start = pool.payload_offset(buffer);
        let prefix = pool.slice(start..start + PREFIX_BYTES)?;
        let (out, rest) = prefix.split_at(OUT_BYTES);
        let (name, control) = rest.split_at(NAME_BYTES);
        let field = |at: usize| {
            let bytes = out[4 * at..4 * at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        // name length, control length, payload length, flags (linux/io_uring.h)
        let (name_len, control_len, flags) = (field(0), field(1), field(3));
        Some(Received {
            from: RawAddr::from_bytes(name).read(name_len.min(NAME_BYTES as u32))?,
            len: len as u32,
            truncated: flags & libc::MSG_TRUNC as u32 != 0,
            ancillary: Ancillary::read(control.get(..control_len as usize)?, local_port),
        })
    }

    fn event(&self, now_ns: u64, ingress: Ingress, buffer: usize) -> Event {
        Event::Datagram(self.ancillary.datagram(now_ns, ingress, self.from, self.truncated, buffer, self.len))
    }
}
