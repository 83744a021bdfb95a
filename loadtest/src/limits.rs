//! Every bound of the load test, with its unit and its reason.

/// Worker threads: more would only contend for the cores that are to be measured.
pub const MAX_THREADS: usize = 64;
/// Clients of one run: 20 bits of the tag in each packet.
pub const MAX_FLOWS: usize = 1 << 20;
/// Clients of `-m`: each may have two flows.
pub const MAX_CLIENTS: usize = 1 << 19;
/// Trials of one run: the number has 12 bits of the tag in each packet.
pub const MAX_TRIALS: usize = 4000;
/// Groups of one scenario: what still fits on a page of the report.
pub const MAX_GROUPS: usize = 64;
/// Lines that one chart of several trials shows: more can't be told apart.
pub const MAX_LINES: usize = 6;
/// Sockets of the peer: flows share them, so that one receive queue isn't the bottleneck.
pub const MAX_PEER_SOCKETS: usize = 16;
/// TCP connections that the peer echoes at once: a thread each.
pub const MAX_ECHOED_CONNECTIONS: usize = 4096;

/// Datagrams per system call; also the kernel's limit of segments of one GSO send.
pub const BATCH: usize = 64;
/// Packets sent before the sockets are looked at again, so that sending can't starve receiving.
pub const PACKETS_PER_TURN: u64 = 256;
/// Flows served before the sockets are looked at again, for the same reason.
pub const VISITS_PER_TURN: usize = 64;
/// Datagrams taken from one socket before the next one's turn; the last batch may exceed it.
pub const RECEIVES_PER_TURN: usize = 512;
/// Clients that are set up at a time: more requests at once would only measure the server's queue.
pub const SETUPS_AT_ONCE: usize = 256;

/// Sequence numbers at least in which duplicates are recognised.
pub const MIN_WINDOW: u64 = 1024;
/// Sequence numbers at most in which duplicates are recognised: 128 KiB of bits per flow.
pub const MAX_WINDOW: u64 = 1 << 20;

/// Transmissions of one request before it counts as unanswered: Rc of RFC 8489 section 6.2.1.
pub const MAX_TRANSMISSIONS: u32 = 7;
/// New nonces accepted in a row for one request; a server that always says 438 is broken.
pub const MAX_STALE_NONCES: u32 = 4;
/// New sockets tried for a client whose 5-tuple the server still knows (437).
pub const MAX_SETUP_ATTEMPTS: u32 = 3;
/// Extra permissions and channels of coturn's `-G`, as there.
pub const MAX_EXTRA_REQUESTS: u16 = 24;
