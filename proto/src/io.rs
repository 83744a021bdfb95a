//! The whole contract between the core and what drives it.
//!
//! What happens goes in as [`Input`], and what is to be done comes out as [`Output`]. Data needn't: `Server::forward`
//! answers with a [`Transmit`] over the driver's own buffer, or with [`Forward::Slow`] when the datagram has to go through
//! [`Input`] after all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use turnpike_abi::Verdict;

use crate::addr::{ClientAddr, ClientSocket, FiveTuple, PeerAddr, RelayedAddr, TlsInfo};
use crate::inspect::{AllocationView, WhyNot};
use crate::refusal::RefusedRequest;
use crate::shared::plane::{SlotName, UserNumber};
use crate::shared::ports::PortLease;
use crate::stats::AllocationRecord;

/// The time: always an argument, never asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC in nanoseconds: lifetimes and leases.
    pub mono_ns: u64,
    /// Seconds since 1970: nonces and the expiry of REST credentials.
    pub unix_secs: u64,
}

impl Now {
    /// From what two clocks say: one that never goes back, and the time since 1970.
    pub const fn new(monotonic: Duration, since_1970: Duration) -> Self {
        Self { mono_ns: monotonic.as_nanos() as u64, unix_secs: since_1970.as_secs() }
    }
}

/// A worker's number: from 0, each once, for all workers that share one [`Shared`](crate::shared::Shared).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub u16);

impl WorkerId {
    /// Bits of an allocation's number below the worker's.
    const SHIFT: u32 = 48;

    /// The worker whose allocation has this number.
    pub const fn of_allocation(allocation: u64) -> WorkerId {
        WorkerId((allocation >> Self::SHIFT) as u16)
    }

    /// The number of the worker's first allocation; the others count on.
    pub(crate) fn first_allocation(self) -> u64 {
        u64::from(self.0) << Self::SHIFT | 1
    }

    /// The worker's place in a list of all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A client's 5-tuple and the socket that reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPath {
    /// Who talks to whom.
    pub five_tuple: FiveTuple,
    /// Where answers leave.
    pub socket: ClientSocket,
    /// What its TLS has agreed on, if it has any.
    pub tls: Option<TlsInfo>,
}

impl ClientPath {
    /// Of a client without TLS.
    pub const fn new(five_tuple: FiveTuple, socket: ClientSocket) -> Self {
        Self { five_tuple, socket, tls: None }
    }

    /// Of a client that talks UDP to a server's address, where the driver has listener number `listener`.
    pub const fn udp(client: SocketAddr, server: SocketAddr, listener: u32) -> Self {
        Self::new(FiveTuple::udp(client, server), ClientSocket::listener(listener))
    }

    /// Whether what comes by `other` is about what was begun by this path: over UDP the 5-tuple says it, whichever
    /// listener a datagram came by; a stream's is over with its connection, and the next one may have the same.
    #[inline]
    pub(crate) fn is_continued_by(&self, other: &ClientPath) -> bool {
        !other.five_tuple.transport.is_stream() || self.socket == other.socket
    }
}

/// Who a message is from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// The way that it came, and that an answer takes.
    pub(crate) path: ClientPath,
    /// The client's own address: behind a trusted proxy another one than the path's.
    pub(crate) client: ClientAddr,
}

impl Sender {
    /// What the client itself would call its 5-tuple.
    pub(crate) fn own_tuple(&self) -> FiveTuple {
        FiveTuple { client: self.client, ..self.path.five_tuple }
    }
}

/// Names a relay socket; the generation makes sure that an old name never means a new socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelaySocket {
    /// Dense index: usable as an index into the driver's table.
    pub index: u32,
    /// Incremented each time the index is reused.
    pub generation: u32,
}

/// Names a connection with a peer (RFC 6062), as CONNECTION-ID does for clients: the worker that has it, and bits that
/// nobody can guess. None is given again soon after its connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// Bits below the worker's number: four million connections of each of 1024 workers.
    const SHIFT: u32 = 22;

    /// A worker's, with bits of a random number.
    pub(crate) fn new(worker: WorkerId, random: u32) -> ConnectionId {
        ConnectionId(u32::from(worker.0) << Self::SHIFT | random >> (u32::BITS - Self::SHIFT))
    }

    /// The worker that has it.
    pub fn worker(self) -> WorkerId {
        WorkerId((self.0 >> Self::SHIFT) as u16)
    }
}

/// One way through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to its peer.
    ToPeer,
    /// From the peer to its client.
    ToClient,
}

