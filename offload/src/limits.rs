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

/// How long the program may be used without a sign of life of the mirror: what it knows of neighbours is old then.
pub const UNATTENDED: Duration = Duration::from_secs(10);
/// How often it is looked at what became of sent frames, while there are routes: so much of a call may be lost when an
/// interface becomes a black hole.
pub const LOSS_LOOK: Duration = Duration::from_millis(100);
/// Losses are judged over so much time.
pub const LOSS_WINDOW: Duration = Duration::from_secs(1);
/// An interface that loses what is sent to it is not used for so long at first, then twice as long each time.
pub const FIRST_DISTRUST: Duration = Duration::from_secs(1);
/// The longest time.
pub const LAST_DISTRUST: Duration = Duration::from_secs(600);
/// An interface that has lost nothing for so long begins anew.
pub const STEADY: Duration = Duration::from_secs(60);

/// So many datagrams that userspace had to forward, with none forwarded by the kernel, and it is not called active: two
/// seconds of one call.
pub const MISSED_BEFORE_IDLE: u64 = 1000;
/// That it is not active is a warning once in so long: a client can bring it about again and again.
pub const IDLE_WARNING: Duration = Duration::from_secs(60);

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
