//! Sending what is queued: messages in the kernel's layout, by sendmmsg, again singly where joining
//! them was refused.

// The kernel's length fields have other widths in other C libraries.
#![allow(clippy::unnecessary_cast)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Instant;

use turnpike_proto::{Egress, Transmit};

use crate::buffers::BufferPool;
use crate::kernel::cmsg::{CONTROL_BYTES, Control, ControlWriter, RawAddr};
use crate::kernel::empty_header;
use crate::kernel::table::Sockets;
use crate::limits::{MAX_QUEUED, MESSAGES_PER_CALL};
use crate::send::batch::{Batch, Envelope, JoinedMessage, Part, Payload, Sender};
use crate::send::refusals::Refusals;
use crate::sockets;
use crate::{Datagram, DriverCounters};

/// A socket that is gone leaves nothing to say about its datagrams but this.
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// The socket that sends, unless it was closed.
pub(crate) fn socket_of(sockets: &Sockets, sender: Sender) -> Option<BorrowedFd<'_>> {
    match sender {
        Sender::Listener(index) => sockets.listener(index).map(AsFd::as_fd),
        Sender::Relay { .. } => sockets.relay(sender.as_relay()?).map(AsFd::as_fd),
    }
}

/// What a datagram that leaves by `egress` has in common with others; `None` if that socket was closed.
pub(crate) fn envelope(
    sockets: &Sockets,
    egress: Egress,
    to: SocketAddr,
    tos: u8,
    dont_fragment: bool,
) -> Option<Envelope> {
    let (sender, source) = match egress {
        Egress::Client { socket, source } => {
            (Sender::Listener(socket.index), source_of(sockets.listener(socket.index)?.is_wildcard(), source))
        }
        Egress::Relay(relay) => sockets.relay(relay).map(|_| (Sender::relay(relay), None))?,
    };
    Some(Envelope { sender, to, source, tos, dont_fragment })
}

/// Where the payload that is sent on lies in the pool; the bytes of its datagram begin at `start`.
///
/// # Panics
/// If it reaches beyond its datagram: a fault of the caller.
pub(crate) fn payload_of(
    datagram: &Datagram,
    segment_start: usize,
    transmit: &Transmit,
    start: usize,
) -> Payload {
    let within = segment_start + transmit.payload_start as usize;
    let len = transmit.payload_len as usize;
    assert!(within + len <= datagram.len as usize, "a payload lies within its datagram");
    Payload::Received(start + within..start + within + len)
}

/// What is to be sent.
pub(crate) struct SendQueue {
    pub(crate) batch: Batch,
    refusals: Refusals,
    assembly: Assembly,
}

impl SendQueue {
    pub(crate) fn new() -> SendQueue {
        SendQueue { batch: Batch::new(), refusals: Refusals::new(Instant::now()), assembly: Assembly::new() }
    }

    /// Queues a datagram; there must be room, see [`Batch::is_full`].
    pub(crate) fn push(&mut self, envelope: Envelope, header: Option<[u8; 4]>, payload: Payload) {
        // With DF a refusal would be an answer about the path, which each datagram has to get itself.
        let longest = match envelope.dont_fragment {
            true => 0,
            false => self.refusals.longest_joined(envelope.to.ip()),
        };
        self.batch.push(envelope, header, payload, longest);
    }

    /// Queues a copy of a datagram.
    pub(crate) fn push_copy(&mut self, envelope: Envelope, payload: &[u8]) {
        let payload = self.batch.copy(payload);
        self.push(envelope, None, payload);
    }

    /// Brings the batch into the kernel's layout; the headers are in the order of the batch. They are
    /// valid until the queue or the pool is touched.
    pub(crate) fn assemble(&mut self, pool: &BufferPool) {
        self.batch.sort();
        self.assembly.clear();
        for place in 0..self.batch.count() {
            self.assembly.add(&self.batch, self.batch.message(place), pool);
        }
        self.assembly.finish();
    }

    /// The header of the message at a place of the batch's order, after [`SendQueue::assemble`].
    pub(crate) fn header(&self, place: usize) -> &libc::mmsghdr {
        &self.assembly.headers[place]
    }

