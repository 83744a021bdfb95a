//! What is measured: each scenario is one kind of traffic, the same for every server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use turnpike_loadtest::credentials::Credentials;
use turnpike_loadtest::engine::payload::{Fill, MIN_PAYLOAD};
use turnpike_loadtest::engine::{FlowSpec, Framing, Group, PeerChoice, Plan};
use turnpike_loadtest::session::SessionConfig;
use turnpike_loadtest::stun_client::{AllocateOptions, Family};
use turnpike_loadtest::transport::Transport;

use crate::certificate::tls_client;
use crate::lab::{CLIENT, Link, PEER};
use crate::server::{PASSWORD, USER};

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// What it is, for reports.
    pub title: &'static str,
    /// The relay's interfaces.
    pub link: Link,
    /// What is done.
    pub work: Work,
    /// Rounds at most: long scenarios take part in fewer.
    pub max_rounds: u32,
    /// It takes too long to be part of every comparison.
    pub only_if_named: bool,
}

/// What a scenario does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// A fixed load.
    Paced(Traffic),
    /// Allocations are made and deleted, nothing is sent.
    Churn {
        /// Allocations of one cycle.
        clients: usize,
    },
    /// Allocations are made and deleted; then the server is left alone for a minute.
    Settle {
        /// Allocations.
        clients: usize,
    },
    /// The highest rate without loss, and what still gets through at twice that rate.
    Search(Traffic),
    /// Video calls over a stream with 40 ms of round trip.
    Video {
        /// TCP or TLS.
        transport: Transport,
        /// What the client's way takes, Mbit/s; `None` = enough.
        receiver_mbit_per_sec: Option<f64>,
    },
    /// TLS connections opened one after another.
    Handshakes,
    /// Clients over TLS, each with an allocation, that do nothing; then they leave.
    Idle {
        /// How many, evenly from all of the lab's client addresses.
        clients: usize,
    },
    /// A fixed load over UDP beside clients over TCP that never read.
    BesideStalled {
        /// Clients that never read.
        stalled: usize,
        /// The load.
        calls: Traffic,
    },
    /// A fixed load of frames that are made and counted in the kernel.
    PacedFrames(FrameTraffic),
    /// The highest rate without loss of such frames, and what still gets through at twice that rate.
    SearchFrames(FrameTraffic),
}

/// Frames between clients and peers.
#[derive(Clone, Copy, Debug)]
pub struct FrameTraffic {
    /// Clients, each with an allocation and a channel.
    pub clients: u16,
    /// Frames per second of all clients together; a search goes up to this.
    pub frames_per_sec: f64,
    /// Application bytes per frame.
    pub payload_bytes: usize,
    /// From the peers to the clients; else the other way.
    pub to_clients: bool,
}

/// How data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// ChannelData to an echoing peer and back.
    Channel,
    /// Send and Data indications to an echoing peer and back.
    Indication,
    /// ChannelData from client to client over both relayed addresses.
    RelayToRelay,
    /// Binding requests.
    Binding,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Clients, each with an allocation.
    pub clients: usize,
    /// Packets per second of all clients together; a search goes up to this.
    pub packets_per_sec: f64,
    /// Application bytes per packet.
    pub payload_bytes: usize,
    /// Packets sent back to back.
    pub run: u32,
    /// All clients send at the same moments, as those of `turnutils_uclient` do; else evenly spread.
    pub in_step: bool,
    /// The way.
    pub path: Path,
    /// Between clients and server.
    pub transport: Transport,
}

const SMALL: Traffic = Traffic {
    clients: 10,
    packets_per_sec: 10_000.0,
    payload_bytes: 170,
    run: 1,
    in_step: false,
    path: Path::Channel,
    transport: Transport::Udp,
};
const VIDEO: Traffic = Traffic { payload_bytes: 1200, run: 8, ..SMALL };
const SMALL_FRAMES: FrameTraffic =
    FrameTraffic { clients: 10, frames_per_sec: 100_000.0, payload_bytes: 170, to_clients: false };
