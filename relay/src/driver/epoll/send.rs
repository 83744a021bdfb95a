//! Sending in batches: what was queued, grouped by socket, by sendmmsg.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use turnpike_proto::RelaySocket;

use super::cmsg::{CONTROL_BYTES, Control, ControlWriter, RawAddr};
use super::{BATCH, Sockets, empty_header};
use crate::buffers::BufferPool;
use crate::driver::DriverCounters;
use crate::sockets;

/// Datagrams queued before a flush is forced: bounds the memory of a turn that answers a lot.
pub(super) const MAX_QUEUED: usize = 1024;

/// Which socket sends; the order is that of the system calls of a flush.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    Listener(u32),
    Relay { index: u32, generation: u32 },
}

impl Sender {
    pub(super) fn relay(relay: RelaySocket) -> Sender {
        Sender::Relay { index: relay.index, generation: relay.generation }
    }
}

/// Where a queued datagram's payload lies.
pub(super) enum Payload {
    /// In the buffer pool.
    Received(Range<usize>),
    /// Here.
    Owned(Vec<u8>),
}

/// A datagram to be sent.
pub(super) struct Queued {
    pub(super) sender: Sender,
    pub(super) to: SocketAddr,
    /// Source address to set, if the socket is a wildcard's.
    pub(super) source: Option<SocketAddr>,
    pub(super) header: Option<[u8; 4]>,
    pub(super) payload: Payload,
    pub(super) tos: u8,
    pub(super) dont_fragment: bool,
}

impl Queued {
    fn payload<'a>(&'a self, pool: &'a BufferPool) -> &'a [u8] {
        match &self.payload {
            Payload::Received(range) => {
                pool.slice(range.clone()).expect("the range was checked when it was queued")
            }
            Payload::Owned(bytes) => bytes,
        }
    }
}

/// The queue and the kernel's structures for one batch.
pub(super) struct SendQueue {
    queued: Vec<Queued>,
    /// Socket and position of each queued datagram, sorted for a flush.
    order: Vec<(Sender, u32)>,
    batch: Batch,
}

impl SendQueue {
    pub(super) fn new() -> SendQueue {
        SendQueue {
            queued: Vec::with_capacity(MAX_QUEUED),
            order: Vec::with_capacity(MAX_QUEUED),
            batch: Batch::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.queued.len() >= MAX_QUEUED
    }

    pub(super) fn push(&mut self, datagram: Queued) {
        self.queued.push(datagram);
    }

    /// Sends everything, socket by socket; datagrams of one socket leave in the order in which
    /// they were queued.
    pub(super) fn flush(&mut self, pool: &BufferPool, sockets: &Sockets, counters: &mut DriverCounters) {
        self.order.clear();
        self.order.extend(self.queued.iter().zip(0..).map(|(datagram, place)| (datagram.sender, place)));
        // With the place as part of the key it is stable, and unlike a stable sort allocates nothing.
        self.order.sort_unstable();
        let queued = &self.queued;
        let is_run = |a: &(Sender, u32), b: &(Sender, u32)| {
            a.0 == b.0 && queued[a.1 as usize].dont_fragment == queued[b.1 as usize].dont_fragment
        };
        for run in self.order.chunk_by(is_run) {
            let Some(socket) = sockets.sender(run[0].0) else {
                // Closed since it was queued.
                counters.send_failed += run.len() as u64;
                continue;
            };
            let set_df = queued[run[0].1 as usize].dont_fragment;
            let ipv6 = queued[run[0].1 as usize].to.is_ipv6();
            // Without DF it must not go out: the client asked to learn about the path.
            if set_df && sockets::set_dont_fragment(socket, ipv6, true).is_err() {
                counters.send_failed += run.len() as u64;
                continue;
            }
            for batch in run.chunks(BATCH) {
                self.batch.send(socket, queued, batch, pool, counters);
            }
            if set_df {
                // It cannot fail: the same option was just set on the same socket.
                let _ = sockets::set_dont_fragment(socket, ipv6, false);
            }
        }
        self.queued.clear();
    }
}

/// The kernel's structures; pointers are set anew before each call and not used after it.
struct Batch {
    headers: Box<[libc::mmsghdr; BATCH]>,
    /// Two per datagram: header and payload.
    vectors: Box<[[libc::iovec; 2]; BATCH]>,
    names: Box<[RawAddr; BATCH]>,
    controls: Box<[Control<CONTROL_BYTES>; BATCH]>,
}

// SAFETY: the pointers within are written before each system call, point to what the same
// `Batch` or the caller owns, and are never read otherwise; so a move to another thread
// between calls leaves nothing dangling that is used.
unsafe impl Send for Batch {}

impl Batch {
    fn new() -> Batch {
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Batch {
            headers: Box::new([empty_header(); BATCH]),
            vectors: Box::new([[vector; 2]; BATCH]),
            names: Box::new([RawAddr::EMPTY; BATCH]),
            controls: Box::new([Control([0; CONTROL_BYTES]); BATCH]),
        }
    }

