//! Follows the host's addresses and its public ones, and says what is still waited for.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::state::Control;
use crate::config::resolve::Awaited;
use crate::network::AddressNews;
use crate::service_manager::{News, tell};

/// How soon a worker that was too busy to be told is told again.
const RETRY: Duration = Duration::from_millis(100);
/// How often the addresses are looked at without news.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// How long something may be missing before it is said: what takes a moment at the start is no news.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How often it is said again.
const WORD_PERIOD: Duration = Duration::from_secs(60);

/// Follows names and STUN servers that know public addresses, as long as there is a relay.
///
/// # Errors
/// If there can be no thread for it.
pub fn follow_publics(control: &Arc<Control>) -> io::Result<()> {
    let (publics, control) = (Arc::clone(&control.publics), Arc::downgrade(control));
    let run = move || {
        let mut next = Instant::now();
        loop {
            let questions = publics.wait(next);
            let has_changed = publics.ask_all(&questions);
            let Some(control) = control.upgrade() else { return };
            if has_changed {
                control.follow_network();
            }
            next = Instant::now() + publics.pause(&questions);
        }
    };
    thread::Builder::new().name("publics".to_owned()).spawn(run)?;
    Ok(())
}

/// Follows the host's addresses as long as there is a relay.
///
/// # Errors
/// If there can be no thread for it.
pub fn follow_addresses(news: AddressNews, control: &Arc<Control>) -> io::Result<()> {
    let mut follower = Follower { news, control: Arc::downgrade(control), word: Word::default() };
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
fn waiting_for(awaited: &[Awaited]) -> String {
    let all: Vec<String> = awaited.iter().map(ToString::to_string).collect();
    format!("waiting for {}", all.join("; "))
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
