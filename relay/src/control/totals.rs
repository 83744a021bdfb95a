//! All counters together.

use std::collections::BTreeMap;

use turnpike_admin::model;
use turnpike_driver::streams::{CloseReason, HandshakeCounts, StreamCounters};
use turnpike_offload::InterfaceStatus;
use turnpike_offload::xdp::Mode;
use turnpike_proto::addr::{TlsVersion, Transport};
use turnpike_proto::stats::{Authentication, ConnectionEvent, ServerCounts, TcpRelayCounts};
use turnpike_proto::{RefusalReason, Verdict};

use super::convert::{self, Moment};
use super::state::Control;
use crate::config::Offload;
use crate::worker::notices::method_name;
use crate::worker::{Load, Report, Status, TURN_BOUNDS_NS};

impl Control {
    pub(super) fn sum_up(&self) -> model::Totals {
        let config = self.config.load();
        let workers = self.workers.iter().enumerate();
        let workers: Vec<model::WorkerTotals> = workers
            .map(|(index, worker)| {
                let report = worker.status.report();
                model::WorkerTotals {
                    index: index as u32,
                    load: load(&report.load, self.loads.ratio(index)),
                    counts: counts(&report, &worker.status),
                }
            })
            .collect();
        let mut sum = model::Counts::default();
        workers.iter().for_each(|worker| add(&mut sum, &worker.counts));
        model::Totals {
            as_of_unix_millis: Moment::now().unix_millis(),
            sum,
            workers,
            offload: self.offload_counts(),
            ports: self.port_use(),
            total_quota: config.total_quota.map_or(0, |quota| u64::from(u32::from(quota))),
        }
    }

    pub(super) fn worker_status(&self) -> Vec<model::WorkerStatus> {
        let workers = self.workers.iter().enumerate();
        let status = workers.map(|(index, worker)| model::WorkerStatus {
            index: index as u32,
            allocations: worker.status.allocations() as u64,
            relay_sockets: worker.status.relay_sockets() as u64,
            busy_ratio: self.loads.ratio(index),
        });
        status.collect()
    }

    pub(super) fn offload_status(&self) -> model::OffloadStatus {
        let status = self.offload.read();
        let mode = status.mode.map(|mode| mode_name(mode).to_owned());
        let interfaces = status.interfaces.into_iter().map(|interface| model::InterfaceOffload {
            name: interface.name,
            attached: interface.attached,
            mode: mode.clone().filter(|_| interface.attached),
            why: Some(interface.why).filter(|why| !why.is_empty()),
            forwards: interface.forwards,
            sent: interface.sent.frames,
            lost: interface.sent.lost,
        });
        model::OffloadStatus {
            active: status.active,
            why: status.why,
            interfaces: interfaces.collect(),
            routes: status.routes,
            max_routes: self.max_routes(),
            heartbeat_age_secs: status.heartbeat_age.map(|age| age.as_secs()),
        }
    }

    /// Why the kernel does not forward, where it was said that it has to.
    pub(super) fn required_offload_lost(&self) -> Option<String> {
        if self.config.load().offload != Offload::Require {
            return None;
        }
        let status = self.offload.read();
        // Not because one client sends what only userspace can forward.
        (!status.active && !status.is_idle)
            .then(|| format!("offload is \"require\", and the kernel does not forward: {}", status.why))
    }

    fn offload_counts(&self) -> model::OffloadCounts {
        let status = self.offload.read();
        let by_name = |verdicts: &[(Verdict, u64)]| {
            verdicts.iter().map(|(verdict, count)| (verdict.name().to_owned(), *count)).collect()
        };
        let lost = |(verdict, _): &&(Verdict, u64)| {
            matches!(verdict, Verdict::DropRedirect | Verdict::DropDeviceQueue)
        };
        model::OffloadCounts {
            active: status.active,
            interfaces: status.interfaces.iter().filter(|interface| interface.attached).count() as u64,
            routes: status.routes,
            max_routes: self.max_routes(),
            verdicts: by_name(&status.verdicts),
            channels: status.bindings,
            channels_waiting: status.waiting,
            missed: status.missed,
            resync_differences: status.resync_differences,
            transmit_drops: status.verdicts.iter().filter(lost).map(|(_, count)| count).sum(),
            sent: status.interfaces.iter().filter(|interface| interface.attached).map(by_interface).collect(),
            heartbeat_age_secs: status.heartbeat_age.map(|age| age.as_secs()),
        }
    }

    /// Two for each channel that the kernel has a place for.
    fn max_routes(&self) -> u64 {
        self.shared.plane().map_or(0, |plane| 2 * plane.binding_slots() as u64)
    }

