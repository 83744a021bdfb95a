//! What a worker says to its operator: never more often than is useful, whatever clients do.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tracing::{debug, info, warn};
use turnpike_driver::streams::{CloseCounts, CloseReason};
use turnpike_proto::addr::Alpn;
use turnpike_proto::stats::AllocationRecord;
use turnpike_proto::wire::method;
use turnpike_proto::{AllocationView, Now, RefusalReason, RefusedRequest, Verdict, WhyNot};

use super::proxied::Refused;
use crate::limits::{MAX_NAMED_REFUSALS, REFUSAL_LINES, REFUSAL_LINES_WITHIN_NS};
use crate::tls::server::cipher_suite_name;

/// A source is named again after this time, nanoseconds.
const QUIET_NS: u64 = 60_000_000_000;

/// Which notices were given, and when.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    refused: HashMap<Cause, Named>,
    /// Lines of these ten seconds.
    lines: u32,
    period: u64,
    old_channels_named: bool,
    streams: StreamNotices,
    /// Refusals of headers of the PROXY protocol: of those who are not trusted, and of those who are.
    headers: [Option<Named>; 2],
    /// Channels that the kernel does not forward because their users have their share.
    over_share: Option<Named>,
}

/// What was said of streams' connections, and when.
#[derive(Debug, Default)]
struct StreamNotices {
    said: CloseCounts,
    quiet_until_ns: u64,
}

/// What is written down once a minute. Without a source where it would have been refused to anybody.
type Cause = (Option<IpAddr>, RefusalReason);

#[derive(Debug)]
struct Named {
    last_ns: u64,
    /// Refusals since, of which nothing was written.
    more: u64,
}

impl Notices {
    /// An allocation was answered.
    pub(crate) fn allocation_created(&self, view: &AllocationView) {
        debug!(
            allocation = format_args!("{:016x}", view.id),
            user = &*view.user,
            quota_user = &*view.quota_user,
            client = %view.client,
            server = %view.five_tuple.server,
            relayed = ?view.relayed,
            "allocation created"
        );
    }

    /// The one final record of an allocation.
    pub(crate) fn allocation_ended(&mut self, record: &AllocationRecord) {
        let relayed: Vec<String> = record.relayed.iter().map(ToString::to_string).collect();
        let (to_peer, to_client) = (record.to_peer.total(), record.to_client.total());
        let (to_peer_kernel, to_client_kernel) = (record.to_peer.kernel, record.to_client.kernel);
        info!(
            // As the administration says it.
            allocation = format_args!("{:016x}", record.id),
            // As a string, not by `Display`: the text form quotes it then, so that a name can't pass for fields.
            user = &*record.user,
            quota_user = &*record.quota_user,
            client = %record.client,
            server = %record.five_tuple.server,
            transport = record.five_tuple.transport.name(),
            tls_version = record.tls.map(|tls| tls.version.name()),
            tls_cipher_suite = record.tls.map(|tls| cipher_suite_name(tls.cipher_suite)),
            alpn = record.tls.and_then(|tls| tls.alpn).map(Alpn::name),
            relayed = relayed.join(","),
            duration_ms = record.duration_ns / 1_000_000,
            to_peer_packets = to_peer.packets,
            to_peer_bytes = to_peer.bytes,
            to_peer_rate_drops = to_peer.rate_drops,
            to_client_packets = to_client.packets,
            to_client_bytes = to_client.bytes,
            to_client_rate_drops = to_client.rate_drops,
            to_client_stream_drops = record.stream_drops.total(),
            to_peer_kernel_packets = to_peer_kernel.packets,
            to_peer_kernel_bytes = to_peer_kernel.bytes,
            to_client_kernel_packets = to_client_kernel.packets,
            to_client_kernel_bytes = to_client_kernel.bytes,
            reason = record.reason.name(),
            "allocation ended"
        );
    }

    /// Why a request was refused: once per source, reason and minute. Answers whether it was written down.
    pub(crate) fn refused(&mut self, now: Now, request: &RefusedRequest) -> bool {
        let Some(more) = self.is_due(now, request) else { return false };
        let refusal = &request.refusal;
        let detail = refusal.detail.map(|detail| detail.to_string());
        let remedy = refusal.remedy.map(|remedy| remedy.to_string());
        macro_rules! write_down {
            ($level:ident, $words:literal) => {
                $level!(
                    user = request.user.as_deref(),
                    client = %request.client,
                    method = method_name(request.method),
                    code = refusal.reason.code().code(),
                    reason = refusal.reason.name(),
                    detail = detail.as_deref(),
                    peer = refusal.peer.map(tracing::field::display),
                    remedy = remedy.as_deref(),
                    more,
                    $words
                )
            };
        }
        match refusal.reason {
            RefusalReason::NoPort
            | RefusalReason::NoDescriptor
            | RefusalReason::TableFull
            | RefusalReason::TotalQuota => write_down!(warn, "refused: this server has no more"),
            RefusalReason::PeerDenied => write_down!(info, "peer refused by policy"),
            _ => write_down!(info, "refused"),
        }
        true
    }

