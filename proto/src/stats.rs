//! Counters: per worker by verdict, per allocation by direction.
//!
//! Plain integers owned by one worker; whoever wants to see them takes a copy.

use std::net::SocketAddr;
use std::sync::Arc;

use turnpike_abi::Verdict;

use crate::addr::{ClientAddr, ClientSocket, FiveTuple, RelayedAddr, RelayedTransport, TlsInfo, Transport};
use crate::error::ErrorCode;
use crate::inspect::WhyNot;
use crate::refusal::RefusalCounts;
use crate::wire::method;

mod image;

/// Packets and bytes (payload, without any header) that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Datagrams dropped by the bandwidth limit.
    pub rate_drops: u64,
}

impl std::ops::Add for Traffic {
    type Output = Traffic;

    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            rate_drops: self.rate_drops + other.rate_drops,
        }
    }
}

/// What went one way, by the plane that forwarded it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficByPath {
    /// By a worker.
    pub userspace: Traffic,
    /// By the kernel program.
    pub kernel: Traffic,
}

impl TrafficByPath {
    /// What workers and the kernel program forwarded, together.
    pub fn total(&self) -> Traffic {
        self.userspace + self.kernel
    }
}

/// Datagrams by what happened to them.
#[derive(Clone, Debug)]
pub struct VerdictCounts([u64; Verdict::COUNT]);

impl Default for VerdictCounts {
    fn default() -> Self {
        Self([0; Verdict::COUNT])
    }
}

impl VerdictCounts {
    /// Counts one datagram.
    pub fn count(&mut self, verdict: Verdict) {
        self.0[verdict as usize] += 1;
    }

    /// Counts `times` datagrams of one fate.
    pub fn add(&mut self, verdict: Verdict, times: u64) {
        self.0[verdict as usize] += times;
    }

    /// How many there were.
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.0[verdict as usize]
    }

    /// Every verdict that was counted at least once.
    pub fn nonzero(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        Verdict::ALL.iter().map(|&v| (v, self.of(v))).filter(|&(_, n)| n > 0)
    }
}

/// Why a datagram went nowhere, where the kernel program never has to do with it: these are no verdicts of its, and stand
/// beside them wherever drops are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserspaceDrop {
    /// For a client over TCP or TLS: more waited for it than its queue holds.
    StreamQueueFull,
    /// For a client over TCP or TLS: it had waited for too long.
    StreamQueueAge,
    /// For a client over TCP or TLS: the connection was closed before.
    StreamClosed,
    /// The system did not say who had sent it, or to which address.
    NoAddress,
    /// An ICMP error about a peer, where the operator keeps those from clients.
    IcmpError,
    /// From somebody without an allocation: the queue of those was full.
    StrangerQueue,
}

impl UserspaceDrop {
    /// All of them.
    pub const ALL: [UserspaceDrop; 6] = [
        UserspaceDrop::StreamQueueFull,
        UserspaceDrop::StreamQueueAge,
        UserspaceDrop::StreamClosed,
        UserspaceDrop::NoAddress,
        UserspaceDrop::IcmpError,
        UserspaceDrop::StrangerQueue,
    ];

    /// The name in metrics, logs and the API.
    pub const fn name(self) -> &'static str {
        match self {
            UserspaceDrop::StreamQueueFull => "drop_stream_queue_full",
            UserspaceDrop::StreamQueueAge => "drop_stream_queue_age",
            UserspaceDrop::StreamClosed => "drop_stream_closed",
            UserspaceDrop::NoAddress => "drop_no_address",
            UserspaceDrop::IcmpError => "drop_icmp_error",
            UserspaceDrop::StrangerQueue => "drop_stranger_queue",
        }
    }
}

/// Datagrams that went nowhere, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserspaceDropCounts([u64; UserspaceDrop::ALL.len()]);

impl UserspaceDropCounts {
    /// Counts `times` datagrams.
    pub fn add(&mut self, drop: UserspaceDrop, times: u64) {
        self.0[drop as usize] += times;
    }

