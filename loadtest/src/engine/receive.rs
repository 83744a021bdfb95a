//! Batched receiving: recvmmsg, and sending back what came.
//!
//! ```text
//!   message (one system call takes up to SLOTS)   datagrams, as the caller sees them
//!   slot 0: a merged run, cut every N bytes   ─►  0, 1, 2, ... the last may be shorter
//!   slot 1: a single datagram                 ─►  the next one
//! ```
//! Where a sender, or the kernel on the way, has made one message of a run of datagrams, the socket
//! gets it whole (UDP_GRO). Nobody outside of this file notices.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::mmsg::{empty_header, empty_iovec};
use crate::limits::BATCH;

/// Messages per system call: fewer than [`BATCH`], since each may be a run.
const SLOTS: usize = 32;
/// Longest run: no longer than an IP packet.
const SLOT_BYTES: usize = 1 << 16;
/// From one slot to the next. Not a multiple of 4 KiB: slots would begin in the same cache sets.
const STRIDE: usize = SLOT_BYTES + 21 * 64;
/// Room for one control message with an int, and its alignment.
const CONTROL_WORDS: usize = 4;

/// Lets the kernel hand over a run of one sender's datagrams as one message (UDP_GRO). Whoever reads
/// from such a socket must split it, as [`RecvBatch`] does. Kernels before 5.0 can't and merge nothing.
pub fn allow_merged_runs(fd: BorrowedFd<'_>) {
    set_udp_option(fd, libc::UDP_GRO, 1);
}

/// Failure is harmless here and ignored.
fn set_udp_option(fd: BorrowedFd<'_>, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the option's value is one int on this stack frame.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_UDP,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// Where a datagram lies.
#[derive(Clone, Copy)]
struct Span {
    slot: usize,
    start: usize,
    len: usize,
    truncated: bool,
    keep: bool,
}

/// Buffers for one recvmmsg; can send what was received back to where it came from.
pub struct RecvBatch {
    buffers: Vec<u8>,
    longest: usize,
    parts: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    with_sources: bool,
    headers: Vec<libc::mmsghdr>,
    slots: usize,
    spans: Vec<Span>,
    replies: Vec<libc::mmsghdr>,
    reply_parts: Vec<libc::iovec>,
}

impl RecvBatch {
    /// Buffers for a connected socket's datagrams of up to `longest` bytes; longer ones are reported
    /// as truncated. Nobody's address is asked for, which saves the kernel a copy.
    pub fn connected(longest: usize) -> Self {
        Self { with_sources: false, ..Self::new(longest) }
    }

    /// As [`Self::connected`], for any socket: sources are known, and [`Self::send_back`] works.
    pub fn new(longest: usize) -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zeroes is a valid value.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffers: vec![0; SLOTS * STRIDE],
            longest,
            parts: vec![empty_iovec(); SLOTS],
            names: vec![name; SLOTS],
            controls: vec![[0; CONTROL_WORDS]; SLOTS],
            with_sources: true,
            headers: vec![empty_header(); SLOTS],
            slots: 0,
            spans: Vec::with_capacity(SLOTS * BATCH),
            replies: vec![empty_header(); BATCH],
            reply_parts: vec![empty_iovec(); BATCH],
        }
    }

    /// Receives what waits on the socket, at most `SLOTS` messages, without blocking. Returns the
    /// number of datagrams, which is larger where runs were merged.
    pub fn recv(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.spans.clear();
        self.prepare();
        // SAFETY: each header points to a buffer, a name and a control buffer of its own inside this
        // struct, with their true lengths; the kernel writes there only during the call.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                SLOTS as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.slots = usize::try_from(count).unwrap_or(0);
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        (0..self.slots).for_each(|slot| self.split(slot));
        Ok(self.spans.len())
    }

    /// Whether the last receive used all slots, so that more may wait.
    pub fn is_full(&self) -> bool {
        self.slots == SLOTS
    }

    fn prepare(&mut self) {
        for slot in 0..SLOTS {
            let buffer = &mut self.buffers[slot * STRIDE..][..SLOT_BYTES];
            self.parts[slot] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: SLOT_BYTES };
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_iov = &raw mut self.parts[slot];
            header.msg_iovlen = 1;
            if self.with_sources {
                header.msg_name = (&raw mut self.names[slot]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
            }
            header.msg_control = (&raw mut self.controls[slot]).cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
            header.msg_flags = 0;
        }
    }

    /// Notes the datagrams of one message.
    fn split(&mut self, slot: usize) {
        let message = &self.headers[slot].msg_hdr;
        let total = (self.headers[slot].msg_len as usize).min(SLOT_BYTES);
        let cut = message.msg_flags & libc::MSG_TRUNC != 0;
        let segment = segment_bytes(message).unwrap_or(SLOT_BYTES);
        let mut at = 0;
        loop {
            let bytes = segment.min(total - at);
            let last = at + bytes == total;
            self.spans.push(Span {
                slot,
                start: slot * STRIDE + at,
                len: bytes.min(self.longest),
                truncated: bytes > self.longest || cut && last,
                keep: true,
            });
            at += bytes;
            // An empty message is a datagram, too.
            if last {
                return;
            }
        }
    }

    /// Datagram `index` of the last receive, `None` when it was too long.
    pub fn datagram(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans[index];
        (!span.truncated).then(|| &self.buffers[span.start..][..span.len])
    }

    /// As [`Self::datagram`], writable.
    pub fn datagram_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let span = self.spans[index];
        (!span.truncated).then(|| &mut self.buffers[span.start..][..span.len])
    }

    /// Where datagram `index` came from.
    pub fn source(&self, index: usize) -> Option<SocketAddr> {
        let name = &self.names[self.spans[index].slot];
        match i32::from(name.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in, which fits into the storage.
                let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
                let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
                let IpAddr::V4(ip) = ip else { return None };
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
                let ip = v6.sin6_addr.s6_addr.into();
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// Says whether [`Self::send_back`] sends datagram `index`; after a receive it sends all.
    pub fn keep(&mut self, index: usize, keep: bool) {
        self.spans[index].keep = keep;
    }

    /// Sends the received datagrams back to their senders, one message each; returns how many the
    /// kernel took.
    pub fn send_back(&mut self, fd: BorrowedFd<'_>) -> usize {
        let mut sent = 0;
        for first in (0..self.spans.len()).step_by(BATCH) {
            let wanted = self.prepare_replies(first);
            let took = self.send_replies(fd, wanted);
            sent += took;
            if took < wanted {
                break;
            }
        }
        sent
    }

    /// Makes messages of the datagrams to send among the [`BATCH`] from `first` on; how many they are.
    fn prepare_replies(&mut self, first: usize) -> usize {
        let mut wanted = 0;
        for span in self.spans[first..].iter().take(BATCH).filter(|span| span.keep) {
            let bytes = &mut self.buffers[span.start..][..span.len];
            self.reply_parts[wanted] =
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let reply = &mut self.replies[wanted].msg_hdr;
            reply.msg_iov = &raw mut self.reply_parts[wanted];
            reply.msg_iovlen = 1;
            reply.msg_name = (&raw mut self.names[span.slot]).cast();
            reply.msg_namelen = self.headers[span.slot].msg_hdr.msg_namelen;
            wanted += 1;
        }
        wanted
    }

    fn send_replies(&mut self, fd: BorrowedFd<'_>, wanted: usize) -> usize {
        let mut sent = 0;
        while sent < wanted {
            // SAFETY: `prepare_replies` pointed replies[..wanted] to parts, buffers and names of this
            // struct, with lengths that the last recvmmsg gave; they have no control messages.
            let count = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    self.replies[sent..].as_mut_ptr(),
                    (wanted - sent) as libc::c_uint,
                    0,
                )
            };
            if count <= 0 {
                break;
            }
            sent += count as usize;
        }
        sent
    }
}

