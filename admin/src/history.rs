//! The last minutes of the counters, so that a chart has something to show at once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::limits::HISTORY_SAMPLES;
use crate::model;

/// How often the counters are read. They lie in memory already: no worker is asked.
pub const PERIOD: Duration = Duration::from_secs(5);

/// The newest samples, the oldest first.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<model::Sample>>);

impl History {
    /// Keeps a sample; the oldest one makes room.
    pub fn record(&self, sample: model::Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == HISTORY_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The samples of the last minutes, the oldest first.
    pub fn read(&self) -> model::History {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        model::History { period_secs: PERIOD.as_secs(), samples: samples.iter().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_are_kept_in_order_and_no_more() {
        let history = History::default();
        for at in 0..1000 {
            history.record(model::Sample { as_of_unix_millis: at, ..model::Sample::default() });
        }
        let times: Vec<u64> = history.read().samples.iter().map(|sample| sample.as_of_unix_millis).collect();
        assert_eq!(times, (820..1000).collect::<Vec<u64>>());
    }
}
