//! Hears of changed addresses and routes from the kernel.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::warn;
use turnpike_offload::netlink::{Change, Netlink};

/// Changes come in bursts: an address, its routes, its neighbours.
const SETTLE: Duration = Duration::from_millis(50);
/// Routes may change all the time where many of them are learned; they matter for the defaults only.
const ROUTES_PERIOD: Duration = Duration::from_secs(1);
/// How often the addresses are looked at if the kernel sends no news.
const BLIND_PERIOD: Duration = Duration::from_millis(500);
/// Until the kernel is listened to again after an error.
const RETRY: Duration = Duration::from_millis(100);

/// Where the kernel tells of changes. To be opened before the addresses are looked at for the first time, or those
/// that come in between are missed.
#[derive(Debug)]
pub struct AddressNews(Option<Netlink>);

impl AddressNews {
    /// Begins to listen. Where that is not permitted the addresses are looked at twice a second instead.
    pub fn open() -> Self {
        match Netlink::open_for_addresses() {
            Ok(netlink) => AddressNews(Some(netlink)),
            Err(error) => {
                warn!("the kernel tells nothing of changed addresses ({error}): looking twice a second");
                AddressNews(None)
            }
        }
    }

    /// Waits for changes until the time is over. Gives when to look at the addresses, if there were any.
    pub fn wait(&mut self, until: Instant) -> Option<Instant> {
        let now = Instant::now();
        let patience = until.saturating_duration_since(now);
        let Some(netlink) = &mut self.0 else {
            thread::sleep(patience.min(BLIND_PERIOD));
            return Some(Instant::now());
        };
        if let Err(error) = readable(netlink, patience) {
            warn!("cannot wait for the kernel's news of addresses: {error}");
            thread::sleep(RETRY);
        }
        let changes = netlink.changes();
        let now = Instant::now();
        if changes.iter().any(|change| matches!(change, Change::Links | Change::Lost)) {
            return Some(now + SETTLE);
        }
        (!changes.is_empty()).then_some(now + ROUTES_PERIOD)
    }
}

fn readable(netlink: &Netlink, patience: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    let events = netlink.as_fd();
    match poll(&mut [PollFd::from_borrowed_fd(events, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
