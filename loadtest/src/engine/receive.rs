//! Batched receiving: recvmmsg, and sending back what came.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::mmsg::{BATCH, empty_header, empty_iovec};

/// Buffers for one recvmmsg; can send what was received back to where it came from.
pub struct RecvBatch {
    buffers: Vec<u8>,
    buffer_bytes: usize,
    parts: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    with_sources: bool,
    headers: Vec<libc::mmsghdr>,
    replies: Vec<libc::mmsghdr>,
    dropped: [bool; BATCH],
    len: usize,
}

impl RecvBatch {
    /// Buffers for a connected socket's datagrams of up to `buffer_bytes`; longer ones are reported as
    /// truncated. Nobody's address is asked for, which saves the kernel a copy.
    pub fn connected(buffer_bytes: usize) -> Self {
        Self { with_sources: false, ..Self::new(buffer_bytes) }
    }

    /// As [`Self::connected`], for any socket: sources are known, and [`Self::send_back`] works.
    pub fn new(buffer_bytes: usize) -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zeroes is a valid value.
        let name: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            buffers: vec![0; buffer_bytes * BATCH],
            buffer_bytes,
            parts: vec![empty_iovec(); BATCH],
            names: vec![name; BATCH],
            with_sources: true,
            headers: vec![empty_header(); BATCH],
            replies: vec![empty_header(); BATCH],
            dropped: [false; BATCH],
            len: 0,
        }
    }

    /// Says whether [`Self::send_back`] sends datagram `index`; after a receive it sends all.
    pub fn keep(&mut self, index: usize, keep: bool) {
        self.dropped[index] = !keep;
    }

    /// Receives what waits on the socket, at most [`BATCH`] datagrams, without blocking.
    pub fn recv(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        for index in 0..BATCH {
            let buffer = &mut self.buffers[index * self.buffer_bytes..][..self.buffer_bytes];
            self.parts[index] =
                libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: self.buffer_bytes };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &raw mut self.parts[index];
            header.msg_iovlen = 1;
            if self.with_sources {
                header.msg_name = (&raw mut self.names[index]).cast();
                header.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
            }
            header.msg_flags = 0;
        }
        // SAFETY: each header points to a buffer and a name of its own inside this struct, with their
        // true lengths; the kernel writes there only during the call.
        let count = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.len = usize::try_from(count).unwrap_or(0);
        self.dropped = [false; BATCH];
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(self.len) }
    }

    fn datagram_len(&self, index: usize) -> usize {
        (self.headers[index].msg_len as usize).min(self.buffer_bytes)
    }

    /// Datagram `index` of the last receive, `None` when it was longer than the buffer.
    pub fn datagram(&self, index: usize) -> Option<&[u8]> {
        let truncated = self.headers[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let len = self.datagram_len(index);
        (!truncated).then(|| &self.buffers[index * self.buffer_bytes..][..len])
    }

    /// As [`Self::datagram`], writable.
    pub fn datagram_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let truncated = self.headers[index].msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let len = self.datagram_len(index);
        (!truncated).then(|| &mut self.buffers[index * self.buffer_bytes..][..len])
    }

    /// Where datagram `index` came from.
    pub fn source(&self, index: usize) -> Option<SocketAddr> {
        let name = &self.names[index];
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

    /// Sends the received datagrams back to their senders; returns how many the kernel took.
    pub fn send_back(&mut self, fd: BorrowedFd<'_>) -> usize {
        let mut wanted = 0;
        for index in 0..self.len {
            if !self.dropped[index] {
                self.parts[index].iov_len = self.datagram_len(index);
                self.replies[wanted] = self.headers[index];
                wanted += 1;
            }
        }
        let mut sent = 0;
        while sent < wanted {
            // SAFETY: replies[sent..wanted] are copies of headers that the last recvmmsg filled: they
            // point to buffers, lengths and names of this struct.
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
