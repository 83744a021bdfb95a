//! Counters since the start. They only grow, except what is said to be "now".

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{RefusalCount, TrafficByPath};

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// When they were read, in milliseconds since 1970.
    pub as_of_unix_millis: u64,
    /// All workers together, and what ended with workers that are gone.
    pub sum: Counts,
    /// Each worker that runs, by its number.
    pub workers: Vec<WorkerTotals>,
    /// The kernel's data path.
    pub offload: OffloadCounts,
    /// Use of relay ports now, by address.
    pub ports: Vec<PortUse>,
    /// Allocations that the total quota allows; 0: no such quota.
    pub total_quota: u64,
}

/// What workers count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// From clients to peers, by who forwarded.
    pub to_peer: TrafficByPath,
    /// From peers to clients, by who forwarded.
    pub to_client: TrafficByPath,
    /// Datagrams in userspace by the name of what happened to them; names that start with `drop_` are
    /// datagrams that went nowhere.
    pub verdicts: BTreeMap<String, u64>,
    /// Requests answered with an error, by method and code.
    pub errors: Vec<ErrorCount>,
    /// Requests answered with an error, by reason; without those that had no credentials at all.
    pub refusals: Vec<RefusalCount>,
    /// Requests by the result of authentication: `accepted`, `challenged`, `stale_nonce`, ...
    pub authentications: BTreeMap<String, u64>,
    /// Binding requests answered with success.
    pub bindings: u64,
    /// Allocations that live now.
    pub allocations: u64,
    /// Allocations now that the kernel forwards for.
    pub allocations_offloaded: u64,
    /// Channels that were left to userspace, by why: `user_share`, `next_hop`, ...
    #[serde(default)]
    pub channels_not_offloaded: BTreeMap<String, u64>,
    /// Allocations created.
    pub allocations_created: u64,
    /// Allocations by how their clients talk to the server: `udp`, `tcp`, `tls`.
    pub transports: BTreeMap<String, TransportCount>,
    /// Allocations ended, by the name of the reason.
    pub allocations_ended: BTreeMap<String, u64>,
    /// Relay ports that could not be opened.
    pub ports_failed: u64,
    /// Sockets towards peers now.
    pub relay_sockets: u64,
    /// Datagrams that the kernel dropped because a socket's buffer was full.
    pub socket_drops: u64,
    /// Connections of clients over TCP and TLS.
    pub streams: StreamCounts,
    /// What was relayed by TCP (RFC 6062).
    pub tcp_relay: TcpRelayCounts,
}

/// What was relayed by TCP (RFC 6062). Its bytes are among those of all relaying, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TcpRelayCounts {
    /// Allocations that relay TCP, now.
    pub allocations: u64,
    /// Connections with peers that are being made, or that no client has bound yet, now.
    pub unbound: u64,
    /// Connections with peers that carry data, now.
    pub bound: u64,
    /// What happened to connections with peers: `connected`, `accepted` and `bound`, `failed` and `timed_out`, and why
    /// others were refused or closed.
    pub connections: BTreeMap<String, u64>,
    /// Bytes from clients to peers.
    pub bytes_to_peer: u64,
    /// Bytes from peers to clients.
    pub bytes_to_client: u64,
}

/// Connections of clients over TCP and TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamCounts {
    /// Connections over TCP that have sent a message, now.
    pub tcp: u64,
    /// Connections over TLS that have sent a message, now.
    pub tls: u64,
    /// Connections that have not sent a message yet, now.
    pub opening: u64,
    /// Connections taken since the start, those that are closed by now included.
    pub accepted: u64,
    /// Connections that were closed, or not taken, by the name of the reason.
    pub closed: BTreeMap<String, u64>,
    /// TLS handshakes that ended well, by version and kind.
    pub handshakes: Vec<HandshakeCount>,
    /// Media and answers for clients that went nowhere: `queue_full`, `queue_age`, `closed`.
    pub dropped: BTreeMap<String, u64>,
    /// How often a client that had used up its bandwidth limit was not read from for a while.
    pub pauses: u64,
    /// How long that was, all connections together, seconds.
    pub paused_secs: f64,
    /// Connections that are not TURN's, passed to `tls-fallback`.
    pub fallback: FallbackCounts,
}