    /// Sends everything, socket by socket, and forgets it. Datagrams of one flow leave in the order in
    /// which they were queued.
    pub(crate) fn send_all(&mut self, pool: &BufferPool, sockets: &Sockets, counters: &mut DriverCounters) {
        self.assemble(pool);
        let mut next = 0;
        while next < self.batch.count() {
            let run = self.batch.run_from(next);
            next = run.end;
            let Envelope { sender, to, dont_fragment, .. } = self.batch.message(run.start).envelope;
            let Some(socket) = socket_of(sockets, sender) else {
                // Closed since it was queued.
                run.for_each(|place| self.count_failure(place, counters));
                continue;
            };
            // Without DF it must not go out: the client asked to learn about the path.
            if dont_fragment && sockets::set_dont_fragment(socket, to.is_ipv6(), true).is_err() {
                run.for_each(|place| self.count_failure(place, counters));
                continue;
            }
            self.send_run(socket, run, pool, counters);
            if dont_fragment {
                // It cannot fail: the same option was just set on the same socket.
                let _ = sockets::set_dont_fragment(socket, to.is_ipv6(), false);
            }
        }
        self.clear();
    }

    /// Sends messages of one socket. One that is refused does not hold up the rest.
    fn send_run(
        &mut self,
        socket: BorrowedFd<'_>,
        run: std::ops::Range<usize>,
        pool: &BufferPool,
        counters: &mut DriverCounters,
    ) {
        let mut next = run.start;
        let mut retried = false;
        while next < run.end {
            let end = run.end.min(next + MESSAGES_PER_CALL);
            match send_headers(socket, &mut self.assembly.headers[next..end]) {
                Ok(sent) => {
                    next += sent;
                    retried = false;
                }
                Err(error) if is_worth_a_retry(&error, retried) => retried = true,
                Err(error) => {
                    self.recover(socket, next, &error, pool, counters);
                    next += 1;
                    retried = false;
                }
            }
        }
    }

    /// A message was refused for good: if the refusal was about the joining, its datagrams are sent one
    /// by one, else they are counted.
    pub(crate) fn recover(
        &mut self,
        socket: BorrowedFd<'_>,
        place: usize,
        error: &io::Error,
        pool: &BufferPool,
        counters: &mut DriverCounters,
    ) {
        let message = *self.batch.message(place);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        if message.segments == 1 {
            return count(&error_of(errno), counters);
        }
        if !Refusals::is_refusal(errno) {
            return self.count_failure(place, counters);
        }
        self.refusals.remember(message.envelope.to.ip(), message.segment_bytes, errno, Instant::now());
        for part in self.batch.parts(&message) {
            if let Err(error) = send_one(socket, &message.envelope, part, &self.batch, pool) {
                count(&error, counters);
            }
        }
    }

    /// All datagrams of a message were lost on the way out.
    pub(crate) fn count_failure(&self, place: usize, counters: &mut DriverCounters) {
        counters.send_failed += u64::from(self.batch.message(place).segments);
    }

    /// Sends a message again that failed once: the error may have been another peer's, see
    /// [`is_worth_a_retry`].
    pub(crate) fn retry(
        &mut self,
        socket: BorrowedFd<'_>,
        place: usize,
        pool: &BufferPool,
        counters: &mut DriverCounters,
    ) {
        self.send_run(socket, place..place + 1, pool, counters);
    }

    /// Forgets what was queued.
    pub(crate) fn clear(&mut self) {
        self.batch.clear();
        self.assembly.clear();
        self.refusals.expire(Instant::now);
    }
}

/// With IP_RECVERR an ICMP error that one peer caused is reported by the next send to any peer, which then
/// was not sent; asking takes the error away. EMSGSIZE too can come from an ICMP message. A full send
/// buffer (EAGAIN) is no such case.
fn is_worth_a_retry(error: &io::Error, retried: bool) -> bool {
    match error.kind() {
        io::ErrorKind::Interrupted => true,
        io::ErrorKind::WouldBlock => false,
        _ => !retried,
    }
}

fn error_of(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn count(error: &io::Error, counters: &mut DriverCounters) {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => counters.send_too_large += 1,
        _ => counters.send_failed += 1,
    }
}