/// Whom a datagram came from, and where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client, at a listener or by its connection.
    Client(ClientPath),
    /// A peer, at a relayed transport address.
    Peer {
        /// The relay socket that it arrived at.
        relay: RelaySocket,
        /// Who sent it.
        peer: PeerAddr,
    },
}

impl Origin {
    /// A client that talks UDP to a server's address, where the driver has listener number `listener`.
    pub const fn client(client: SocketAddr, server: SocketAddr, listener: u32) -> Self {
        Self::Client(ClientPath::udp(client, server, listener))
    }

    /// A peer that talks to this relay socket.
    pub const fn peer(relay: RelaySocket, peer: SocketAddr) -> Self {
        Self::Peer { relay, peer: PeerAddr(peer) }
    }
}

/// A datagram, or a stream's frame, as it arrived. It borrows the bytes: the driver owns them.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// From where to where.
    pub origin: Origin,
    /// All of it.
    pub bytes: &'a [u8],
    /// DSCP and ECN; 0 for a stream's, which have none of their own (RFC 8656 s. 15).
    pub tos: u8,
}

/// Where a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// To a client, from the listener address it had sent to.
    Client {
        /// The listener or connection.
        socket: ClientSocket,
        /// The source address: what a wildcard listener has to set by PKTINFO.
        source: SocketAddr,
    },
    /// To a peer, from a relayed transport address.
    Relay(RelaySocket),
}

impl Egress {
    /// The relay socket; none on the way to a client.
    pub const fn relay(self) -> Option<RelaySocket> {
        match self {
            Self::Relay(relay) => Some(relay),
            Self::Client { .. } => None,
        }
    }
}

/// How to forward one data segment. `Copy`, and it borrows nothing: the driver owns the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The listener or relay socket that it leaves by.
    pub egress: Egress,
    /// The client or peer that it goes to.
    pub to: SocketAddr,
    /// ChannelData header to put in front of the payload, if any.
    pub header: Option<[u8; 4]>,
    /// Offset of the payload within the segment.
    pub payload_start: u32,
    /// Length of the payload, bytes.
    pub payload_len: u32,
    /// Bytes of zeros that follow the payload: over a stream, ChannelData is padded to a multiple of four
    /// (RFC 8656 s. 12.5). 0 for datagrams.
    pub padding_len: u8,
    /// DSCP and ECN, copied from the segment (RFC 8656 s. 14); 0 from and to streams (s. 15 and 16).
    pub tos: u8,
    /// Set DF (only Send with DONT-FRAGMENT does).
    pub dont_fragment: bool,
    /// What was counted for it.
    pub verdict: Verdict,
}

impl Transmit {
    /// The part of what was received that is sent on.
    #[inline]
    pub fn payload<'a>(&self, received: &'a [u8]) -> &'a [u8] {
        let start = self.payload_start as usize;
        &received[start..start + self.payload_len as usize]
    }

    /// What is to be sent, in one piece: header, payload and padding. For drivers that may copy.
    pub fn assemble(&self, received: &[u8]) -> Vec<u8> {
        let padding = std::iter::repeat_n(&0, self.padding_len.into());
        self.header.iter().flatten().chain(self.payload(received)).chain(padding).copied().collect()
    }
}

/// What the data path answers for one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Send it like this.
    Transmit(Transmit),
    /// It needs more than that: hand it in as [`Input::Received`].
    Slow,
    /// Counted and gone.
    Drop(Verdict),
    /// A stream's client has used up its allocation's bandwidth limit: ask again at this time (`mono_ns`), and read
    /// nothing more from the client until then. Not counted here. Who can't wait hands it in as [`Input::Received`]:
    /// that is now, or a counted drop.
    Wait(u64),
    /// Its 5-tuple's allocation is another worker's: hand it over, and ask that worker's server. Not counted
    /// here.
    Elsewhere(WorkerId),
}

