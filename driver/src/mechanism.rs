//! The driver of real sockets, but for what epoll and io_uring do each in its own way: that is a [`Mechanism`].

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use turnpike_proto::addr::RelayedAddr;
use turnpike_proto::{ClientSocket, Egress, RelaySocket, Transmit};

use crate::buffers::BufferPool;
use crate::coalesce::Coalescer;
use crate::eventfd::EventFd;
use crate::kernel::received::Received;
use crate::kernel::table::{Losses, Sockets};
use crate::kernel::{not_reserved, opened};
use crate::limits::{MAX_LISTENERS, MAX_RELAY_SOCKETS};
use crate::reserved::Reserved;
use crate::send::batch::Envelope;
use crate::send::queue::{SendQueue, envelope, payload_of};
use crate::sockets::{self, ListenerSocket, SocketOptions};
use crate::{Datagram, Driver, DriverCounters, Event, HeldSocket, Ingress, Waker, clock, heap};

/// With nothing to do for this long, the memory behind the buffers goes back to the system.
const IDLE_BEFORE_RELEASE: Duration = Duration::from_secs(10);

/// A way to wait, to receive and to send.
pub trait Mechanism {
    /// Bytes that the kernel puts in front of each payload in its buffer.
    const PREFIX_BYTES: usize;

    /// What all mechanisms keep.
    fn base(&self) -> &Base;

    /// The same, to change it.
    fn base_mut(&mut self) -> &mut Base;

    /// [`Driver::wait`]; leaves the turn's events in [`Base::events`].
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Begins to receive from a relay socket, which is in the table afterwards.
    fn start(&mut self, relay: RelaySocket, socket: &Socket) -> io::Result<()>;

    /// Closes a relay socket, now or as soon as the kernel lets go of it; see [`Base::close`].
    fn close(&mut self, relay: RelaySocket);

    /// Begins to let go of all sockets, but for what is sent.
    fn let_go(&mut self) -> io::Result<()>;

    /// Whether nothing is received any more.
    fn has_let_go(&self) -> bool;

    /// Receives from all sockets again, or from those towards peers alone.
    fn take_up(&mut self, listeners: bool) -> io::Result<()>;

    /// Begins to watch [`Base::watched`].
    fn start_watching(&mut self) -> io::Result<()>;

    /// Sends a queue that isn't empty.
    fn send(&mut self);

    /// Whether what is queued could be sent.
    fn can_send(&self) -> bool {
        true
    }
}

/// What the drivers of real sockets keep.
pub struct Base {
    pub(crate) options: SocketOptions,
    pub(crate) sockets: Sockets,
    pub(crate) pool: BufferPool,
    pub(crate) queue: SendQueue,
    pub(crate) waker: Arc<EventFd>,
    pub(crate) reserved: Arc<Reserved>,
    pub(crate) coalescer: Coalescer,
    pub(crate) events: Vec<Event>,
    /// Answers to commands, for the next turn.
    pub(crate) answers: Vec<Event>,
    /// The streams' descriptor, if there are any.
    pub(crate) watched: Option<OwnedFd>,
    /// Nothing is to be received.
    pub(crate) is_paused: bool,
    pub(crate) counters: DriverCounters,
    /// When this turn's waiting was over, nanoseconds: by the system's clock, if datagrams say when they arrived.
    system_ns: u64,
    /// The same on the monotonic clock.
    woken_ns: u64,
    /// Datagrams of this turn, and messages of streams.
    arrived: usize,
    /// When buffers were used, or a deadline came, last; `None` since memory was given back.
    worked_ns: Option<u64>,
}

impl Base {
    /// For these listeners, with so many buffers of so many bytes.
    ///
    /// # Errors
    /// If there are more than [`MAX_LISTENERS`], or the system has no descriptors left.
    pub(crate) fn new(
        listeners: Vec<ListenerSocket>,
        options: SocketOptions,
        buffers: usize,
        buffer_bytes: usize,
    ) -> io::Result<Base> {
        if listeners.len() > MAX_LISTENERS {
            let text = format!("{} listen addresses: at most {MAX_LISTENERS} are possible", listeners.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Base {
            sockets: Sockets::new(listeners),
            pool: BufferPool::new(buffers, buffer_bytes),
            queue: SendQueue::new(),
            waker: Arc::new(EventFd::new()?),
            reserved: Arc::default(),
            coalescer: Coalescer::new(options.coalesce),
            options,
            events: Vec::new(),
            answers: Vec::new(),
            watched: None,
            is_paused: false,
            counters: DriverCounters::default(),
            system_ns: 0,
            woken_ns: 0,
            arrived: 0,
            worked_ns: None,
        })
    }

    // A turn

    /// Begins a turn's events with the answers to what was asked meanwhile.
    pub(crate) fn begin_events(&mut self) {
        self.events.clear();
        self.events.append(&mut self.answers);
    }

    /// Whether to pause before waiting, and so long: nothing may be due by then.
    pub(crate) fn pause(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        self.learn();
        if timeout.is_some_and(|timeout| timeout <= self.options.coalesce) {
            return None;
        }
        let pause = self.coalescer.pause(self.woken_ns)?;
        wait_precisely();
        Some(pause)
    }

    /// What the turn before has brought, and the thread's load, for the next pauses.
    fn learn(&mut self) {
        self.coalescer.observe(self.woken_ns, std::mem::take(&mut self.arrived));
        if self.coalescer.wants_sample(self.woken_ns) {
            self.coalescer.sample(self.woken_ns, clock::thread_cpu_ns());
        }
    }

    /// How long to wait at the most: until memory is given back, if there is any. Wake-ups are no work: somebody looks
    /// each second whether a worker lives.
    pub(crate) fn longest_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        let Some(worked_ns) = self.worked_ns else { return timeout };
        let idle = Duration::from_nanos(self.woken_ns.saturating_sub(worked_ns));
        let left = IDLE_BEFORE_RELEASE.saturating_sub(idle);
        Some(timeout.map_or(left, |timeout| timeout.min(left)))
    }

