//! A relay that exists in memory only: its allocations come, carry traffic, and go. For working on the
//! dashboard, and for the tests of the API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use crate::model::*;
use crate::{Answer, ManagedRelay, RelayError};

/// Payload of the invented datagrams.
const DATAGRAM_BYTES: u64 = 1000;
/// Secrets that must never be seen in an answer.
pub const SECRET: &str = "hunter2-is-a-secret";
const LIFETIME_SECS: u64 = 600;

/// The relay that isn't one.
pub struct Fake {
    started: Instant,
    state: Mutex<State>,
    events: broadcast::Sender<Arc<Event>>,
}

struct State {
    allocations: BTreeMap<u64, Carrying>,
    users: BTreeMap<String, User>,
    next: u64,
    created: u64,
    ended: BTreeMap<String, u64>,
    ended_traffic: [TrafficByPath; 2],
    drain: DrainState,
    advanced: Instant,
    serial: u64,
    asked: u64,
}

/// An allocation, and how fast its client would like to send.
struct Carrying {
    allocation: Allocation,
    wanted_bits_per_sec: [u64; 2],
    fraction: [f64; 2],
}

impl Fake {
    /// A relay with some allocations.
    pub fn new(allocations: u64) -> Arc<Self> {
        let state = State {
            allocations: BTreeMap::new(),
            users: BTreeMap::new(),
            next: 1,
            created: 0,
            ended: BTreeMap::new(),
            ended_traffic: [TrafficByPath::default(); 2],
            drain: DrainState::default(),
            advanced: Instant::now(),
            serial: 0,
            asked: 0,
        };
        let fake = Arc::new(Self {
            started: Instant::now(),
            state: Mutex::new(state),
            events: broadcast::channel(1024).0,
        });
        for _ in 0..allocations {
            fake.create();
        }
        let configured = User {
            name: "from-the-file".into(),
            source: UserSource::Configuration,
            quota: None,
            max_bits_per_sec: None,
            created_unix_secs: None,
            updated_unix_secs: None,
        };
        fake.state().users.insert(configured.name.clone(), configured);
        fake
    }

    /// One more allocation.
    pub fn create(&self) -> AllocationId {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let carrying = invent(number);
        let allocation = carrying.allocation.clone();
        state.allocations.insert(allocation.id.0, carrying);
        state.created += 1;
        drop(state);
        let id = allocation.id;
        self.publish(Event::Created { allocation });
        id
    }

    /// How often it was asked about one allocation: in a real relay, each time a worker is.
    pub fn times_asked(&self) -> u64 {
        self.state().asked
    }

    /// The oldest allocation ends, and a new one begins.
    pub fn churn(&self) {
        let oldest = self.state().allocations.keys().next().copied();
        if let Some(id) = oldest {
            self.end(id, "expired");
        }
        if !self.state().drain.draining {
            self.create();
        }
    }

    fn end(&self, id: u64, reason: &str) -> bool {
        let mut state = self.advanced();
        let Some(Carrying { allocation, .. }) = state.allocations.remove(&id) else {
            return false;
        };
        *state.ended.entry(reason.to_owned()).or_default() += 1;
        add(&mut state.ended_traffic[0], &allocation.to_peer);
        add(&mut state.ended_traffic[1], &allocation.to_client);
        drop(state);
        let duration_secs = unix_secs().saturating_sub(allocation.created_unix_secs) as f64;
        self.publish(Event::Ended { allocation, reason: reason.to_owned(), duration_secs });
        true
    }

