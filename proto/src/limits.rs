//! Every bound of the core, with its unit and its reason.
//!
//! Reaching a bound is a counted outcome (an error code or a verdict), never a surprise.

/// One second in nanoseconds: the unit of [`crate::Now::mono_ns`].
pub const SECOND_NS: u64 = 1_000_000_000;

/// Shortest and default lifetime of an allocation, seconds (RFC 8656 s. 7.2).
pub const DEFAULT_LIFETIME_SECS: u32 = 600;
/// Longest lifetime of an allocation unless configured, seconds (RFC 8656 s. 7.2 recommends one hour).
pub const MAX_LIFETIME_SECS: u32 = 3600;
/// Lifetime of a permission, seconds (RFC 8656 s. 9: fixed).
pub const PERMISSION_LIFETIME_SECS: u32 = 300;
/// Lifetime of a channel binding, seconds (RFC 8656 s. 12: fixed).
pub const CHANNEL_LIFETIME_SECS: u32 = 600;
/// How long the odd port of an EVEN-PORT pair is held, seconds (RFC 8656 s. 7.2: at least 30).
pub const RESERVATION_LIFETIME_SECS: u32 = 30;
/// How long an answered request is recognised when it comes again, seconds (RFC 8489 s. 6.3.1).
pub const RETRANSMISSION_SECS: u32 = 40;
/// How long a nonce is accepted, seconds (RFC 8656 s. 5: at most one hour).
pub const NONCE_LIFETIME_SECS: u64 = 3600;

/// Unauthenticated answers per second and source, unless configured (Q4): a carrier-grade NAT's clients need
/// one per call, a reflected flood of them is 12 kB/s.
pub const UNAUTHENTICATED_PER_SEC: u32 = 100;
/// Unauthenticated answers at once, milliseconds' worth at the rate: 1000 by default.
pub const UNAUTHENTICATED_BURST_MS: u32 = 10_000;
/// Binding answers per second and source: browsers behind one NAT ask several at a time, and an answer is
/// hardly larger than its request.
pub const BINDINGS_PER_SEC: u32 = 10_000;
/// Binding answers at once, milliseconds' worth at the rate: 20,000.
pub const BINDINGS_BURST_MS: u32 = 2000;
/// Failed logins per second answered to one source, and about one user name (Q7): more than people mistype.
pub const FAILED_LOGINS_PER_SEC: u32 = 5;
/// Failed logins answered at once, milliseconds' worth at the rate: 50.
pub const FAILED_LOGINS_BURST_MS: u32 = 10_000;
/// Above these rates one in so many is still answered, so that who shares an address with a flood gets
/// through by the retransmissions that each client makes (RFC 8489 s. 6.2.1).
pub const ONE_IN: u32 = 8;
/// Answers per second of one worker to strangers, of each kind (Binding, challenge, login without a nonce of ours),
/// whatever their sources: a flood from random ones has none that a limit per source would see. A tenth of what a
/// core answers, and more than clients come back after an outage.
pub const STRANGERS_PER_SEC: u32 = 20_000;
/// The same while the worker can't keep up with what arrives.
pub const STRANGERS_PER_SEC_BEHIND: u32 = 2000;
/// Answers at once, milliseconds' worth at the rate: 4000.
pub const STRANGERS_BURST_MS: u32 = 200;
/// The same while the worker can't keep up: 4000, too. They are a twentieth of a second's work, and what comes first may
/// be a crowd that comes back after an outage: who is not answered asks again after half a second only.
pub const STRANGERS_BURST_MS_BEHIND: u32 = 2000;
/// Challenges beyond the budget, one for each that led to an allocation; so many are kept for later at most.
pub const MAX_RETURNED_CHALLENGES: u32 = 4000;
/// An answer to a stranger may be larger than its request by this factor, a fraction, before what RFC 8489 adds to
/// a challenge is left out (Q4): the smallest first request of all, 28 bytes, gets 76 where the realm has 14.
pub const CHALLENGE_FACTOR: (usize, usize) = (76, 28);
/// Buckets for sources, 8 bytes each, two arrays. A flood from random sources has to bring this many times
/// the rate before it empties one that an honest source uses: 6.5 million requests per second.
pub const SOURCE_BUCKETS: usize = 1 << 16;
/// Buckets for failed logins, 8 bytes each, two arrays: failing takes a valid nonce, so it can't be spoofed.
pub const FAILED_LOGIN_BUCKETS: usize = 1 << 14;

