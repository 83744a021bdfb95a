//! Allocations, in a list and one by one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The number of an allocation: 16 hexadecimal digits. The worker's number is in the first four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(into = "String", try_from = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{16}$", example = "0001000000000007")]
pub struct AllocationId(pub u64);

/// Not 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an allocation's id is 16 lower-case hexadecimal digits")]
pub struct BadAllocationId;

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for AllocationId {
    type Err = BadAllocationId;

    fn from_str(text: &str) -> Result<Self, BadAllocationId> {
        let digits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Err(BadAllocationId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| BadAllocationId)
    }
}

impl From<AllocationId> for String {
    fn from(id: AllocationId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for AllocationId {
    type Error = BadAllocationId;

    fn try_from(text: String) -> Result<Self, BadAllocationId> {
        text.parse()
    }
}

/// How a client talks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// By datagrams (RFC 8656).
    Udp,
    /// By a connection, in the clear.
    Tcp,
    /// By a connection with TLS in it.
    Tls,
    /// By datagrams with DTLS in them (RFC 7350).
    Dtls,
}

/// What a client's TLS has agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tls {
    /// `1.2` or `1.3`.
    #[schema(value_type = String, example = "1.3")]
    pub version: Cow<'static, str>,
    /// The cipher suite, as IANA's registry names it.
    #[schema(example = "TLS_AES_256_GCM_SHA384")]
    pub cipher_suite: String,
    /// The protocol that client and server agreed on by ALPN; most clients name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "stun.turn")]
    pub alpn: Option<Cow<'static, str>>,
}

/// Datagrams that went one way on one data path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Datagrams forwarded.
    pub packets: u64,
    /// Payload bytes forwarded.
    pub bytes: u64,
    /// Datagrams dropped by the bandwidth limit.
    pub rate_drops: u64,
}

/// Datagrams that went one way, by who forwarded them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficByPath {
    /// By a worker of the relay.
    pub userspace: Traffic,
    /// By the XDP program in the kernel.
    pub kernel: Traffic,
}

impl TrafficByPath {
    /// What either path forwarded and dropped.
    pub fn total(&self) -> Traffic {
        Traffic {
            packets: self.userspace.packets + self.kernel.packets,
            bytes: self.userspace.bytes + self.kernel.bytes,
            rate_drops: self.userspace.rate_drops + self.kernel.rate_drops,
        }
    }
}

/// Whether the kernel forwards for an allocation, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OffloadState {
    /// The kernel forwards for at least one of its channels.
    pub active: bool,
    /// Channels that the kernel forwards for.
    pub channels_active: u32,
    /// The reason in one word, where a channel is not in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub why_not: Option<Cow<'static, str>>,
    /// That reason as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub explanation: Option<Cow<'static, str>>,
}