/// The length of a run's datagrams but the last, `None` if the message is a single datagram.
fn segment_bytes(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: recvmmsg left msg_control at this batch's own buffer and set msg_controllen to what it
    // wrote there; the macros stay within.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = control.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                let bytes = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(bytes).ok().filter(|&bytes| bytes > 0);
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::open_socket;

    /// A sender connected to a receiver as the generator opens it.
    fn pair(ip: &str) -> (UdpSocket, UdpSocket) {
        let any = SocketAddr::new(ip.parse().expect("an address"), 0);
        let receiver = open_socket(any, None, 1 << 20).expect("a socket");
        let sender = UdpSocket::bind(any).expect("a socket");
        sender.connect(receiver.local_addr().expect("bound")).expect("connected");
        sender.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        (sender, receiver)
    }

    /// Sends one message that the kernel takes for datagrams of `segment` bytes and a rest.
    fn send_run(sender: &UdpSocket, bytes: &[u8], segment: i32) {
        set_udp_option(sender.as_fd(), libc::UDP_SEGMENT, segment);
        assert_eq!(sender.send(bytes).expect("sent"), bytes.len());
        set_udp_option(sender.as_fd(), libc::UDP_SEGMENT, 0);
    }

    /// Receives once something is there.
    fn recv(batch: &mut RecvBatch, socket: &UdpSocket) -> usize {
        let start = Instant::now();
        loop {
            match batch.recv(socket.as_fd()) {
                Ok(count) => return count,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(start.elapsed() < Duration::from_secs(30), "nothing came");
            std::thread::yield_now();
        }
    }

    /// Bytes that differ from place to place.
    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn a_merged_run_arrives_as_the_datagrams_it_was_made_of() {
        for ip in ["127.0.0.1", "::1"] {
            let (sender, receiver) = pair(ip);
            let bytes = pattern(8 * 300 + 40);
            send_run(&sender, &bytes, 300);
            let mut batch = RecvBatch::new(1500);
            assert_eq!(recv(&mut batch, &receiver), 9, "{ip}");
            assert_eq!(batch.slots, 1, "{ip}: the kernel handed over one message");
            assert!(!batch.is_full());
            for (index, expected) in bytes.chunks(300).enumerate() {
                assert_eq!(batch.datagram(index), Some(expected), "{ip}: {index}");
                assert_eq!(batch.source(index), sender.local_addr().ok(), "{ip}: {index}");
            }
        }
    }

    #[test]
    fn runs_between_single_and_empty_datagrams_keep_their_order() {
        let (sender, receiver) = pair("127.0.0.1");
        let bytes = pattern(1000);
        sender.send(&bytes[..700]).expect("sent");
        send_run(&sender, &bytes, 250);
        sender.send(&[]).expect("sent");
        sender.send(&bytes[..1]).expect("sent");
        send_run(&sender, &bytes[..130], 128);
        let mut batch = RecvBatch::connected(1500);
        let mut received = Vec::new();
        while received.len() < 9 {
            let count = recv(&mut batch, &receiver);
            received.extend((0..count).map(|index| batch.datagram(index).map(<[u8]>::to_vec)));
        }
        let run = bytes.chunks(250);
        let rest = [&[], &bytes[..1], &bytes[..128], &bytes[128..130]];
        let expected = [&bytes[..700]].into_iter().chain(run).chain(rest);
        assert_eq!(received, expected.map(|data| Some(data.to_vec())).collect::<Vec<_>>());
    }

    #[test]
    fn a_run_goes_back_as_single_datagrams() {
        let (sender, receiver) = pair("127.0.0.1");
        let bytes = pattern(8 * 300 + 40);
        send_run(&sender, &bytes, 300);
        let mut batch = RecvBatch::new(1500);
        assert_eq!(recv(&mut batch, &receiver), 9);
        batch.datagram_mut(1).expect("not too long")[0] = 0xff;
        assert_eq!(batch.send_back(receiver.as_fd()), 9);
        let mut buffer = [0; 4096];
        for (index, expected) in bytes.chunks(300).enumerate() {
            let len = sender.recv(&mut buffer).expect("it comes back");
            let mut expected = expected.to_vec();
            if index == 1 {
                expected[0] = 0xff;
            }
            assert_eq!(buffer[..len], expected, "{index}");
        }
    }

    #[test]
    fn what_is_not_kept_is_left_out_of_more_than_one_batch_of_replies() {
        const RUN: usize = 60;
        let (sender, receiver) = pair("127.0.0.1");
        for run in 0..3u8 {
            let bytes: Vec<u8> = (0..RUN as u8).flat_map(|index| [run, index]).collect();
            send_run(&sender, &bytes, 2);
        }
        let mut batch = RecvBatch::new(1500);
        let (mut received, mut sent) = (0, 0);
        while received < 3 * RUN {
            let count = recv(&mut batch, &receiver);
            for index in 0..count {
                batch.keep(index, (received + index) % 3 != 0);
            }
            received += count;
            sent += batch.send_back(receiver.as_fd());
        }
        assert_eq!(sent, 2 * RUN);
        let mut buffer = [0; 64];
        for index in (0..3 * RUN).filter(|index| index % 3 != 0) {
            let len = sender.recv(&mut buffer).expect("it comes back");
            assert_eq!(buffer[..len], [(index / RUN) as u8, (index % RUN) as u8]);
        }
    }

    #[test]
    fn datagrams_that_are_too_long_are_truncated_alone_or_in_a_run() {
        let (sender, receiver) = pair("127.0.0.1");
        let bytes = pattern(330);
        let mut batch = RecvBatch::new(64);
        let mut lengths = Vec::new();
        sender.send(&bytes[..64]).expect("sent");
        sender.send(&bytes[..65]).expect("sent");
        send_run(&sender, &bytes, 100);
        while lengths.len() < 6 {
            let count = recv(&mut batch, &receiver);
            lengths.extend((0..count).map(|index| batch.datagram(index).map(<[u8]>::len)));
        }
        assert_eq!(lengths, [Some(64), None, None, None, None, Some(30)]);
    }

    #[test]
    fn the_longest_datagram_has_room() {
        let (sender, receiver) = pair("127.0.0.1");
        let bytes = pattern(65_507);
        sender.send(&bytes).expect("sent");
        let mut batch = RecvBatch::new(SLOT_BYTES);
        assert_eq!(recv(&mut batch, &receiver), 1);
        assert_eq!(batch.datagram(0), Some(&bytes[..]));
    }
}