    fn publish(&self, event: Event) {
        // Nobody listens: nobody misses it.
        let _ = self.events.send(Arc::new(event));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, with all traffic until now.
    fn advanced(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let secs = state.advanced.elapsed().as_secs_f64();
        state.advanced = Instant::now();
        let uptime = self.started.elapsed().as_secs_f64();
        for carrying in state.allocations.values_mut() {
            carrying.advance(secs, uptime);
        }
        state
    }

    fn drain_state(state: &State) -> DrainState {
        DrainState { allocations: state.allocations.len() as u64, ..state.drain.clone() }
    }
}

impl Carrying {
    fn advance(&mut self, secs: f64, uptime: f64) {
        let phase = self.allocation.id.0 as f64;
        let swing = 0.75 + 0.25 * (uptime / 7.0 + phase).sin();
        let limit = self.allocation.max_bits_per_sec;
        for direction in 0..2 {
            let wanted = self.wanted_bits_per_sec[direction] as f64 * swing;
            let rate = if limit == 0 { wanted } else { wanted.min(limit as f64) };
            let datagrams = rate * secs / (8.0 * DATAGRAM_BYTES as f64) + self.fraction[direction];
            let dropped = (wanted - rate) * secs / (8.0 * DATAGRAM_BYTES as f64);
            self.fraction[direction] = datagrams.fract();
            let kernel = self.allocation.offload.active;
            let allocation = &mut self.allocation;
            let (traffic, shown) = if direction == 0 {
                (&mut allocation.to_peer, &mut allocation.to_peer_bits_per_sec)
            } else {
                (&mut allocation.to_client, &mut allocation.to_client_bits_per_sec)
            };
            let path = if kernel { &mut traffic.kernel } else { &mut traffic.userspace };
            path.packets += datagrams as u64;
            path.bytes += datagrams as u64 * DATAGRAM_BYTES;
            path.rate_drops += dropped as u64;
            *shown = rate as u64;
        }
        self.allocation.expires_unix_secs = self.allocation.expires_unix_secs.max(unix_secs() + 60);
    }
}

/// Names that a page must show as they are, and not run.
const NAMES: &[&str] = &[
    "alice",
    "bob",
    "carol",
    "<img src=x onerror=alert(1)>",
    "dave\u{202e}gnp.exe",
    "\u{96ea}",
    "\"'><script>alert(2)</script>&amp;`${7*7}`",
    "a-name-without-an-end-a-name-without-an-end-a-name-without-an-end-a-name-without-an-end-a-name-without-an-end-\
     a-name-without-an-end-a-name-without-an-end-a-name-without-an-end-a-name-without-an-end-a-name-without-an-end",
];

fn invent(number: u64) -> Carrying {
    let name = NAMES[number as usize % NAMES.len()];
    let host = |base: u8| IpAddr::V4(Ipv4Addr::new(base, 51, (number / 250) as u8, (number % 250) as u8 + 1));
    let transport = match number % 5 {
        0 => Transport::Tcp,
        1 => Transport::Tls,
        _ => Transport::Udp,
    };
    let offload = invent_offload(number, transport);
    let now = unix_secs();
    let allocation = Allocation {
        id: AllocationId((number % 2) << 48 | number),
        user: format!("{}:{name}", now + 86_400).into(),
        quota_user: name.into(),
        transport,
        tls: (transport == Transport::Tls).then(|| Tls {
            version: "1.3".into(),
            cipher_suite: "TLS_CHACHA20_POLY1305_SHA256".into(),
            alpn: Some("stun.turn".into()),
        }),
        client: SocketAddr::new(host(198), 40_000 + (number % 20_000) as u16),
        server: SocketAddr::from(([192, 0, 2, 10], 3478)),
        proxy: None,
        relayed: vec![SocketAddr::from(([192, 0, 2, 10], 49_152 + (number % 16_000) as u16))],
        relayed_transport: Transport::Udp,
        connections: 0,
        peers: vec![host(203)],
        created_unix_secs: now,
        expires_unix_secs: now + LIFETIME_SECS,
        to_peer: TrafficByPath::default(),
        to_client: TrafficByPath::default(),
        stream_drops: 0,
        to_peer_bits_per_sec: 0,
        to_client_bits_per_sec: 0,
        max_bits_per_sec: 0,
        permissions: 1,
        channels: 1,
        offload,
    };
    let wanted = 100_000 * (1 + number % 30);
    Carrying { allocation, wanted_bits_per_sec: [wanted, wanted / 2], fraction: [0.0; 2] }
}

fn invent_offload(number: u64, transport: Transport) -> OffloadState {
    let (why_not, explanation) = match transport {
        Transport::Udp if number.is_multiple_of(3) => {
            ("no_channel", "the client sends indications and binds no channel")
        }
        Transport::Udp => {
            return OffloadState { active: true, channels_active: 1, ..OffloadState::default() };
        }
        _ => ("stream", "the client talks TCP or TLS, which only userspace can relay"),
    };
    OffloadState {
        why_not: Some(why_not.into()),
        explanation: Some(explanation.into()),
        ..OffloadState::default()
    }
}

fn add(sum: &mut TrafficByPath, more: &TrafficByPath) {
    for (to, from) in [(&mut sum.userspace, &more.userspace), (&mut sum.kernel, &more.kernel)] {
        to.packets += from.packets;
        to.bytes += from.bytes;
        to.rate_drops += from.rate_drops;
    }
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn unix_secs() -> u64 {
    unix_millis() / 1000
}

/// Each client has made a connection, and those of TLS a handshake.
fn stream_counts<'a>(allocations: impl Iterator<Item = &'a Allocation> + Clone) -> StreamCounts {
    let of = |transport| allocations.clone().filter(|one| one.transport == transport).count() as u64;
    let (tcp, tls) = (of(Transport::Tcp), of(Transport::Tls));
    let handshakes = HandshakeCount { version: "1.3".into(), kind: "full".into(), count: tls };
    let fallback = FallbackCounts {
        connections: 3,
        accepted: 1200,
        bytes_to_fallback: 450_000,
        bytes_to_client: 38_000_000,
    };
    let closed = [("fallback_cap", 2), ("fallback_unreachable", 5), ("fallback_done", 1190)];
    StreamCounts {
        tcp,
        tls,
        accepted: tcp + tls,
        closed: closed.map(|(reason, count)| (reason.to_owned(), count)).into(),
        handshakes: vec![handshakes],
        fallback,
        ..StreamCounts::default()
    }
}

fn ready<'a, T: Send + 'a>(value: Result<T, RelayError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

fn detail(allocation: &Allocation) -> AllocationDetail {
    let peer = allocation.peers[0];
    let expires_unix_secs = allocation.expires_unix_secs;
    AllocationDetail {
        as_of_unix_millis: unix_millis(),
        permission_list: vec![Permission { peer, expires_unix_secs }],
        channel_list: vec![Channel {
            number: 0x4000,
            peer: SocketAddr::new(peer, 5000),
            expires_unix_secs,
            offload: allocation.offload.clone(),
        }],
        drops: BTreeMap::from([("drop_rate_to_peer".into(), allocation.to_peer.total().rate_drops)]),
        allocation: allocation.clone(),
    }
}

impl ManagedRelay for Fake {
    fn status(&self) -> Status {
        let state = self.advanced();
        let uptime_secs = self.started.elapsed().as_secs();
        let allocations = state.allocations.len() as u64;
        let worker = |index| WorkerStatus {
            index,
            allocations: allocations / 2,
            relay_sockets: allocations / 2,
            busy_ratio: 0.21,
        };
        let now = i64::try_from(unix_secs()).expect("this century");
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            started_unix_secs: unix_secs() - uptime_secs,
            uptime_secs,
            realm: "example.org".into(),
            listeners: vec![Listener {
                address: SocketAddr::from(([192, 0, 2, 10], 3478)),
                transport: Transport::Udp,
            }],
            tls_fallback: Some(SocketAddr::from(([127, 0, 0, 1], 8443))),
            certificates: vec![Certificate {
                audience: CertificateAudience::Admin,
                cert_file: "/etc/turnpike/fullchain.pem".into(),
                key_file: "/etc/turnpike/privkey.pem".into(),
                names: vec!["turn.example.org".into()],
                expires_unix_secs: now + 60 * 86_400,
                loaded_unix_secs: now,
                fault: None,
            }],
            relay_addresses: vec![RelayAddress {
                address: IpAddr::from([192, 0, 2, 10]),
                external: None,
                first_port: 49_152,
                last_port: 65_535,
            }],
            data_path: DataPath { name: "io-uring".into(), why: "it works here".into() },
            offload: offload_status(allocations),
            workers: vec![worker(0), worker(1)],
            allocations,
            drain: Self::drain_state(&state),
            readiness: Readiness { ready: !state.drain.draining, reasons: draining_reasons(&state) },
            log_records_dropped: 0,
            events_dropped: 0,
        }
    }

    fn config(&self) -> Config {
        let option = |name: &str, value: &str, secret: bool| ConfigOption {
            name: name.into(),
            values: vec![if secret { "***".into() } else { value.into() }],
            secret,
            reloadable: secret,
        };
        Config { options: vec![option("realm", "example.org", false), option("auth-secret", SECRET, true)] }
    }

    fn readiness(&self) -> Readiness {
        let state = self.state();
        Readiness { ready: !state.drain.draining, reasons: draining_reasons(&state) }
    }

    fn faults(&self) -> Vec<String> {
        Vec::new()
    }

    fn totals(&self) -> Totals {
        let state = self.advanced();
        let mut sum = Counts {
            to_peer: state.ended_traffic[0],
            to_client: state.ended_traffic[1],
            allocations: state.allocations.len() as u64,
            allocations_created: state.created,
            allocations_ended: state.ended.clone(),
            ..Counts::default()
        };
        for Carrying { allocation, .. } in state.allocations.values() {
            add(&mut sum.to_peer, &allocation.to_peer);
            add(&mut sum.to_client, &allocation.to_client);
            sum.allocations_offloaded += u64::from(allocation.offload.active);
        }
        let seconds = self.started.elapsed().as_secs();
        sum.relay_sockets = sum.allocations;
        sum.streams = stream_counts(state.allocations.values().map(|carrying| &carrying.allocation));
        sum.verdicts = verdicts(&sum, seconds);
        sum.errors = vec![
            ErrorCount { method: "allocate".into(), code: 401, count: state.created },
            ErrorCount { method: "channel_bind".into(), code: 400, count: seconds / 5 },
        ];
        sum.refusals = refusal_counts(seconds);
        sum.authentications =
            BTreeMap::from([("accepted".into(), state.created * 4), ("challenged".into(), state.created)]);
        let worker = |index| WorkerTotals { index, load: worker_load(seconds), counts: sum.clone() };
        Totals {
            as_of_unix_millis: unix_millis(),
            workers: vec![worker(0)],
            offload: offload_counts(&sum, seconds),
            ports: vec![PortUse {
                address: IpAddr::from([192, 0, 2, 10]),
                used: sum.allocations,
                total: 16_384,
            }],
            total_quota: 20_000,
            sum,
        }
    }

    fn drop_reasons(&self) -> Vec<DropReason> {
        let reason = |name: &str, cause| DropReason { name: name.into(), cause };
        vec![
            reason("drop_malformed", DropCause::Sender),
            reason("drop_not_turn", DropCause::Sender),
            reason("drop_no_permission_from_peer", DropCause::Sender),
            reason("drop_rate_to_peer", DropCause::Policy),
            reason("drop_socket_overflow", DropCause::Relay),
        ]
    }

    fn refusals(&self) -> Refusals {
        let seconds = self.started.elapsed().as_secs();
        let refusals = refusal_counts(seconds).into_iter().enumerate();
        let mut refusals: Vec<Refusal> =
            refusals.map(|(number, of_reason)| invent_refusal(number, of_reason)).collect();
        refusals.sort_by_key(|refusal| std::cmp::Reverse(refusal.last_unix_secs));
        Refusals { refusals, totals: refusal_counts(seconds) }
    }

    fn snapshot(&self) -> Answer<'_, Arc<Snapshot>> {
        let mut state = self.advanced();
        state.serial += 1;
        let allocations = state.allocations.values().map(|carrying| carrying.allocation.clone()).collect();
        ready(Ok(Arc::new(Snapshot { as_of_unix_millis: unix_millis(), serial: state.serial, allocations })))
    }

