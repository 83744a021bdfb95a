//! From the core's views to the API's models.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::tls::server::cipher_suite_name;
use crate::worker::notices::method_name;
use crate::worker::refusals::RecentRefusal;
use turnpike_admin::model;
use turnpike_proto::addr::{ClientAddr, FiveTuple, RelayedTransport, TlsInfo, Transport};
use turnpike_proto::stats::{AllocationRecord, Traffic};
use turnpike_proto::{AllocationDetail, AllocationView, OffloadState, TrafficByPath};

use turnpike_driver::clock;

/// One moment on both clocks: the core knows the monotonic one, people the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) mono_ns: u64,
    unix_ns: u64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
        Self { mono_ns: clock::monotonic_ns(), unix_ns }
    }

    /// A moment of a clock for tests, on which both begin together.
    #[cfg(test)]
    pub(super) fn at_ns(ns: u64) -> Self {
        Self { mono_ns: ns, unix_ns: ns }
    }

    pub(super) fn unix_millis(self) -> u64 {
        self.unix_ns / 1_000_000
    }

    pub(super) fn unix_secs(self) -> u64 {
        self.unix_ns / 1_000_000_000
    }

    /// A time of the monotonic clock, in seconds since 1970.
    pub(super) fn unix_secs_of(self, mono_ns: u64) -> u64 {
        (self.unix_ns + mono_ns).saturating_sub(self.mono_ns) / 1_000_000_000
    }
}

/// Payload bits per second in both directions: to peers, to clients.
pub(super) type Rates = [u64; 2];

pub(super) fn traffic(traffic: Traffic) -> model::Traffic {
    let Traffic { packets, bytes, rate_drops } = traffic;
    model::Traffic { packets, bytes, rate_drops }
}

fn by_path(paths: TrafficByPath) -> model::TrafficByPath {
    model::TrafficByPath { userspace: traffic(paths.userspace), kernel: traffic(paths.kernel) }
}

pub(super) fn transport(transport: Transport) -> model::Transport {
    match transport {
        Transport::Udp => model::Transport::Udp,
        Transport::Tcp => model::Transport::Tcp,
        Transport::Tls => model::Transport::Tls,
    }
}

/// What a client's TLS has agreed on.
fn tls(info: TlsInfo) -> model::Tls {
    model::Tls {
        version: info.version.name().into(),
        cipher_suite: cipher_suite_name(info.cipher_suite),
        alpn: info.alpn.map(|protocol| protocol.name().into()),
    }
}

fn relayed_transport(transport: RelayedTransport) -> model::Transport {
    match transport {
        RelayedTransport::Udp => model::Transport::Udp,
        RelayedTransport::Tcp => model::Transport::Tcp,
    }
}

/// The address that a client's proxy has, if there is one.
fn proxy(client: ClientAddr, five_tuple: FiveTuple) -> Option<SocketAddr> {
    Some(five_tuple.client).filter(|sender| *sender != client).map(|proxy| proxy.0)
}

fn offload(state: OffloadState) -> model::OffloadState {
    match state {
        OffloadState::Active { channels, .. } => {
            model::OffloadState { active: true, channels_active: channels, why_not: None, explanation: None }
        }
        OffloadState::Not(why) => model::OffloadState {
            active: false,
            channels_active: 0,
            why_not: Some(why.name().into()),
            explanation: Some(why.explain().into()),
        },
    }
}

/// An allocation as lists show it.
pub(super) fn allocation(view: AllocationView, at: Moment, rates: Rates) -> model::Allocation {
    model::Allocation {
        id: model::AllocationId(view.id),
        user: view.user,
        quota_user: view.quota_user,
        transport: transport(view.five_tuple.transport),
        tls: view.tls.map(tls),
        client: view.client.0,
        server: view.five_tuple.server,
        proxy: proxy(view.client, view.five_tuple),
        relayed: view.relayed,
        relayed_transport: relayed_transport(view.relayed_transport),
        connections: view.connections,
        peers: view.peers,
        created_unix_secs: at.unix_secs_of(view.created_ns),
        expires_unix_secs: at.unix_secs_of(view.expires_ns),
        to_peer: by_path(view.to_peer),
        to_client: by_path(view.to_client),
        stream_drops: view.stream_drops.total(),
        to_peer_bits_per_sec: rates[0],
        to_client_bits_per_sec: rates[1],
        max_bits_per_sec: view.bitrate_bits,
        permissions: view.permissions,
        channels: view.channels,
        offload: offload(view.offload),
    }
}

