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
mod slots;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use socket2::Socket;
use turnpike_proto::RelaySocket;

use self::group::BufferGroup;
pub use self::probe::probe;
use self::ring::{Completion, Ring, Waiting};
use self::slots::{Slots, Target};
use crate::buffers::BufferPool;
use crate::kernel::cmsg::{CONTROL_BYTES, RawAddr};
use crate::kernel::empty_header;
use crate::kernel::errors::drain_errors;
use crate::kernel::received::{Ancillary, Received};
use crate::limits::{
    LISTENER_BUFFERS, LOOKS_WHILE_CLOSING, RELAY_BUFFERS, RING_COMPLETIONS, RING_REQUESTS, STRANGER_DATAGRAMS,
};
use crate::mechanism::{Base, Mechanism};
use crate::reserved::Reserved;
use crate::send::queue::socket_of;
use crate::sockets::{ListenerSocket, SocketOptions};
use crate::strangers::Strangers;
use crate::{Driver, Event, clock};

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
    fn default() -> Self {
        RingSizes {
            requests: RING_REQUESTS,
            completions: RING_COMPLETIONS,
            listener_buffers: LISTENER_BUFFERS,
            relay_buffers: RELAY_BUFFERS,
        }
    }
}

/// What the kernel puts in front of a datagram: `io_uring_recvmsg_out`, address, control messages.
const OUT_BYTES: usize = size_of::<[u32; 4]>();
/// Room for an address; more than it needs, so that control messages are aligned.
const NAME_BYTES: usize = 32;
const PREFIX_BYTES: usize = OUT_BYTES + NAME_BYTES + CONTROL_BYTES;

const LISTENER_GROUP: u16 = 0;
const RELAY_GROUP: u16 = 1;

/// What a request is for, in the upper four bits of its user data; below it 32 bits of generation and 28
/// of index, which is more than [`MAX_RELAY_SOCKETS`](crate::limits::MAX_RELAY_SOCKETS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listener,
    Relay,
    Waker,
    Send,
    Cancel,
    Watched,
    Strangers,
}

const KIND_SHIFT: u32 = 60;
const INDEX_BITS: u32 = 28;

impl Kind {
    fn tag(self, low: u64) -> u64 {
        (self as u64) << KIND_SHIFT | low
    }

    fn of(user_data: u64) -> Option<Kind> {
        let kinds = [
            Kind::Listener,
            Kind::Relay,
            Kind::Waker,
            Kind::Send,
            Kind::Cancel,
            Kind::Watched,
            Kind::Strangers,
        ];
        kinds.get((user_data >> KIND_SHIFT) as usize).copied()
    }

    fn relay(relay: RelaySocket) -> u64 {
        Kind::Relay.tag(u64::from(relay.generation) << INDEX_BITS | u64::from(relay.index))
    }
}

fn relay_in(user_data: u64) -> RelaySocket {
    let index = user_data as u32 & ((1 << INDEX_BITS) - 1);
    RelaySocket { index, generation: (user_data >> INDEX_BITS) as u32 }
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
    slots: Slots,
    listener_group: BufferGroup,
    relay_group: BufferGroup,
    base: Base,
    /// The shape of every datagram that is received.
    shape: Box<libc::msghdr>,
    ended: Vec<Ended>,
    /// Those that are made again when the pause is over.
    parked: Vec<Ended>,
    /// Listeners whose request to receive is under way.
    armed_listeners: usize,
    /// The streams' descriptor is not being watched, and has to be.
    must_watch: bool,
    strangers: Strangers,
    /// Listeners whose sockets for strangers are not being watched.
    unwatched: Vec<u32>,
    /// More waits than this turn took.
    has_more: bool,
    /// Relay sockets whose ICMP errors were too many for one turn.
    more_errors: Vec<RelaySocket>,
    refused: Vec<Completion>,
    /// The ring failed outside of waiting; the next wait says so.
    failure: Option<io::Error>,
}

// SAFETY: the only pointers are null ones in `shape`; everything else may be sent by itself. The ring
// belongs to the thread that first submits, and refuses others.
unsafe impl Send for UringDriver {}

impl UringDriver {
    /// Makes a driver for these listeners: their order gives their
    /// [`ClientSocket`](turnpike_proto::ClientSocket) numbers, from 0.
    ///
    /// # Errors
    /// If there are more than 64 listeners, or the kernel doesn't offer what is needed.
    pub fn new(listeners: Vec<ListenerSocket>, options: SocketOptions) -> io::Result<UringDriver> {
        UringDriver::with_sizes(listeners, options, RingSizes::default())
    }