    /// How many there were.
    pub fn of(&self, drop: UserspaceDrop) -> u64 {
        self.0[drop as usize]
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason that was counted at least once.
    pub fn nonzero(&self) -> impl Iterator<Item = (UserspaceDrop, u64)> + '_ {
        UserspaceDrop::ALL.iter().map(|&drop| (drop, self.of(drop))).filter(|&(_, n)| n > 0)
    }
}

/// Error answers by method and code.
#[derive(Clone, Debug, Default)]
pub struct ErrorCounts([[u64; ErrorCode::ALL.len()]; method::COUNT]);

impl ErrorCounts {
    pub(crate) fn count(&mut self, method: u16, code: ErrorCode) {
        self.add(method, code, 1);
    }

    fn add(&mut self, method: u16, code: ErrorCode, times: u64) {
        let column =
            ErrorCode::ALL.binary_search(&code).expect("every code is in the list, which is ascending");
        if let Some(row) = self.0.get_mut(usize::from(method)) {
            row[column] += times;
        }
    }

    /// How many answers to requests of `method` had `code`.
    pub fn of(&self, method: u16, code: ErrorCode) -> u64 {
        let column =
            ErrorCode::ALL.binary_search(&code).expect("every code is in the list, which is ascending");
        self.0.get(usize::from(method)).map_or(0, |row| row[column])
    }

    /// Every method and code that was counted at least once.
    pub fn nonzero(&self) -> impl Iterator<Item = (u16, ErrorCode, u64)> + '_ {
        self.0.iter().enumerate().flat_map(|(method, row)| {
            let counts = ErrorCode::ALL.iter().zip(row).filter(|&(_, &n)| n > 0);
            counts.map(move |(&code, &n)| (method as u16, code, n))
        })
    }
}

/// What one worker's server counted since its start.
#[derive(Clone, Debug, Default)]
pub struct ServerCounts {
    /// Datagrams by what happened to them.
    pub verdicts: VerdictCounts,
    /// Datagrams that went nowhere, as the kernel program can't lose them.
    pub userspace_drops: UserspaceDropCounts,
    /// Payload bytes that went from clients to peers.
    pub bytes_to_peer: u64,
    /// Payload bytes that went from peers to clients.
    pub bytes_to_client: u64,
    /// Error answers by method and code.
    pub errors: ErrorCounts,
    /// Requests answered with an error, by reason; without those that had no credentials at all.
    pub refusals: RefusalCounts,
    /// Requests by what authentication said of them.
    pub authentications: AuthenticationCounts,
    /// Binding requests answered with success.
    pub bindings: u64,
    /// Allocations that were answered with success.
    pub allocations_created: u64,
    /// The same, and how many of them have ended, by their clients' transport.
    pub transports: TransportCounts,
    /// Allocations that have ended.
    pub allocations_ended: u64,
    /// What was relayed by TCP.
    pub tcp_relay: TcpRelayCounts,
    /// Relay ports that could not be opened.
    pub ports_failed: u64,
    /// Channels that were left to userspace, by why.
    pub not_offloaded: WhyNotCounts,
    /// Datagrams of channels that were forwarded here although their allocations are the kernel program's to forward for.
    pub kernel_missed: u64,
}

impl ServerCounts {
    /// What went from clients to peers, all allocations together, also those that have ended.
    pub fn to_peer(&self) -> Traffic {
        Traffic {
            packets: self.verdicts.of(Verdict::ChannelToPeer) + self.verdicts.of(Verdict::SendToPeer),
            bytes: self.bytes_to_peer,
            rate_drops: self.verdicts.of(Verdict::DropRateToPeer),
        }
    }

    /// What went from peers to clients, all allocations together, also those that have ended.
    pub fn to_client(&self) -> Traffic {
        Traffic {
            packets: self.verdicts.of(Verdict::ChannelToClient) + self.verdicts.of(Verdict::DataToClient),
            bytes: self.bytes_to_client,
            rate_drops: self.verdicts.of(Verdict::DropRateToClient),
        }
    }

    /// Counts a datagram that is forwarded.
    pub(crate) fn count_forwarded(&mut self, verdict: Verdict, payload_len: u64) {
        self.verdicts.count(verdict);
        match verdict {
            Verdict::ChannelToPeer | Verdict::SendToPeer => self.bytes_to_peer += payload_len,
            _ => self.bytes_to_client += payload_len,
        }
    }
}