    /// Sends up to [`BATCH`] datagrams of one socket. One that is refused does not hold up the rest.
    fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        queued: &[Queued],
        batch: &[(Sender, u32)],
        pool: &BufferPool,
        counters: &mut DriverCounters,
    ) {
        self.prepare(queued, batch, pool);
        let mut next = 0;
        let mut retried = false;
        while next < batch.len() {
            match self.send_from(socket, next, batch.len()) {
                Ok(sent) => {
                    next += sent;
                    retried = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // With IP_RECVERR an ICMP error that one peer caused is reported by the next send to
                // any peer, which then was not sent; asking takes the error away. EMSGSIZE too can
                // come from an ICMP message. A full send buffer (EAGAIN) is no such case.
                Err(error) if !retried && error.kind() != io::ErrorKind::WouldBlock => retried = true,
                Err(error) => {
                    match error.raw_os_error() {
                        Some(libc::EMSGSIZE) => counters.send_too_large += 1,
                        _ => counters.send_failed += 1,
                    }
                    next += 1;
                    retried = false;
                }
            }
        }
    }

    /// One sendmmsg from datagram `next` on; how many it took, at least one.
    fn send_from(&mut self, socket: BorrowedFd<'_>, next: usize, end: usize) -> io::Result<usize> {
        let headers = &mut self.headers[next..end];
        // SAFETY: `prepare` has set these headers; what they point to (this struct's names, control
        // buffers and vectors, the queue's headers and payloads, the pool) lives and is not
        // changed until `send` returns. The kernel only reads all of it but the headers' lengths.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        match usize::try_from(sent) {
            Ok(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Ok(sent) => Ok(sent),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn prepare(&mut self, queued: &[Queued], batch: &[(Sender, u32)], pool: &BufferPool) {
        for (index, &(_, place)) in batch.iter().enumerate() {
            let datagram = &queued[place as usize];
            self.vectors[index] = [
                vector(datagram.header.as_ref().map_or(&[], <[u8; 4]>::as_slice)),
                vector(datagram.payload(pool)),
            ];
            let name_len = self.names[index].set(datagram.to);
            let control_len = write_control(&mut self.controls[index], datagram);
            let message = &mut self.headers[index].msg_hdr;
            message.msg_namelen = name_len;
            message.msg_controllen = control_len as _;
        }
        let vectors = self.vectors.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (index, header) in self.headers[..batch.len()].iter_mut().enumerate() {
            let message = &mut header.msg_hdr;
            // SAFETY: index < BATCH, the length of all three arrays.
            unsafe {
                message.msg_iov = vectors.add(index).cast();
                message.msg_name = names.add(index).cast();
                message.msg_control = controls.add(index).cast();
            }
            message.msg_iovlen = 2;
            if message.msg_controllen == 0 {
                message.msg_control = ptr::null_mut();
            }
        }
    }
}

/// TOS and source, each only where the socket's own would be wrong; how many bytes that took.
fn write_control(control: &mut Control<CONTROL_BYTES>, datagram: &Queued) -> usize {
    let mut writer = ControlWriter::new(control);
    if datagram.tos != 0 {
        writer.tos(datagram.to.is_ipv6(), datagram.tos);
    }
    if let Some(source) = datagram.source {
        writer.source(source);
    }
    writer.used()
}

/// The kernel never writes through the vectors of a send.
fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}