    fn allocation(&self, id: AllocationId) -> Answer<'_, AllocationDetail> {
        let mut state = self.advanced();
        state.asked += 1;
        let Some(Carrying { allocation, .. }) = state.allocations.get(&id.0) else {
            return ready(Err(RelayError::NotFound("such allocation")));
        };
        ready(Ok(detail(allocation)))
    }

    fn disconnect(&self, id: AllocationId) -> Answer<'_, ()> {
        let known = self.end(id.0, "disconnected");
        ready(if known { Ok(()) } else { Err(RelayError::NotFound("such allocation")) })
    }

    fn limit(&self, id: AllocationId, bits_per_sec: u64) -> Answer<'_, AllocationDetail> {
        let mut state = self.advanced();
        state.asked += 1;
        let Some(Carrying { allocation, .. }) = state.allocations.get_mut(&id.0) else {
            return ready(Err(RelayError::NotFound("such allocation")));
        };
        allocation.max_bits_per_sec = bits_per_sec;
        let limited = Limited {
            id,
            user: allocation.user.to_string(),
            why: LimitedWhy::Changed,
            max_bits_per_sec: bits_per_sec,
            rate_drops: allocation.to_peer.total().rate_drops + allocation.to_client.total().rate_drops,
        };
        let detail = detail(allocation);
        drop(state);
        self.publish(Event::Limited(limited));
        ready(Ok(detail))
    }

    fn disconnect_user<'a>(&'a self, name: &'a str) -> Answer<'a, Disconnected> {
        let ids: Vec<u64> = self
            .state()
            .allocations
            .iter()
            .filter(|(_, carrying)| {
                *carrying.allocation.user == *name || *carrying.allocation.quota_user == *name
            })
            .map(|(&id, _)| id)
            .collect();
        let allocations = ids.iter().filter(|&&id| self.end(id, "disconnected")).count() as u64;
        ready(Ok(Disconnected { allocations }))
    }

    fn users(&self) -> Answer<'_, Vec<User>> {
        ready(Ok(self.state().users.values().cloned().collect()))
    }

    fn user<'a>(&'a self, name: &'a str) -> Answer<'a, User> {
        ready(self.state().users.get(name).cloned().ok_or(RelayError::NotFound("such user")))
    }

    fn put_user<'a>(&'a self, name: &'a str, change: UserChange) -> Answer<'a, (User, bool)> {
        if name.len() > 500 || name.contains(char::is_control) {
            return ready(Err(RelayError::Invalid("a name has no control characters".into())));
        }
        let mut state = self.state();
        let old = state.users.get(name).cloned();
        match &old {
            Some(old) if old.source == UserSource::Configuration => {
                return ready(Err(RelayError::Conflict("the configuration has this user".into())));
            }
            None if change.password.is_none() => {
                return ready(Err(RelayError::Invalid("a new user needs a password".into())));
            }
            _ => {}
        }
        let now = Some(unix_secs());
        let user = User {
            name: name.into(),
            source: UserSource::Database,
            quota: change.quota,
            max_bits_per_sec: change.max_bits_per_sec,
            created_unix_secs: old.as_ref().map_or(now, |old| old.created_unix_secs),
            updated_unix_secs: now,
        };
        state.users.insert(name.into(), user.clone());
        ready(Ok((user, old.is_none())))
    }

    fn delete_user<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        let mut state = self.state();
        match state.users.get(name).map(|user| user.source) {
            None => ready(Err(RelayError::NotFound("such user"))),
            Some(UserSource::Configuration) => {
                ready(Err(RelayError::Conflict("the configuration has this user".into())))
            }
            Some(UserSource::Database) => {
                state.users.remove(name);
                ready(Ok(()))
            }
        }
    }

    fn credentials(&self, request: CredentialRequest) -> Answer<'_, Credentials> {
        if request.user.contains(':') || request.user.contains(char::is_control) {
            return ready(Err(RelayError::Invalid(
                "a user name has neither a colon nor control characters".into(),
            )));
        }
        let ttl_secs = request.ttl_secs.unwrap_or(86_400);
        ready(Ok(Credentials {
            username: format!("{}:{}", unix_secs() + ttl_secs, request.user),
            password: Password::new("aW52ZW50ZWQ=".into()),
            ttl_secs,
            uris: vec!["turn:192.0.2.10:3478?transport=udp".into()],
        }))
    }

    fn drain(&self, request: DrainRequest) -> Answer<'_, DrainState> {
        let mut state = self.state();
        state.drain.draining = true;
        state.drain.since_unix_secs.get_or_insert(unix_secs());
        state.drain.deadline_unix_secs = request.deadline_secs.map(|secs| unix_secs() + secs);
        ready(Ok(Self::drain_state(&state)))
    }

    fn resume(&self) -> Answer<'_, DrainState> {
        let mut state = self.state();
        state.drain = DrainState::default();
        ready(Ok(Self::drain_state(&state)))
    }

    fn reload(&self) -> Answer<'_, ReloadReport> {
        ready(Ok(ReloadReport { applied: vec!["auth-secret".into()], ..ReloadReport::default() }))
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}

