//! Receiving in batches: recvmmsg, and the error queue of relay sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::cmsg::{self, CONTROL_BYTES, Control, ERROR_CONTROL_BYTES, RawAddr};
use super::{BATCH, empty_header};
use crate::buffers::BufferPool;

/// What came with a datagram.
pub(super) struct Received {
    pub(super) from: SocketAddr,
    /// Where it was sent to, if the socket asks for that.
    pub(super) server: Option<SocketAddr>,
    pub(super) len: u32,
    pub(super) tos: u8,
    pub(super) truncated: bool,
}

/// An ICMP error (RFC 8656 s. 11.5).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IcmpError {
    pub(super) peer: SocketAddr,
    pub(super) icmp_type: u8,
    pub(super) icmp_code: u8,
    pub(super) data: u32,
}

/// The kernel's structures for one batch.
///
/// Pointers are set anew before each call and not used after it.
pub(super) struct Receiver {
    headers: Box<[libc::mmsghdr; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    names: Box<[RawAddr; BATCH]>,
    controls: Box<[Control<CONTROL_BYTES>; BATCH]>,
}

// SAFETY: the pointers within are written before each system call, point to what the same
// `Receiver` or the caller's pool owns, and are never read otherwise; so a move to another
// thread between calls leaves nothing dangling that is used.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(super) fn new() -> Receiver {
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Receiver {
            headers: Box::new([empty_header(); BATCH]),
            vectors: Box::new([vector; BATCH]),
            names: Box::new([RawAddr::EMPTY; BATCH]),
            controls: Box::new([Control([0; CONTROL_BYTES]); BATCH]),
        }
    }

    /// Receives what is there, at most `count` datagrams (at most [`BATCH`]), into the pool's
    /// buffers from `first` on. Returns how many: 0 if none was there, or none could be had.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut BufferPool,
        first: usize,
        count: usize,
    ) -> usize {
        let count = count.min(BATCH).min(pool.count().saturating_sub(first));
        if count == 0 {
            return 0;
        }
        // A relay socket first reports an ICMP error of something it had sent; that takes the
        // error away, and the datagrams behind it are still there.
        for _ in 0..2 {
            self.prepare(pool, first, count);
            // SAFETY: `prepare` has set `count` headers whose pointers lead to live memory of the
            // lengths given: buffers of the pool, and this struct's names and control buffers.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            if let Ok(received) = usize::try_from(received) {
                return received;
            }
            if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                return 0;
            }
        }
        0
    }

    fn prepare(&mut self, pool: &mut BufferPool, first: usize, count: usize) {
        let capacity = pool.capacity();
        let last_end = pool.payload_offset(first + count - 1) + capacity;
        let start = pool.payload_offset(first);
        let stride = pool.payload_offset(first + 1) - start;
        // One slice, and pointers derived from it: a borrow per buffer would end the one before.
        let memory = pool.memory_mut()[start..last_end].as_mut_ptr();
        for index in 0..count {
            // SAFETY: index < count, so that buffer lies within the slice, whose end is the last one's.
            let base = unsafe { memory.add(index * stride) };
            self.vectors[index] = libc::iovec { iov_base: base.cast(), iov_len: capacity };
        }
        let vectors = self.vectors.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (index, header) in self.headers[..count].iter_mut().enumerate() {
            let message = &mut header.msg_hdr;
            // SAFETY: index < BATCH, the length of all three arrays.
            unsafe {
                message.msg_iov = vectors.add(index);
                message.msg_name = names.add(index).cast();
                message.msg_control = controls.add(index).cast();
            }
            message.msg_iovlen = 1;
            message.msg_namelen = RawAddr::LEN;
            message.msg_controllen = CONTROL_BYTES as _;
            message.msg_flags = 0;
            header.msg_len = 0;
        }
    }

    /// Describes datagram `index` of the last batch; `local_port` is the socket's. `None` if the
    /// kernel gave no sender, which it always does for UDP.
    pub(super) fn received(&self, index: usize, local_port: u16) -> Option<Received> {
        let header = self.headers.get(index)?;
        let message = &header.msg_hdr;
        let mut received = Received {
            from: self.names[index].read(message.msg_namelen)?,
            server: None,
            len: header.msg_len,
            tos: 0,
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        };
        let control = self.controls[index].0.get(..message.msg_controllen as usize)?;
        for message in cmsg::messages(control) {
            if let Some(tos) = cmsg::tos(&message) {
                received.tos = tos;
            }
            received.server = received.server.or(cmsg::pktinfo_address(&message, local_port));
        }
        Some(received)
    }
}