/// What happened to a connection with a peer (RFC 6062).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// A client's Connect has succeeded.
    Connected,
    /// A peer's connection was taken, and its client told.
    Accepted,
    /// A client's connection was bound to it.
    Bound,
    /// The peer refused, or there is no way to it.
    Failed,
    /// The peer did not answer in time.
    TimedOut,
    /// Nobody has bound it in time.
    Unbound,
    /// A peer without a permission connected.
    NoPermission,
    /// A peer connected that the policy refuses, or the policy in force now refuses one that was connected.
    Denied,
    /// There were as many as there may be.
    TooMany,
}

impl ConnectionEvent {
    /// All of them.
    pub const ALL: [ConnectionEvent; 9] = [
        ConnectionEvent::Connected,
        ConnectionEvent::Accepted,
        ConnectionEvent::Bound,
        ConnectionEvent::Failed,
        ConnectionEvent::TimedOut,
        ConnectionEvent::Unbound,
        ConnectionEvent::NoPermission,
        ConnectionEvent::Denied,
        ConnectionEvent::TooMany,
    ];

    /// The name in metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            ConnectionEvent::Connected => "connected",
            ConnectionEvent::Accepted => "accepted",
            ConnectionEvent::Bound => "bound",
            ConnectionEvent::Failed => "failed",
            ConnectionEvent::TimedOut => "timed_out",
            ConnectionEvent::Unbound => "unbound",
            ConnectionEvent::NoPermission => "no_permission",
            ConnectionEvent::Denied => "denied",
            ConnectionEvent::TooMany => "too_many",
        }
    }
}

/// What was relayed by TCP (RFC 6062), and what became of the connections. The bytes are among those of all relaying,
/// too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpRelayCounts {
    pub(crate) events: [u64; ConnectionEvent::ALL.len()],
    /// Bytes from clients to peers.
    pub bytes_to_peer: u64,
    /// Bytes from peers to clients.
    pub bytes_to_client: u64,
    /// Allocations that relay TCP, now.
    pub allocations: u64,
    /// Connections that are being made or wait for a ConnectionBind, now.
    pub unbound: u64,
    /// Connections that carry data, now.
    pub bound: u64,
}

impl TcpRelayCounts {
    pub(crate) fn count(&mut self, event: ConnectionEvent) {
        self.events[event as usize] += 1;
    }

    /// How often something happened.
    pub fn of(&self, event: ConnectionEvent) -> u64 {
        self.events[event as usize]
    }
}

/// Allocations by the transport of their clients.
#[derive(Clone, Debug, Default)]
pub struct TransportCounts([(u64, u64); Transport::ALL.len()]);

impl TransportCounts {
    pub(crate) fn count_created(&mut self, transport: Transport) {
        self.0[transport as usize].0 += 1;
    }

    pub(crate) fn count_ended(&mut self, transport: Transport) {
        self.0[transport as usize].1 += 1;
    }

    /// Those that live are counted elsewhere.
    pub(crate) fn take_living(&mut self, transport: Transport) {
        let (created, ended) = &mut self.0[transport as usize];
        *created = *ended;
    }

    /// How many were answered with success.
    pub fn created(&self, transport: Transport) -> u64 {
        self.0[transport as usize].0
    }

    /// How many live.
    pub fn live(&self, transport: Transport) -> u64 {
        let (created, ended) = self.0[transport as usize];
        created - ended
    }
}

/// What authentication said of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// It is authentic.
    Accepted,
    /// It had no credentials: most clients ask without any first.
    Challenged,
    /// Its credentials are wrong.
    Rejected,
    /// It is authentic, with a nonce that is too old.
    StaleNonce,
    /// What should prove it is not well-formed.
    Malformed,
}

impl Authentication {
    /// All of them.
    pub const ALL: [Authentication; 5] = [
        Authentication::Accepted,
        Authentication::Challenged,
        Authentication::Rejected,
        Authentication::StaleNonce,
        Authentication::Malformed,
    ];