    /// The waiting is over. Clocks are read once in a turn: each reading counts where turns are short.
    pub(crate) fn woke(&mut self) {
        self.woken_ns = clock::monotonic_ns();
        if self.options.measure_waiting {
            self.system_ns = clock::realtime_ns();
        }
    }

    /// Whether memory is to be given back after a wait for [`Base::longest_wait`], when [`Base::woke`] was called.
    pub(crate) fn is_idle_after(&mut self, has_something: bool) -> bool {
        match self.worked_ns {
            _ if has_something => false,
            Some(worked_ns) => {
                self.woken_ns.saturating_sub(worked_ns) >= IDLE_BEFORE_RELEASE.as_nanos() as u64
            }
            None => {
                // At a deadline the core may free what a crowd has left.
                self.worked_ns = Some(self.woken_ns);
                false
            }
        }
    }

    /// Gives memory back to the system.
    pub(crate) fn release_memory(&mut self) {
        self.pool.release_memory();
        self.queue.batch.release_memory();
        (self.events, self.answers) = (Vec::new(), Vec::new());
        heap::release();
        self.worked_ns = None;
    }

    /// A turn has brought so many datagrams, if any.
    pub(crate) fn count_datagrams(&mut self, datagrams: usize) {
        if datagrams > 0 {
            self.worked_ns = Some(self.woken_ns);
            self.arrived += datagrams;
        }
    }

    /// The streams' descriptor can be read.
    pub(crate) fn streams_are_ready(&mut self) {
        self.worked_ns = Some(self.woken_ns);
        self.events.push(Event::StreamsReady);
    }

    /// A listener has received something into a buffer.
    pub(crate) fn received_by_listener(&mut self, index: u32, received: &Received, buffer: usize) {
        let Some(listener) = self.sockets.listeners.get_mut(index as usize) else { return };
        let lost = received.ancillary.overflow;
        match received.is_strangers {
            true => self.counters.stranger_overflow += listener.stranger_losses.news(lost),
            false => self.counters.socket_overflow += listener.losses.news(lost),
        }
        let local = listener.socket.local_addr();
        // Without the address it was sent to, nobody could answer it.
        let asked = if listener.socket.is_wildcard() { received.ancillary.server } else { Some(local) };
        let Some(server) = asked else { return self.received_unaddressed() };
        let ingress = Ingress::Client { socket: ClientSocket::listener(index), server };
        self.events.push(received.event(self.system_ns, ingress, buffer));
    }

    /// Something was received that nobody could answer.
    pub(crate) fn received_unaddressed(&mut self) {
        self.counters.unaddressed += 1;
    }

    /// A relay socket has received something into a buffer.
    pub(crate) fn received_by_relay(&mut self, relay: RelaySocket, received: &Received, buffer: usize) {
        let Some(open) = self.sockets.held(relay) else { return };
        self.counters.socket_overflow += open.losses.news(received.ancillary.overflow);
        self.events.push(received.event(self.system_ns, Ingress::Relay(relay), buffer));
    }

    // Commands

    /// Closes a relay socket that the kernel has let go of: now its port is free.
    pub(crate) fn close(&mut self, relay: RelaySocket) {
        if let Some(lost) = self.sockets.close(relay) {
            self.counters.socket_overflow += lost;
            self.answers.push(Event::PortClosed(relay));
        }
    }
}

