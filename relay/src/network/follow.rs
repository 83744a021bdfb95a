//! Hears of changed addresses and routes from the kernel, and says what is still waited for.

use std::io;
use std::os::fd::AsFd;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};
use turnpike_offload::netlink::{Change, Netlink};

use crate::config::resolve::Awaited;
use crate::control::Control;
use crate::service_manager::{News, tell};

/// Changes come in bursts: an address, its routes, its neighbours.
const SETTLE: Duration = Duration::from_millis(50);
/// Routes may change all the time where many of them are learned; they matter for the defaults only.
const ROUTES_PERIOD: Duration = Duration::from_secs(1);
/// How soon a worker that was too busy to be told is told again.
const RETRY: Duration = Duration::from_millis(100);
/// How often the addresses are looked at without news: every time, if the kernel sends none.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
const BLIND_PERIOD: Duration = Duration::from_millis(500);
/// How long something may be missing before it is said: what takes a moment at the start is no news.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How often it is said again.
const WORD_PERIOD: Duration = Duration::from_secs(60);

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
    fn wait(&mut self, until: Instant) -> Option<Instant> {
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

/// Follows the host's addresses as long as there is a relay.
///
/// # Errors
/// If there can be no thread for it.
pub fn follow(news: AddressNews, control: Weak<Control>) -> io::Result<()> {
    let mut follower = Follower { news, control, word: Word::default() };
    thread::Builder::new().name("addresses".to_owned()).spawn(move || follower.run())?;
    Ok(())
}

struct Follower {
    news: AddressNews,
    control: Weak<Control>,
    word: Word,
}

impl Follower {
    fn run(&mut self) {
        // Something may have changed since the start.
        let mut due = Instant::now();
        loop {
            while Instant::now() < due {
                if let Some(sooner) = self.news.wait(due.min(self.word.due())) {
                    due = due.min(sooner);
                }
                let Some(control) = self.control.upgrade() else { return };
                self.word.say(&control.awaited());
            }
            let Some(control) = self.control.upgrade() else { return };
            let pause = if control.follow_network() { LOOK_PERIOD } else { RETRY };
            due = Instant::now() + pause;
            self.word.say(&control.awaited());
        }
    }
}

/// Says what is waited for: once, again each minute, and when it is over.
#[derive(Debug, Default)]
struct Word {
    awaited: Vec<Awaited>,
    /// When it is said next; none while nothing is awaited.
    due: Option<Instant>,
    was_said: bool,
}

impl Word {
    fn due(&self) -> Instant {
        self.due.unwrap_or_else(|| Instant::now() + LOOK_PERIOD)
    }

    fn say(&mut self, awaited: &[Awaited]) {
        let now = Instant::now();
        if self.awaited != awaited {
            if awaited.is_empty() && self.was_said {
                info!("nothing is waited for any more");
                tell(News::Status("relaying"));
            }
            self.due = (!awaited.is_empty()).then_some(now + FIRST_WORD);
            self.was_said &= !awaited.is_empty();
            self.awaited = awaited.to_vec();
        }
        if self.due.is_some_and(|due| due <= now) {
            let text = waiting_for(awaited);
            warn!("{text}");
            tell(News::Status("waiting for addresses; see the log"));
            (self.due, self.was_said) = (Some(now + WORD_PERIOD), true);
        }
    }
}

/// In one line.
pub(super) fn waiting_for(awaited: &[Awaited]) -> String {
    let all: Vec<String> = awaited.iter().map(ToString::to_string).collect();
    format!("waiting for {}", all.join("; "))
}

fn readable(netlink: &Netlink, patience: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    let events = netlink.as_fd();
    match poll(&mut [PollFd::from_borrowed_fd(events, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_for_a_moment_only_is_not_said() {
        let mut word = Word::default();
        let awaited = [Awaited::Relay([192, 0, 2, 1].into())];
        word.say(&awaited);
        assert!(!word.was_said && word.due.is_some());
        word.say(&[]);
        assert!(!word.was_said && word.due.is_none());
        word.say(&awaited);
        word.due = Some(Instant::now());
        word.say(&awaited);
        assert!(word.was_said && word.due.is_some_and(|due| due > Instant::now() + WORD_PERIOD / 2));
    }

    #[test]
    fn everything_that_is_waited_for_is_in_one_line() {
        let awaited = [Awaited::Listener(([192, 0, 2, 1], 3478).into()), Awaited::AnyRelay];
        assert_eq!(
            waiting_for(&awaited),
            "waiting for the listener 192.0.2.1:3478: no interface of this host has that address; \
             a relay address: no interface of this host has one that others could reach"
        );
    }
}
