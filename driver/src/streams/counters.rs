//! What becomes of connections, counted.

use turnpike_proto::addr::TlsVersion;

/// Why a connection was closed, or not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The client closed it.
    ByClient,
    /// It broke: reset, or unreachable.
    Broken,
    /// Nobody acknowledged what was sent, or a receive window stayed closed.
    Unread,
    /// More answers waited than a client that reads ever has.
    AnswersFull,
    /// The TLS handshake did not end in time.
    HandshakeTimeout,
    /// No message came in time.
    MessageTimeout,
    /// It had no allocation, and nothing came any more.
    Idle,
    /// A limit on strangers or failed logins dropped its request, which nobody repeats over a stream.
    Limited,
    /// What came is no STUN message and no ChannelData.
    NotTurn,
    /// A first message that is longer than any.
    TooLong,
    /// TLS where it is not offered.
    TlsNotOffered,
    /// TURN without TLS where it is not offered.
    PlainNotOffered,
    /// A header of the PROXY protocol from somebody who is not trusted with it.
    ProxyUntrusted,
    /// A trusted proxy's connection without a header of the PROXY protocol.
    ProxyMissing,
    /// A trusted proxy's header of version 1: it has to be version 2.
    ProxyVersion,
    /// A trusted proxy's header that is not well-formed.
    ProxyHeader,
    /// What came on a TLS port is no TLS.
    NotTls,
    /// No version, cipher or key exchange in common.
    TlsIncompatible,
    /// The client asked for other protocols than TURN's by ALPN.
    TlsAlpn,
    /// The client refused: most often our certificate.
    TlsRefused,
    /// Another fault of TLS, also after the handshake.
    TlsOther,
    /// It made room for a newer one, before it had sent a message.
    Displaced,
    /// Unfinished messages together take more memory than they may.
    PartialBytes,
    /// There were as many connections as there may be.
    TotalCap,
    /// Its source had as many connections as it may have.
    SourceCap,
    /// Its source had as many without a message as it may have.
    SourceOpeningCap,
    /// The process had no descriptor, or no memory, left.
    NoDescriptor,
    /// The fallback could not be reached.
    FallbackUnreachable,
    /// The fallback did not take the connection in time.
    FallbackTimeout,
    /// As many connections were passed to the fallback as may be.
    FallbackCap,
    /// Passed to the fallback, and both sides were done.
    FallbackDone,
    /// What it asked for is another worker's, and that one could not take it.
    NoHandover,
    /// The relay closed it: it stops, or the operator ended what it carried.
    ByRelay,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [CloseReason; 33] = [
        CloseReason::ByClient,
        CloseReason::Broken,
        CloseReason::Unread,
        CloseReason::AnswersFull,
        CloseReason::HandshakeTimeout,
        CloseReason::MessageTimeout,
        CloseReason::Idle,
        CloseReason::Limited,
        CloseReason::NotTurn,
        CloseReason::TooLong,
        CloseReason::TlsNotOffered,
        CloseReason::PlainNotOffered,
        CloseReason::ProxyUntrusted,
        CloseReason::ProxyMissing,
        CloseReason::ProxyVersion,
        CloseReason::ProxyHeader,
        CloseReason::NotTls,
        CloseReason::TlsIncompatible,
        CloseReason::TlsAlpn,
        CloseReason::TlsRefused,
        CloseReason::TlsOther,
        CloseReason::Displaced,
        CloseReason::PartialBytes,
        CloseReason::TotalCap,
        CloseReason::SourceCap,
        CloseReason::SourceOpeningCap,
        CloseReason::NoDescriptor,
        CloseReason::FallbackUnreachable,
        CloseReason::FallbackTimeout,
        CloseReason::FallbackCap,
        CloseReason::FallbackDone,
        CloseReason::NoHandover,
        CloseReason::ByRelay,
    ];

    /// Nothing that an operator has to know of each time: clients come and go.
    pub const fn is_usual(self) -> bool {
        matches!(
            self,
            CloseReason::ByClient
                | CloseReason::Broken
                | CloseReason::Idle
                | CloseReason::FallbackDone
                | CloseReason::ByRelay
        )
    }

    /// The name in metrics, log and API.
    pub const fn name(self) -> &'static str {
        match self {
            CloseReason::ByClient => "by_client",
            CloseReason::Broken => "broken",
            CloseReason::Unread => "unread",
            CloseReason::AnswersFull => "answers_full",
            CloseReason::HandshakeTimeout => "handshake_timeout",
            CloseReason::MessageTimeout => "message_timeout",
            CloseReason::Idle => "idle",
            CloseReason::Limited => "limited",
            CloseReason::NotTurn => "not_turn",
            CloseReason::TooLong => "too_long",
            CloseReason::TlsNotOffered => "tls_not_offered",
            CloseReason::PlainNotOffered => "plain_not_offered",
            CloseReason::ProxyUntrusted => "proxy_untrusted",
            CloseReason::ProxyMissing => "proxy_missing",
            CloseReason::ProxyVersion => "proxy_version",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::NotTls => "not_tls",
            CloseReason::TlsIncompatible => "tls_incompatible",
            CloseReason::TlsAlpn => "tls_alpn",
            CloseReason::TlsRefused => "tls_refused",
            CloseReason::TlsOther => "tls_other",
            CloseReason::Displaced => "displaced",
            CloseReason::PartialBytes => "partial_bytes",
            CloseReason::TotalCap => "total_cap",
            CloseReason::SourceCap => "source_cap",
            CloseReason::SourceOpeningCap => "source_opening_cap",
            CloseReason::NoDescriptor => "no_descriptor",
            CloseReason::FallbackUnreachable => "fallback_unreachable",
            CloseReason::FallbackTimeout => "fallback_timeout",
            CloseReason::FallbackCap => "fallback_cap",
            CloseReason::FallbackDone => "fallback_done",
            CloseReason::NoHandover => "no_handover",
            CloseReason::ByRelay => "by_relay",
        }
    }
}

