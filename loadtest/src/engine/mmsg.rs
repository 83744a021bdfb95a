//! Batched sending, readiness, clocks and socket counters.
//!
//! A batch sends up to [`BATCH`] datagrams of one socket in one system call. Payloads are
//! sent from where they lie (`'static` fill) behind a small per-datagram head, so that a large payload
//! isn't copied twice.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::limits::BATCH;

/// Bytes that may precede the payload's static part: TURN framing and the payload's own header.
pub const HEAD_BYTES: usize = 128;
/// I/O vectors of one datagram: head, fill, padding.
const PARTS: usize = 3;
/// Largest total of one GSO send: a UDP datagram's limit.
const GSO_MAX_BYTES: usize = 65_507;
/// STUN and ChannelData pad to 4 bytes.
static ZEROS: [u8; 4] = [0; 4];

/// Nanoseconds on the monotonic clock.
pub fn mono_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in; both clocks always exist on Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Asks the kernel to end this thread's timed waits on time: the default slack is 50 µs.
pub fn set_precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}

/// Raises the soft limit of open files to the hard one; returns the limit that now holds.
pub fn raise_open_files_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit, written by the first call and read by the second.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return 1024;
        }
        let soft = limit.rlim_cur;
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 { soft } else { limit.rlim_cur }
    }
}

