//! Which seeds a scenario runs with.

use std::hash::{BuildHasher, RandomState};

/// The variable that names the one seed to run with.
const VARIABLE: &str = "TURNPIKE_SIM_SEED";

/// Runs the scenario with each fixed seed and a fresh one, or with the one that the environment names.
pub fn for_each_seed(fixed: &[u64], scenario: impl Fn(u64)) {
    let named = std::env::var(VARIABLE).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    let fresh = RandomState::new().hash_one(std::process::id());
    let seeds = match named {
        Some(seed) => vec![seed],
        None => fixed.iter().copied().chain([fresh]).collect(),
    };
    for seed in seeds {
        let named = NameOnPanic(seed);
        scenario(seed);
        drop(named);
    }
}

/// Says which seed it was when a scenario fails.
struct NameOnPanic(u64);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {VARIABLE}={}", self.0);
        }
    }
}
