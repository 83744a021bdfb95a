//! Descriptors: as many as the system lets us have, and how many of them relay sockets may take.

use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Kept from relay sockets: for the administration's connections, for files, for the kernel's data path.
const KEPT: u64 = 64;
/// Each relayed address needs a descriptor: as many as the system lets us have without asking.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

/// The number below which relay sockets find their descriptors. That those are fewer than the ports, the check of
/// the configuration says.
pub(crate) fn for_relay_sockets() -> RawFd {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit - kept_of(limit)).try_into().unwrap_or(RawFd::MAX)
}

/// How many connections over TCP and TLS a worker may have: half of all descriptors for all workers, or `most`; each
/// client wants another one for its relay socket.
pub(crate) fn for_connections(workers: usize, most: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    share_of(limit, workers, most)
}

fn share_of(limit: u64, workers: usize, most: usize) -> usize {
    usize::try_from(limit / 2).unwrap_or(usize::MAX).div_ceil(workers.max(1)).min(most)
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
        assert_eq!(share_of(1024, 2, 16_384), 256);
        assert_eq!(share_of(1_048_576, 8, 16_384), 16_384);
        assert_eq!(share_of(1_048_576, 64, 16_384), 8192);
        assert_eq!([0, 64, 256, 1024, 524_288].map(kept_of), [0, 16, 64, 64, 64]);
    }
}
