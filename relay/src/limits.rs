//! Every bound of the program, with its unit and its reason; the core, the drivers, the kernel data path and the API
//! have their own.
//!
//! Reaching one is an error to whoever asked, or a counted drop: a worker waits for nobody.

/// Worker threads: far above any machine's cores, so only typing errors reach it.
pub const MAX_WORKERS: usize = 1024;
/// Configuration file, or file that it names, bytes: a wrong path shall not fill the memory.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
/// REALM, bytes: what old clients have room for.
pub const MAX_REALM_BYTES: usize = 127;
/// Password or secret, bytes: bounds what is kept per user.
pub const MAX_SECRET_BYTES: usize = 1024;
/// Host name, bytes (RFC 1035 s. 2.3.4).
pub const MAX_HOST_BYTES: usize = 253;
/// Wait for more datagrams, microseconds: what it saves, it saves with less.
pub const MAX_COALESCE_US: u64 = 1000;
/// `max-queue-delay`, milliseconds: what is older is nobody's call any more.
pub const MAX_QUEUE_DELAY_MS: u64 = 10_000;
/// Burst, milliseconds: beyond, a limit per second means nothing.
pub const MAX_BURST_MS: u64 = 10_000;
/// Time to drain, and lifetime of an allocation, seconds: one day.
pub const MAX_PERIOD_SECS: u32 = 86_400;
/// `handshake-timeout`, seconds: whoever needs longer is not there.
pub const MAX_HANDSHAKE_SECS: u64 = 60;
/// Connections over TCP and TLS of one worker: beyond the descriptors of any process.
pub const MAX_CONNECTIONS: u64 = 1_000_000;
/// Addresses of a host's other networks that are relayed from, too: the kernel's program has room for few.
pub const MAX_NEAR_NETWORKS: usize = 8;

/// Orders and questions that wait for one worker; above it the asker is told to come again.
pub const MAX_TOLD: usize = 256;
/// Allocations that a walk looks at in one turn: some ten microseconds' worth.
pub const WALKED_PER_TURN: usize = 256;
/// Events of one process that wait to be published; above it they are dropped and counted, since no worker waits.
pub const MAX_EVENTS: usize = 4096;
/// Refusals that a worker keeps for operators to look at.
pub const MAX_RECENT_REFUSALS: usize = 256;
/// Of these, those of one source: a single one shall not hide the others.
pub const MAX_RECENT_REFUSALS_OF_SOURCE: usize = 32;
/// Sources and reasons of a worker's refusals that the log has named within the last minute; above it the line is
/// left out until some are forgotten.
pub const MAX_NAMED_REFUSALS: usize = 1024;
/// Lines about refusals that a worker writes within [`REFUSAL_LINES_WITHIN_NS`], whoever is refused: the log is for
/// people.
pub const REFUSAL_LINES: u32 = 100;
/// The time that [`REFUSAL_LINES`] is for, nanoseconds.
pub const REFUSAL_LINES_WITHIN_NS: u64 = 10_000_000_000;

/// Clients of proxies whose first datagram alone had a header, of all workers: one of each port of a proxy. Beyond it
/// those that were silent for longest are forgotten.
pub const MAX_PROXY_SESSIONS: usize = 65_536;
/// Such a client is kept in mind for at least so long after it was asked about, nanoseconds: longer than a TURN client
/// is silent (RFC 8656 s. 3.3: it refreshes its permissions every five minutes).
pub const PROXY_SESSION_NS: u64 = 1_800_000_000_000;

/// Events kept for a subscriber that lags; then it loses the oldest, and learns how many.
pub const MAX_EVENT_LAG: usize = 4096;
/// Refusals in one answer of the API, of all workers.
pub const MAX_LISTED_REFUSALS: usize = 512;
/// Allocations for which the last detail is remembered, to tell a rate at the next.
pub const MAX_RATE_SAMPLES: usize = 1024;

/// Connections of clients that wait for a worker whose answer they want: as many as a burst of data connections has.
pub const MAX_HANDED_CONNECTIONS: usize = 256;

/// Records that wait for the log's writer: at a few hundred bytes each, a megabyte or two. Above it they are lost and
/// counted.
pub const MAX_RECORDS: usize = 4096;
/// News that wait for systemd, above which they are lost: two links for each interface of the kernel data path, and
/// some more.
pub const MAX_NEWS: usize = 64;
/// An answer, or an event, that `turnpike ctl` reads, bytes: a page of 500 allocations is far below.
pub const MAX_ANSWER_BYTES: u64 = 16 << 20;
