//! The time, as the core wants to be told it.

use rustix::time::{ClockId, clock_gettime};
use turnpike_proto::Now;

/// CLOCK_MONOTONIC and the seconds since 1970.
pub fn now() -> Now {
    // Some milliseconds late, and cheaper than the exact one: this is asked twice in a turn.
    let unix_secs = clock_gettime(ClockId::RealtimeCoarse).tv_sec.max(0) as u64;
    Now { mono_ns: monotonic_ns(), unix_secs }
}

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// CLOCK_REALTIME, nanoseconds: the clock of the kernel's time stamps.
pub(crate) fn realtime_ns() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// CPU time of the calling thread, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
