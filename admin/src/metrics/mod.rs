//! The counters as Prometheus wants them: text format 0.0.4, made when somebody asks.
//!
//! The number of time series depends on workers, addresses, interfaces and names of reasons, never on
//! clients: no user, address of a client or allocation is a label.

mod page;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use self::page::Page;
use crate::guard::{Metrics, Needs};
use crate::model::{
    Certificate, Counts, FallbackCounts, OffloadCounts, Readiness, SentByInterface, Status, StreamCounts,
    TcpRelayCounts, Totals, Traffic, TrafficByPath, TransportCount, WorkerTotals,
};
use crate::problem::Problems;
use crate::state::{ApiCounts, AppState};

/// All counters, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "status", security(("token" = ["metrics"])),
    responses((status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain"), Problems)
)]
pub async fn scrape(
    _: Needs<Metrics>,
    State(shared): State<Arc<AppState>>,
) -> ([(HeaderName, &'static str); 1], String) {
    let mut registry = Registry::with_prefix("turnpike");
    registry.register_collector(Box::new(Scrape {
        totals: shared.relay.totals(),
        status: shared.relay.status(),
        readiness: shared.relay.readiness(),
        api: Api::of(&shared.counts),
    }));
    // No prefix: these names are the same for every program.
    let mut host = Registry::default();
    host.register_collector(Box::new(process::Process::of_this()));
    let mut text = String::new();
    for registry in [registry, host] {
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry)
            .expect("a String takes everything");
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Everything that one scrape says of the relay.
#[derive(Debug)]
struct Scrape {
    totals: Totals,
    status: Status,
    readiness: Readiness,
    api: Api,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.gauge(
            "build_info",
            "1, with the version as its label.",
            [(vec![("version", self.status.version.clone())], 1)],
        )?;
        page.gauge("ready", "Whether new allocations are welcome.", one(self.readiness.ready))?;
        page.gauge("draining", "Whether it drains.", one(self.status.drain.draining))?;
        traffic(&mut page, &self.totals.sum)?;
        verdicts(&mut page, &self.totals.sum, &self.totals.offload)?;
        allocations(&mut page, &self.totals)?;
        requests(&mut page, &self.totals.sum)?;
        sockets(&mut page, &self.totals)?;
        streams(&mut page, &self.totals.sum.streams)?;
        tcp_relay(&mut page, &self.totals.sum.tcp_relay)?;
        offload(&mut page, &self.totals.offload)?;
        let why_not = self.totals.sum.channels_not_offloaded.iter();
        let help = "Channels that were left to userspace, by why the kernel does not forward for them.";
        let why_not = why_not.map(|(why, &count)| (vec![("reason", why.clone())], count));
        page.counter("offload_channels_refused", help, why_not)?;
        workers(&mut page, &self.totals.workers)?;
        certificates(&mut page, &self.status.certificates)?;
        let help = "Records of the log that were lost: whoever reads stderr did not keep up.";
        page.counter("log_records_dropped", help, plain(self.status.log_records_dropped))?;
        let help = "Events of workers that were lost on their way to streams of events.";
        page.counter("events_dropped", help, plain(self.status.events_dropped))?;
        self.api.write(&mut page)
    }
}

fn traffic(page: &mut Page<'_>, sum: &Counts) -> fmt::Result {
    let help = "Datagrams relayed, by direction and by who forwarded them.";
    page.counter("relayed_packets", help, by_path(sum, |traffic| traffic.packets))?;
    let help = "Payload bytes relayed, by direction and by who forwarded them.";
    page.counter("relayed_bytes", help, by_path(sum, |traffic| traffic.bytes))?;
    let help = "Datagrams dropped by the bandwidth limits of allocations.";
    page.counter("rate_drops", help, by_path(sum, |traffic| traffic.rate_drops))
}

fn by_path(sum: &Counts, of: impl Fn(&Traffic) -> u64) -> Vec<(Labels, u64)> {
    let sample = |direction: &str, path: &str, traffic: &Traffic| {
        (vec![("direction", direction.to_owned()), ("path", path.to_owned())], of(traffic))
    };
    let both = |direction, TrafficByPath { userspace, kernel }: &TrafficByPath| {
        [sample(direction, "userspace", userspace), sample(direction, "kernel", kernel)]
    };
    [both("to_peer", &sum.to_peer), both("to_client", &sum.to_client)].concat()
}

/// What happened to datagrams: those that went nowhere apart from the rest.
fn verdicts(page: &mut Page<'_>, sum: &Counts, offload: &OffloadCounts) -> fmt::Result {
    let all = [("userspace", &sum.verdicts), ("kernel", &offload.verdicts)];
    let samples = |label: &'static str, drops: bool| {
        let named = all.iter().flat_map(|(path, counts)| counts.iter().map(move |count| (path, count)));
        named
            .filter(|(_, (name, _))| name.starts_with("drop_") == drops)
            .map(|(path, (name, &count))| (vec![("path", (*path).to_owned()), (label, name.clone())], count))
            .collect::<Vec<_>>()
    };
    let help = "Datagrams that were forwarded, answered or passed on, by who saw them and what happened.";
    page.counter("verdicts", help, samples("verdict", false))?;
    page.counter(
        "drops",
        "Datagrams that went nowhere, by who dropped them and why.",
        samples("reason", true),
    )
}

fn allocations(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    let sum = &totals.sum;
    let offloaded = sum.allocations_offloaded.min(sum.allocations);
    let states = [
        (vec![("state", "userspace".to_owned())], sum.allocations - offloaded),
        (vec![("state", "offloaded".to_owned())], offloaded),
    ];
    page.gauge("allocations", "Allocations that live, by who forwards for them.", states)?;
    if totals.total_quota > 0 {
        page.gauge(
            "allocations_limit",
            "Allocations that the total quota allows.",
            plain(totals.total_quota),
        )?;
    }
    page.counter("allocations_created", "Allocations created.", plain(sum.allocations_created))?;
    let of = |count: fn(&TransportCount) -> u64| {
        let transports = sum.transports.iter();
        transports.map(move |(name, counts)| (vec![("transport", name.clone())], count(counts)))
    };
    let help = "Allocations that live, by how their clients talk to the server.";
    page.gauge("transport_allocations", help, of(|counts| counts.allocations))?;
    let help = "Allocations created, by how their clients talk to the server.";
    page.counter("transport_allocations_created", help, of(|counts| counts.allocations_created))?;
    let ended = sum.allocations_ended.iter().map(|(reason, &n)| (vec![("reason", reason.clone())], n));
    page.counter("allocations_ended", "Allocations ended, by reason.", ended)
}

fn requests(page: &mut Page<'_>, sum: &Counts) -> fmt::Result {
    let errors = sum
        .errors
        .iter()
        .map(|error| (vec![("method", error.method.clone()), ("code", error.code.to_string())], error.count));
    page.counter("errors", "Error answers, by method and code.", errors)?;
    let refusals = sum.refusals.iter().map(|refusals| {
        let labels = vec![
            ("method", refusals.method.clone()),
            ("code", refusals.code.to_string()),
            ("reason", refusals.reason.clone()),
        ];
        (labels, refusals.count)
    });
    page.counter(
        "refusals",
        "Requests with credentials that were refused, by method, code and reason.",
        refusals,
    )?;
    let results = sum.authentications.iter().map(|(result, &n)| (vec![("result", result.clone())], n));
    page.counter("authentications", "Requests, by the result of their authentication.", results)?;
    page.counter("bindings", "Binding requests answered with success.", plain(sum.bindings))
}

fn sockets(page: &mut Page<'_>, totals: &Totals) -> fmt::Result {
    let sum = &totals.sum;
    page.gauge("relay_sockets", "Sockets towards peers.", plain(sum.relay_sockets))?;
    let help = "Datagrams that the kernel dropped because the buffer of a socket was full.";
    page.counter("socket_drops", help, plain(sum.socket_drops))?;
    page.counter("relay_ports_failed", "Relay ports that could not be opened.", plain(sum.ports_failed))?;
    let ports = |of: fn(&crate::model::PortUse) -> u64| {
        totals.ports.iter().map(move |port| (vec![("address", port.address.to_string())], of(port)))
    };
    page.gauge("relay_ports_used", "Relay ports in use, by address.", ports(|port| port.used))?;
    page.gauge("relay_ports_limit", "Relay ports of the range, by address.", ports(|port| port.total))
}

fn streams(page: &mut Page<'_>, streams: &StreamCounts) -> fmt::Result {
    let by = |label: &'static str, counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, &n)| (vec![(label, name.clone())], n)).collect::<Vec<_>>()
    };
    let open = [("tcp", streams.tcp), ("tls", streams.tls)];
    page.gauge(
        "stream_connections",
        "Connections of clients that have sent a message, by transport.",
        open.map(|(transport, n)| (vec![("transport", transport.to_owned())], n)),
    )?;
    let help = "Connections of clients that have not sent a message yet.";
    page.gauge("stream_connections_opening", help, plain(streams.opening))?;
    let help = "Connections of clients that were taken.";
    page.counter("stream_connections_accepted", help, plain(streams.accepted))?;
    let help = "Connections of clients that were closed, or not taken, by reason.";
    page.counter("stream_connections_closed", help, by("reason", &streams.closed))?;
    let help = "TLS handshakes of clients that ended well, by version and kind.";
    let handshakes = streams
        .handshakes
        .iter()
        .map(|one| (vec![("version", one.version.clone()), ("kind", one.kind.clone())], one.count));
    page.counter("tls_handshakes", help, handshakes)?;
    let help = "Media and answers for clients over TCP and TLS that went nowhere, by reason.";
    page.counter("stream_drops", help, by("reason", &streams.dropped))?;
    let help =
        "Times that a client over TCP or TLS was not read from, since its bandwidth limit was used up.";
    page.counter("stream_pauses", help, plain(streams.pauses))?;
    let help = "Time in which clients over TCP and TLS were not read from, all connections together.";
    page.counter_f64("stream_paused_seconds", help, [(Vec::new(), streams.paused_secs)])?;
    fallback(page, &streams.fallback)
}