/// Allocations per worker: bounds the table's memory at about 1 GB.
pub const MAX_ALLOCATIONS: usize = 1 << 20;
/// Permissions per allocation, unless configured (Q8): more than any client needs, little memory.
pub const MAX_PERMISSIONS: usize = 512;
/// Channels per allocation, unless configured (Q8).
pub const MAX_CHANNELS: usize = 1024;
/// What both may be configured to at most: all channel numbers that there are (RFC 8656 s. 12). The end of an
/// allocation takes all of them along in one turn.
pub const MOST_PER_ALLOCATION: usize = 4096;
/// Reservations held at once on the whole server (Q8): each holds a port for 30 s.
pub const MAX_RESERVATIONS: usize = 4096;
/// Reservations held at once by one user (Q8).
pub const MAX_RESERVATIONS_PER_USER: usize = 64;
/// XOR-PEER-ADDRESS attributes in one CreatePermission.
pub const MAX_PEERS_PER_REQUEST: usize = 64;
/// Ports tried, one after the other, before an Allocate is answered with 508 because other programs have them:
/// each that there is, once.
pub const MAX_PORT_ATTEMPTS: u32 = 1 << 16;
/// For so long a port that another program was found to have is not tried again, seconds: a search over a whole
/// range costs as much as opening so many sockets.
pub const FOREIGN_PORT_SECS: u32 = 60;
/// The same while no other port is left: its owner may have freed it.
pub const FOREIGN_PORT_EXHAUSTED_SECS: u32 = 1;
/// Transactions of each kind kept per worker, so that their repetition doesn't take effect twice (S26, R3): every
/// port there is on one address four times, or 6500 per second. At most 10 MB, none without any.
pub const MAX_RECENT_TRANSACTIONS: usize = 1 << 18;
/// Allocations that one tick ends, or checks against a new policy: the worker forwards nothing meanwhile,
/// and closing their sockets is most of it. The next tick goes on.
pub const MAX_ENDED: usize = 256;
/// Permissions, channels and deadlines that one tick handles besides: as much work as [`MAX_ENDED`] is.
pub const MAX_ENTRIES_ENDED: usize = 4096;
/// So many times as many slots of channel bindings as are free a user may have: eight of nine alone, and whoever comes
/// after him finds one.
pub const USER_SHARE_OF_FREE: usize = 8;
/// For so long a port, and the record of an allocation that has ended, wait for the kernel plane to forget the
/// channels, nanoseconds: many times what a round of the mirror takes, and not so long that a pool of a few ports
/// runs dry while the mirror stands still. A route that is left over by then is harmless: its lease is 0.
pub const FORGETTING_NS: u64 = SECOND_NS / 4;
/// Users whose disconnecting one worker may have before it.
pub const MAX_DISCONNECTING: usize = 64;

/// How long a Connect may take, seconds, and then how long its connection, or a peer's, waits for a ConnectionBind
/// (RFC 6062 s. 5.2 and 5.3: at least 30).
pub const CONNECTION_WAIT_SECS: u32 = 30;
/// Connections with peers (RFC 6062) per allocation: more than a client has files to send at once.
pub const MAX_CONNECTIONS_PER_ALLOCATION: usize = 128;
/// Those of them that are being made, or not bound yet: who asks for connections can't have the relay scan a network.
pub const MAX_UNBOUND_PER_ALLOCATION: usize = 32;
/// Connections with peers per worker, each with two descriptors once it is bound.
pub const MAX_CONNECTIONS: usize = 8192;
/// Names of ended connections that a worker does not give again yet.
pub const MAX_ENDED_CONNECTIONS: usize = 1024;

/// Allocations in one part of a snapshot of the state: the worker forwards nothing meanwhile.
pub const MAX_EXPORTED: usize = 256;
/// Permissions, channels and remembered transactions in one part besides: as much work.
pub const MAX_ENTRIES_EXPORTED: usize = 4096;
/// Largest record of a snapshot, bytes: one allocation with all that it may have is a sixteenth of it.
pub const MAX_SNAPSHOT_RECORD: usize = 16 << 20;

/// Allocations in one part of an inspection: the worker forwards nothing meanwhile.
pub const MAX_INSPECTED: usize = 256;
/// Peers named in a view of one allocation: enough to search by, and a walk stays short.
pub const MAX_VIEWED_PEERS: usize = 16;
/// Places of the table that one part of an inspection looks at, free ones included.
pub const MAX_PLACES_WALKED: usize = 4096;
/// Datagrams from other workers that wait for one worker: some milliseconds' worth of a busy client's.
pub const MAX_FORWARDED: usize = 1024;

/// Largest request, bytes: more than the longest USERNAME, REALM and NONCE with all peers that a request may
/// name. Bounds what has to be hashed for somebody whose credentials turn out wrong.
pub const MAX_REQUEST: usize = 4096;
/// Longest USERNAME, bytes (RFC 8489 s. 14.3).
pub const MAX_USERNAME: usize = 508;
/// Unknown attributes listed in a 420 answer (Q4: bounds the answer).
pub const MAX_UNKNOWN_ATTRIBUTES: usize = 8;
/// Attributes in one message: a walk over them must stay cheap, whoever sent it. Above it the message is malformed.
pub const MAX_ATTRIBUTES: usize = 256;
/// Longest SOFTWARE, bytes (RFC 8489 s. 14.14).
pub const MAX_SOFTWARE: usize = 763;
/// Largest STUN message, bytes: a header, and the highest multiple of four that its length field holds.
pub const MAX_STUN_MESSAGE: usize = 20 + 65_532;
/// Largest UDP payload over IPv4, bytes: 65,535 less IP and UDP headers.
pub const MAX_UDP_PAYLOAD: usize = 65_507;
/// Largest UDP payload over IPv6, bytes: 65,535 less the UDP header.
pub const MAX_UDP_PAYLOAD_V6: usize = 65_527;