    /// Shares the ports that are kept with other workers' drivers.
    #[must_use]
    pub fn with_reserved(mut self, reserved: Arc<Reserved>) -> Self {
        self.base.reserved = reserved;
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
        let count = listeners.len() as u32;
        let (near, far) = (sizes.listener_buffers, sizes.relay_buffers);
        let buffers = usize::from(near) + usize::from(far);
        let all = buffers + STRANGER_DATAGRAMS;
        let mut base = Base::new(listeners, options, all, PREFIX_BYTES + options.datagram_bytes)?;
        let ring = Ring::new(sizes.requests, sizes.completions)?;
        let slots = Slots::for_listeners(count);
        ring.reserve_files(slots.count)?;
        for (listener, slot) in base.sockets.listeners.iter().zip(0..) {
            ring.set_file(slot, listener.socket.as_fd().as_raw_fd())?;
        }
        let listener_group = BufferGroup::new(&ring, LISTENER_GROUP, 0, near, &mut base.pool)?;
        let relay_group = BufferGroup::new(&ring, RELAY_GROUP, usize::from(near), far, &mut base.pool)?;
        let mut shape = Box::new(empty_header().msg_hdr);
        shape.msg_namelen = NAME_BYTES as _;
        shape.msg_controllen = CONTROL_BYTES as _;
        let has_strangers =
            |index: &u32| base.sockets.listener(*index).is_some_and(|it| it.strangers().is_some());
        let unwatched = (0..count).filter(has_strangers).collect();
        let mut ended: Vec<Ended> = (0..count).map(Ended::Listener).collect();
        ended.push(Ended::Waker);
        Ok(UringDriver {
            ring,
            slots,
            listener_group,
            relay_group,
            base,
            shape,
            ended,
            parked: Vec::new(),
            armed_listeners: 0,
            must_watch: false,
            strangers: Strangers::new(buffers, PREFIX_BYTES),
            unwatched,
            has_more: false,
            more_errors: Vec::new(),
            refused: Vec::new(),
            failure: None,
        })
    }

    // Before waiting

