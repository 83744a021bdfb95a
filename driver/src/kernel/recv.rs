//! Receiving in batches: recvmmsg.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::cmsg::{CONTROL_BYTES, Control, RawAddr};
use super::empty_header;
use super::received::{Ancillary, Received};
use crate::buffers::BufferPool;
use crate::limits::RECEIVED_PER_CALL;

/// The kernel's structures for one batch.
///
/// Pointers are set anew before each call and not used after it.
pub(crate) struct Receiver {
    /// Bytes in front of each payload in its buffer.
    prefix_bytes: usize,
    headers: Box<[libc::mmsghdr; RECEIVED_PER_CALL]>,
    vectors: Box<[libc::iovec; RECEIVED_PER_CALL]>,
    names: Box<[RawAddr; RECEIVED_PER_CALL]>,
    controls: Box<[Control<CONTROL_BYTES>; RECEIVED_PER_CALL]>,
}

// SAFETY: the pointers within are written before each system call, point to what the same
// `Receiver` or the caller's pool owns, and are never read otherwise; so a move to another
// thread between calls leaves nothing dangling that is used.
unsafe impl Send for Receiver {}

impl Receiver {
    pub(crate) fn new(prefix_bytes: usize) -> Receiver {
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Receiver {
            prefix_bytes,
            headers: Box::new([empty_header(); RECEIVED_PER_CALL]),
            vectors: Box::new([vector; RECEIVED_PER_CALL]),
            names: Box::new([RawAddr::EMPTY; RECEIVED_PER_CALL]),
            controls: Box::new([Control([0; CONTROL_BYTES]); RECEIVED_PER_CALL]),
        }
    }

    /// Receives what is there, at most `count` datagrams (at most [`RECEIVED_PER_CALL`]), into the pool's
    /// buffers from `first` on. Returns how many: 0 if none was there, or none could be had.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        pool: &mut BufferPool,
        first: usize,
        count: usize,
    ) -> usize {
        let count = count.min(RECEIVED_PER_CALL).min(pool.count().saturating_sub(first));
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
        for index in 0..count {
            let len = pool.capacity().saturating_sub(self.prefix_bytes);
            // SAFETY: a buffer has `capacity` bytes, of which the prefix is a part.
            let base = unsafe { pool.payload_pointer(first + index).add(pool.capacity() - len) };
            self.vectors[index] = libc::iovec { iov_base: base.cast(), iov_len: len };
        }
        let vectors = self.vectors.as_mut_ptr();
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        for (index, header) in self.headers[..count].iter_mut().enumerate() {
            let message = &mut header.msg_hdr;
            // SAFETY: index < RECEIVED_PER_CALL, the length of all three arrays.
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
    pub(crate) fn received(&self, index: usize, local_port: u16) -> Option<Received> {
        let header = self.headers.get(index)?;
        let message = &header.msg_hdr;
        let control = self.controls[index].0.get(..message.msg_controllen as usize)?;
        Some(Received {
            from: self.names[index].read(message.msg_namelen)?,
            len: header.msg_len,
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
            ancillary: Ancillary::read(control, local_port),
            is_strangers: false,
        })
    }
}