impl<M: Mechanism> Driver for M {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.turn(timeout)?;
        Ok(self.base().events.len())
    }

    fn event(&self, index: usize) -> Event {
        self.base().events[index]
    }

    fn bytes(&self, datagram: &Datagram) -> &[u8] {
        let start = bytes_start(self, datagram);
        let bytes = self.base().pool.slice(start..start + datagram.len as usize);
        bytes.expect("the datagram was described by this driver in this turn")
    }

    fn forward(&mut self, datagram: &Datagram, segment_start: usize, transmit: &Transmit) {
        let payload = payload_of(datagram, segment_start, transmit, bytes_start(self, datagram));
        let sockets = &self.base().sockets;
        let envelope = envelope(sockets, transmit.egress, transmit.to, transmit.tos, transmit.dont_fragment);
        enqueue(self, envelope, |queue, envelope| queue.push(envelope, transmit.header, payload));
    }

    fn transmit(&mut self, egress: Egress, to: SocketAddr, payload: &[u8], tos: u8, dont_fragment: bool) {
        let envelope = envelope(&self.base().sockets, egress, to, tos, dont_fragment);
        enqueue(self, envelope, |queue, envelope| queue.push_copy(envelope, payload));
    }

    fn open_port(&mut self, relay: RelaySocket, address: RelayedAddr) {
        let outcome = try_open(self, relay, address);
        self.base_mut().answers.push(opened(relay, outcome));
    }

    fn open_pair(&mut self, relay: RelaySocket, address: RelayedAddr, reserve: RelayedAddr) {
        let base = self.base_mut();
        match base.reserved.bind(reserve.0, &base.options) {
            Ok(()) => self.open_port(relay, address),
            Err(error) => base.answers.push(not_reserved(relay, &error)),
        }
    }

    fn release_port(&mut self, address: RelayedAddr) {
        self.base().reserved.release(address.0);
    }

    fn close_port(&mut self, relay: RelaySocket) {
        // What was queued before the end still belongs to the allocation.
        self.flush();
        self.close(relay);
    }

    fn flush(&mut self) {
        if !self.base().queue.batch.is_empty() {
            self.send();
        }
    }

    fn count_messages(&mut self, messages: usize) {
        self.base_mut().arrived += messages;
    }

    fn watch(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        self.base_mut().watched = Some(descriptor);
        self.start_watching()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.base().waker.clone()
    }

    fn open_ports(&self) -> usize {
        self.base().sockets.open
    }

    fn counters(&self) -> DriverCounters {
        let base = self.base();
        DriverCounters { coalesce_ns: base.coalescer.wait_ns(), ..base.counters }
    }

    fn pause(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.base_mut().is_paused, true) {
            return Ok(());
        }
        self.let_go()
    }

    fn is_paused(&self) -> bool {
        self.base().is_paused && self.base().answers.is_empty() && self.has_let_go()
    }

    fn resume(&mut self, listeners: bool) -> io::Result<()> {
        if !std::mem::take(&mut self.base_mut().is_paused) {
            return Ok(());
        }
        if !listeners {
            self.base_mut().sockets.close_strangers();
        }
        self.take_up(listeners)
    }

    fn held_sockets(&self) -> Vec<HeldSocket<'_>> {
        self.base().sockets.all().collect()
    }

    fn adopt_port(&mut self, relay: RelaySocket, socket: OwnedFd, lost: u32) -> io::Result<()> {
        let socket = sockets::adopt_udp(socket)?;
        keep(self, relay, socket)?;
        self.base_mut().sockets.set_losses(relay, Losses::after(lost));
        Ok(())
    }
}

/// Where a datagram's bytes begin in the pool.
fn bytes_start<M: Mechanism + ?Sized>(driver: &M, datagram: &Datagram) -> usize {
    driver.base().pool.payload_offset(datagram.buffer as usize) + M::PREFIX_BYTES
}

/// Queues a datagram; `envelope` is `None` if the socket was closed.
fn enqueue<M: Mechanism>(
    driver: &mut M,
    envelope: Option<Envelope>,
    push: impl FnOnce(&mut SendQueue, Envelope),
) {
    if driver.base().queue.batch.is_full() {
        driver.flush();
    }
    let can_send = driver.can_send();
    let base = driver.base_mut();
    match envelope {
        Some(envelope) if can_send => push(&mut base.queue, envelope),
        _ => base.counters.send_failed += 1,
    }
}

fn try_open<M: Mechanism>(driver: &mut M, relay: RelaySocket, address: RelayedAddr) -> io::Result<()> {
    let base = driver.base_mut();
    // Taken first, so that nothing is kept of what fails.
    let socket = base.reserved.take_or_bind(address.0, &base.options)?;
    keep(driver, relay, socket)
}

/// Receives from a relay socket from now on.
fn keep<M: Mechanism>(driver: &mut M, relay: RelaySocket, socket: Socket) -> io::Result<()> {
    let base = driver.base_mut();
    if relay.index as usize >= MAX_RELAY_SOCKETS || base.sockets.is_taken(relay) {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    driver.start(relay, &socket)?;
    driver.base_mut().sockets.insert(relay, socket);
    Ok(())
}

/// Makes this thread's short waits end in time: by default the kernel lets each end 50 µs late.
fn wait_precisely() {
    const SLACK_NS: libc::c_ulong = 1;
    thread_local! {
        static IS_SET: Cell<bool> = const { Cell::new(false) };
    }
    if !IS_SET.replace(true) {
        // SAFETY: no pointers; it concerns this thread's timers. An error leaves them as they were.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
    }
}