/// What can happen to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram or frame. Whoever has several workers, or doesn't want it copied, asks `Server::forward` first, and
    /// hands in only what that calls [`Forward::Slow`].
    Received(Received<'a>),
    /// The same, not asked about before, from a client behind a proxy that the operator trusts. The allocation is the
    /// 5-tuple's, which is the proxy's; all that is said and counted of the client is said and counted of its own
    /// address.
    Proxied {
        /// Who sent it: the proxy.
        path: ClientPath,
        /// For whom (see [`wire::proxy`](crate::wire::proxy)).
        client: ClientAddr,
        /// All of it, without the proxy's header.
        bytes: &'a [u8],
        /// DSCP and ECN.
        tos: u8,
    },
    /// A stream's connection is closed, from either side: what its client has ends at once. Nothing comes from it
    /// after this.
    ClientGone(ClientPath),
    /// An ICMP error came back for something a relay socket had sent (RFC 8656 s. 11.5).
    PeerIcmp(IcmpError),
    /// [`Output::OpenPort`] was done.
    PortOpened(RelaySocket),
    /// [`Output::OpenPort`] failed.
    PortFailed(RelaySocket, PortError),
    /// [`Output::ClosePort`] was done: the port may be used again.
    PortClosed(RelaySocket),
    /// [`Output::Connect`] was done: there is a connection.
    PeerConnected(ConnectionId),
    /// [`Output::Connect`] failed.
    PeerConnectFailed(ConnectionId),
    /// A connection with a peer is over, whoever has ended it; not for one that [`Output::CloseConnection`] has named.
    ConnectionClosed(ConnectionId),
    /// Time has come to `Server::poll_timeout`. One tick ends at most [`MAX_ENDED`](crate::limits::MAX_ENDED)
    /// allocations; with more to do, the timeout is over already.
    Tick,
    /// The policy in the shared state has changed: the ticks that follow check what is alive against it.
    PolicyChanged,
    /// A binding's routes are in the kernel. May come any number of times, as interfaces come and go.
    OffloadDone(SlotName),
    /// A binding's routes are not in the kernel, now or any more. May come any number of times.
    OffloadFailed(SlotName, WhyNot),
    /// [`Output::Withdraw`] was done, and no run of the kernel program knows the routes any more. Has to come
    /// for each of them: until then the binding's port and slots are kept.
    OffloadWithdrawn(SlotName),
    /// Another bandwidth limit for an allocation, in each direction.
    SetRate {
        /// Number of the allocation.
        allocation: u64,
        /// Bits of payload per second; 0 is none.
        bits_per_sec: u64,
    },
    /// End an allocation.
    Disconnect {
        /// Number of the allocation.
        allocation: u64,
    },
    /// End all allocations that a user has now, with the ticks that follow; then comes
    /// [`Output::UserDisconnected`].
    DisconnectUser {
        /// The full name, or the part that quotas go by.
        user: Arc<str>,
    },
    /// Refuse new allocations from now on (`true`), or no longer.
    Drain(bool),
    /// The worker can't keep up with what arrives from now on (`true`), or can again: what it does for strangers
    /// comes last.
    Behind(bool),
    /// End every allocation, with the ticks that follow, and accept no new one: the process is about to stop.
    Shutdown,
}

impl<'a> Input<'a> {
    /// A datagram whose DSCP and ECN nobody asked for.
    pub const fn datagram(origin: Origin, bytes: &'a [u8]) -> Self {
        Self::Received(Received { origin, bytes, tos: 0 })
    }
}

/// An ICMP error, with the datagram it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The socket that had sent the datagram.
    pub relay: RelaySocket,
    /// The datagram's destination.
    pub peer: PeerAddr,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// The MTU for "too big" errors, else 0.
    pub data: u32,
}

/// Why a relay socket could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortError {
    /// Another program has the port: another one may do.
    InUse,
    /// Another program has the port that was to be reserved.
    ReserveInUse,
    /// No port will do: there is no descriptor left that allocations may have.
    NoDescriptor {
        /// The process' limit on open files.
        limit: u32,
    },
    /// No port will do: out of memory, or the address is not ours.
    Exhausted,
}

/// A port that was reserved for the owner of a RESERVATION-TOKEN. Dropping it gives the port back.
#[derive(Debug)]
pub struct ReservedPort {
    /// What a socket is bound to.
    pub address: RelayedAddr,
    pub(crate) _lease: PortLease,
}