fn draining_reasons(state: &State) -> Vec<String> {
    if state.drain.draining { vec!["it is draining".into()] } else { Vec::new() }
}

/// Method, code, reason, detail: one of each kind that dashboards tell apart.
const REFUSALS: [(&str, u16, &str, Option<&str>); 8] = [
    ("allocate", 401, "expired-credential", Some("expired 3600 s ago")),
    ("allocate", 401, "wrong-key", None),
    ("allocate", 401, "unknown-user", None),
    ("create_permission", 403, "peer-denied", None),
    ("allocate", 486, "user-quota", Some("3 of 3")),
    ("allocate", 508, "no-port", None),
    ("channel_bind", 400, "channel-conflict", Some("channel 0x4000")),
    ("refresh", 438, "stale-nonce", None),
];

fn offload_status(allocations: u64) -> OffloadStatus {
    let mode = Some("native".into());
    let why = Some("never on lo".into());
    OffloadStatus {
        active: true,
        why: "attached to 1 of 2 interfaces".into(),
        interfaces: vec![
            InterfaceOffload {
                name: "eth0".into(),
                attached: true,
                mode,
                why: None,
                forwards: true,
                sent: 1000,
                lost: 1,
            },
            InterfaceOffload {
                name: "lo".into(),
                attached: false,
                mode: None,
                why,
                forwards: false,
                sent: 0,
                lost: 0,
            },
        ],
        routes: allocations * 2,
        max_routes: 262_144,
        heartbeat_age_secs: Some(0),
    }
}