    /// Whether a refusal is to be written down, and then how many were not since the last one.
    fn is_due(&mut self, now: Now, request: &RefusedRequest) -> Option<u64> {
        let reason = request.refusal.reason;
        let cause = (Some(request.client.ip()).filter(|_| !reason.is_everybodys()), reason);
        let is_recent = |named: &Named| now.mono_ns.saturating_sub(named.last_ns) < QUIET_NS;
        if let Some(named) = self.refused.get_mut(&cause).filter(|named| is_recent(named)) {
            named.more += 1;
            return None;
        }
        let period = now.mono_ns / REFUSAL_LINES_WITHIN_NS;
        if period != self.period {
            (self.period, self.lines) = (period, 0);
        }
        if self.lines >= REFUSAL_LINES {
            return None;
        }
        if self.refused.len() >= MAX_NAMED_REFUSALS {
            self.refused.retain(|_, named| is_recent(named));
            if self.refused.len() >= MAX_NAMED_REFUSALS {
                return None;
            }
        }
        self.lines += 1;
        let before = self.refused.insert(cause, Named { last_ns: now.mono_ns, more: 0 });
        Some(before.map_or(0, |named| named.more))
    }

    /// Connections of clients that were refused, or failed for a reason that concerns the operator: once a minute, by
    /// reason. Addresses of those who never proved theirs are not named.
    pub(crate) fn streams(
        &mut self,
        now: Now,
        closed: &CloseCounts,
        fallback: Option<(SocketAddr, &io::Error)>,
    ) {
        let notices = &mut self.streams;
        if now.mono_ns < notices.quiet_until_ns || *closed == notices.said {
            return;
        }
        for reason in CloseReason::ALL {
            let connections = closed.of(reason) - notices.said.of(reason);
            if connections == 0 || reason.is_usual() {
                continue;
            }
            notices.quiet_until_ns = now.mono_ns + QUIET_NS;
            match reason {
                CloseReason::NoDescriptor | CloseReason::TotalCap => {
                    warn!(
                        reason = reason.name(),
                        connections, "connections refused: this server has no more"
                    );
                }
                CloseReason::FallbackUnreachable => {
                    let (to, why) = fallback.unzip();
                    warn!(
                        reason = reason.name(),
                        fallback = to.map(tracing::field::display),
                        why = why.map(tracing::field::display),
                        connections,
                        "connections closed: tls-fallback can't be reached"
                    );
                }
                CloseReason::FallbackTimeout | CloseReason::FallbackCap => {
                    warn!(reason = reason.name(), connections, "connections closed: tls-fallback took none");
                }
                CloseReason::ProxyMissing | CloseReason::ProxyVersion | CloseReason::ProxyHeader => {
                    warn!(
                        reason = reason.name(),
                        connections,
                        "connections of trusted proxies closed: each has to begin with a header of the PROXY \
                         protocol, version 2"
                    );
                }
                CloseReason::ProxyUntrusted => {
                    info!(
                        reason = reason.name(),
                        connections,
                        "connections closed that began with a header of the PROXY protocol: proxy-protocol-from \
                         does not name their source"
                    );
                }
                _ => info!(reason = reason.name(), connections, "connections of clients closed"),
            }
        }
        notices.said = *closed;
    }

    /// Why datagrams were refused for a header of the PROXY protocol, or for want of one: once a minute for each kind.
    /// No address is named: over UDP it may be anybody's.
    pub(crate) fn header_refused(&mut self, now: Now, refused: Refused) {
        let said = match refused {
            Refused::Untrusted => &mut self.headers[0],
            Refused::Header(_) => &mut self.headers[1],
        };
        if let Some(named) =
            said.as_mut().filter(|named| now.mono_ns.saturating_sub(named.last_ns) < QUIET_NS)
        {
            named.more += 1;
            return;
        }
        let before = said.replace(Named { last_ns: now.mono_ns, more: 0 });
        let more = before.map_or(0, |named| named.more);
        match refused {
            Refused::Untrusted => info!(
                reason = Verdict::DropProxyUntrusted.name(),
                more,
                "a datagram refused: it has a header of the PROXY protocol, and proxy-protocol-from does not name \
                 its source"
            ),
            Refused::Header(fault) => warn!(
                reason = Verdict::DropProxyHeader.name(),
                more, "a trusted proxy's datagram refused: {fault}"
            ),
        }
    }