fn fallback(page: &mut Page<'_>, fallback: &FallbackCounts) -> fmt::Result {
    let help = "Connections that are not TURN's, passed to tls-fallback.";
    page.gauge("fallback_connections", help, plain(fallback.connections))?;
    let help = "Connections that were passed to tls-fallback.";
    page.counter("fallback_connections_accepted", help, plain(fallback.accepted))?;
    let bytes = [("to_fallback", fallback.bytes_to_fallback), ("to_client", fallback.bytes_to_client)];
    page.counter(
        "fallback_bytes",
        "Bytes of connections that were passed to tls-fallback, by direction.",
        bytes.map(|(direction, n)| (vec![("direction", direction.to_owned())], n)),
    )
}

fn tcp_relay(page: &mut Page<'_>, counts: &TcpRelayCounts) -> fmt::Result {
    page.gauge("tcp_relay_allocations", "Allocations that relay TCP.", plain(counts.allocations))?;
    let open = [("unbound", counts.unbound), ("bound", counts.bound)];
    page.gauge(
        "tcp_relay_open_connections",
        "Connections with peers, by whether a client's is bound to them.",
        open.map(|(state, n)| (vec![("state", state.to_owned())], n)),
    )?;
    let events = counts.connections.iter().map(|(event, &n)| (vec![("event", event.clone())], n));
    let help = "What happened to connections with peers.";
    page.counter("tcp_relay_connections", help, events.collect::<Vec<_>>())?;
    let bytes = [("to_peer", counts.bytes_to_peer), ("to_client", counts.bytes_to_client)];
    let help = "Bytes relayed by TCP, by direction; turnpike_relayed_bytes has them, too.";
    page.counter(
        "tcp_relay_bytes",
        help,
        bytes.map(|(direction, n)| (vec![("direction", direction.to_owned())], n)),
    )
}