/// An allocation, as lists show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Allocation {
    /// The number that the API, events and logs name it by.
    pub id: AllocationId,
    /// The user's full name, as the client sent it.
    #[schema(value_type = String)]
    pub user: Arc<str>,
    /// The part of the name that quotas count: `alice` of `1700000000:alice`.
    #[schema(value_type = String)]
    pub quota_user: Arc<str>,
    /// How the client talks to the server.
    pub transport: Transport,
    /// What its TLS has agreed on, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The client's address.
    #[schema(value_type = String, example = "192.0.2.1:50000")]
    pub client: SocketAddr,
    /// The server's address that the client, or its proxy, talks to.
    #[schema(value_type = String, example = "192.0.2.10:3478")]
    pub server: SocketAddr,
    /// The address from which a trusted proxy speaks for the client.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<SocketAddr>,
    /// Relayed transport addresses, as clients see them: one, or one of each family.
    #[schema(value_type = Vec<String>)]
    pub relayed: Vec<SocketAddr>,
    /// How the server talks to peers: `udp`, or `tcp` (RFC 6062).
    pub relayed_transport: Transport,
    /// Connections with peers, where it relays TCP.
    pub connections: u32,
    /// Peers with a permission, at most 16 of them; the detail view has all.
    #[schema(value_type = Vec<String>)]
    pub peers: Vec<IpAddr>,
    /// When it was created, in seconds since 1970.
    pub created_unix_secs: u64,
    /// When it will expire unless it is refreshed, in seconds since 1970.
    pub expires_unix_secs: u64,
    /// From the client to its peers, since it was created.
    pub to_peer: TrafficByPath,
    /// From the peers to the client, since it was created.
    pub to_client: TrafficByPath,
    /// Datagrams of those that did not reach a client over TCP or TLS: it took them too slowly, or was gone.
    #[serde(default)]
    pub stream_drops: u64,
    /// Payload towards the peers, averaged since the snapshot before.
    pub to_peer_bits_per_sec: u64,
    /// Payload towards the client, averaged since the snapshot before.
    pub to_client_bits_per_sec: u64,
    /// The limit in each direction; 0: none.
    pub max_bits_per_sec: u64,
    /// Permissions that have not expired.
    pub permissions: u32,
    /// Channels that have not expired.
    pub channels: u32,
    /// Whether the kernel forwards for it.
    pub offload: OffloadState,
}

/// All allocations at one time. Answers of the same snapshot share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// When the walk over the workers began, in milliseconds since 1970.
    pub as_of_unix_millis: u64,
    /// Grows with each snapshot.
    pub serial: u64,
    /// All that lived then, in no particular order.
    pub allocations: Vec<Allocation>,
}

/// One page of a list of allocations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AllocationPage {
    /// When the walk over the workers began that found them, in milliseconds since 1970: at most a second before
    /// the call.
    pub as_of_unix_millis: u64,
    /// Allocations in the snapshot.
    pub total: u64,
    /// Those that the filters let pass.
    pub matching: u64,
    /// Where this page starts in those.
    pub offset: u64,
    /// The allocations of this page.
    #[schema(value_type = Vec<Allocation>)]
    pub allocations: Vec<Allocation>,
}

/// Everything about one allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AllocationDetail {
    /// When its worker was asked, in milliseconds since 1970.
    pub as_of_unix_millis: u64,
    /// All that lists show of it.
    #[serde(flatten)]
    pub allocation: Allocation,
    /// Which peers may send to it.
    pub permission_list: Vec<Permission>,
    /// Which channels stand for which peers.
    pub channel_list: Vec<Channel>,
    /// Datagrams dropped, by the name of the reason, where the reason is known per allocation.
    pub drops: BTreeMap<String, u64>,
}

/// A permission (RFC 8656 s. 9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Permission {
    /// The peer, all ports.
    #[schema(value_type = String)]
    pub peer: IpAddr,
    /// When it ends unless it is refreshed, in seconds since 1970.
    pub expires_unix_secs: u64,
}

/// A channel (RFC 8656 s. 12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// Its number, 0x4000 to 0x7FFF.
    pub number: u16,
    /// The peer that it is bound to.
    #[schema(value_type = String)]
    pub peer: SocketAddr,
    /// When it ends unless it is refreshed, in seconds since 1970.
    pub expires_unix_secs: u64,
    /// Whether the kernel forwards for it.
    pub offload: OffloadState,
}

/// A new limit for an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// Bits of payload per second, in each direction; 0: no limit.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub max_bits_per_sec: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_digits_and_nothing_else() {
        let id = AllocationId(0x0001_0000_0000_002a);
        assert_eq!(id.to_string(), "000100000000002a");
        assert_eq!("000100000000002a".parse(), Ok(id));
        for bad in
            ["", "2a", "000100000000002A", "+00100000000002a", "000100000000002a0", "00010000000000\u{e9}"]
        {
            assert_eq!(bad.parse::<AllocationId>(), Err(BadAllocationId), "{bad:?}");
        }
    }
}
