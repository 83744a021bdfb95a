//! The eventfd that wakes a driver.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Waker;

/// Wakes a driver that watches it; several wakes before the next turn cost one system call.
pub(crate) struct EventFd {
    file: File,
    pending: AtomicBool,
}

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(EventFd { file: File::from(fd), pending: AtomicBool::new(false) })
    }

    /// Takes back all wakes so far; whether there was one.
    pub(crate) fn take(&self) -> bool {
        let mut count = [0; 8];
        let was_woken = (&self.file).read(&mut count).is_ok();
        // Cleared after reading and before the owner looks at its queue: whoever still finds
        // it set has queued its command before this line, so the owner will see it.
        if was_woken {
            self.pending.swap(false, Ordering::AcqRel);
        }
        was_woken
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Waker for EventFd {
    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It fails only if 2^64 - 2 wakes are pending, and then the poller is awake.
            let _ = (&self.file).write(&1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_are_coalesced_and_never_lost() {
        let event = EventFd::new().expect("an eventfd");
        assert!(!event.take());
        event.wake();
        event.wake();
        assert!(event.take());
        assert!(!event.take());
        event.wake();
        assert!(event.take(), "the next wake counts again");
    }
}
