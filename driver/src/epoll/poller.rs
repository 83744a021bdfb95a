//! epoll itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An epoll instance; level-triggered, so what one turn leaves behind is reported by the next.
pub(super) struct Poller {
    epoll: OwnedFd,
    ready: Vec<libc::epoll_event>,
    /// Descriptors reported per call; the vector may have room for more.
    limit: usize,
}

impl Poller {
    /// A poller that reports up to `limit` descriptors per call.
    pub(super) fn new(limit: usize) -> io::Result<Poller> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Poller { epoll, ready: Vec::with_capacity(limit), limit })
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open while borrowed; the kernel copies the live `event`.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Watches a descriptor no longer. Closing is not enough while another process has the same socket.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both descriptors are open while borrowed; no event is read for this operation.
        let result = unsafe {
            let none = std::ptr::null_mut();
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), none)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits; afterwards [`Self::ready`] holds what is ready. An interrupting signal ends it with nothing.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.ready.clear();
        let limit = i32::try_from(self.limit).unwrap_or(i32::MAX);
        // SAFETY: `ready` has room for `limit` events; the kernel writes at most that many.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.ready.as_mut_ptr(), limit, timeout_millis(timeout))
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        // SAFETY: the kernel has initialised the first `count` events, and count <= limit.
        unsafe { self.ready.set_len(count) };
        Ok(())
    }

    /// Tokens and event masks of what is ready.
    pub(super) fn ready(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.ready.iter().map(|event| (event.u64, event.events))
    }

    /// Whether anything is ready.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether more may be ready than there was room for.
    pub(super) fn is_saturated(&self) -> bool {
        self.ready.len() >= self.limit
    }
}

/// Rounded up: a timeout cut to 0 would spin until its time has come.
fn timeout_millis(timeout: Option<Duration>) -> i32 {
    let Some(timeout) = timeout else { return -1 };
    i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_timeouts_are_rounded_up() {
        assert_eq!(timeout_millis(None), -1);
        assert_eq!(timeout_millis(Some(Duration::ZERO)), 0);
        assert_eq!(timeout_millis(Some(Duration::from_nanos(1))), 1);
        assert_eq!(timeout_millis(Some(Duration::from_micros(1001))), 2);
        assert_eq!(timeout_millis(Some(Duration::MAX)), i32::MAX);
    }
}
