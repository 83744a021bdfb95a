//! Why requests are refused: told to the operator alone.
//!
//! A client learns the error code of the RFC and nothing else, so that nobody can find out by asking which
//! users exist (Q6). Each reason has exactly one code. The names are part of the log, the metrics and the API.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::error::ErrorCode;
use crate::policy::{Refused, Remedy};
use crate::wire::method;

/// Declares [`RefusalReason`] with the code and the name of each reason side by side.
macro_rules! refusal_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:ident, $name:literal;)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum RefusalReason { $($(#[$doc])* $variant,)* }

        impl RefusalReason {
            /// Every reason, by code.
            pub const ALL: &'static [RefusalReason] = &[$(RefusalReason::$variant,)*];

            /// What the client is answered with.
            pub const fn code(self) -> ErrorCode {
                match self { $(RefusalReason::$variant => ErrorCode::$code,)* }
            }

            /// The name in log, metrics and API.
            pub const fn name(self) -> &'static str {
                match self { $(RefusalReason::$variant => $name,)* }
            }
        }
    };
}

refusal_reasons! {
    /// The server drains, and the client was sent to another one (RFC 8489 s. 10).
    Redirected = TryAlternate, "redirected";
    /// An attribute is missing, not well-formed, or contradicts another one.
    Malformed = BadRequest, "malformed";
    /// The channel is bound to another peer, or the peer to another channel (RFC 8656 s. 12.2).
    ChannelConflict = BadRequest, "channel-conflict";
    /// The channel's number is not one of 0x4000 to 0x4FFF (RFC 8656 s. 12).
    ChannelNumber = BadRequest, "channel-number";
    /// Only over TCP and TLS: TCP to peers, and data connections (RFC 6062 s. 5.1 and 5.4).
    StreamNeeded = BadRequest, "stream-needed";
    /// No connection of that id waits for a ConnectionBind: there never was one, it is bound, or it is over (RFC 6062
    /// s. 5.4).
    NoConnection = BadRequest, "no-connection";
    /// Nobody is called that, here.
    UnknownUser = Unauthenticated, "unknown-user";
    /// The user exists, or the name is a time-limited one, but password or shared secret differ.
    WrongKey = Unauthenticated, "wrong-key";
    /// A time-limited credential that was right, and has expired.
    ExpiredCredential = Unauthenticated, "expired-credential";
    /// Credentials for another realm.
    WrongRealm = Unauthenticated, "wrong-realm";
    /// The policy refuses the peer.
    PeerDenied = Forbidden, "peer-denied";
    /// The allocation relays TCP and a channel was asked for, or UDP and a connection.
    OtherTransport = Forbidden, "other-transport";
    /// A comprehension-required attribute that nobody here knows.
    UnknownAttribute = UnknownAttribute, "unknown-attribute";
    /// There is no allocation on this 5-tuple, or no longer.
    NoAllocation = AllocationMismatch, "no-allocation";
    /// There is an allocation on this 5-tuple already.
    AllocationExists = AllocationMismatch, "allocation-exists";
    /// The nonce is too old: the client tries again with the new one.
    StaleNonce = StaleNonce, "stale-nonce";
    /// No relay address has the family that was asked for.
    FamilyNotOffered = AddressFamilyNotSupported, "family-not-offered";
    /// The allocation on this 5-tuple is another user's.
    WrongUser = WrongCredentials, "wrong-user";
    /// A relayed transport that is not offered was asked for.
    UnsupportedTransport = UnsupportedTransport, "unsupported-transport";
    /// The allocation has no relayed address of the peer's family.
    FamilyMismatch = PeerAddressFamilyMismatch, "family-mismatch";
    /// The allocation has a connection with this peer already, or makes one (RFC 6062 s. 5.2).
    ConnectionExists = ConnectionAlreadyExists, "connection-exists";
    /// The peer refused the connection, or there is no way to it (RFC 6062 s. 5.2).
    ConnectFailed = ConnectionFailed, "connect-failed";
    /// The peer did not answer in time (RFC 6062 s. 5.2).
    ConnectTimedOut = ConnectionFailed, "connect-timed-out";
    /// The user has as many allocations as it may have.
    UserQuota = AllocationQuotaReached, "user-quota";
    /// Everybody together has as many allocations as they may have.
    TotalQuota = AllocationQuotaReached, "total-quota";
    /// The server takes no new allocations.
    Draining = InsufficientCapacity, "draining";
    /// Every port that was tried is in use, or the relay address itself is awaited.
    NoPort = InsufficientCapacity, "no-port";
    /// A port could not be opened: no descriptor or memory is left, or the address is gone.
    NoDescriptor = InsufficientCapacity, "no-descriptor";
    /// The RESERVATION-TOKEN is unknown, too old or somebody else's.
    NoReservation = InsufficientCapacity, "no-reservation";
    /// The worker's table is full.
    TableFull = InsufficientCapacity, "table-full";
    /// The allocation has as many permissions as it may have, or more peers were named at once.
    TooManyPermissions = InsufficientCapacity, "too-many-permissions";
    /// The allocation has as many channels as it may have.
    TooManyChannels = InsufficientCapacity, "too-many-channels";
    /// The allocation, or the worker, has as many connections with peers as it may have.
    TooManyConnections = InsufficientCapacity, "too-many-connections";
}