    /// The name in metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Authentication::Accepted => "accepted",
            Authentication::Challenged => "challenged",
            Authentication::Rejected => "rejected",
            Authentication::StaleNonce => "stale_nonce",
            Authentication::Malformed => "malformed",
        }
    }
}

/// Requests by what authentication said of them, whether they were answered or not.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationCounts([u64; Authentication::ALL.len()]);

impl AuthenticationCounts {
    pub(crate) fn count(&mut self, result: Authentication) {
        self.0[result as usize] += 1;
    }

    /// How many there were.
    pub fn of(&self, result: Authentication) -> u64 {
        self.0[result as usize]
    }
}

/// Counts by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WhyNotCounts([u64; WhyNot::COUNT]);

impl Default for WhyNotCounts {
    fn default() -> Self {
        Self([0; WhyNot::COUNT])
    }
}

impl WhyNotCounts {
    pub(crate) fn count(&mut self, why: WhyNot) {
        self.0[why as usize] += 1;
    }

    /// How many there were.
    pub fn of(&self, why: WhyNot) -> u64 {
        self.0[why as usize]
    }

    /// Reasons that there were, and how many.
    pub fn nonzero(&self) -> impl Iterator<Item = (WhyNot, u64)> + '_ {
        WhyNot::ALL.iter().map(|why| (*why, self.of(*why))).filter(|(_, count)| *count > 0)
    }
}

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Refresh with LIFETIME 0.
    Deleted,
    /// Its lifetime ran out.
    Expired,
    /// The server stopped.
    Shutdown,
    /// The operator ended it.
    Disconnected,
    /// The operator removed its user.
    UserRemoved,
    /// The TCP or TLS connection of its client was closed.
    ConnectionClosed,
    /// The process that took over from another one has no use for it: its listener or relay address is configured no
    /// more, or its connection could not come along.
    NotAdopted,
}

impl EndReason {
    /// All of them.
    pub const ALL: [EndReason; 7] = [
        EndReason::Deleted,
        EndReason::Expired,
        EndReason::Shutdown,
        EndReason::Disconnected,
        EndReason::UserRemoved,
        EndReason::ConnectionClosed,
        EndReason::NotAdopted,
    ];

    /// The name in logs and the API.
    pub const fn name(self) -> &'static str {
        match self {
            EndReason::Deleted => "deleted",
            EndReason::Expired => "expired",
            EndReason::Shutdown => "shutdown",
            EndReason::Disconnected => "disconnected",
            EndReason::UserRemoved => "user_removed",
            EndReason::ConnectionClosed => "connection_closed",
            EndReason::NotAdopted => "not_adopted",
        }
    }
}

/// What is written down when an allocation has ended.
#[derive(Clone, Debug)]
pub struct AllocationRecord {
    /// Number of the allocation, unique within its worker's life.
    pub id: u64,
    /// The user's full name.
    pub user: Arc<str>,
    /// Whose quota counted.
    pub quota_user: Arc<str>,
    /// Client, server, transport.
    pub five_tuple: FiveTuple,
    /// The client's own address: behind a trusted proxy another one than the 5-tuple's.
    pub client: ClientAddr,
    /// The listener or connection by which the client is reached.
    pub socket: ClientSocket,
    /// What the client's TLS had agreed on, if it had any.
    pub tls: Option<TlsInfo>,
    /// Relayed transport addresses in their local form: one, or one of each family.
    pub relayed: Vec<RelayedAddr>,
    /// The same as clients saw them.
    pub relayed_public: Vec<SocketAddr>,
    /// What it relayed.
    pub relayed_transport: RelayedTransport,
    /// Its bandwidth limit in each direction at the end, bits of payload per second; 0 is none.
    pub bitrate_bits: u64,
    /// From the Allocate answer to the end, nanoseconds.
    pub duration_ns: u64,
    /// From the client to its peers.
    pub to_peer: TrafficByPath,
    /// From the peers to the client.
    pub to_client: TrafficByPath,
    /// What of that did not reach a client over TCP or TLS.
    pub stream_drops: UserspaceDropCounts,
    /// Why it ended.
    pub reason: EndReason,
}