/// Connections by how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCounts([u64; CloseReason::ALL.len()]);

impl Default for CloseCounts {
    fn default() -> Self {
        Self([0; CloseReason::ALL.len()])
    }
}

impl CloseCounts {
    /// Counts one.
    pub(super) fn count(&mut self, reason: CloseReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts several.
    pub(super) fn count_more(&mut self, reason: CloseReason, times: u64) {
        self.0[reason as usize] += times;
    }

    /// How many there were.
    pub fn of(&self, reason: CloseReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &CloseCounts) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

/// TLS handshakes by version, and by whether they resumed a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounts([[u64; 2]; TlsVersion::ALL.len()]);

impl HandshakeCounts {
    /// Counts one.
    pub(super) fn count(&mut self, version: TlsVersion, is_resumed: bool) {
        self.0[version as usize][usize::from(is_resumed)] += 1;
    }

    /// How many there were of a version: those that resumed a session, or the others.
    pub fn of(&self, version: TlsVersion, is_resumed: bool) -> u64 {
        self.0[version as usize][usize::from(is_resumed)]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    fn add(&mut self, other: &HandshakeCounts) {
        self.0.iter_mut().flatten().zip(other.0.iter().flatten()).for_each(|(sum, more)| *sum += more);
    }
}

/// What was counted since the start, and what there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounters {
    /// Connections taken.
    pub accepted: u64,
    /// Connections without TLS that carry messages, now.
    pub open_tcp: u64,
    /// The same with TLS.
    pub open_tls: u64,
    /// Connections that have not sent a message yet, now.
    pub opening: u64,
    /// TLS handshakes that ended well.
    pub handshakes: HandshakeCounts,
    /// Media frames dropped because a client's queue was full.
    pub dropped_full: u64,
    /// Media frames dropped because they had waited for too long.
    pub dropped_old: u64,
    /// Media frames and answers that were for a connection that is closed, or were still queued when it was.
    pub dropped_closed: u64,
    /// How often a client that had sent more than it may was not read from for a while.
    pub pauses: u64,
    /// How long that was, all connections together, nanoseconds; without pauses that last.
    pub paused_ns: u64,
    /// Connections that are passed to the fallback, now.
    pub fallback_open: u64,
    /// Connections that were passed to the fallback.
    pub fallback_accepted: u64,
    /// Bytes of them: to the fallback, and to clients.
    pub fallback_bytes: [u64; 2],
    /// Connections that are closed, or were not taken.
    pub closed: CloseCounts,
}

impl StreamCounters {
    /// Those that carry messages, with TLS or without.
    pub(super) fn open_of(&mut self, has_tls: bool) -> &mut u64 {
        if has_tls { &mut self.open_tls } else { &mut self.open_tcp }
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &StreamCounters) {
        self.accepted += other.accepted;
        self.open_tcp += other.open_tcp;
        self.open_tls += other.open_tls;
        self.opening += other.opening;
        self.handshakes.add(&other.handshakes);
        self.dropped_full += other.dropped_full;
        self.dropped_old += other.dropped_old;
        self.dropped_closed += other.dropped_closed;
        self.pauses += other.pauses;
        self.paused_ns += other.paused_ns;
        self.fallback_open += other.fallback_open;
        self.fallback_accepted += other.fallback_accepted;
        self.fallback_bytes.iter_mut().zip(other.fallback_bytes).for_each(|(sum, more)| *sum += more);
        self.closed.add(&other.closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_in_its_place_with_a_name_of_its_own() {
        for (place, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            assert!(CloseReason::ALL[place + 1..].iter().all(|other| other.name() != reason.name()));
        }
    }
}