    fn port_use(&self) -> Vec<model::PortUse> {
        let total = self.ready.port_range.count() as u64;
        let used = self.shared.ports_used().into_iter();
        used.map(|(address, used)| model::PortUse { address, used: used as u64, total }).collect()
    }
}

fn by_interface(interface: &InterfaceStatus) -> (String, model::SentByInterface) {
    let InterfaceStatus { sent, forwards, .. } = interface;
    let sent = model::SentByInterface { datagrams: sent.frames, lost: sent.lost, forwards: *forwards };
    (interface.name.clone(), sent)
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}

fn load(load: &Load, busy_ratio: f64) -> model::WorkerLoad {
    let seconds = |ns: u64| ns as f64 / 1e9;
    model::WorkerLoad {
        turns: load.turns,
        busy_secs: seconds(load.cpu_ns),
        busy_ratio,
        coalesce_secs: seconds(load.coalesce_ns),
        turn_duration: Some(model::Histogram {
            bounds_secs: TURN_BOUNDS_NS.iter().map(|bound| seconds(*bound)).collect(),
            counts: load.turn_counts.to_vec(),
            sum_secs: seconds(load.turn_sum_ns),
        }),
    }
}

/// What one worker counted, as the API says it.
fn counts(report: &Report, status: &Status) -> model::Counts {
    let Report { counts, ended, kernel, offloaded, .. } = report;
    let by_path = |userspace, kernel| model::TrafficByPath {
        userspace: convert::traffic(userspace),
        kernel: convert::traffic(kernel),
    };
    let verdicts = counts.verdicts.nonzero().map(|(verdict, count)| (verdict.name().to_owned(), count));
    let userspace_drops =
        counts.userspace_drops.nonzero().map(|(drop, count)| (drop.name().to_owned(), count));
    let errors = counts.errors.nonzero().map(|(number, code, count)| model::ErrorCount {
        method: method_name(number).to_owned(),
        code: code.code(),
        count,
    });
    model::Counts {
        to_peer: by_path(counts.to_peer(), kernel[0]),
        to_client: by_path(counts.to_client(), kernel[1]),
        verdicts: verdicts.chain(userspace_drops).collect(),
        errors: errors.collect(),
        refusals: refusals(counts),
        authentications: authentications(counts),
        bindings: counts.bindings,
        allocations: status.allocations() as u64,
        allocations_offloaded: *offloaded,
        channels_not_offloaded: counts
            .not_offloaded
            .nonzero()
            .map(|(why, count)| (why.name().to_owned(), count))
            .collect(),
        allocations_created: counts.allocations_created,
        transports: transports(counts),
        allocations_ended: ended.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        ports_failed: counts.ports_failed,
        relay_sockets: status.relay_sockets() as u64,
        socket_drops: counts.verdicts.of(Verdict::DropSocketOverflow),
        streams: streams(&report.streams),
        tcp_relay: tcp_relay(&counts.tcp_relay),
    }
}

fn tcp_relay(counts: &TcpRelayCounts) -> model::TcpRelayCounts {
    let events = ConnectionEvent::ALL.map(|event| (event.name().to_owned(), counts.of(event)));
    model::TcpRelayCounts {
        allocations: counts.allocations,
        unbound: counts.unbound,
        bound: counts.bound,
        connections: events.into(),
        bytes_to_peer: counts.bytes_to_peer,
        bytes_to_client: counts.bytes_to_client,
    }
}

fn streams(counters: &StreamCounters) -> model::StreamCounts {
    let named = |counts: &[(&str, u64)]| {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<BTreeMap<_, _>>()
    };
    let closed = CloseReason::ALL.map(|reason| (reason.name(), counters.closed.of(reason)));
    model::StreamCounts {
        tcp: counters.open_tcp,
        tls: counters.open_tls,
        opening: counters.opening,
        accepted: counters.accepted,
        closed: named(&closed),
        handshakes: handshakes(&counters.handshakes),
        dropped: named(&[
            ("queue_full", counters.dropped_full),
            ("queue_age", counters.dropped_old),
            ("closed", counters.dropped_closed),
        ]),
        pauses: counters.pauses,
        paused_secs: counters.paused_ns as f64 / 1e9,
        fallback: model::FallbackCounts {
            connections: counters.fallback_open,
            accepted: counters.fallback_accepted,
            bytes_to_fallback: counters.fallback_bytes[0],
            bytes_to_client: counters.fallback_bytes[1],
        },
    }
}

fn handshakes(counts: &HandshakeCounts) -> Vec<model::HandshakeCount> {
    let kinds = |version: TlsVersion| {
        [("full", false), ("resumed", true)].map(|(kind, is_resumed)| model::HandshakeCount {
            version: version.name().to_owned(),
            kind: kind.to_owned(),
            count: counts.of(version, is_resumed),
        })
    };
    TlsVersion::ALL.into_iter().flat_map(kinds).collect()
}