    /// A user has his share of the kernel's places: once a minute.
    pub(crate) fn over_share(&mut self, now: Now, user: &str, why: WhyNot) {
        let said = self.over_share.as_mut();
        if let Some(named) = said.filter(|named| now.mono_ns.saturating_sub(named.last_ns) < QUIET_NS) {
            named.more += 1;
            return;
        }
        let before = self.over_share.replace(Named { last_ns: now.mono_ns, more: 0 });
        let more = before.map_or(0, |named| named.more);
        warn!(user, reason = why.name(), more, "a channel stays in userspace: {}", why.explain());
    }

    /// Names the option for old clients, once.
    pub(crate) fn old_channel_number(&mut self, channel: u16) {
        if !std::mem::replace(&mut self.old_channels_named, true) {
            warn!(
                channel = format!("{channel:#06x}"),
                "a client asked for a channel number of RFC 5766, above 0x4fff; \
                 --rfc5766-channel-numbers would accept it"
            );
        }
    }
}

/// The name of a method in log, metrics and API.
pub(crate) fn method_name(number: u16) -> &'static str {
    match number {
        method::BINDING => "binding",
        method::ALLOCATE => "allocate",
        method::REFRESH => "refresh",
        method::CREATE_PERMISSION => "create_permission",
        method::CHANNEL_BIND => "channel_bind",
        method::CONNECT => "connect",
        method::CONNECTION_BIND => "connection_bind",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(source: u32, reason: RefusalReason) -> RefusedRequest {
        let client = (std::net::Ipv4Addr::from(source), 1).into();
        RefusedRequest { client, method: method::ALLOCATE, user: None, refusal: reason.into() }
    }

    fn at(millis: u64) -> Now {
        Now { mono_ns: millis * 1_000_000, unix_secs: millis / 1000 }
    }

    #[test]
    fn a_source_is_named_once_a_minute_for_each_reason_and_then_with_what_came_since() {
        let mut notices = Notices::default();
        let wrong = request(1, RefusalReason::WrongKey);
        assert_eq!(notices.is_due(at(0), &wrong), Some(0));
        assert_eq!(notices.is_due(at(59_999), &wrong), None);
        assert_eq!(notices.is_due(at(1), &request(1, RefusalReason::UnknownUser)), Some(0));
        assert_eq!(notices.is_due(at(2), &request(2, RefusalReason::WrongKey)), Some(0));
        assert_eq!(notices.is_due(at(60_000), &wrong), Some(1));
    }

    #[test]
    fn what_is_refused_to_everybody_is_named_once_whoever_asks() {
        let mut notices = Notices::default();
        assert_eq!(notices.is_due(at(0), &request(1, RefusalReason::NoPort)), Some(0));
        assert!(
            (2..500).all(|source| notices.is_due(at(1), &request(source, RefusalReason::NoPort)).is_none())
        );
        assert_eq!(notices.is_due(at(60_000), &request(1, RefusalReason::NoPort)), Some(498));
    }

    #[test]
    fn who_has_his_share_is_named_once_a_minute() {
        let mut notices = Notices::default();
        for millis in [0, 1000, 59_999] {
            notices.over_share(at(millis), "alice", WhyNot::UserShare);
        }
        assert_eq!(notices.over_share.as_ref().expect("it was said").more, 2);
        notices.over_share(at(60_000), "bob", WhyNot::NextHopShare);
        assert_eq!(notices.over_share.expect("it was said").more, 0);
    }

    #[test]
    fn many_sources_neither_fill_the_log_nor_memory() {
        let mut notices = Notices::default();
        let lines = (0..200_000_u32).filter(|n| {
            notices.is_due(at(u64::from(*n) / 2), &request(*n, RefusalReason::WrongKey)).is_some()
        });
        let lines = lines.count();
        assert!((990..=1024).contains(&lines), "100 s, 100 lines in each 10: {lines}");
        assert!(notices.refused.len() <= MAX_NAMED_REFUSALS);
    }
}