/// More than any sender has reached.
const MANY_FRAMES: FrameTraffic = FrameTraffic { frames_per_sec: 10_000_000.0, ..SMALL_FRAMES };
/// Thin traffic of many allocations, packets per second of each: one in a trial of two seconds.
const THIN_PPS: f64 = 0.5;

const fn many(clients: usize) -> Work {
    Work::Paced(Traffic { clients, packets_per_sec: THIN_PPS * clients as f64, ..SMALL })
}

/// Every scenario, in the order of the report.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "small",
        title: "ChannelData, 10 clients × 1000 packets/s × 170 B, evenly spaced, echoed by a peer",
        link: Link::Plain,
        work: Work::Paced(SMALL),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "in-step",
        title: "ChannelData, 10 clients × 1000 packets/s × 170 B, all at the same moments (the pattern of turnutils_uclient), echoed by a peer",
        link: Link::Plain,
        work: Work::Paced(Traffic { in_step: true, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "video",
        title: "ChannelData in runs of 8 × 1200 B, 10 clients × 1000 packets/s, echoed by a peer; receive interfaces merge (GRO)",
        link: Link::Merging,
        work: Work::Paced(VIDEO),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "video-busy",
        title: "ChannelData in runs of 8 × 1200 B, 10 clients × 2500 packets/s, echoed by a peer; receive interfaces merge (GRO)",
        link: Link::Merging,
        work: Work::Paced(Traffic { packets_per_sec: 25_000.0, ..VIDEO }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "video-full",
        title: "ChannelData in runs of 8 × 1200 B, 10 clients × 6000 packets/s, echoed by a peer; receive interfaces merge (GRO)",
        link: Link::Merging,
        work: Work::Paced(Traffic { packets_per_sec: 60_000.0, ..VIDEO }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "relay-to-relay",
        title: "ChannelData from client to client over two relayed addresses, 10 clients × 1000 packets/s × 170 B",
        link: Link::Plain,
        work: Work::Paced(Traffic { path: Path::RelayToRelay, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "indications",
        title: "Send and Data indications, 10 clients × 1000 packets/s × 170 B, echoed by a peer",
        link: Link::Plain,
        work: Work::Paced(Traffic { path: Path::Indication, ..SMALL }),
        max_rounds: 1,
        only_if_named: false,
    },
    Scenario {
        name: "binding",
        title: "STUN Binding, 10 clients × 1000 requests/s",
        link: Link::Plain,
        work: Work::Paced(Traffic { path: Path::Binding, ..SMALL }),
        max_rounds: 1,
        only_if_named: false,
    },
    Scenario {
        name: "churn",
        title: "4000 allocations made as fast as they are answered, then deleted",
        link: Link::Plain,
        work: Work::Churn { clients: 4_000 },
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "allocations-1k",
        title: "1000 allocations with a channel each, a packet of 170 B every 2 s on each",
        link: Link::Plain,
        work: many(1_000),
        max_rounds: 1,
        only_if_named: false,
    },
    Scenario {
        name: "allocations-5k",
        title: "5000 allocations with a channel each, a packet of 170 B every 2 s on each",
        link: Link::Plain,
        work: many(5_000),
        max_rounds: 1,
        only_if_named: false,
    },
    Scenario {
        name: "allocations-16k",
        title: "16,000 allocations with a channel each, a packet of 170 B every 2 s on each",
        link: Link::Plain,
        work: many(16_000),
        max_rounds: 2,
        only_if_named: false,
    },
    Scenario {
        name: "ndr-small",
        title: "highest rate without loss (NDR), 10 clients, 170 B echoed by a peer; then twice that rate",
        link: Link::Plain,
        work: Work::Search(Traffic { packets_per_sec: 400_000.0, ..SMALL }),
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "ndr-video",
        title: "highest rate without loss (NDR), 10 clients, runs of 8 × 1200 B echoed by a peer, receive interfaces merge (GRO); then twice that rate",
        link: Link::Merging,
        work: Work::Search(Traffic { packets_per_sec: 400_000.0, ..VIDEO }),
        max_rounds: 1,
        only_if_named: false,
    },
    Scenario {
        name: "frames",
        title: "ChannelData frames made and counted in the kernel, 10 clients × 10,000 packets/s × 170 B, from client to peer",
        link: Link::Frames,
        work: Work::PacedFrames(SMALL_FRAMES),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "ndr-frames",
        title: "highest rate without loss (NDR) of frames made and counted in the kernel, 10 clients, 170 B from client to peer",
        link: Link::Frames,
        work: Work::SearchFrames(MANY_FRAMES),
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "ndr-frames-back",
        title: "highest rate without loss (NDR) of frames made and counted in the kernel, 10 clients, 170 B from peer to client",
        link: Link::Frames,
        work: Work::SearchFrames(FrameTraffic { to_clients: true, ..MANY_FRAMES }),
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "tcp-small",
        title: "ChannelData over TCP, 10 clients × 1000 packets/s × 170 B, evenly spaced, echoed by a peer over UDP",
        link: Link::Plain,
        work: Work::Paced(Traffic { transport: Transport::Tcp, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "tls-small",
        title: "ChannelData over TLS, 10 clients × 1000 packets/s × 170 B, evenly spaced, echoed by a peer over UDP",
        link: Link::Plain,
        work: Work::Paced(Traffic { transport: Transport::Tls, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "tcp-busy",
        title: "ChannelData over TCP, 10 clients × 4000 packets/s × 170 B, evenly spaced, echoed by a peer over UDP",
        link: Link::Plain,
        work: Work::Paced(Traffic { transport: Transport::Tcp, packets_per_sec: 40_000.0, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "tls-busy",
        title: "ChannelData over TLS, 10 clients × 4000 packets/s × 170 B, evenly spaced, echoed by a peer over UDP",
        link: Link::Plain,
        work: Work::Paced(Traffic { transport: Transport::Tls, packets_per_sec: 40_000.0, ..SMALL }),
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "tcp-video",
        title: "a call of 4 Mbit/s to a client over TCP, round trip 40 ms, every 60th frame has 150 packets; 10 s",
        link: Link::Plain,
        work: Work::Video { transport: Transport::Tcp, receiver_mbit_per_sec: None },
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "tcp-video-half",
        title: "the same to a client whose way takes half of that rate",
        link: Link::Plain,
        work: Work::Video { transport: Transport::Tcp, receiver_mbit_per_sec: Some(2.0) },
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "tls-handshakes",
        title: "full TLS handshakes with an ECDSA P-256 certificate, 32 at a time, each with a Binding request",
        link: Link::Plain,
        work: Work::Handshakes,
        max_rounds: 9,
        only_if_named: false,
    },
    Scenario {
        name: "udp-beside-stalled",
        title: "ChannelData over UDP, 10 clients × 100 packets/s × 1200 B echoed by a peer, beside 1000 clients over TCP that never read the 5 packets/s × 1200 B for each",
        link: Link::Plain,
        work: Work::BesideStalled {
            stalled: 1_000,
            calls: Traffic { packets_per_sec: 1_000.0, payload_bytes: 1200, ..SMALL },
        },
        max_rounds: 3,
        only_if_named: false,
    },
    Scenario {
        name: "tls-idle",
        title: "10,000 idle clients of four addresses over TLS with an allocation each, then none",
        link: Link::Plain,
        work: Work::Idle { clients: 10_000 },
        max_rounds: 1,
        only_if_named: true,
    },
    Scenario {
        name: "memory",
        title: "16,000 allocations made and deleted, then a minute of rest",
        link: Link::Plain,
        work: Work::Settle { clients: 16_000 },
        max_rounds: 1,
        only_if_named: true,
    },
];

impl Scenario {
    /// Whether clients reach the server over TCP or TLS.
    pub fn is_over_streams(&self) -> bool {
        match self.work {
            Work::Paced(traffic) | Work::Search(traffic) => traffic.transport.is_stream(),
            Work::Video { .. } | Work::Handshakes | Work::Idle { .. } | Work::BesideStalled { .. } => true,
            _ => false,
        }
    }

    /// Whether the same traffic can also go without any relay, to be subtracted.
    pub fn has_direct_path(&self) -> bool {
        let is_paced = matches!(
            self.work,
            Work::Paced(Traffic { path: Path::Channel | Path::Indication, transport: Transport::Udp, .. })
        );
        is_paced || matches!(self.work, Work::PacedFrames(_))
    }
}

impl Traffic {
    /// The load generator's plan. `peers` echo; without them the flows keep to the server itself.
    pub fn plan(&self, server: SocketAddr, peers: &[SocketAddr], threads: usize) -> Plan {
        let framing = match self.path {
            Path::Channel | Path::RelayToRelay => Framing::Channel,
            Path::Indication => Framing::Indication,
            Path::Binding => Framing::Binding,
        };
        let payload_bytes = if self.path == Path::Binding { MIN_PAYLOAD } else { self.payload_bytes };
        let group = Group {
            name: "clients".into(),
            session: Arc::new(session(framing, self.transport)),
            framing,
            payload_bytes,
            packets_per_sec: self.packets_per_sec / self.clients as f64,
            run: self.run,
            fill: Fill::Pattern,
            pad_channel_data: false,
            dont_fragment: false,
        };
        let flows = (0..self.clients).map(|index| {
            let peer = match self.path {
                Path::Binding => PeerChoice::None,
                Path::RelayToRelay => PeerChoice::Partner(index ^ 1),
                _ if peers.is_empty() => PeerChoice::None,
                _ => PeerChoice::Fixed(peers[index % peers.len()]),
            };
            let unit = if self.path == Path::RelayToRelay { index / 2 } else { index };
            FlowSpec { group: 0, peer, even_port: None, token_from: None, unit }
        });
        Plan {
            server,
            transport: self.transport,
            tls: (self.transport == Transport::Tls).then(tls_client),
            local: Some(CLIENT),
            device: None,
            groups: vec![group],
            flows: flows.collect(),
            threads: threads.min(self.clients).max(1),
            in_flight: 64,
            setup_rate: f64::INFINITY,
            setup_deadline: Duration::from_secs(30),
            tick_ns: 100_000,
            max_lag_ns: Some(20_000_000),
            late_ns: 400_000_000,
            gso: false,
            disrupt: false,
            first_byte: false,
            keep_going: true,
            no_setup: self.path == Path::Binding,
            peer_bind: Some(PEER),
            socket_buffer_bytes: 1 << 20,
        }
    }
}

/// What allocations without traffic need.
pub fn idle_traffic(clients: usize) -> Traffic {
    Traffic { clients, ..SMALL }
}

/// What each client asks the server for.
pub fn session(framing: Framing, transport: Transport) -> SessionConfig {
    SessionConfig {
        transport,
        credentials: Some(Credentials::new(USER, PASSWORD)),
        allocate: AllocateOptions {
            lifetime_secs: 600,
            family: Family::Unspecified,
            ..AllocateOptions::default()
        },
        channel: framing == Framing::Channel,
        random_channel: false,
        permission: framing != Framing::Channel,
        refresh_first: false,
        extra_requests: false,
        // Longer than any run: renewals would be part of the cost of data.
        renew_every_ns: 240_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_send_to_each_other_and_stay_on_one_worker() {
        let traffic = Traffic { path: Path::RelayToRelay, ..SMALL };
        let plan = traffic.plan("10.0.0.1:3478".parse().expect("an address"), &[], 2);
        for (index, flow) in plan.flows.iter().enumerate() {
            let PeerChoice::Partner(other) = flow.peer else { panic!("{:?}", flow.peer) };
            assert_eq!(plan.flows[other].peer, PeerChoice::Partner(index));
            assert_eq!(plan.flows[other].unit, flow.unit);
        }
    }

    #[test]
    fn the_rate_of_all_clients_is_the_scenarios() {
        for scenario in SCENARIOS {
            let Work::Paced(traffic) = scenario.work else { continue };
            let plan = traffic.plan("10.0.0.1:3478".parse().expect("an address"), &[], 1);
            let total = plan.groups[0].packets_per_sec * plan.flows.len() as f64;
            assert!((total - traffic.packets_per_sec).abs() < 1e-6, "{}", scenario.name);
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[index + 1..].iter().all(|other| other.name != scenario.name));
        }
    }
}