fn transports(counts: &ServerCounts) -> BTreeMap<String, model::TransportCount> {
    let count = |transport: Transport| {
        let (live, created) = (counts.transports.live(transport), counts.transports.created(transport));
        (
            transport.name().to_owned(),
            model::TransportCount { allocations: live, allocations_created: created },
        )
    };
    Transport::ALL.into_iter().map(count).collect()
}

fn refusals(counts: &ServerCounts) -> Vec<model::RefusalCount> {
    let count = |(number, reason, count): (u16, RefusalReason, u64)| model::RefusalCount {
        method: method_name(number).to_owned(),
        code: reason.code().code(),
        reason: reason.name().to_owned(),
        count,
    };
    counts.refusals.nonzero().map(count).collect()
}

fn authentications(counts: &ServerCounts) -> BTreeMap<String, u64> {
    let count = |result: Authentication| (result.name().to_owned(), counts.authentications.of(result));
    Authentication::ALL.into_iter().map(count).collect()
}

fn add(sum: &mut model::Counts, worker: &model::Counts) {
    add_paths(&mut sum.to_peer, &worker.to_peer);
    add_paths(&mut sum.to_client, &worker.to_client);
    add_map(&mut sum.verdicts, &worker.verdicts);
    add_map(&mut sum.channels_not_offloaded, &worker.channels_not_offloaded);
    add_map(&mut sum.authentications, &worker.authentications);
    add_map(&mut sum.allocations_ended, &worker.allocations_ended);
    for (transport, count) in &worker.transports {
        let sum = sum.transports.entry(transport.clone()).or_default();
        sum.allocations += count.allocations;
        sum.allocations_created += count.allocations_created;
    }
    for error in &worker.errors {
        let same = |other: &&mut model::ErrorCount| other.method == error.method && other.code == error.code;
        match sum.errors.iter_mut().find(same) {
            Some(known) => known.count += error.count,
            None => sum.errors.push(error.clone()),
        }
    }
    for refusals in &worker.refusals {
        match sum.refusals.iter_mut().find(|known| known.is_same(refusals)) {
            Some(known) => known.count += refusals.count,
            None => sum.refusals.push(refusals.clone()),
        }
    }
    sum.bindings += worker.bindings;
    sum.allocations += worker.allocations;
    sum.allocations_offloaded += worker.allocations_offloaded;
    sum.allocations_created += worker.allocations_created;
    sum.ports_failed += worker.ports_failed;
    sum.relay_sockets += worker.relay_sockets;
    sum.socket_drops += worker.socket_drops;
    add_streams(&mut sum.streams, &worker.streams);
    add_tcp_relay(&mut sum.tcp_relay, &worker.tcp_relay);
}

fn add_tcp_relay(sum: &mut model::TcpRelayCounts, worker: &model::TcpRelayCounts) {
    sum.allocations += worker.allocations;
    sum.unbound += worker.unbound;
    sum.bound += worker.bound;
    add_map(&mut sum.connections, &worker.connections);
    sum.bytes_to_peer += worker.bytes_to_peer;
    sum.bytes_to_client += worker.bytes_to_client;
}

fn add_streams(sum: &mut model::StreamCounts, worker: &model::StreamCounts) {
    sum.tcp += worker.tcp;
    sum.tls += worker.tls;
    sum.opening += worker.opening;
    sum.accepted += worker.accepted;
    add_map(&mut sum.closed, &worker.closed);
    for handshakes in &worker.handshakes {
        match sum.handshakes.iter_mut().find(|known| known.is_same(handshakes)) {
            Some(known) => known.count += handshakes.count,
            None => sum.handshakes.push(handshakes.clone()),
        }
    }
    add_map(&mut sum.dropped, &worker.dropped);
    sum.pauses += worker.pauses;
    sum.paused_secs += worker.paused_secs;
    let (fallback, more) = (&mut sum.fallback, &worker.fallback);
    fallback.connections += more.connections;
    fallback.accepted += more.accepted;
    fallback.bytes_to_fallback += more.bytes_to_fallback;
    fallback.bytes_to_client += more.bytes_to_client;
}

fn add_paths(sum: &mut model::TrafficByPath, worker: &model::TrafficByPath) {
    add_traffic(&mut sum.userspace, &worker.userspace);
    add_traffic(&mut sum.kernel, &worker.kernel);
}

fn add_traffic(sum: &mut model::Traffic, worker: &model::Traffic) {
    sum.packets += worker.packets;
    sum.bytes += worker.bytes;
    sum.rate_drops += worker.rate_drops;
}

fn add_map(sum: &mut BTreeMap<String, u64>, worker: &BTreeMap<String, u64>) {
    for (name, count) in worker {
        *sum.entry(name.clone()).or_default() += count;
    }
}
