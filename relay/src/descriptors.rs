//! Descriptors: as many as the system lets us have, and how many of them relay sockets may take.

use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::config::Config;
use crate::config::resolve::Addresses;

/// Kept from relay sockets: for the administration's connections, for files, for the kernel's data path.
const KEPT: u64 = 64;
/// Open beside listeners and relay sockets: the log, rings and wakers of the workers, signals, the administration.
const OTHERS: u64 = 32;

/// Each relayed address needs a descriptor: as many as the system lets us have without asking.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

/// The number below which relay sockets find their descriptors. Warns if those are fewer than the ports.
pub(crate) fn for_relay_sockets(config: &Config, addresses: &Addresses) -> RawFd {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let range = config.port_range;
    let ports = (u64::from(range.last - range.first) + 1) * addresses.relay.len() as u64;
    let own = OTHERS + config.workers.get() as u64 * (addresses.listen.len() as u64 + 4);
    let ceiling = limit - kept_of(limit);
    let possible = ceiling.saturating_sub(own);
    if possible < ports {
        warn!(
            limit,
            ports,
            "the limit on open files lets about {possible} of {ports} relay ports be used, then clients get 508: \
             LimitNOFILE={} in the unit, or ulimit -n, would do",
            ports + own + KEPT
        );
    }
    ceiling.try_into().unwrap_or(RawFd::MAX)
}

/// Of a very low limit something is left for relaying, too.
fn kept_of(limit: u64) -> u64 {
    KEPT.min(limit / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_leaves_something_for_both() {
        assert_eq!([0, 64, 256, 1024, 524_288].map(kept_of), [0, 16, 64, 64, 64]);
    }
}