fn worker_load(seconds: u64) -> WorkerLoad {
    WorkerLoad {
        turns: seconds * 1000,
        busy_secs: seconds as f64 * 0.21,
        busy_ratio: 0.21,
        coalesce_secs: 0.0,
        turn_duration: Some(Histogram {
            bounds_secs: vec![0.0001, 0.001, 0.01],
            counts: vec![seconds * 900, seconds * 99, seconds, 0],
            sum_secs: seconds as f64 * 0.21,
        }),
    }
}

fn offload_counts(sum: &Counts, seconds: u64) -> OffloadCounts {
    OffloadCounts {
        active: true,
        interfaces: 1,
        routes: sum.allocations * 2,
        max_routes: 262_144,
        verdicts: BTreeMap::from([
            ("to_peer".into(), sum.to_peer.kernel.packets),
            ("to_client".into(), sum.to_client.kernel.packets),
            ("drop_rate_to_peer".into(), sum.to_peer.kernel.rate_drops),
            ("pass_stun".into(), seconds * 3),
        ]),
        channels: sum.allocations,
        channels_waiting: 1,
        missed: seconds,
        resync_differences: 0,
        transmit_drops: 0,
        sent: BTreeMap::from([("eth0".into(), SentByInterface { datagrams: 1000, lost: 1, forwards: true })]),
        heartbeat_age_secs: Some(0),
    }
}