/// Connections that are not TURN's, passed to `tls-fallback`. Why one ended, or failed, is among the reasons of
/// [`StreamCounts::closed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FallbackCounts {
    /// Connections, now.
    pub connections: u64,
    /// Connections that were passed on.
    pub accepted: u64,
    /// Bytes passed to the fallback.
    pub bytes_to_fallback: u64,
    /// Bytes passed to clients.
    pub bytes_to_client: u64,
}

/// TLS handshakes of clients that ended well, of one version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandshakeCount {
    /// `1.2` or `1.3`.
    pub version: String,
    /// `full`, or `resumed` where the client had a session from before.
    pub kind: String,
    /// How many there were.
    pub count: u64,
}

impl HandshakeCount {
    /// Whether both count the same.
    pub fn is_same(&self, other: &HandshakeCount) -> bool {
        self.version == other.version && self.kind == other.kind
    }
}

/// Allocations of clients with one transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransportCount {
    /// Allocations that live now.
    pub allocations: u64,
    /// Created since the start.
    pub allocations_created: u64,
}

/// Error answers to one method with one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorCount {
    /// `allocate`, `refresh`, `create_permission`, `channel_bind`, `binding`, ...
    pub method: String,
    /// 300 to 699.
    pub code: u16,
    /// How many answers had this code.
    pub count: u64,
}

/// What one worker counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerTotals {
    /// Its number, from 0.
    pub index: u32,
    /// How much of its time it works.
    pub load: WorkerLoad,
    /// What it alone has counted.
    pub counts: Counts,
}

/// How busy a worker is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerLoad {
    /// Times that it woke and took what had come.
    pub turns: u64,
    /// Seconds in which it was not asleep.
    pub busy_secs: f64,
    /// Share of the last second in which it was not asleep, 0 to 1.
    pub busy_ratio: f64,
    /// How long it waits for more datagrams when none is there, seconds: 0 below half load, at most `coalesce`.
    #[serde(default)]
    pub coalesce_secs: f64,
    /// How long its turns took: what a datagram may have to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_duration: Option<Histogram>,
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; the last bucket, without a bound, is not listed.
    pub bounds_secs: Vec<f64>,
    /// How many fell into each bucket: one more than bounds. Not cumulative.
    pub counts: Vec<u64>,
    /// All durations added up, seconds.
    pub sum_secs: f64,
}

/// What the kernel's data path counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OffloadCounts {
    /// At least one interface forwards in the kernel now.
    pub active: bool,
    /// Interfaces with the program now.
    pub interfaces: u64,
    /// Routes now: two for each channel.
    pub routes: u64,
    /// Routes that its maps have room for.
    pub max_routes: u64,
    /// Datagrams seen by the program, by the name of what happened to them.
    pub verdicts: BTreeMap<String, u64>,
    /// Channels that the kernel forwards for now.
    pub channels: u64,
    /// Channels that wait in userspace now until something changes: a next hop is found, for instance.
    pub channels_waiting: u64,
    /// Datagrams of channels that came to userspace although their allocations are the kernel's to forward for.
    #[serde(default)]
    pub missed: u64,
    /// Entries that a comparison of maps and core found to differ: 0 unless something is broken.
    pub resync_differences: u64,
    /// Datagrams lost after the program had sent them: `drop_redirect` and `drop_device_queue` together.
    pub transmit_drops: u64,
    /// What was sent by each interface with the program, by its name.
    #[serde(default)]
    pub sent: BTreeMap<String, SentByInterface>,
    /// Seconds since the thread that keeps the kernel's routes gave its last sign of life, one each second: absent
    /// without a kernel data path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_age_secs: Option<u64>,
}

/// What the kernel's data path sent by an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SentByInterface {
    /// Datagrams that the program has sent by it.
    pub datagrams: u64,
    /// Of these, those that the interface lost.
    pub lost: u64,
    /// Whether what is sent by it goes through the kernel now.
    pub forwards: bool,
}

/// Use of relay ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortUse {
    /// The IP address that the ports belong to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Ports in use, reserved or in quarantine now.
    pub used: u64,
    /// Ports that allocations may have on it.
    pub total: u64,
}