fn offload(page: &mut Page<'_>, offload: &OffloadCounts) -> fmt::Result {
    page.gauge(
        "offload_active",
        "Whether the kernel forwards on at least one interface, as long as there is anything to forward.",
        one(offload.active),
    )?;
    page.gauge("offload_interfaces", "Interfaces with the program.", plain(offload.interfaces))?;
    page.gauge("offload_routes", "Routes in the kernel, two for each channel.", plain(offload.routes))?;
    page.gauge("offload_routes_limit", "Routes that fit into the kernel.", plain(offload.max_routes))?;
    page.gauge("offload_channels", "Channels that the kernel forwards for.", plain(offload.channels))?;
    let help = "Channels that wait in userspace until something changes.";
    page.gauge("offload_channels_waiting", help, plain(offload.channels_waiting))?;
    let help = "Datagrams of channels that came to userspace although they were the kernel's to forward.";
    page.counter("offload_missed", help, plain(offload.missed))?;
    let help = "Entries of the kernel that differed from what they should be.";
    page.counter("offload_resync_differences", help, plain(offload.resync_differences))?;
    let help = "Datagrams that the kernel forwarded and an interface could not send.";
    page.counter("offload_transmit_drops", help, plain(offload.transmit_drops))?;
    let by = |of: fn(&SentByInterface) -> u64| {
        offload.sent.iter().map(move |(name, sent)| (vec![("interface", name.clone())], of(sent)))
    };
    let help = "Whether what is sent by an interface goes through the kernel.";
    page.gauge("offload_interface_forwards", help, by(|sent| u64::from(sent.forwards)))?;
    let help = "Datagrams that the kernel forwarded by an interface, those included that it lost.";
    page.counter("offload_interface_sent", help, by(|sent| sent.datagrams))?;
    let help = "Datagrams that the kernel forwarded and an interface lost.";
    page.counter("offload_interface_lost", help, by(|sent| sent.lost))?;
    let help =
        "Time since the last sign of life of the thread that keeps the kernel's routes, one each second.";
    page.gauge("offload_heartbeat_age_seconds", help, offload.heartbeat_age_secs.map(|age| (Vec::new(), age)))
}