    /// Queues the turn's sends; those that need DF go at once, since DF is the socket's.
    fn push_sends(&mut self) -> io::Result<()> {
        let Base { queue, pool, sockets, counters, .. } = &mut self.base;
        if queue.batch.is_empty() {
            return Ok(());
        }
        if queue.batch.has_dont_fragment() {
            queue.send_all(pool, sockets, counters);
            return Ok(());
        }
        queue.assemble(pool);
        for place in 0..queue.batch.count() {
            let Some(target) = self.slots.target(sockets, queue.batch.message(place).envelope.sender) else {
                // Closed since it was queued.
                queue.count_failure(place, counters);
                continue;
            };
            let header = &raw const queue.header(place).msg_hdr;
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
        if !self.base.queue.batch.is_empty() {
            self.base.queue.clear();
        }
    }

    fn handle_refusal(&mut self, completion: &Completion) {
        let place = (completion.user_data & ((1 << INDEX_BITS) - 1)) as usize;
        let Some(errno) = completion.errno() else { return };
        let Base { queue, pool, sockets, counters, .. } = &mut self.base;
        let sender = queue.batch.message(place).envelope.sender;
        match socket_of(sockets, sender) {
            Some(socket) if errno != libc::EAGAIN => queue.retry(socket, place, pool, counters),
            _ => queue.count_failure(place, counters),
        }
        // The error may have been an ICMP message for another peer, and the send has taken it away from
        // the request that receives: nobody else would look into the queue.
        if let Some(relay) = sender.as_relay() {
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
        if self.base.is_paused && !matches!(what, Ended::Waker) {
            self.parked.push(what);
            return Ok(());
        }
        self.armed_listeners += usize::from(matches!(what, Ended::Listener(_)));
        let shape = &raw const *self.shape;
        let request = match what {
            Ended::Listener(index) => opcode::RecvMsgMulti::new(types::Fixed(index), shape, LISTENER_GROUP)
                .build()
                .user_data(Kind::Listener.tag(u64::from(index))),
            Ended::Relay(relay) => {
                let slot = self.slots.of_relay(relay.index);
                let held = self.base.sockets.held(relay);
                let Some(open) = held.filter(|open| !open.closing) else { return Ok(()) };
                open.armed = true;
                let fd = types::Fd(open.socket.as_raw_fd());
                let request = match slot {
                    Some(slot) => opcode::RecvMsgMulti::new(types::Fixed(slot), shape, RELAY_GROUP).build(),
                    None => opcode::RecvMsgMulti::new(fd, shape, RELAY_GROUP).build(),
                };
                request.user_data(Kind::relay(relay))
            }
            Ended::Waker => {
                let fd = types::Fd(self.base.waker.as_fd().as_raw_fd());
                let request = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
                request.user_data(Kind::Waker.tag(0))
            }
        };
        // SAFETY: the shape is boxed and lives as long as the driver; the groups' buffers outlive the ring.
        unsafe { self.ring.push(&request) }
    }

    /// Asks once in each turn, so that what is still ready is reported again; a lasting request tells changes only.
    fn watch_again(&mut self) -> io::Result<()> {
        let Some(watched) = self.base.watched.as_ref().filter(|_| self.must_watch) else { return Ok(()) };
        let request = opcode::PollAdd::new(types::Fd(watched.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the descriptor is ours for as long as the ring lives.
        unsafe { self.ring.push(&request.user_data(Kind::Watched.tag(0)))? };
        self.must_watch = false;
        Ok(())
    }

    /// Asks when strangers have sent something; once, since what is left of it is read in the next turn.
    fn watch_strangers(&mut self) -> io::Result<()> {
        while let Some(index) = self.unwatched.pop() {
            let Some(socket) = self.base.sockets.listener(index).and_then(ListenerSocket::strangers) else {
                continue;
            };
            let request = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLIN as u32).build();
            // SAFETY: it points to nothing, and the descriptor is ours for as long as the ring lives.
            unsafe { self.ring.push(&request.user_data(Kind::Strangers.tag(u64::from(index))))? };
        }
        Ok(())
    }

    /// Strangers' datagrams come last.
    fn receive_from_strangers(&mut self) {
        let count = self.strangers.receive(&mut self.base, self.has_more);
        self.unwatched.extend_from_slice(self.strangers.looked_at());
        self.base.count_datagrams(count);
    }

    fn give_back(&mut self) {
        self.listener_group.give_back(&mut self.base.pool);
        self.relay_group.give_back(&mut self.base.pool);
    }

    // Waiting

    fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let gather = self.base.pause(timeout);
        if let Some(pause) = gather {
            self.ring.submit_and_look()?;
            if self.ring.has_completions() {
                self.base.woke();
                return Ok(());
            }
            self.base.coalescer.begin(clock::monotonic_ns());
            if !self.ring.can_gather() {
                // Nothing wakes this thread outside of the ring.
                std::thread::sleep(pause);
            }
        }
        let gather = gather.filter(|_| self.ring.can_gather());
        let longest = self.base.longest_wait(timeout);
        self.ring.submit_and_wait(Waiting { timeout: longest, gather })?;
        self.base.woke();
        if self.base.is_idle_after(self.ring.has_completions()) {
            // The buffers are in the ring, but the kernel writes to them within system calls only.
            self.listener_group.shrink();
            self.relay_group.shrink();
            (self.ended, self.more_errors) = (Vec::new(), Vec::new());
            self.base.release_memory();
        }
        Ok(())
    }

    /// What arrives must not wait behind many requests that end.
    fn look_behind_closing(&mut self) -> io::Result<()> {
        let mut closing = self.base.sockets.closing();
        for _ in 0..LOOKS_WHILE_CLOSING {
            let before = self.ring.completions();
            if closing == 0 {
                break;
            }
            self.ring.submit_and_look()?;
            let more = self.ring.completions() - before;
            if more == 0 {
                break;
            }
            closing = closing.saturating_sub(more);
        }
        Ok(())
    }

    // After waiting

    fn handle_completions(&mut self) {
        // Wake-ups are no datagrams, and no work.
        let mut no_datagrams = self.base.events.len();
        while let Some(completion) = self.ring.pop() {
            match Kind::of(completion.user_data) {
                Some(Kind::Listener) => self.handle_listener(&completion),
                Some(Kind::Relay) => self.handle_relay(&completion),
                Some(Kind::Waker) => {
                    if self.base.waker.take() {
                        self.base.events.push(Event::Woken);
                        no_datagrams += 1;
                    }
                    if !completion.more() {
                        self.ended.push(Ended::Waker);
                    }
                }
                Some(Kind::Watched) => {
                    self.must_watch = true;
                    self.base.streams_are_ready();
                    no_datagrams += 1;
                }
                Some(Kind::Strangers) => self.strangers.note_ready(completion.user_data as u32),
                // A cancellation that came too late; what it was for has its own completion.
                Some(Kind::Cancel) | Some(Kind::Send) | None => {}
            }
        }
        self.base.count_datagrams(self.base.events.len() - no_datagrams);
    }

    fn handle_listener(&mut self, completion: &Completion) {
        let index = completion.user_data as u32;
        if !completion.more() {
            self.armed_listeners -= 1;
            self.ended.push(Ended::Listener(index));
        }
        if completion.errno() == Some(libc::ENOBUFS) {
            self.has_more |= !self.listener_group.grow();
        }
        let Some(buffer) = completion.buffer().and_then(|buffer| self.listener_group.taken(buffer)) else {
            return;
        };
        let Some(listener) = self.base.sockets.listener(index) else { return };
        let port = listener.local_addr().port();
        match read(&self.base.pool, buffer, completion.result, port) {
            Some(received) => self.base.received_by_listener(index, &received, buffer),
            None => self.base.received_unaddressed(),
        }
    }

    fn handle_relay(&mut self, completion: &Completion) {
        let relay = relay_in(completion.user_data);
        let buffer = completion.buffer().and_then(|buffer| self.relay_group.taken(buffer));
        let Some(open) = self.base.sockets.held(relay) else { return };
        open.armed = completion.more();
        let (armed, closing) = (open.armed, open.closing);
        if completion.errno() == Some(libc::ENOBUFS) {
            self.has_more |= !self.relay_group.grow();
        }
        if closing {
            if !armed {
                self.finish_close(relay);
            }
            return;
        }
        if let Some(buffer) = buffer {
            match read(&self.base.pool, buffer, completion.result, 0) {
                Some(received) => self.base.received_by_relay(relay, &received, buffer),
                None => self.base.received_unaddressed(),
            }
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
            if let Some(socket) = self.base.sockets.relay(relay)
                && !drain_errors(socket, relay, &mut self.base.events)
            {
                self.more_errors.push(relay);
            }
        }
    }

    /// Lets go of a relay socket that no request uses any more: only then its port becomes free.
    fn finish_close(&mut self, relay: RelaySocket) {
        if let Some(slot) = self.slots.of_relay(relay.index) {
            // It can't fail: the slot exists, and emptying it needs no memory.
            let _ = self.ring.set_file(slot, -1);
        }
        self.base.close(relay);
    }
}

impl Mechanism for UringDriver {
    const PREFIX_BYTES: usize = PREFIX_BYTES;

    fn base(&self) -> &Base {
        &self.base
    }

    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }

    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
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
        self.watch_again()?;
        self.watch_strangers()?;
        self.push_sends()?;
        self.base.begin_events();
        self.has_more = false;
        let has_events = !self.base.events.is_empty();
        let is_busy = has_events
            || !self.more_errors.is_empty()
            || self.strangers.has_ready()
            || self.ring.has_completions();
        self.submit_and_wait(if is_busy { Some(Duration::ZERO) } else { timeout })?;
        self.look_behind_closing()?;
        self.finish_sends();
        self.give_back();
        self.handle_completions();
        self.drain_errors();
        self.receive_from_strangers();
        // Sockets that the kernel has let go of meanwhile.
        self.base.events.append(&mut self.base.answers);
        Ok(())
    }

