//! The pulse of the main thread: it looks at the workers, and feeds systemd's watchdog as long as all turn.

use std::time::{Duration, Instant};

use crate::control::{Control, LOOK_PERIOD};
use crate::service_manager::{News, tell};

/// What part of the watchdog's time may pass between two signs of life.
const WATCHDOG_SHARE: u32 = 4;

/// When to look, and when to tell.
pub(crate) struct Watch {
    next_look: Instant,
    next_sign: Instant,
    /// Time between two signs of life, if systemd wants any.
    sign_period: Option<Duration>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        let now = Instant::now();
        let sign_period = sd_notify::watchdog_enabled().map(|limit| limit / WATCHDOG_SHARE);
        Watch { next_look: now, next_sign: now, sign_period }
    }

    /// Looks, if it is time. To be called at least as often as [`LOOK_PERIOD`].
    pub(crate) fn look(&mut self, control: &Control) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_PERIOD;
        let all_turn = control.look_at_workers();
        if let Some(period) = self.sign_period
            && all_turn
            && now >= self.next_sign
        {
            self.next_sign = now + period;
            tell(News::Alive);
        }
    }
}