/// Everything about one allocation.
pub(super) fn detail(detail: AllocationDetail, at: Moment, rates: Rates) -> model::AllocationDetail {
    let AllocationDetail { view, permissions, channels } = detail;
    let rate_drops = [("drop_rate_to_peer", view.to_peer), ("drop_rate_to_client", view.to_client)];
    let drops = rate_drops.into_iter().map(|(name, paths)| (name.to_owned(), paths.total().rate_drops));
    let drops = drops.chain(view.stream_drops.nonzero().map(|(drop, count)| (drop.name().to_owned(), count)));
    model::AllocationDetail {
        as_of_unix_millis: at.unix_millis(),
        drops: drops.filter(|(_, count)| *count > 0).collect(),
        allocation: allocation(view, at, rates),
        permission_list: permissions
            .into_iter()
            .map(|permission| model::Permission {
                peer: permission.ip,
                expires_unix_secs: at.unix_secs_of(permission.expires_ns),
            })
            .collect(),
        channel_list: channels
            .into_iter()
            .map(|channel| model::Channel {
                number: channel.number,
                peer: channel.peer,
                expires_unix_secs: at.unix_secs_of(channel.expires_ns),
                offload: offload(channel.offload),
            })
            .collect(),
    }
}

/// The event of an allocation that has ended.
pub(super) fn ended(record: AllocationRecord, at: Moment) -> model::Event {
    let created_ns = at.mono_ns.saturating_sub(record.duration_ns);
    let duration_secs = record.duration_ns as f64 / 1e9;
    let average = |paths: TrafficByPath| (paths.total().bytes as f64 * 8.0 / duration_secs.max(1e-3)) as u64;
    let allocation = model::Allocation {
        id: model::AllocationId(record.id),
        user: Arc::clone(&record.user),
        quota_user: record.quota_user,
        transport: transport(record.five_tuple.transport),
        tls: record.tls.map(tls),
        client: record.client.0,
        server: record.five_tuple.server,
        proxy: proxy(record.client, record.five_tuple),
        relayed: record.relayed_public,
        relayed_transport: relayed_transport(record.relayed_transport),
        connections: 0,
        peers: Vec::new(),
        created_unix_secs: at.unix_secs_of(created_ns),
        expires_unix_secs: at.unix_secs(),
        to_peer: by_path(record.to_peer),
        to_client: by_path(record.to_client),
        stream_drops: record.stream_drops.total(),
        to_peer_bits_per_sec: average(record.to_peer),
        to_client_bits_per_sec: average(record.to_client),
        max_bits_per_sec: record.bitrate_bits,
        permissions: 0,
        channels: 0,
        offload: model::OffloadState::default(),
    };
    model::Event::Ended { allocation, reason: record.reason.name().to_owned(), duration_secs }
}

/// A refusal as the API says it.
pub(super) fn refusal(recent: RecentRefusal) -> model::Refusal {
    let RecentRefusal { request, first_unix_secs, last_unix_secs, count, .. } = recent;
    model::Refusal {
        first_unix_secs,
        last_unix_secs,
        count,
        method: method_name(request.method).to_owned(),
        code: request.refusal.reason.code().code(),
        reason: request.refusal.reason.name().to_owned(),
        user: request.user,
        client: request.client,
        peer: request.refusal.peer,
        detail: request.refusal.detail.map(|detail| detail.to_string()),
        remedy: request.refusal.remedy.map(|remedy| remedy.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use turnpike_proto::addr::{Alpn, TlsVersion};

    use super::*;

    #[test]
    fn times_of_the_core_become_times_of_day() {
        let at = Moment { mono_ns: 5_000_000_000, unix_ns: 1_700_000_000_500_000_000 };
        assert_eq!(at.unix_secs_of(5_000_000_000), 1_700_000_000);
        assert_eq!(at.unix_secs_of(2_000_000_000), 1_699_999_997);
        assert_eq!(at.unix_secs_of(605_600_000_000), 1_700_000_601);
    }

    #[test]
    fn cipher_suites_are_named_as_in_ianas_registry() {
        for (cipher_suite, name) in [
            (0x1302, "TLS_AES_256_GCM_SHA384"),
            (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            (0xfafa, "0xfafa"),
        ] {
            let info = TlsInfo { version: TlsVersion::V12, cipher_suite, alpn: Some(Alpn::NatDiscovery) };
            let alpn = Some("stun.nat-discovery".into());
            assert_eq!(tls(info), model::Tls { version: "1.2".into(), cipher_suite: name.into(), alpn });
        }
    }
}