/// One sendmmsg; how many messages it took, at least one.
fn send_headers(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: the headers come from an `Assembly`, whose `finish` set them; what they point to (its names,
    // control buffers and vectors, the batch's headers and payloads, the pool) lives and is not changed
    // meanwhile. The kernel only reads all of it but the headers' lengths.
    let sent = unsafe {
        let count = headers.len() as libc::c_uint;
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, FLAGS as _)
    };
    match usize::try_from(sent) {
        Ok(0) => Err(error_of(libc::EIO)),
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Sends one datagram of a message by itself.
fn send_one(
    socket: BorrowedFd<'_>,
    envelope: &Envelope,
    part: &Part,
    batch: &Batch,
    pool: &BufferPool,
) -> io::Result<()> {
    let mut vectors = vectors(part, batch, pool);
    let mut name = RawAddr::EMPTY;
    let mut control = Control([0; CONTROL_BYTES]);
    let mut header = empty_header();
    let message = &mut header.msg_hdr;
    message.msg_namelen = name.set(envelope.to);
    message.msg_name = (&raw mut name).cast();
    message.msg_controllen = write_control(&mut control, envelope, None) as _;
    message.msg_control =
        if message.msg_controllen == 0 { ptr::null_mut() } else { (&raw mut control).cast() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = 2;
    let mut retried = false;
    loop {
        match send_headers(socket, std::slice::from_mut(&mut header)) {
            Ok(_) => return Ok(()),
            Err(error) if is_worth_a_retry(&error, retried) => retried = true,
            Err(error) => return Err(error),
        }
    }
}

/// The kernel's structures of a batch; pointers are set by [`Assembly::finish`] and not used after the
/// batch is gone.
struct Assembly {
    headers: Vec<libc::mmsghdr>,
    /// At most two per datagram: header and payload.
    vectors: Vec<libc::iovec>,
    names: Vec<RawAddr>,
    controls: Vec<Control<CONTROL_BYTES>>,
}

// SAFETY: the pointers within are written before each system call, point to what the same
// `Assembly` or the caller owns, and are never read otherwise; so a move to another thread
// between calls leaves nothing dangling that is used.
unsafe impl Send for Assembly {}

impl Assembly {
    fn new() -> Assembly {
        Assembly {
            headers: Vec::with_capacity(MAX_QUEUED),
            vectors: Vec::with_capacity(2 * MAX_QUEUED),
            names: Vec::with_capacity(MAX_QUEUED),
            controls: Vec::with_capacity(MAX_QUEUED),
        }
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.vectors.clear();
        self.names.clear();
        self.controls.clear();
    }

    /// Adds a message, without the pointers into vectors that may still move.
    fn add(&mut self, batch: &Batch, message: &JoinedMessage, pool: &BufferPool) {
        let first = self.vectors.len();
        for part in batch.parts(message) {
            self.vectors
                .extend(vectors(part, batch, pool).into_iter().skip(usize::from(part.header.is_none())));
        }
        let mut name = RawAddr::EMPTY;
        let mut control = Control([0; CONTROL_BYTES]);
        let mut header = empty_header();
        header.msg_hdr.msg_namelen = name.set(message.envelope.to);
        let segment = (message.segments > 1).then_some(message.segment_bytes);
        header.msg_hdr.msg_controllen = write_control(&mut control, &message.envelope, segment) as _;
        header.msg_hdr.msg_iovlen = (self.vectors.len() - first) as _;
        self.headers.push(header);
        self.names.push(name);
        self.controls.push(control);
    }

    fn finish(&mut self) {
        let mut vectors = self.vectors.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (index, header) in self.headers.iter_mut().enumerate() {
            let message = &mut header.msg_hdr;
            // SAFETY: there is one name and one control buffer for each header, and as many vectors as
            // the headers together count.
            unsafe {
                message.msg_name = names.add(index).cast();
                message.msg_control = controls.add(index).cast();
                message.msg_iov = vectors;
                vectors = vectors.add(message.msg_iovlen as usize);
            }
            if message.msg_controllen == 0 {
                message.msg_control = ptr::null_mut();
            }
        }
    }
}

/// TOS, source and segment size, each only where the socket's own would be wrong; how many bytes that took.
fn write_control(control: &mut Control<CONTROL_BYTES>, envelope: &Envelope, segment: Option<usize>) -> usize {
    let mut writer = ControlWriter::new(control);
    if envelope.tos != 0 {
        writer.tos(envelope.to.is_ipv6(), envelope.tos);
    }
    if let Some(source) = envelope.source {
        writer.source(source);
    }
    if let Some(bytes) = segment {
        writer.segment(u16::try_from(bytes).expect("a joined datagram is shorter than a message"));
    }
    writer.used()
}

/// The kernel never writes through the vectors of a send.
fn vectors(part: &Part, batch: &Batch, pool: &BufferPool) -> [libc::iovec; 2] {
    let vector =
        |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let header = part.header.as_ref().map_or(&[][..], <[u8; 4]>::as_slice);
    let payload = match &part.payload {
        Payload::Received(range) => {
            pool.slice(range.clone()).expect("the range was checked when it was queued")
        }
        Payload::Copied(range) => batch.copied(range),
    };
    [vector(header), vector(payload)]
}

/// The source address that has to be set: a wildcard's own would be up to routing.
fn source_of(is_wildcard: bool, source: SocketAddr) -> Option<SocketAddr> {
    (is_wildcard && !source.ip().is_unspecified()).then_some(source)
}
