//! What a snapshot says of each thing: plain data, written and read by nobody else.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::SnapshotError;
use crate::addr::{
    Alpn, ClientAddr, ClientSocket, FiveTuple, RelayedTransport, TlsInfo, TlsVersion, Transport,
};
use crate::io::ClientPath;
use crate::shared::plane::SlotName;
use crate::stats::Traffic;

/// Above this no time, count or bucket can be: sums of them still fit.
const IMPLAUSIBLE: u64 = 1 << 60;

/// One record of a snapshot. The order is part of the format: new ones come last.
#[derive(Serialize, Deserialize)]
pub(crate) enum Record {
    Shared(Box<SharedImage>),
    /// Begins a worker's section.
    Worker(Box<WorkerImage>),
    /// Transactions that are remembered, with their ends; the oldest first.
    Recent(RecentKind, Vec<(u64, u64)>),
    Allocation(Box<AllocationImage>),
    /// Comes after all allocations of its worker.
    Withdrawn(WithdrawnImage),
}

/// Which memory of transactions.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RecentKind {
    Deletions,
    EndedAllocates,
}

/// 32 bytes that nobody else may know.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

/// An address with all that a socket knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    ip: IpAddr,
    port: u16,
    flow: u32,
    scope: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Slot {
    slot: u32,
    generation: u32,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SharedImage {
    pub(crate) seed: Secret,
    /// Buckets that are not at rest, by array and place.
    pub(crate) limiter: Vec<Vec<(u32, u64)>>,
    pub(crate) reservations: Vec<ReservationImage>,
    pub(crate) foreign: Vec<ForeignImage>,
    pub(crate) alternates: [Option<Address>; 2],
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ReservationImage {
    pub(crate) token: [u8; 8],
    pub(crate) relay: IpAddr,
    pub(crate) port: u16,
    pub(crate) user: Arc<str>,
    pub(crate) expires_ns: u64,
}

/// Ports of an address that other programs have: until when, and which.
#[derive(Serialize, Deserialize)]
pub(crate) struct ForeignImage {
    pub(crate) relay: IpAddr,
    pub(crate) ports: Vec<(u64, u16)>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct WorkerImage {
    pub(crate) worker: u16,
    pub(crate) next_number: u64,
    pub(crate) rng: RngImage,
    pub(crate) draining: bool,
    pub(crate) sweeps: Vec<SweepImage>,
    pub(crate) strangers: StrangersImage,
    /// Deadlines of reservations, redeemed or not.
    pub(crate) reservations: Vec<([u8; 8], u64)>,
    /// Names of connections that have ended.
    pub(crate) ended_connections: Vec<u32>,
    pub(crate) counts: CountsImage,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct RngImage {
    pub(crate) seed: Secret,
    pub(crate) stream: u64,
    pub(crate) word_pos: u128,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum SweepImage {
    EndAll,
    Recheck,
    EndUser { user: Arc<str>, ended: u64, below: u64 },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StrangersImage {
    pub(crate) words: [u64; 3],
    pub(crate) words_behind: [u64; 3],
    pub(crate) returned: u32,
}

/// A name of something that is counted, and how often it was.
pub(crate) type Count = (Cow<'static, str>, u64);

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct CountsImage {
    pub(crate) verdicts: Vec<Count>,
    pub(crate) userspace_drops: Vec<Count>,
    /// By method and code.
    pub(crate) errors: Vec<(u16, u16, u64)>,
    /// By method and reason.
    pub(crate) refusals: Vec<(u16, Cow<'static, str>, u64)>,
    pub(crate) authentications: Vec<Count>,
    /// Created and ended.
    pub(crate) transports: Vec<(Cow<'static, str>, u64, u64)>,
    pub(crate) connections: Vec<Count>,
    /// Of all relaying, then by TCP: to peers, to clients.
    pub(crate) bytes: [u64; 4],
    pub(crate) bindings: u64,
    pub(crate) kernel_missed: u64,
    pub(crate) not_offloaded: Vec<Count>,
    pub(crate) allocations: [u64; 2],
    pub(crate) ports_failed: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AllocationImage {
    pub(crate) number: u64,
    pub(crate) path: PathImage,
    /// The client's own address, if it is behind a proxy.
    pub(crate) client: Option<Address>,
    pub(crate) identity: IdentityImage,
    pub(crate) request: RequestImage,
    pub(crate) live_since_ns: Option<u64>,
    /// One of each family, IPv4 first.
    pub(crate) halves: Vec<HalfImage>,
    pub(crate) relayed: Vec<Address>,
    pub(crate) bitrate_bits: u64,
    pub(crate) to_peer: DirectionImage,
    pub(crate) to_client: DirectionImage,
    pub(crate) stream_drops: Vec<Count>,
    pub(crate) permissions: Vec<(IpAddr, u64)>,
    pub(crate) channels: Vec<ChannelImage>,
    pub(crate) connections: Vec<ConnectionImage>,
    pub(crate) slot: Option<Slot>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PathImage {
    client: Address,
    server: Address,
    transport: u8,
    socket: (u32, u32),
    /// Version, cipher suite, ALPN.
    tls: Option<(u8, u16, Option<u8>)>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct IdentityImage {
    pub(crate) user: Arc<str>,
    /// If it is another one.
    pub(crate) quota_user: Option<Arc<str>>,
    pub(crate) expires_unix: Option<u64>,
    pub(crate) keys: KeysImage,
    /// PASSWORD-ALGORITHM's number.
    pub(crate) algorithm: u16,
    /// Answers carry MESSAGE-INTEGRITY-SHA256.
    pub(crate) answers_sha256: bool,
}

/// The keys of a user.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct KeysImage {
    pub(crate) md5: [u8; 16],
    pub(crate) sha256: Option<[u8; 32]>,
}

/// The Allocate, as far as its answer needs it.
#[derive(Serialize, Deserialize)]
pub(crate) struct RequestImage {
    pub(crate) reply_to: ReplyToImage,
    pub(crate) lifetime_secs: u32,
    /// IP protocol number.
    pub(crate) relayed: u8,
    pub(crate) token: Option<[u8; 8]>,
    /// Family and code.
    pub(crate) refused_family: Option<(u8, u16)>,
    pub(crate) attempts: u32,
    pub(crate) even: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ReplyToImage {
    pub(crate) method: u16,
    pub(crate) transaction: [u8; 12],
    pub(crate) fingerprint: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HalfImage {
    pub(crate) socket: (u32, u32),
    pub(crate) relayed: Address,
    pub(crate) open: bool,
    pub(crate) ends_ns: u64,
}

/// One direction: by workers, by the kernel program, and its bucket.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct DirectionImage {
    pub(crate) userspace: TrafficImage,
    /// With a slot that it had before.
    pub(crate) earlier: TrafficImage,
    /// With the slot that it has.
    pub(crate) kernel: TrafficImage,
    pub(crate) bucket: u64,
}

/// Packets, bytes, drops by the limit.
pub(crate) type TrafficImage = [u64; 3];

#[derive(Serialize, Deserialize)]
pub(crate) struct ChannelImage {
    pub(crate) number: u16,
    pub(crate) peer: Address,
    pub(crate) internal: bool,
    pub(crate) ends_ns: u64,
    pub(crate) slot: Option<Slot>,
    /// By name; none for one that the kernel forwards.
    pub(crate) why_not: Option<Cow<'static, str>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ConnectionImage {
    pub(crate) id: u32,
    pub(crate) peer: Address,
    pub(crate) state: ConnectionStateImage,
    pub(crate) ends_ns: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum ConnectionStateImage {
    Connecting(ReplyToImage),
    Unbound,
    Bound,
}

/// A slot of a binding whose channel has gone and which the kernel has not forgotten.
#[derive(Serialize, Deserialize)]
pub(crate) struct WithdrawnImage {
    pub(crate) binding: Slot,
    /// Whose share it counts towards.
    pub(crate) user: Arc<str>,
    /// The socket that its data left by.
    pub(crate) relay: (u32, u32),
    /// The number of its allocation, if that lives.
    pub(crate) owner: Option<u64>,
    /// The slot of its allocation, if that has ended.
    pub(crate) ended: Option<Slot>,
}

/// A time, count or bucket, if it can be one.
pub(crate) fn plausible(value: u64) -> Result<u64, SnapshotError> {
    match value < IMPLAUSIBLE {
        true => Ok(value),
        false => Err(SnapshotError::Contradiction("a number is larger than it can be")),
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let (flow, scope) = match address {
            SocketAddr::V4(_) => (0, 0),
            SocketAddr::V6(v6) => (v6.flowinfo(), v6.scope_id()),
        };
        Self { ip: address.ip(), port: address.port(), flow, scope }
    }
}

impl From<Address> for SocketAddr {
    fn from(Address { ip, port, flow, scope }: Address) -> Self {
        match ip {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
        }
    }
}

impl From<SlotName> for Slot {
    fn from(SlotName { slot, generation }: SlotName) -> Self {
        Self { slot, generation }
    }
}

impl From<Slot> for SlotName {
    fn from(Slot { slot, generation }: Slot) -> Self {
        Self { slot, generation }
    }
}

pub(crate) fn traffic_image(traffic: Traffic) -> TrafficImage {
    [traffic.packets, traffic.bytes, traffic.rate_drops]
}

pub(crate) fn traffic_of(image: TrafficImage) -> Result<Traffic, SnapshotError> {
    let [packets, bytes, rate_drops] = image;
    Ok(Traffic { packets: plausible(packets)?, bytes: plausible(bytes)?, rate_drops: plausible(rate_drops)? })
}

impl From<&ClientPath> for PathImage {
    fn from(path: &ClientPath) -> Self {
        let FiveTuple { client, server, transport } = path.five_tuple;
        let tls = |tls: TlsInfo| (tls.version as u8, tls.cipher_suite, tls.alpn.map(|alpn| alpn as u8));
        Self {
            client: client.0.into(),
            server: server.into(),
            transport: transport as u8,
            socket: (path.socket.index, path.socket.generation),
            tls: path.tls.map(tls),
        }
    }
}

impl TryFrom<PathImage> for ClientPath {
    type Error = SnapshotError;

    fn try_from(image: PathImage) -> Result<Self, SnapshotError> {
        let transport = at(&Transport::ALL, image.transport)?;
        let (index, generation) = image.socket;
        let tls = |(version, cipher_suite, alpn): (u8, u16, Option<u8>)| {
            let alpn = alpn.map(|alpn| at(&Alpn::ALL, alpn)).transpose()?;
            Ok(TlsInfo { version: at(&TlsVersion::ALL, version)?, cipher_suite, alpn })
        };
        let tls = image.tls.map(tls).transpose()?;
        let five_tuple =
            FiveTuple { client: ClientAddr(image.client.into()), server: image.server.into(), transport };
        Ok(ClientPath { tls, ..ClientPath::new(five_tuple, ClientSocket { index, generation }) })
    }
}

fn at<T: Copy>(all: &[T], place: u8) -> Result<T, SnapshotError> {
    all.get(usize::from(place)).copied().ok_or(SnapshotError::Contradiction("a transport is unknown"))
}

/// IP protocol numbers.
pub(crate) fn protocol_of(relayed: RelayedTransport) -> u8 {
    match relayed {
        RelayedTransport::Udp => 17,
        RelayedTransport::Tcp => 6,
    }
}
