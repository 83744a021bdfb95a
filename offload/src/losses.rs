//! Which interfaces lose what is sent to them: judged from the program's counts, pure.
//!
//! ```text
//!   trusted ──more than 1 % lost within a second──► distrusted for a while (1 s, 2 s, 4 s ... 10 min)
//!      ▲                                                  │
//!      └────────────────── tried again ◄──────────────────┘
//! ```
//!
//! A driver may refuse every frame, or those of some processors only: nobody can know before. What goes to an interface
//! that is distrusted goes through userspace, which is told when the system can't send.

use std::time::{Duration, Instant};

use turnpike_abi::MAX_INTERFACES;

use super::limits::{FIRST_DISTRUST, LAST_DISTRUST, LOSS_WINDOW, STEADY};

/// One of so many frames may be lost.
const ONE_OF: u64 = 100;

/// Frames that were sent by an interface since the program was loaded, and those that were not after all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that the program has sent.
    pub frames: u64,
    /// Of these, what the kernel or the device did not take.
    pub lost: u64,
}

impl Sent {
    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Sent) -> Sent {
        // Counters of processors are read one after the other.
        Sent {
            frames: self.frames.saturating_sub(before.frames),
            lost: self.lost.saturating_sub(before.lost),
        }
    }

    fn is_too_much(self) -> bool {
        self.lost > 0 && self.lost * ONE_OF > self.frames
    }
}

/// What has changed about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It loses so much: it is not used for so long.
    Distrusted(Sent, Duration),
    /// It is used again, to see whether it loses still.
    Trusted,
}

/// One interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    window: Instant,
    before: Sent,
    /// Until when it is not used.
    distrusted_until: Option<Instant>,
    /// For how long it was not used last.
    pause: Option<Duration>,
    trusted_since: Instant,
}

/// All interfaces, by place.
#[derive(Debug)]
pub struct Losses([Interface; MAX_INTERFACES]);

impl Losses {
    /// All are trusted.
    pub fn new(now: Instant) -> Losses {
        Losses([Interface::new(now, Sent::default()); MAX_INTERFACES])
    }

    /// Another interface has this place.
    pub fn forget(&mut self, place: usize, now: Instant, sent: Sent) {
        self.0[place] = Interface::new(now, sent);
    }

    /// Whether the interface at a place is not used.
    pub fn is_distrusted(&self, place: usize) -> bool {
        self.0[place].distrusted_until.is_some()
    }

    /// Whether any is not used.
    pub fn any(&self) -> bool {
        (0..MAX_INTERFACES).any(|place| self.is_distrusted(place))
    }

    /// Looks at what was sent so far, by place; gives what has changed.
    pub fn look(&mut self, now: Instant, sent: &[Sent; MAX_INTERFACES]) -> Vec<(usize, Change)> {
        let looked = self.0.iter_mut().zip(sent).enumerate();
        looked.filter_map(|(place, (interface, sent))| Some((place, interface.look(now, *sent)?))).collect()
    }
}

impl Interface {
    fn new(now: Instant, before: Sent) -> Interface {
        Interface { window: now, before, distrusted_until: None, pause: None, trusted_since: now }
    }

    fn look(&mut self, now: Instant, sent: Sent) -> Option<Change> {
        if let Some(until) = self.distrusted_until {
            if now < until {
                return None;
            }
            *self = Interface { pause: self.pause, ..Interface::new(now, sent) };
            return Some(Change::Trusted);
        }
        let lately = sent.since(self.before);
        if lately.is_too_much() {
            let was_steady = now >= self.trusted_since + STEADY;
            let again = self.pause.filter(|_| !was_steady);
            let pause = again.map_or(FIRST_DISTRUST, |pause| (2 * pause).min(LAST_DISTRUST));
            (self.pause, self.distrusted_until) = (Some(pause), Some(now + pause));
            return Some(Change::Distrusted(lately, pause));
        }
        if now >= self.window + LOSS_WINDOW {
            (self.window, self.before) = (now, sent);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Interface 3 of a host, looked at now and then.
    struct Host {
        losses: Losses,
        now: Instant,
        sent: [Sent; MAX_INTERFACES],
    }

    impl Host {
        fn new() -> Host {
            let now = Instant::now();
            Host { losses: Losses::new(now), now, sent: [Sent::default(); MAX_INTERFACES] }
        }

        /// So many frames in a tenth of a second.
        fn send(&mut self, frames: u64, lost: u64) -> Option<Change> {
            self.sent[3].frames += frames;
            self.sent[3].lost += lost;
            self.now += SECOND / 10;
            let changes = self.losses.look(self.now, &self.sent);
            assert!(changes.len() <= 1 && changes.iter().all(|(place, _)| *place == 3));
            changes.first().map(|(_, change)| *change)
        }

        /// How long it is not used.
        fn pause(&mut self) -> Duration {
            let begin = self.now;
            while self.send(0, 0).is_none() {}
            self.now - begin
        }
    }

    #[test]
    fn a_black_hole_is_left_at_once_and_tried_again_less_and_less_often() {
        let mut host = Host::new();
        assert_eq!(host.send(50, 0), None);
        let mut pauses = Vec::new();
        for _ in 0..14 {
            let change = host.send(5, 5).expect("it loses all");
            let Change::Distrusted(Sent { lost: 5, .. }, pause) = change else { panic!("{change:?}") };
            assert!(host.losses.is_distrusted(3) && host.losses.any());
            let real = host.pause();
            assert!(real >= pause && real <= pause + SECOND / 5, "{real:?} for {pause:?}");
            assert!(!host.losses.any());
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses[..5], [1, 2, 4, 8, 16]);
        assert_eq!(pauses[12..], [LAST_DISTRUST.as_secs(); 2]);
        // It works for more than a minute: whatever comes then is new.
        (0..700).for_each(|_| assert_eq!(host.send(5, 0), None));
        assert!(matches!(host.send(5, 1), Some(Change::Distrusted(_, FIRST_DISTRUST))));
    }

    #[test]
    fn one_of_a_hundred_in_a_second_may_be_lost() {
        let mut host = Host::new();
        for _ in 0..100 {
            assert_eq!(host.send(1000, 10), None);
        }
        assert!(matches!(host.send(1000, 40), Some(Change::Distrusted(..))));
    }

    #[test]
    fn the_first_frame_of_a_quiet_interface_is_enough() {
        let mut host = Host::new();
        assert!(matches!(host.send(1, 1), Some(Change::Distrusted(Sent { frames: 1, lost: 1 }, _))));
        let (now, sent) = (host.now, host.sent[3]);
        host.losses.forget(3, now, sent);
        assert!(!host.losses.any(), "another interface");
        assert_eq!(host.send(1, 0), None);
    }
}