impl RefusalReason {
    /// It would have been refused to anybody: the server has no more, or takes no more.
    pub const fn is_everybodys(self) -> bool {
        use RefusalReason::{Draining, NoDescriptor, NoPort, Redirected, TableFull, TotalQuota};
        matches!(self, Draining | NoDescriptor | NoPort | Redirected | TableFull | TotalQuota)
    }
}

/// What there is to say about one refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which check said no.
    pub reason: RefusalReason,
    /// How far it was off.
    pub detail: Option<Detail>,
    /// The peer that was asked for, where it is the reason.
    pub peer: Option<IpAddr>,
    /// The option that would allow it, if there is one.
    pub remedy: Option<Remedy>,
}

/// How far a request was off; displayed as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The credential has expired so many seconds ago.
    ExpiredSecsAgo(u64),
    /// A quota, in allocations, and what is used of it.
    Quota {
        /// Allocations held.
        used: u32,
        /// Allocations allowed.
        limit: u32,
    },
    /// Ports of the family that was asked for.
    Ports {
        /// Held by allocations and reservations.
        held: u32,
        /// Found to be other programs'.
        foreign: u32,
        /// All that the range has on these addresses.
        of: u32,
    },
    /// The process' limit on open files.
    OpenFiles {
        /// The process' limit on open files.
        limit: u32,
    },
    /// A channel's number.
    Channel(u16),
    /// In words of our own.
    Words(&'static str),
}

/// A request that was refused, for log, metrics and API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The address that the request came from.
    pub client: SocketAddr,
    /// The method's number (RFC 8656 s. 17).
    pub method: u16,
    /// The user as quotas count it: proven if the request was authentic, else what the client calls itself.
    pub user: Option<Arc<str>>,
    /// The check that said no, and what more the operator should know.
    pub refusal: Refusal,
}

impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Self {
        Self { reason, detail: None, peer: None, remedy: None }
    }
}

impl Refusal {
    /// The policy refuses the peer.
    pub(crate) fn of_peer(peer: IpAddr, refused: Refused) -> Self {
        Self { peer: Some(peer), remedy: refused.remedy, ..RefusalReason::PeerDenied.into() }
    }

    /// The reason, and how far the request was off.
    pub(crate) fn with(reason: RefusalReason, detail: Detail) -> Self {
        Self { detail: Some(detail), ..reason.into() }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::ExpiredSecsAgo(secs) => write!(f, "expired {secs} s ago"),
            Detail::Quota { used, limit } => write!(f, "{used} of {limit}"),
            Detail::Ports { held, foreign, of } => {
                write!(
                    f,
                    "of {of} ports {held} are held and {foreign} are other programs'; a wider port-range or another relay-address has more"
                )
            }
            Detail::OpenFiles { limit } => write!(
                f,
                "the limit on open files is {limit}, a few of them kept for other things: raise LimitNOFILE= or ulimit -n"
            ),
            Detail::Channel(number) => write!(f, "channel {number:#06x}"),
            Detail::Words(words) => f.write_str(words),
        }
    }
}

/// Refused requests by method and reason.
#[derive(Clone, Debug)]
pub struct RefusalCounts([[u64; RefusalReason::ALL.len()]; method::COUNT]);

impl Default for RefusalCounts {
    fn default() -> Self {
        Self([[0; RefusalReason::ALL.len()]; method::COUNT])
    }
}

impl RefusalCounts {
    pub(crate) fn count(&mut self, method: u16, reason: RefusalReason) {
        self.add(method, reason, 1);
    }

    pub(crate) fn add(&mut self, method: u16, reason: RefusalReason, times: u64) {
        if let Some(row) = self.0.get_mut(usize::from(method)) {
            row[reason as usize] += times;
        }
    }

    /// How many requests of `method` were refused for `reason`.
    pub fn of(&self, method: u16, reason: RefusalReason) -> u64 {
        self.0.get(usize::from(method)).map_or(0, |row| row[reason as usize])
    }

    /// Every method and reason that was counted at least once.
    pub fn nonzero(&self) -> impl Iterator<Item = (u16, RefusalReason, u64)> + '_ {
        self.0.iter().enumerate().flat_map(|(method, row)| {
            let counts = RefusalReason::ALL.iter().zip(row).filter(|&(_, &n)| n > 0);
            counts.map(move |(&reason, &n)| (method as u16, reason, n))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_single_words_that_differ_and_places_are_those_of_the_list() {
        let names: HashSet<&str> = RefusalReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), RefusalReason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
        assert!(RefusalReason::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
    }

    #[test]
    fn details_read_as_people_say_them() {
        assert_eq!(Detail::ExpiredSecsAgo(3600).to_string(), "expired 3600 s ago");
        assert_eq!(Detail::Quota { used: 3, limit: 3 }.to_string(), "3 of 3");
        assert_eq!(Detail::Channel(0x5000).to_string(), "channel 0x5000");
    }
}
