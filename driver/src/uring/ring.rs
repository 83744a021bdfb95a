//! The ring itself: requests in, completions out, and the rule that one thread uses it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

/// Completions wanted before a coalescing wait ends early.
const GATHERED: usize = 48;

/// What a completion says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    /// Bytes, or a negative errno.
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// More completions of the same request will follow.
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The buffer that was taken for it.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// The errno, if it failed.
    pub(super) fn errno(&self) -> Option<i32> {
        (self.result < 0).then_some(-self.result)
    }
}

/// How to wait for completions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// At most this long; `None` is for ever.
    pub(super) timeout: Option<Duration>,
    /// So long for more, if there is some traffic.
    pub(super) gather: Option<Duration>,
}

/// An io_uring of one thread. It is enabled by the first thread that submits, and no other may use it then.
pub(super) struct Ring {
    ring: IoUring,
    enabled: bool,
    completions: VecDeque<Completion>,
}

impl Ring {
    /// A ring with room for so many requests and completions at once.
    ///
    /// # Errors
    /// If the kernel has none with what is needed (Linux 6.1), or may not give it to this process.
    pub(super) fn new(requests: u32, completions: u32) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_cqsize(completions)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // The thread that enables it is the one that may use it; here it is still being set up.
            .setup_r_disabled()
            .build(requests)?;
        Ok(Ring { ring, enabled: false, completions: VecDeque::new() })
    }

    /// The kernel can gather completions by itself while it waits (Linux 6.12).
    pub(super) fn can_gather(&self) -> bool {
        self.ring.params().is_feature_min_timeout()
    }

    /// Makes room for so many fixed files.
    pub(super) fn reserve_files(&self, count: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(count)
    }

    /// Puts a descriptor into a fixed slot, or -1 to empty it.
    pub(super) fn set_file(&self, slot: u32, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(slot, &[fd]).map(|_| ())
    }

    /// Registers a ring of buffers.
    ///
    /// # Safety
    /// The entries must stay where they are, and valid, as long as this ring lives.
    pub(super) unsafe fn register_buffers(&self, entries: u64, count: u16, group: u16) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(entries, count, group, 0) }
    }

    /// Queues a request; when there is no room those before it are submitted.
    ///
    /// # Safety
    /// What the request points to must stay valid until it was submitted, and the buffers that it names
    /// until it is complete.
    pub(super) unsafe fn push(&mut self, request: &squeue::Entry) -> io::Result<()> {
        // SAFETY: as the caller promises.
        while unsafe { self.ring.submission().push(request) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    /// Submits all that is queued, without waiting: requests that need not wait are carried out.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.enable()?;
        loop {
            let outcome = self.ring.submit().map(|_| ());
            self.collect();
            tolerate(outcome)?;
            // Whoever queued a request relies on its being gone: what it points to is used again.
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            // The kernel had no memory for all of them.
            std::thread::yield_now();
        }
    }

    /// Submits all that is queued and takes the completions that are there, without waiting.
    pub(super) fn submit_and_look(&mut self) -> io::Result<()> {
        /// IORING_ENTER_GETEVENTS (linux/io_uring.h): with DEFER_TASKRUN completions come only if asked for.
        const GETEVENTS: u32 = 1;
        self.enable()?;
        let count = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed that the kernel could look at; the requests are valid as `push` says.
        let outcome = unsafe { self.ring.submitter().enter::<libc::sigset_t>(count, 0, GETEVENTS, None) };
        self.collect();
        tolerate(outcome.map(|_| ()))?;
        if self.ring.submission().is_empty() { Ok(()) } else { self.submit() }
    }

    /// Submits all that is queued and waits for completions.
    pub(super) fn submit_and_wait(&mut self, waiting: Waiting) -> io::Result<()> {
        self.enable()?;
        let timespec = waiting.timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(gather) = waiting.gather {
            args = args.min_wait_usec(u32::try_from(gather.as_micros()).unwrap_or(u32::MAX));
        }
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        let wanted = if waiting.gather.is_some() { GATHERED } else { 1 };
        let outcome = self.ring.submitter().submit_with_args(wanted, &args).map(|_| ());
        self.collect();
        tolerate(outcome)?;
        if self.ring.submission().is_empty() { Ok(()) } else { self.submit() }
    }

    /// The next completion, oldest first.
    pub(super) fn pop(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Takes the completions that `pick` wants, and leaves the others for [`Ring::pop`].
    pub(super) fn take(&mut self, pick: impl Fn(&Completion) -> bool, taken: &mut Vec<Completion>) {
        self.completions.retain(|completion| {
            let is_wanted = pick(completion);
            if is_wanted {
                taken.push(*completion);
            }
            !is_wanted
        });
    }

    /// Completions wait to be taken.
    pub(super) fn has_completions(&self) -> bool {
        self.completions() > 0
    }

    /// How many do.
    pub(super) fn completions(&self) -> usize {
        self.completions.len()
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// There are never more than the buffers, sockets and requests allow.
    fn collect(&mut self) {
        for entry in self.ring.completion() {
            self.completions.push_back(Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            });
        }
    }
}

/// A wait that ended by its time or a signal, or before completions were collected, is none that failed.
fn tolerate(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        outcome => outcome,
    }
}
