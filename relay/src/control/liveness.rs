//! Whether the workers turn: what readiness, health and systemd's watchdog say. And whether the mirror does, without
//! which calls go on: that is readiness alone.
//!
//! A worker stores the time of each turn. An idle one is woken about once a second, so that silence means
//! something. Looks are counted, not time alone: a process that was stopped, or a machine that slept, is no
//! worker that stands still.

use std::sync::Mutex;
use std::time::Duration;

use tracing::{info, warn};

use super::convert::Moment;
use super::lock::lock;
use crate::worker::WorkerHandle;

/// How often somebody has to look.
pub const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// Looks without a turn after which a worker is woken: within a second.
const LOOKS_UNTIL_WOKEN: u32 = 4;
/// Looks without a turn after which a worker stands still: two seconds.
const LOOKS_UNTIL_STALLED: u32 = 10;
/// The same for the mirror, which turns once a second when nothing happens: five seconds, since attaching a program may
/// take a driver two.
const LOOKS_UNTIL_MIRROR_STALLED: u32 = 25;

/// What it means that the mirror stands still.
const MIRROR_STALLED: &str =
    "new channels stay in userspace, and changes of the host's routing are not followed";

/// What the last looks saw of each worker, and of the mirror.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    workers: Mutex<Vec<Pulse>>,
    mirror: Mutex<Pulse>,
}

/// What the last looks saw of one thread.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    /// When it turned last, or for how often it has: 0 if never.
    turned_ns: u64,
    /// Looks since its last turn.
    silent_looks: u32,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing new.
    Nothing,
    /// It is silent, perhaps because nothing happens.
    Silent,
    /// It is silent although it was woken, for so long by now that it stands still.
    Stalled,
    /// It turns again.
    Back,
}

impl Pulse {
    fn look(&mut self, turned_ns: u64) -> Found {
        if turned_ns != self.turned_ns {
            let was_stalled = self.is_stalled();
            *self = Pulse { turned_ns, silent_looks: 0 };
            return if was_stalled { Found::Back } else { Found::Nothing };
        }
        self.silent_looks = self.silent_looks.saturating_add(1);
        match self.silent_looks {
            LOOKS_UNTIL_STALLED => Found::Stalled,
            LOOKS_UNTIL_WOKEN.. => Found::Silent,
            _ => Found::Nothing,
        }
    }

    fn is_stalled(&self) -> bool {
        self.is_silent_for(LOOKS_UNTIL_STALLED)
    }

    fn is_silent_for(&self, looks: u32) -> bool {
        self.silent_looks >= looks
    }
}

impl Liveness {
    /// Looks whether each worker turns, and wakes those that are silent; answers whether all turn. To be
    /// called once every [`LOOK_PERIOD`].
    pub(super) fn look(&self, workers: &[WorkerHandle]) -> bool {
        let found: Vec<Found> = {
            let mut pulses = lock(&self.workers);
            pulses.resize(workers.len(), Pulse::default());
            let looks = pulses.iter_mut().zip(workers);
            looks.map(|(pulse, worker)| pulse.look(worker.status.turned_ns())).collect()
        };
        for (number, (found, worker)) in found.iter().zip(workers).enumerate() {
            match found {
                Found::Nothing => {}
                Found::Silent => worker.wake(),
                Found::Stalled => {
                    warn!(worker = number, "a worker stands still: its clients get no answer");
                    worker.wake();
                }
                Found::Back => info!(worker = number, "the worker turns again"),
            }
        }
        self.standstills().is_empty()
    }

    /// Looks whether the mirror turns; `turns` are its turns so far, if there is one. To be called once every
    /// [`LOOK_PERIOD`].
    pub(super) fn look_at_mirror(&self, turns: Option<u64>) {
        let mut pulse = lock(&self.mirror);
        let before = pulse.is_silent_for(LOOKS_UNTIL_MIRROR_STALLED);
        match turns {
            Some(turns) => {
                pulse.look(turns);
            }
            None => *pulse = Pulse::default(),
        }
        let now = pulse.is_silent_for(LOOKS_UNTIL_MIRROR_STALLED);
        drop(pulse);
        match (before, now) {
            (false, true) => warn!("the kernel data path's thread stands still: {MIRROR_STALLED}"),
            (true, false) => info!("the kernel data path's thread turns again"),
            _ => {}
        }
    }

    /// That the mirror stands still, if it does.
    pub(super) fn mirror_standstill(&self) -> Option<String> {
        let is_stalled = lock(&self.mirror).is_silent_for(LOOKS_UNTIL_MIRROR_STALLED);
        is_stalled.then(|| format!("the kernel data path's thread stands still: {MIRROR_STALLED}"))
    }

    /// Why the relay can't do its work, for people; nothing if it can.
    pub(super) fn standstills(&self) -> Vec<String> {
        let now_ns = Moment::now().mono_ns;
        let pulses = lock(&self.workers);
        let stalled = pulses.iter().enumerate().filter(|(_, pulse)| pulse.is_stalled());
        let say = |(number, pulse): (usize, &Pulse)| match pulse.turned_ns {
            0 => format!("worker {number} has never turned"),
            turned_ns => {
                let secs = now_ns.saturating_sub(turned_ns) / 1_000_000_000;
                format!("worker {number} has not turned for {secs} s")
            }
        };
        stalled.map(say).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_answered_by_waking_and_only_long_silence_is_a_standstill() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(7), Found::Nothing);
        let found: Vec<Found> = (0..12).map(|_| pulse.look(7)).collect();
        assert_eq!(found[..3], [Found::Nothing; 3], "nothing happens for less than a second");
        assert_eq!(found[3..9], [Found::Silent; 6]);
        assert_eq!(found[9..], [Found::Stalled, Found::Silent, Found::Silent], "said once");
        assert!(pulse.is_stalled());
        assert_eq!(pulse.look(8), Found::Back);
        assert!(!pulse.is_stalled());
    }

    #[test]
    fn a_mirror_that_stands_still_is_said_and_so_is_that_it_goes_on() {
        let liveness = Liveness::default();
        for turns in [1, 2, 2, 3] {
            liveness.look_at_mirror(Some(turns));
            assert_eq!(liveness.mirror_standstill(), None);
        }
        (0..LOOKS_UNTIL_MIRROR_STALLED).for_each(|_| liveness.look_at_mirror(Some(3)));
        assert!(liveness.mirror_standstill().expect("it is silent").contains("stands still"));
        liveness.look_at_mirror(Some(4));
        assert_eq!(liveness.mirror_standstill(), None);
        (0..2 * LOOKS_UNTIL_MIRROR_STALLED).for_each(|_| liveness.look_at_mirror(None));
        assert_eq!(liveness.mirror_standstill(), None, "there is none, or none any more");
    }

    #[test]
    fn a_worker_that_turns_whenever_it_is_woken_is_alive() {
        let mut pulse = Pulse::default();
        let mut turned_ns = 1;
        for _ in 0..100 {
            match pulse.look(turned_ns) {
                Found::Silent => turned_ns += 1,
                Found::Nothing => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
