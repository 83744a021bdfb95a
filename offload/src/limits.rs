//! Every bound of the kernel data path in userspace, with its unit and its reason.
//!
//! What does not fit stays in userspace, which forwards it as well: reaching a bound is an answer to the core, a reason
//! that the API shows, or work for the next round.

use std::time::Duration;

/// Slots for allocations at most: 16 MB of memory shared with the program.
pub const MAX_ALLOCATION_SLOTS: usize = 131_072;
/// Slots for channel bindings at most: 45 MB with their routes.
pub const MAX_BINDING_SLOTS: usize = 131_072;
/// Slots at least, of each kind: fewer would only save kilobytes.
pub const MIN_SLOTS: usize = 1024;
/// Next hops at most: routers, and hosts that are reached without one.
pub const MAX_NEXT_HOPS: usize = 16_384;

/// Bindings and withdrawals that may wait for the mirror: three seconds of 5000 binds per second.
pub const MAX_TOLD: usize = 16_384;
/// Of these, what one round carries out: answers shall not wait for thousands of others.
pub const TOLD_PER_ROUND: usize = 2048;
/// Answers that a worker takes in one turn: each may close a socket, as the end of an allocation does.
pub const MAX_ANSWERS: usize = turnpike_proto::limits::MAX_ENDED;
/// Destinations whose way may have changed; above it, every way is looked up again.
pub const MAX_RECHECKS: usize = 64;
/// Paths that are looked up again in one round: some milliseconds' worth.
pub const RECHECKS_PER_ROUND: usize = 1024;
/// Neighbours without a MAC address that are asked for between two calls of `NextHops::probe_all`, by turns, and as
/// many that are new: each is three broadcasts and an entry in the host's table of neighbours, which has 1024 by
/// default. Whom nobody asks for is learned when userspace sends to him.
pub const MAX_UNKNOWN_PROBES: usize = 64;

/// The largest part of an answer that the kernel sends at once by netlink, bytes.
pub const ANSWER_BYTES: usize = 64 * 1024;
/// Changes that may wait for us in the socket, bytes; what is more is noticed, and everything asked for again.
pub const NEWS_BYTES: usize = 1024 * 1024;
/// How long the kernel may take to answer: it does so within the system call, so that this is for ever.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// After an answer that did not come, nothing is asked for so long: the thread has other work.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Messages of netlink that are read in one go: others want the thread, too.
pub const NEWS_AT_ONCE: usize = 1024;