/// What the core wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// The listener or relay socket that it leaves by.
        egress: Egress,
        /// The client or peer that it goes to.
        to: SocketAddr,
        /// The whole payload.
        payload: Vec<u8>,
        /// DSCP and ECN.
        tos: u8,
        /// Set DF (only Send with DONT-FRAGMENT does).
        dont_fragment: bool,
    },
    /// Bind a UDP socket to the address; answer with [`Input::PortOpened`] or [`Input::PortFailed`].
    OpenPort {
        /// The name it shall have.
        relay: RelaySocket,
        /// What to bind to: a port reserved before, or a free one.
        address: RelayedAddr,
        /// Also bind to this one and keep it, for whichever worker opens it: both, or neither.
        reserve: Option<RelayedAddr>,
    },
    /// Listen for TCP connections of peers at the address; answer as for [`Output::OpenPort`]. Each that comes is asked
    /// about with `Server::admit_peer`.
    Listen {
        /// The name it shall have.
        relay: RelaySocket,
        /// What to bind to.
        address: RelayedAddr,
    },
    /// Connect to a peer, from the address and port that `relay` listens at (RFC 6062 s. 5.2), without waiting; answer
    /// with [`Input::PeerConnected`] or [`Input::PeerConnectFailed`]. Nothing is read from it before it is bound.
    Connect {
        /// The name it shall have.
        connection: ConnectionId,
        /// Where it leaves.
        relay: RelaySocket,
        /// Where it goes.
        peer: PeerAddr,
    },
    /// From now on a client's connection carries what this one with a peer does, both ways, as it is (RFC 6062 s. 5.4);
    /// what of it came before is sent, what came after the last message is the peer's. It is no client's connection any
    /// more: no [`Input::ClientGone`] is due.
    Bind {
        /// The connection with the peer.
        connection: ConnectionId,
        /// The client's.
        client: ClientPath,
    },
    /// Close a connection with a peer, and the client's that it is bound to.
    CloseConnection(ConnectionId),
    /// A ConnectionBind that is another worker's to answer: give that one the connection, and have it ask its own core
    /// about this request. Where that can't be, close the connection.
    HandOver {
        /// The client's connection.
        client: ClientPath,
        /// Whose it is from now on.
        worker: WorkerId,
        /// What it has sent.
        request: Vec<u8>,
    },
    /// Let go of a reserved port that nobody has opened, and then of this.
    ReleasePort(ReservedPort),
    /// Close the socket, or the listener; answer with [`Input::PortClosed`] when the port is free again.
    ClosePort(RelaySocket),
    /// Let the kernel forward what a channel carries: insert its two routes. Answer with
    /// [`Input::OffloadDone`] or [`Input::OffloadFailed`].
    Offload(Box<OffloadBinding>),
    /// Delete a binding's routes; answer with [`Input::OffloadWithdrawn`] after a grace period, also if there
    /// were none. Its lease is over already.
    Withdraw(SlotName),
    /// Packets to a permitted peer's address are too big for the way to it: who keeps routes there has to look
    /// them up again. Only emitted if there is a kernel data path.
    PathMtuFell(IpAddr),
    /// An allocation was answered.
    Created(Box<AllocationView>),
    /// An allocation has ended: write its final log record.
    Ended(Box<AllocationRecord>),
    /// An [`Input::DisconnectUser`] was carried out.
    UserDisconnected {
        /// The same as was given.
        user: Arc<str>,
        /// How many allocations were ended; `None` if too much of the kind waits for anything to be done.
        allocations: Option<u64>,
    },
    /// A limit on strangers or failed logins has dropped a stream's request: close the connection. Over UDP its client
    /// would repeat it; here it would wait for an answer that never comes.
    CloseStream(ClientPath),
    /// A request was refused: tell the operator why. Only for who has proved to receive what is sent to its
    /// address, so that nobody can have lines written about others.
    Refused(Box<RefusedRequest>),
    /// A channel from 0x5000 to 0x7FFF was refused: name `--rfc5766-channel-numbers` once.
    OldChannelNumber {
        /// The number asked for.
        channel: u16,
    },
    /// The kernel does not forward a channel because its user has his share of the kernel's places.
    OverShare {
        /// The user.
        user: Arc<str>,
        /// [`WhyNot::UserShare`] or [`WhyNot::NextHopShare`].
        why: WhyNot,
    },
}

/// A channel binding for the kernel: from these two routes can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadBinding {
    /// Its own slot: lease, generation.
    pub binding: SlotName,
    /// Its allocation's slot: bucket, counters, lease, generation.
    pub allocation: SlotName,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client talks to.
    pub server: SocketAddr,
    /// The relayed address, as sockets are bound.
    pub relayed: SocketAddr,
    /// The peer, as sockets see it.
    pub peer: SocketAddr,
    /// The channel's number.
    pub channel: u16,
    /// The peer is a relayed address of this very server.
    pub internal: bool,
    /// Whose it is: no user may take all places that the kernel has.
    pub user: UserNumber,
}

/// Why the core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An allocation's lifetime ends.
    Allocation,
    /// A permission's lifetime ends.
    Permission,
    /// A channel binding's lifetime ends.
    Channel,
    /// A connection with a peer was not made, or not bound, in time.
    Connection,
    /// A reserved port goes back to the pool.
    Reservation,
    /// A port, or a record, has waited for the kernel plane for long enough.
    Forgetting,
    /// No transaction of the past can be repeated any more.
    Transaction,
    /// What concerns many allocations goes on.
    Sweep,
}