fn workers(page: &mut Page<'_>, workers: &[WorkerTotals]) -> fmt::Result {
    let label = |worker: &WorkerTotals| vec![("worker", worker.index.to_string())];
    let samples =
        |of: fn(&WorkerTotals) -> u64| workers.iter().map(move |worker| (label(worker), of(worker)));
    page.gauge("worker_allocations", "Allocations of each worker.", samples(|w| w.counts.allocations))?;
    page.counter("worker_turns", "Turns of each worker's loop.", samples(|w| w.load.turns))?;
    let busy = workers.iter().map(|worker| (label(worker), worker.load.busy_secs));
    page.counter_f64("worker_busy_seconds", "Seconds in which each worker was not asleep.", busy)?;
    let waits = workers.iter().map(|worker| (label(worker), worker.load.coalesce_secs));
    let help = "How long each worker waits for more datagrams when none is there: 0 below half load.";
    page.gauge_f64("worker_coalesce_seconds", help, waits)?;
    let durations = workers
        .iter()
        .filter_map(|worker| worker.load.turn_duration.as_ref().map(|durations| (label(worker), durations)));
    page.histogram(
        "worker_turn_duration_seconds",
        "How long turns took: what a datagram may have to wait.",
        durations,
    )
}

/// By file, for two certificates may have the same name.
fn certificates(page: &mut Page<'_>, certificates: &[Certificate]) -> fmt::Result {
    let samples = |of: fn(&Certificate) -> i64| {
        let sample = move |certificate: &Certificate| {
            let name = certificate.names.first().cloned().unwrap_or_default();
            let labels = vec![("file", certificate.cert_file.clone()), ("name", name)];
            (labels, u64::try_from(of(certificate)).unwrap_or(0))
        };
        certificates.iter().map(sample)
    };
    page.gauge(
        "certificate_expires_seconds",
        "When each certificate expires, in seconds since 1970.",
        samples(|certificate| certificate.expires_unix_secs),
    )?;
    page.gauge(
        "certificate_loaded_seconds",
        "When the files of each certificate could last be used, in seconds since 1970.",
        samples(|certificate| certificate.loaded_unix_secs),
    )?;
    page.gauge(
        "certificate_fault",
        "Whether the files can't be used as they are now: the certificate from before stays in force.",
        samples(|certificate| i64::from(certificate.fault.is_some())),
    )
}

/// What the API counts of itself.
#[derive(Debug)]
struct Api {
    answers: Vec<(Labels, u64)>,
    wrong_tokens: u64,
    refused_connections: u64,
}

impl Api {
    fn of(counts: &ApiCounts) -> Self {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let by_class = counts.answers.iter().enumerate().skip(2);
        Self {
            answers: by_class.map(|(class, n)| (vec![("code", format!("{class}xx"))], read(n))).collect(),
            wrong_tokens: read(&counts.wrong_tokens),
            refused_connections: read(&counts.refused_connections),
        }
    }

    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("admin_requests", "Requests to the administration, by status.", self.answers.clone())?;
        let help = "Requests to the administration with a wrong token.";
        page.counter("admin_wrong_tokens", help, plain(self.wrong_tokens))?;
        let help = "Connections to the administration that were refused because there were too many.";
        page.counter("admin_refused_connections", help, plain(self.refused_connections))
    }
}

type Labels = page::Labels;

/// The one sample of a metric without labels.
fn plain(value: u64) -> [(Labels, u64); 1] {
    [(Vec::new(), value)]
}

fn one(yes: bool) -> [(Labels, u64); 1] {
    plain(u64::from(yes))
}