/// What this socket's receive queue has dropped since it was opened (SO_MEMINFO): datagrams, but a
/// merged run counts once.
pub fn receive_drops(fd: BorrowedFd<'_>) -> u64 {
    /// Index of SK_MEMINFO_DROPS in the kernel's answer (linux/sock_diag.h).
    const DROPS: usize = 8;
    let mut values = [0u32; 16];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` and `len` describe one writable buffer that outlives the call.
    let status = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if status == 0 && len as usize > DROPS * 4 { u64::from(values[DROPS]) } else { 0 }
}

/// Tries SO_RCVBUFFORCE (needs CAP_NET_ADMIN), which isn't held to the system's maximum.
pub fn force_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    // SAFETY: the option's value is one int on this stack frame; failure is harmless and ignored.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
}

pub(super) fn empty_iovec() -> libc::iovec {
    libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
}

pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain data (integers and pointers) for which all zeroes is a valid value.
    unsafe { mem::zeroed() }
}

/// Datagrams gathered for one socket, sent with one sendmmsg, or one GSO sendmsg.
pub struct SendBatch {
    heads: Vec<[u8; HEAD_BYTES]>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    len: usize,
    bytes: usize,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self {
            heads: vec![[0; HEAD_BYTES]; BATCH],
            parts: vec![empty_iovec(); BATCH * PARTS],
            headers: vec![empty_header(); BATCH],
            len: 0,
            bytes: 0,
        }
    }
}

impl SendBatch {
    /// Datagrams waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one datagram: `write_head` fills the head and returns its length; `body` and `padding`
    /// zero bytes (at most 3) follow. The caller sends before it pushes more than [`BATCH`].
    pub fn push(&mut self, body: &'static [u8], padding: usize, write_head: impl FnOnce(&mut [u8]) -> usize) {
        assert!(self.len < BATCH, "a batch is sent before it overflows");
        let head = &mut self.heads[self.len];
        let head_len = write_head(head).min(HEAD_BYTES);
        let padding = padding.min(ZEROS.len());
        let parts = &mut self.parts[self.len * PARTS..][..PARTS];
        parts[0] = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head_len };
        parts[1] = libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() };
        parts[2] = libc::iovec { iov_base: ZEROS.as_ptr().cast_mut().cast(), iov_len: padding };
        self.bytes += head_len + body.len() + padding;
        self.len += 1;
    }

    /// The bytes of datagram `index`, copied.
    pub fn datagram(&self, index: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.copy_to(index, &mut out);
        out
    }

    /// Appends the bytes of datagram `index`.
    pub fn copy_to(&self, index: usize, out: &mut Vec<u8>) {
        assert!(index < self.len, "there is such a datagram");
        let parts = &self.parts[index * PARTS..][..PARTS];
        out.reserve(parts.iter().map(|part| part.iov_len).sum());
        for part in parts {
            // SAFETY: `push` set each part to a live head of this batch or to static bytes, with its length.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) });
        }
    }

    /// Sends all that waits on a connected socket and empties the batch. Returns how many datagrams
    /// the kernel took, and the error that stopped it, if one did.
    pub fn send(&mut self, fd: BorrowedFd<'_>) -> (usize, Option<io::Error>) {
        let mut sent = 0;
        for index in 0..self.len {
            let header = &mut self.headers[index];
            header.msg_hdr.msg_iov = self.parts[index * PARTS..].as_mut_ptr();
            header.msg_hdr.msg_iovlen = PARTS as _;
        }
        let mut error = None;
        let mut refused = 0;
        while sent < self.len {
            // SAFETY: headers[sent..len] point into `parts`, those into `heads` or static bytes; nothing
            // of it moves during the call, and the descriptor is open as long as `fd` is borrowed.
            let count = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    self.headers[sent..].as_mut_ptr(),
                    (self.len - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if count > 0 {
                sent += count as usize;
                continue;
            }
            // An ICMP error of an earlier datagram is reported on, and fails, the next send: that one
            // was not this datagram's fault, so it is tried again.
            let reason = io::Error::last_os_error();
            refused += 1;
            if reason.kind() != io::ErrorKind::ConnectionRefused || refused > 2 {
                error = Some(reason);
                break;
            }
        }
        self.clear();
        (sent, error)
    }

    /// As [`Self::send`], but as one datagram of equal segments that the kernel splits (UDP_SEGMENT).
    /// All datagrams of the batch must have the same size. Falls back to `send` where it can't.
    pub fn send_gso(&mut self, fd: BorrowedFd<'_>) -> (usize, Option<io::Error>) {
        let count = self.len;
        if count < 2 || self.bytes > GSO_MAX_BYTES {
            return self.send(fd);
        }
        let segment = (self.bytes / count) as u16;
        let mut control = [0u64; 4];
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = self.parts.as_mut_ptr();
        header.msg_iovlen = (count * PARTS) as _;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: `control` is 32 aligned bytes, enough for one header and a u16 (CMSG_SPACE(2) = 24);
        // `header` and all that it points to live until sendmsg returns.
        let status = unsafe {
            header.msg_controllen = libc::CMSG_SPACE(2) as _;
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            (*message).cmsg_len = libc::CMSG_LEN(2) as _;
            libc::CMSG_DATA(message).cast::<u16>().write_unaligned(segment);
            libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT)
        };
        if status < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock {
                return self.send(fd);
            }
            self.clear();
            return (0, Some(error));
        }
        self.clear();
        (count, None)
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.len = 0;
        self.bytes = 0;
    }
}

/// Level-triggered readiness of many sockets (epoll), each known by a number.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no arguments but flags; the descriptor is checked and then owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just created and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Watches a socket for reading; closing it removes it.
    pub fn add(&self, fd: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, key, libc::EPOLLIN)
    }

    /// Watches a socket that was added for room to write, too, or no longer.
    pub fn set_writing(&self, fd: BorrowedFd<'_>, key: u64, writing: bool) -> io::Result<()> {
        let events = if writing { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        self.control(libc::EPOLL_CTL_MOD, fd, key, events)
    }

    /// Watches a socket no longer.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: libc::c_int, fd: BorrowedFd<'_>, key: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        // SAFETY: both descriptors are open; `event` is valid for the call.
        let status =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits at most `timeout_ns` and appends the numbers of the sockets that are ready to `ready`.
    pub fn wait(&mut self, timeout_ns: u64, ready: &mut Vec<u64>) {
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: `events` has the stated capacity; `timeout` is valid; no signal mask is given.
        let count = unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &timeout,
                std::ptr::null(),
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        ready.extend(self.events[..count].iter().map(|event| event.u64));
    }
}
