//! A received datagram as the kernel described it.

use std::net::SocketAddr;

use super::cmsg;
use crate::{Datagram, Event, Ingress};

/// A datagram, or a run of them, as it was received.
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Bytes received.
    pub(crate) len: u32,
    pub(crate) truncated: bool,
    pub(crate) ancillary: Ancillary,
    /// By a listener's socket for strangers.
    pub(crate) is_strangers: bool,
}

impl Received {
    /// The event for it; `now_ns` is the system's clock, `buffer` the pool's that holds it.
    pub(crate) fn event(&self, now_ns: u64, ingress: Ingress, buffer: usize) -> Event {
        let Received { from, len, truncated, ancillary, is_strangers } = *self;
        let segment_size = ancillary.segment_bytes.filter(|bytes| (1..len).contains(bytes)).unwrap_or(len);
        let waited_ns = ancillary.arrival_ns.map_or(0, |arrival_ns| now_ns.saturating_sub(arrival_ns));
        Event::Datagram(Datagram {
            ingress,
            is_strangers,
            from,
            tos: ancillary.tos,
            truncated,
            buffer: buffer as u32,
            len,
            segment_size,
            waited_us: u32::try_from(waited_ns / 1000).unwrap_or(u32::MAX),
        })
    }
}

/// What the kernel said about a datagram besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ancillary {
    /// Where it was sent to, if the socket asks for that.
    pub(crate) server: Option<SocketAddr>,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// Size of the datagrams if it is a merged run.
    pub(crate) segment_bytes: Option<u32>,
    /// Datagrams that the socket has lost so far.
    pub(crate) overflow: Option<u32>,
    /// When it arrived, nanoseconds of the system's clock.
    pub(crate) arrival_ns: Option<u64>,
}

impl Ancillary {
    /// Reads control messages; `local_port` is the socket's.
    pub(crate) fn read(control: &[u8], local_port: u16) -> Ancillary {
        let mut ancillary = Ancillary::default();
        for message in cmsg::messages(control) {
            if let Some(tos) = cmsg::tos(&message) {
                ancillary.tos = tos;
            } else if let Some(server) = cmsg::pktinfo_address(&message, local_port) {
                ancillary.server = Some(server);
            } else if let Some(bytes) = cmsg::segment_bytes(&message) {
                ancillary.segment_bytes = Some(bytes);
            } else if let Some(lost) = cmsg::overflow(&message) {
                ancillary.overflow = Some(lost);
            } else if let Some(arrival_ns) = cmsg::arrival_ns(&message) {
                ancillary.arrival_ns = Some(arrival_ns);
            }
        }
        ancillary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_segment_size_only_if_it_makes_sense() {
        let from = "192.0.2.1:9".parse().expect("a socket address");
        let ingress = Ingress::Relay(turnpike_proto::RelaySocket { index: 0, generation: 0 });
        for (segment_bytes, len, expected) in
            [(None, 9, 9), (Some(4), 9, 4), (Some(0), 9, 9), (Some(9), 9, 9)]
        {
            let ancillary = Ancillary { segment_bytes, ..Ancillary::default() };
            let received = Received { from, len, truncated: false, ancillary, is_strangers: false };
            assert!(matches!(received.event(0, ingress, 0),
                Event::Datagram(Datagram { segment_size, .. }) if segment_size == expected));
        }
    }
}
