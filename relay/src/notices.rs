//! What a worker says to its operator: never more often than is useful, whatever clients do.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use tracing::{info, warn};
use turnpike_proto::Now;
use turnpike_proto::policy::Remedy;
use turnpike_proto::stats::AllocationRecord;

/// A source is named again after this time, nanoseconds.
const QUIET_NS: u64 = 60_000_000_000;
/// Sources remembered; above it the notice is left out until some are forgotten.
const MAX_SOURCES: usize = 1024;

/// Which notices were given, and when.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    refused: HashMap<IpAddr, u64>,
    old_channels_named: bool,
}

impl Notices {
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
            client = %record.five_tuple.client,
            server = %record.five_tuple.server,
            transport = record.five_tuple.transport.name(),
            relayed = relayed.join(","),
            duration_ms = record.duration_ns / 1_000_000,
            to_peer_packets = to_peer.packets,
            to_peer_bytes = to_peer.bytes,
            to_peer_rate_drops = to_peer.rate_drops,
            to_client_packets = to_client.packets,
            to_client_bytes = to_client.bytes,
            to_client_rate_drops = to_client.rate_drops,
            to_peer_kernel_packets = to_peer_kernel.packets,
            to_peer_kernel_bytes = to_peer_kernel.bytes,
            to_client_kernel_packets = to_client_kernel.packets,
            to_client_kernel_bytes = to_client_kernel.bytes,
            reason = record.reason.name(),
            "allocation ended"
        );
    }

    /// Which option would have allowed a refused peer: once per source and minute.
    pub(crate) fn peer_refused(
        &mut self,
        now: Now,
        client: SocketAddr,
        peer: SocketAddr,
        remedy: Option<Remedy>,
    ) {
        let is_recent = |last: &u64| now.mono_ns.saturating_sub(*last) < QUIET_NS;
        if self.refused.get(&client.ip()).is_some_and(is_recent) {
            return;
        }
        if self.refused.len() >= MAX_SOURCES {
            self.refused.retain(|_, last| is_recent(last));
            if self.refused.len() >= MAX_SOURCES {
                return;
            }
        }
        self.refused.insert(client.ip(), now.mono_ns);
        match remedy {
            Some(option) => {
                info!(%client, peer = %peer.ip(), "peer refused by policy; {option} would allow it")
            }
            None => info!(%client, peer = %peer.ip(), "peer refused by policy"),
        }
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
