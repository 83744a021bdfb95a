//! What others may see of a worker's table: copies, made when they are asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::{ClientAddr, ClientSocket, FiveTuple, RelayedTransport, TlsInfo};
use crate::stats::{TrafficByPath, UserspaceDropCounts};

/// Declares [`WhyNot`] with names and explanations side by side.
macro_rules! reasons {
    ($($variant:ident = $name:literal, $explanation:literal;)*) => {
        /// Why the kernel does not forward something.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum WhyNot { $(#[doc = concat!("What it means: ", $explanation, ".")] $variant,)* }

        impl WhyNot {
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Every reason.
            pub const ALL: &'static [WhyNot] = &[$(WhyNot::$variant,)*];

            /// The name in logs and the API (`snake_case`).
            pub const fn name(self) -> &'static str {
                match self { $(WhyNot::$variant => $name,)* }
            }

            /// One line for people.
            pub const fn explain(self) -> &'static str {
                match self { $(WhyNot::$variant => $explanation,)* }
            }
        }
    };
}

reasons! {
    Off = "off", "the kernel fast path is not in use on this server";
    NoChannel = "no_channel", "the client has bound no channel, and only channels go through the kernel";
    Pending = "pending", "the kernel has been told, and has not answered yet";
    NoSlot = "no_slot", "all places that the kernel fast path has are taken";
    UserShare = "user_share", "the user has as many of the kernel's places as one user may have while others are left few";
    NoRoute = "no_route", "the system has no route to client or peer";
    NextHop = "next_hop", "the hardware address of the next hop is not known (yet)";
    Interface = "interface", "the way to client or peer leads through an interface without the fast path";
    NextHopsFull = "next_hops_full", "the kernel's table of next hops is full: clients or peers are behind too many neighbours";
    NextHopShare = "next_hop_share", "the user's peers are behind as many neighbours as one user may have in the kernel's table while others are left few";
    Lossy = "lossy", "an interface on the way lost what the kernel sent by it; it is tried again by and by";
    Transmit = "transmit", "the driver of an interface on the way cannot transmit what came in on another one";
    Busy = "busy", "an earlier binding of the same addresses has not been taken out of the kernel yet";
    Stream = "stream", "the client talks TCP or TLS, which only userspace can relay";
    Proxied = "proxied", "the client is behind a proxy whose headers only userspace reads";
    Refused = "refused", "the kernel refused; the log says more";
}

/// Whether the kernel forwards an allocation's data, or a channel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadState {
    /// The kernel program forwards it, or a part of its channels.
    Active {
        /// Channels that the kernel forwards.
        channels: u32,
        /// Channels that there are.
        of: u32,
    },
    /// Its data goes through the worker.
    Not(WhyNot),
}

/// Where a walk over a worker's allocations goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectCursor(pub(crate) u32);

/// An allocation, as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct AllocationView {
    /// Its number; [`WorkerId::of_allocation`](crate::WorkerId::of_allocation) says whose it is.
    pub id: u64,
    /// The user's full name.
    pub user: Arc<str>,
    /// Whose quota counts.
    pub quota_user: Arc<str>,
    /// Client, server, transport.
    pub five_tuple: FiveTuple,
    /// The client's own address: behind a trusted proxy another one than the 5-tuple's.
    pub client: ClientAddr,
    /// The listener or connection by which the client is reached.
    pub socket: ClientSocket,
    /// What the client's TLS has agreed on, if it has any.
    pub tls: Option<TlsInfo>,
    /// What it relays.
    pub relayed_transport: RelayedTransport,
    /// Relayed transport addresses that have not ended, as clients see them.
    pub relayed: Vec<SocketAddr>,
    /// When it was answered, on the monotonic clock, nanoseconds.
    pub created_ns: u64,
    /// When the last of its relayed addresses ends, on the monotonic clock, nanoseconds.
    pub expires_ns: u64,
    /// From the client to its peers.
    pub to_peer: TrafficByPath,
    /// From the peers to the client.
    pub to_client: TrafficByPath,
    /// What of that did not reach a client over TCP or TLS.
    pub stream_drops: UserspaceDropCounts,
    /// Its bandwidth limit in each direction, bits of payload per second; 0 is none.
    pub bitrate_bits: u64,
    /// How many channels it has.
    pub channels: u32,
    /// How many connections with peers it has (RFC 6062), those being made included.
    pub connections: u32,
    /// How many permissions it has.
    pub permissions: u32,
    /// Peers that have one, as the client named them: at most [`MAX_VIEWED_PEERS`](crate::limits::MAX_VIEWED_PEERS).
    pub peers: Vec<IpAddr>,
    /// Whether the kernel forwards its data.
    pub offload: OffloadState,
}

/// An allocation with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct AllocationDetail {
    /// What lists show of it.
    pub view: AllocationView,
    /// Its permissions, by address.
    pub permissions: Vec<PermissionView>,
    /// Its channels, by number.
    pub channels: Vec<ChannelView>,
}

/// A permission of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermissionView {
    /// The peers' address, as the client named it.
    pub ip: IpAddr,
    /// When it ends, on the monotonic clock, nanoseconds.
    pub expires_ns: u64,
}

/// A channel binding of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelView {
    /// The channel's number, as ChannelData carries it.
    pub number: u16,
    /// The peer, as the client sees it.
    pub peer: SocketAddr,
    /// When it ends, on the monotonic clock, nanoseconds.
    pub expires_ns: u64,
    /// Whether the kernel forwards it.
    pub offload: OffloadState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_names_of_their_own() {
        for (i, reason) in WhyNot::ALL.iter().enumerate() {
            assert!(WhyNot::ALL[i + 1..].iter().all(|other| other.name() != reason.name()));
            assert!(!reason.explain().is_empty());
        }
    }
}