    fn start(&mut self, relay: RelaySocket, socket: &Socket) -> io::Result<()> {
        if let Some(slot) = self.slots.of_relay(relay.index) {
            self.ring.set_file(slot, socket.as_raw_fd())?;
        }
        self.ended.push(Ended::Relay(relay));
        Ok(())
    }

    fn let_go(&mut self) -> io::Result<()> {
        // All requests at once: those of waker and streams are made again in the next turn.
        let request = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
        // SAFETY: it points to nothing.
        unsafe { self.ring.push(&request.user_data(Kind::Cancel.tag(0)).flags(squeue::Flags::SKIP_SUCCESS)) }
    }

    fn has_let_go(&self) -> bool {
        self.armed_listeners == 0 && self.base.sockets.armed() == 0 && !self.ring.has_completions()
    }

    fn take_up(&mut self, listeners: bool) -> io::Result<()> {
        self.ended.append(&mut self.parked);
        self.ended.retain(|what| listeners || !matches!(what, Ended::Listener(_)));
        Ok(())
    }

    fn start_watching(&mut self) -> io::Result<()> {
        self.must_watch = true;
        Ok(())
    }

    fn close(&mut self, relay: RelaySocket) {
        let Some(open) = self.base.sockets.held(relay).filter(|open| !open.closing) else { return };
        if !open.armed {
            return self.finish_close(relay);
        }
        open.closing = true;
        self.base.sockets.open -= 1;
        // An armed socket would keep its port: its request has to end first.
        let request = opcode::AsyncCancel::new(Kind::relay(relay)).build().user_data(Kind::Cancel.tag(0));
        // SAFETY: it points to nothing.
        let pushed = unsafe { self.ring.push(&request.flags(squeue::Flags::SKIP_SUCCESS)) };
        self.failure = self.failure.take().or(pushed.err());
    }

    fn send(&mut self) {
        match self.push_sends().and_then(|()| self.ring.submit()) {
            Ok(()) => self.finish_sends(),
            // What was queued stays where it is: the kernel may still look at it.
            Err(error) => self.failure = Some(error),
        }
    }

    fn can_send(&self) -> bool {
        self.failure.is_none()
    }
}

/// Reads what a completion with this result has left in a buffer: the kernel's description, then the bytes.
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
        is_strangers: false,
    })
}
