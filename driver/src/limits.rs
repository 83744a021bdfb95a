//! Every bound of the drivers, with its unit and its reason.
//!
//! What does not fit stays in the kernel for the next turn, or is refused with an error or counted; so reaching a
//! bound is never a surprise.

/// Listeners per worker: each has buffers of its own in the pool.
pub const MAX_LISTENERS: usize = 64;
/// Relay sockets per worker: two (one per family) for each of the core's largest number of allocations.
pub const MAX_RELAY_SOCKETS: usize = 2 * turnpike_proto::limits::MAX_ALLOCATIONS;
/// Largest datagram received whole, bytes: the IPv6 maximum without jumbograms (RFC 8200 s. 4.5) is 65,527; the IPv4
/// one is smaller.
pub const MAX_DATAGRAM: usize = 65_535;
/// ICMP errors taken from one relay socket in a turn: the rest waits, so that a flood can't hold the worker.
pub const ERRORS_PER_SOCKET: usize = 16;

/// Datagrams per call of recvmmsg, and per listener and turn (epoll). More gains nothing: the call's own cost is
/// spread thin by then.
pub const RECEIVED_PER_CALL: usize = 64;
/// Datagrams from all sockets for strangers in one turn, after all others: less than a millisecond of work.
pub const STRANGER_DATAGRAMS: usize = 64;
/// Turns in a row in which strangers are not looked at, since more waits of those who are none than a turn takes. At
/// such a load it is some milliseconds; then they have a turn all the same.
pub const TURNS_WITHOUT_STRANGERS: u32 = 16;
/// Datagrams from all relay sockets in one turn (epoll): what stays in the processor's cache.
pub const RELAY_DATAGRAMS: usize = 256;
/// Descriptors looked at in one turn (epoll). Not above [`RELAY_DATAGRAMS`], so that each gets a buffer; the kernel
/// reports those left out first the next time.
pub const MAX_READY: usize = 256;

/// Relay sockets that have a fixed slot in the ring (io_uring); those beyond work by their descriptor. A slot takes
/// 8 bytes of the kernel's memory.
pub const FIXED_RELAYS: u32 = 16_384;
/// Requests in the ring (io_uring) before they are submitted: half a full queue of datagrams.
pub const RING_REQUESTS: u32 = 512;
/// Completions that wait at once (io_uring). Where there is no room the lasting requests end, and are made again in
/// the next turn: nothing is lost.
pub const RING_COMPLETIONS: u32 = 4096;
/// Buffers for all listeners of a worker (io_uring). They are offered as bursts need them; more than these would only
/// fall out of the processor's cache.
pub const LISTENER_BUFFERS: u16 = 256;
/// Buffers for all relay sockets of a worker (io_uring), for the same reason.
pub const RELAY_BUFFERS: u16 = 512;

/// Datagrams queued before a flush is forced: bounds the memory of a turn that answers a lot.
pub const MAX_QUEUED: usize = 1024;
/// Bytes copied for sending before a flush is forced: of what streams have brought, and of answers.
pub const MAX_COPIED_BYTES: usize = 1 << 20;
/// Datagrams in one message. The kernel takes 64 on every version that has UDP_SEGMENT, newer ones 128.
pub const MAX_SEGMENTS: u32 = 64;
/// Bytes of one message: the largest UDP payload over IPv4 (RFC 768: 65,535 less IP and UDP headers).
pub const MAX_MESSAGE_BYTES: usize = 65_507;
/// Messages per call of sendmmsg. More gains nothing: the call's own cost is spread thin by then.
pub const MESSAGES_PER_CALL: usize = 64;
/// Destinations remembered that refuse joined datagrams. When more do all are forgotten: a wrong guess costs one
/// failed call.
pub const MAX_REFUSING: usize = 1024;
/// How often a turn looks again while requests to receive end (io_uring): the kernel finishes twenty of what is due in
/// one call (Linux 6.13 and newer), and what has arrived since waits behind them. All that a turn of the core ends.
pub(crate) const LOOKS_WHILE_CLOSING: usize = turnpike_proto::limits::MAX_ENDED / 16;

/// Events of one turn on the simulated network, as many as a real driver gives.
#[cfg(feature = "sim")]
pub const SIM_EVENTS: usize = 256;
/// Datagrams that wait for one worker or endpoint of the simulated network before more are dropped (and counted), as
/// a socket's receive buffer would.
#[cfg(feature = "sim")]
pub const SIM_INBOX: usize = 65_536;
/// Entries of the simulated network's trace; the oldest go first.
#[cfg(feature = "sim")]
pub const SIM_TRACE: usize = 1 << 20;