fn refusal_counts(seconds: u64) -> Vec<RefusalCount> {
    let counts = REFUSALS.iter().enumerate().map(|(number, (method, code, reason, _))| RefusalCount {
        method: (*method).into(),
        code: *code,
        reason: (*reason).into(),
        count: 1 + seconds / (3 + number as u64),
    });
    counts.collect()
}

fn invent_refusal(number: usize, counted: RefusalCount) -> Refusal {
    let RefusalCount { method, code, reason, count } = counted;
    let is_denied = code == 403;
    Refusal {
        first_unix_secs: unix_secs() - 3600,
        last_unix_secs: unix_secs() - 7 * number as u64,
        count,
        method,
        code,
        reason,
        user: (number != 2).then(|| NAMES[number % NAMES.len()].into()),
        client: SocketAddr::from(([198, 51, 100, 7 + number as u8], 50_000)),
        peer: is_denied.then(|| IpAddr::from([10, 0, 0, 20])),
        detail: REFUSALS[number].3.map(str::to_owned),
        remedy: is_denied.then(|| "--allow-peer 10.0.0.20".to_owned()),
    }
}

fn verdicts(sum: &Counts, seconds: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([
        ("channel_to_peer".into(), sum.to_peer.userspace.packets),
        ("channel_to_client".into(), sum.to_client.userspace.packets),
        ("answered".into(), sum.allocations_created * 5),
        ("drop_rate_to_peer".into(), sum.to_peer.userspace.rate_drops),
        ("drop_no_permission_from_peer".into(), seconds * 7),
        ("drop_malformed".into(), seconds / 3),
        ("drop_not_turn".into(), seconds),
        ("drop_socket_overflow".into(), seconds / 20),
    ])
}