/// What was taken from an error queue.
pub(super) enum QueuedError {
    /// Nothing: it is empty.
    Empty,
    /// An error that nobody is told about.
    Other,
    /// An ICMP error.
    Icmp(IcmpError),
}

/// Takes one error from a socket's error queue.
pub(super) fn receive_error(socket: BorrowedFd<'_>) -> QueuedError {
    let mut name = RawAddr::EMPTY;
    let mut control = Control([0; ERROR_CONTROL_BYTES]);
    // The quoted payload is not wanted: with no room for it the kernel cuts it off.
    let mut message = empty_header().msg_hdr;
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = RawAddr::LEN;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ERROR_CONTROL_BYTES as _;
    // SAFETY: the header's pointers lead to live locals of the lengths given, and it has no vectors.
    let result = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    if result < 0 {
        return QueuedError::Empty;
    }
    let (Some(peer), Some(control)) =
        (name.read(message.msg_namelen), control.0.get(..message.msg_controllen as usize))
    else {
        return QueuedError::Other;
    };
    cmsg::messages(control)
        .find_map(|message| icmp_error(peer, &message))
        .map_or(QueuedError::Other, QueuedError::Icmp)
}

/// RFC 8656 s. 11.5: ICMPv4 types 3 and 11 and ICMPv6 types 1, 2 and 3 are passed on, others are not.
fn icmp_error(peer: SocketAddr, message: &cmsg::ControlMessage<'_>) -> Option<IcmpError> {
    match (message.level, message.kind) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {}
        _ => return None,
    }
    let error: libc::sock_extended_err = cmsg::read_plain(message.data)?;
    // The MTU stands in "fragmentation needed" (RFC 1191 s. 4) and "packet too big" (RFC 4443 s. 3.2).
    let has_mtu = match (error.ee_origin, error.ee_type) {
        (libc::SO_EE_ORIGIN_ICMP, 3) => error.ee_code == 4,
        (libc::SO_EE_ORIGIN_ICMP, 11) => false,
        (libc::SO_EE_ORIGIN_ICMP6, 2) => true,
        (libc::SO_EE_ORIGIN_ICMP6, 1 | 3) => false,
        _ => return None,
    };
    let data = if has_mtu { error.ee_info } else { 0 };
    Some(IcmpError { peer, icmp_type: error.ee_type, icmp_code: error.ee_code, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(level: i32, kind: i32, origin: u8, icmp_type: u8, icmp_code: u8) -> Option<IcmpError> {
        // errno, origin, type, code, padding, info, data (linux/errqueue.h)
        let mut data = [0u8; 16];
        data[4..8].copy_from_slice(&[origin, icmp_type, icmp_code, 0]);
        data[8..12].copy_from_slice(&1400u32.to_ne_bytes());
        let peer = "192.0.2.1:9".parse().expect("a socket address");
        icmp_error(peer, &cmsg::ControlMessage { level, kind, data: &data })
    }

    // RFC 8656 s. 11.5
    #[test]
    fn only_the_icmp_types_of_the_rfc_are_passed_on() {
        let v4 = |icmp_type, code| classify(libc::IPPROTO_IP, libc::IP_RECVERR, 2, icmp_type, code);
        let v6 = |icmp_type, code| classify(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, icmp_type, code);
        let passed_v4: Vec<u8> = (0..=255).filter(|&icmp_type| v4(icmp_type, 0).is_some()).collect();
        let passed_v6: Vec<u8> = (0..=255).filter(|&icmp_type| v6(icmp_type, 0).is_some()).collect();
        assert_eq!(passed_v4, [3, 11]);
        assert_eq!(passed_v6, [1, 2, 3]);
    }

    #[test]
    fn the_mtu_is_given_for_too_big_errors_only() {
        let data = |level, kind, origin, icmp_type, code| {
            classify(level, kind, origin, icmp_type, code).map(|error| error.data)
        };
        assert_eq!(data(libc::IPPROTO_IP, libc::IP_RECVERR, 2, 3, 4), Some(1400));
        assert_eq!(data(libc::IPPROTO_IP, libc::IP_RECVERR, 2, 3, 3), Some(0));
        assert_eq!(data(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, 2, 0), Some(1400));
        assert_eq!(data(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 3, 1, 4), Some(0));
    }

    #[test]
    fn errors_of_other_origin_are_ignored() {
        for origin in [0, 1, 4, 5, 6] {
            assert_eq!(classify(libc::IPPROTO_IP, libc::IP_RECVERR, origin, 3, 3), None);
        }
        assert_eq!(classify(libc::IPPROTO_IP, libc::IP_TTL, 2, 3, 3), None, "not an error at all");
    }
}
