//! One thread of the generator: its flows' sockets, sessions, timetables and statistics.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::flow::{Flow, Link, Measured};
use super::mmsg::{Poller, SendBatch, mono_ns, receive_drops, set_precise_timers, thread_cpu_ns};
use super::payload::{Header, tag};
use super::receive::RecvBatch;
use super::receiver::{Clock, Received, accept_header, accept_payload, classify};
use super::schedule::Pace;
use super::sender::{Visit, disrupt, framing_prefix, send_due, send_single};
use super::stream::{Dial, Inbox, LinkError, StreamLink};
use super::{
    Framing, Live, PeerChoice, Plan, ReleaseReport, Reply, SetupReport, Trial, TrialReport, WorkerCommand,
    add_failure, any_address, open_socket,
};
use crate::limits::{MAX_SETUP_ATTEMPTS, PACKETS_PER_TURN, RECEIVES_PER_TURN, VISITS_PER_TURN};
use crate::session::{Session, SetupError, State};
use crate::stats::{GroupStats, Tracker};
use crate::transport::Transport;

/// Longest wait between looks at commands and the stop flag, ns.
const TURN_NS: u64 = 5_000_000;
/// Between looks at a connection that takes no more, ns.
const BLOCKED_NS: u64 = 500_000;
/// First packets tried when the time to the first byte is measured, and the time between them, ns.
const FIRST_BYTE_RETRY_NS: u64 = 200_000_000;
/// Longest wait for packets under way after a signal, ns.
const INTERRUPTED_DRAIN_NS: u64 = 500_000_000;
/// Seconds of packets in which duplicates are recognised.
const WINDOW_SECS: f64 = 2.0;
/// Room around the payload in a receive buffer: STUN header, attributes, padding.
const FRAMING_ROOM: usize = 576;
/// Trial number of packets that measure the first byte.
const SETUP_TRIAL: u32 = 0;

/// What a worker thread starts from.
pub(crate) struct Builder {
    pub plan: Arc<Plan>,
    pub index: usize,
    pub threads: usize,
    pub live: Arc<Live>,
    pub stop: Arc<AtomicBool>,
    pub peers: Vec<SocketAddr>,
}

impl Builder {
    /// Runs the thread until the command channel closes.
    pub fn run(self, inbox: &Receiver<WorkerCommand>, outbox: &Sender<Reply>) {
        set_precise_timers();
        let mut worker = Worker::new(self);
        loop {
            let reply = match inbox.try_recv() {
                Ok(WorkerCommand::Setup { deadline_ns }) => Reply::Setup(Box::new(worker.setup(deadline_ns))),
                Ok(WorkerCommand::Trial { trial, start_ns }) => {
                    Reply::Trial(Box::new(worker.trial(&trial, start_ns)))
                }
                Ok(WorkerCommand::Release { deadline_ns }) => Reply::Release(worker.release(deadline_ns)),
                Err(TryRecvError::Empty) => {
                    worker.turn(TURN_NS);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
            };
            if outbox.send(reply).is_err() {
                return;
            }
        }
    }
}

struct Worker {
    plan: Arc<Plan>,
    live: Arc<Live>,
    stop: Arc<AtomicBool>,
    peers: Vec<SocketAddr>,
    threads: usize,
    flows: Vec<Flow>,
    poller: Poller,
    recv: Option<Box<RecvBatch>>,
    inbox: Option<Box<Inbox>>,
    send: SendBatch,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    ready: Vec<u64>,
    rng: ChaCha8Rng,
    stats: Vec<GroupStats>,
    trial: u32,
    sessions_done: u64,
    connections_lost: u64,
}

impl Worker {
    fn new(from: Builder) -> Self {
        let Builder { plan, index, threads, live, stop, peers } = from;
        let mine: Vec<usize> =
            (0..plan.flows.len()).filter(|&flow| plan.flows[flow].unit % threads == index).collect();
        let local = |global: usize| mine.binary_search(&global).expect("a unit's flows share a worker");
        let flows = mine.iter().map(|&global| new_flow(&plan, global, &local)).collect();
        let largest = plan.groups.iter().map(|group| group.payload_bytes).max().unwrap_or(0);
        Self {
            recv: Some(Box::new(RecvBatch::connected((largest + FRAMING_ROOM).next_multiple_of(64)))),
            inbox: plan.transport.is_stream().then(Box::default),
            stats: vec![GroupStats::default(); plan.groups.len()],
            plan,
            live,
            stop,
            peers,
            threads,
            flows,
            poller: Poller::new().expect("an epoll descriptor was counted in the open-files check"),
            send: SendBatch::default(),
            timers: BinaryHeap::new(),
            due: BinaryHeap::new(),
            ready: Vec::new(),
            rng: ChaCha8Rng::from_os_rng(),
            trial: SETUP_TRIAL,
            sessions_done: 0,
            connections_lost: 0,
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One turn of the loop: timers, then what the sockets have, waiting at most `wait_ns` for it.
    fn turn(&mut self, wait_ns: u64) {
        let now_ns = mono_ns();
        while let Some(&Reverse((at_ns, index))) = self.timers.peek() {
            if at_ns > now_ns {
                break;
            }
            self.timers.pop();
            let flow = &mut self.flows[index as usize];
            flow.armed_ns = u64::MAX;
            flow.session.handle_timeout(now_ns, &mut self.rng);
            self.settle(index as usize);
        }
        let until_timer =
            self.timers.peek().map_or(u64::MAX, |Reverse((at_ns, _))| at_ns.saturating_sub(now_ns));
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(wait_ns.min(until_timer).min(TURN_NS), &mut ready);
        for index in ready.drain(..) {
            self.receive(index as usize);
        }
        self.ready = ready;
    }

    /// Sends what the session wants sent and notes when it wants to be called again.
    fn settle(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        let mut refused = false;
        while let Some(mut message) = flow.session.poll_transmit() {
            if self.plan.disrupt {
                disrupt(&mut message, &mut self.rng);
            }
            match &mut flow.link {
                // Any other error is a lost datagram, which the session's retransmission makes good.
                Some(Link::Udp(socket)) => {
                    refused |=
                        socket.send(&message).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                }
                Some(Link::Stream(link)) => link.send(&message),
                None => {}
            }
        }
        if refused && matches!(flow.session.state(), State::Allocating) {
            flow.session.fail(SetupError::Refused(Transport::Udp));
        }
        self.flush(index);
        let flow = &mut self.flows[index];
        let wanted_ns = flow.session.poll_timeout();
        if wanted_ns < flow.armed_ns {
            flow.armed_ns = wanted_ns;
            self.timers.push(Reverse((wanted_ns, index as u32)));
        }
    }

    /// Writes what a connection has queued, and waits for room if there is none.
    fn flush(&mut self, index: usize) {
        let Some(link) = self.flows[index].stream() else { return };
        let flushed = link.flush();
        let wanted = link.wants_write();
        if wanted != link.watched_for_writing {
            link.watched_for_writing = wanted;
            // It was added, so it can be changed.
            let _ = self.poller.set_writing(link.fd(), index as u64, wanted);
        }
        if let Err(error) = flushed {
            self.lose(index, error);
        }
    }

    /// A connection is over, and its allocation with it.
    fn lose(&mut self, index: usize, error: LinkError) {
        let flow = &mut self.flows[index];
        flow.link = None;
        match flow.session.state() {
            State::Failed(_) | State::Released => return,
            State::Ready | State::Releasing => self.connections_lost += 1,
            _ => {}
        }
        flow.session.disconnect(match error {
            LinkError::Refused => SetupError::Refused(self.plan.transport),
            error => SetupError::Connection(error),
        });
    }

    fn receive_stream(&mut self, index: usize, inbox: &mut Inbox) {
        let Some(link) = self.flows[index].stream() else { return };
        let outcome = link.receive(inbox);
        let now_ns = mono_ns();
        let mut control = false;
        for message in 0..inbox.len() {
            control |= self.take_datagram(index, Some(inbox.message(message)), now_ns);
        }
        match outcome {
            Err(error) => self.lose(index, error),
            Ok(()) if control => self.settle(index),
            Ok(()) => self.flush(index),
        }
    }

    fn receive(&mut self, index: usize) {
        if let Some(mut inbox) = self.inbox.take() {
            self.receive_stream(index, &mut inbox);
            self.inbox = Some(inbox);
            return;
        }
        let Some(mut recv) = self.recv.take() else { return };
        let mut taken = 0;
        while taken < RECEIVES_PER_TURN
            && let Some(count) = self.receive_batch(index, &mut recv)
        {
            taken += count;
        }
        self.recv = Some(recv);
    }

    /// Returns how many datagrams it took, if more may wait.
    fn receive_batch(&mut self, index: usize, recv: &mut RecvBatch) -> Option<usize> {
        let count = self.flows[index].socket().map(|socket| recv.recv(socket.as_fd()));
        let now_ns = mono_ns();
        let mut control = false;
        let mut more = None;
        match count {
            Some(Ok(count)) => {
                more = recv.is_full().then_some(count);
                for datagram in 0..count {
                    control |= self.take_datagram(index, recv.datagram(datagram), now_ns);
                }
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let session = &mut self.flows[index].session;
                if matches!(session.state(), State::Allocating) {
                    session.fail(SetupError::Refused(Transport::Udp));
                }
            }
            _ => {}
        }
        if control {
            self.settle(index);
        }
        more
    }

    /// Returns whether the session has changed.
    fn take_datagram(&mut self, index: usize, data: Option<&[u8]>, now_ns: u64) -> bool {
        let flow = &mut self.flows[index];
        let group = &self.plan.groups[flow.group];
        let stats = &mut self.stats[flow.group];
        let clock = Clock { now_ns, late_ns: self.plan.late_ns };
        let expected = tag(self.trial, flow.expected_sender);
        if group.framing == Framing::Invalid {
            stats.received += 1;
            return false;
        }
        let Some(data) = data else {
            stats.corrupted += 1;
            return false;
        };
        match classify(data, group.framing, flow.session.channel(), now_ns) {
            Received::Data(payload) if self.trial == SETUP_TRIAL => {
                let first = Header::read(payload).is_some_and(|header| header.tag == expected);
                flow.first_byte_done |= first;
            }
            Received::Data(payload) => accept_payload(payload, flow, group, stats, clock, expected),
            Received::BindingAnswer(header) if header.tag == expected => {
                accept_header(header, flow, stats, clock);
            }
            Received::BindingAnswer(_) | Received::Stray => stats.stray += 1,
            Received::Control => return flow.session.handle(now_ns, &mut self.rng, data),
        }
        false
    }

    fn setup(&mut self, deadline_ns: u64) -> SetupReport {
        let mut report = SetupReport { wanted: self.flows.len(), ..SetupReport::default() };
        // Reservation tokens are needed by others: their givers come first.
        let mut order: Vec<usize> = (0..self.flows.len()).collect();
        order.sort_by_key(|&index| self.flows[index].token_from.is_some());
        let mut waiting = order.into_iter().peekable();
        let begun_ns = mono_ns();
        let mut started = 0u64;
        loop {
            let now_ns = mono_ns();
            report.interrupted = self.is_stopping();
            if report.interrupted || now_ns >= deadline_ns {
                break;
            }
            let mut room =
                self.in_flight().saturating_sub(self.flows.iter().filter(|flow| flow.is_busy()).count());
            let allowed = self.plan.setup_rate / self.threads as f64 * (now_ns - begun_ns) as f64 / 1e9 + 1.0;
            while room > 0
                && (started as f64) < allowed
                && let Some(&index) = waiting.peek()
                && self.start_flow(index, now_ns)
            {
                waiting.next();
                started += 1;
                room -= 1;
            }
            self.turn(if room > 0 && waiting.peek().is_some() { 100_000 } else { 1_000_000 });
            self.advance_all(&mut report);
            let failed = self.flows.iter().any(|flow| matches!(flow.session.state(), State::Failed(_)));
            let all = self.flows.iter().all(|flow| flow.is_settled(self.plan.first_byte));
            if all || (failed && !self.plan.keep_going) {
                break;
            }
        }
        self.finish_setup(&mut report, mono_ns() >= deadline_ns);
        report
    }

    fn in_flight(&self) -> usize {
        self.plan.in_flight.div_ceil(self.threads).max(1)
    }

    /// Opens the socket and sends the first request. False while the flow must wait for a token.
    fn start_flow(&mut self, index: usize, now_ns: u64) -> bool {
        let mut token = None;
        if let Some(giver) = self.flows[index].token_from {
            let giver = &self.flows[giver].session;
            match giver.state() {
                State::Idle | State::Allocating => return false,
                _ => token = giver.reservation_token(),
            }
        }
        let link =
            if self.plan.transport.is_stream() { self.open_stream(index) } else { self.open_udp(index) };
        let flow = &mut self.flows[index];
        if flow.attempts == 0 {
            flow.started_ns = now_ns;
        }
        flow.attempts += 1;
        match link {
            Ok(link) => flow.link = Some(link),
            Err(error) => {
                flow.session.fail(error);
                return true;
            }
        }
        match (self.plan.no_setup, self.plan.transport) {
            (true, Transport::Udp) => flow.session.skip_setup(),
            // It is ready when it is connected.
            (true, _) => {}
            (false, _) => flow.session.start(now_ns, &mut self.rng, flow.even_port, token),
        }
        self.settle(index);
        true
    }

    fn open_udp(&self, index: usize) -> Result<Link, SetupError> {
        let plan = &self.plan;
        let local = plan.local.map_or_else(|| any_address(plan.server), |ip| SocketAddr::new(ip, 0));
        open_socket(local, plan.device.as_deref(), plan.socket_buffer_bytes)
            .and_then(|socket| socket.connect(plan.server).map(|()| socket))
            .and_then(|socket| self.poller.add(socket.as_fd(), index as u64).map(|()| Link::Udp(socket)))
            .map_err(|error| SetupError::Socket(error.to_string()))
    }

    fn open_stream(&self, index: usize) -> Result<Link, SetupError> {
        let plan = &self.plan;
        let dial = Dial {
            local: plan.local,
            device: plan.device.as_deref(),
            receive_buffer_bytes: None,
            tls: plan.tls.as_ref(),
        };
        let link = StreamLink::connect(plan.server, &dial).map_err(|error| match error {
            LinkError::Refused => SetupError::Refused(plan.transport),
            error => SetupError::Connection(error),
        })?;
        self.poller
            .add(link.fd(), index as u64)
            .map(|()| Link::Stream(Box::new(link)))
            .map_err(|error| SetupError::Socket(error.to_string()))
    }

    fn advance_all(&mut self, report: &mut SetupReport) {
        let now_ns = mono_ns();
        for index in 0..self.flows.len() {
            self.note_connected(index, report);
            match self.flows[index].session.state() {
                State::Allocated => self.bind(index, now_ns, report),
                State::Ready => self.note_ready(index, now_ns, report),
                // The server still knows this 5-tuple: take another (RFC 8656 section 7.3).
                State::Failed(SetupError::Code { request: "Allocate", code: 437, .. })
                    if self.flows[index].attempts < MAX_SETUP_ATTEMPTS =>
                {
                    let flow = &mut self.flows[index];
                    flow.session = Session::new(self.plan.groups[flow.group].session.clone());
                    self.start_flow(index, now_ns);
                }
                _ => {}
            }
        }
        self.live.sessions.store(self.sessions_done, Ordering::Relaxed);
    }

    /// A connection has been opened: with nothing to allocate, that is all.
    fn note_connected(&mut self, index: usize, report: &mut SetupReport) {
        let flow = &mut self.flows[index];
        if flow.measured.connected {
            return;
        }
        let Some(after_ns) = flow.stream().and_then(|link| link.opened_after_ns()) else { return };
        flow.measured.connected = true;
        report.connect.record(after_ns);
        if self.plan.no_setup {
            flow.session.skip_setup();
        }
    }

    fn bind(&mut self, index: usize, now_ns: u64, report: &mut SetupReport) {
        let flow = &mut self.flows[index];
        if !std::mem::replace(&mut flow.measured.allocated, true) {
            report.allocate.record(now_ns - flow.started_ns);
        }
        let peer = match flow.peer {
            PeerChoice::None => return flow.session.skip_setup(),
            PeerChoice::Fixed(peer) => peer,
            PeerChoice::BuiltIn => self.peers[flow.id as usize % self.peers.len()],
            PeerChoice::Partner(other) => {
                match (self.flows[other].session.relayed(), self.flows[other].session.state()) {
                    (_, State::Failed(_)) => return self.flows[index].session.fail(SetupError::Partner),
                    (Some(relayed), _) => relayed,
                    (None, _) => return,
                }
            }
        };
        self.flows[index].session.bind(now_ns, &mut self.rng, peer);
        self.settle(index);
    }

    fn note_ready(&mut self, index: usize, now_ns: u64, report: &mut SetupReport) {
        let flow = &mut self.flows[index];
        let group = &self.plan.groups[flow.group];
        if !std::mem::replace(&mut flow.measured.ready, true) {
            if !self.plan.no_setup {
                report.ready_delay.record(now_ns - flow.started_ns);
            }
            let id = (u128::from(self.rng.next_u32()) << 64) | u128::from(self.rng.next_u64());
            flow.prefix = framing_prefix(group, flow.session.channel(), flow.session.peer(), id);
            self.sessions_done += 1;
        }
        if !self.plan.first_byte || flow.first_byte_done && flow.first_sent_ns == u64::MAX {
            return;
        }
        if flow.first_byte_done {
            report.first_byte.record(now_ns - flow.started_ns);
            flow.first_sent_ns = u64::MAX;
        } else if now_ns >= flow.first_sent_ns.saturating_add(FIRST_BYTE_RETRY_NS) || flow.first_sent_ns == 0
        {
            flow.first_sent_ns = now_ns;
            let header = Header { number: 0, tag: tag(SETUP_TRIAL, flow.id), sent_ns: now_ns };
            send_single(flow, group, &mut self.send, header);
            self.flush(index);
        }
    }

    fn finish_setup(&mut self, report: &mut SetupReport, timed_out: bool) {
        for flow in &mut self.flows {
            match flow.session.state() {
                State::Ready => report.ready += 1,
                State::Failed(_) => {}
                State::Allocating if timed_out => {
                    flow.session.fail(SetupError::NoAnswer("Allocate", self.plan.transport));
                }
                _ if timed_out => flow.session.fail(SetupError::Deadline),
                _ => {}
            }
            if let State::Failed(reason) = flow.session.state() {
                add_failure(&mut report.failures, reason.clone(), 1);
            }
        }
    }

    fn trial(&mut self, trial: &Trial, start_ns: u64) -> TrialReport {
        self.begin_trial(trial, start_ns);
        let cpu_ns = thread_cpu_ns();
        let mut drain_ns = trial.drain.as_nanos() as u64;
        let mut last_sent_ns = start_ns;
        let mut interrupted = false;
        loop {
            let now_ns = mono_ns();
            if !interrupted && self.is_stopping() {
                interrupted = true;
                drain_ns = drain_ns.min(INTERRUPTED_DRAIN_NS);
                self.due.clear();
                last_sent_ns = now_ns;
            }
            let behind = self.send_what_is_due(now_ns, trial.number);
            if !self.due.is_empty() {
                last_sent_ns = now_ns;
            }
            let (sent, received) = self.publish();
            let drained = received >= sent || now_ns >= last_sent_ns + drain_ns;
            if self.due.is_empty() && drained {
                break;
            }
            let next_ns = self.due.peek().map_or(now_ns + 1_000_000, |Reverse((at_ns, _))| *at_ns);
            self.turn(if behind { 0 } else { next_ns.saturating_sub(mono_ns()) });
        }
        let cpu_secs = (thread_cpu_ns() - cpu_ns) as f64 / 1e9;
        self.finish_trial(Duration::from_nanos(last_sent_ns - start_ns), cpu_secs, interrupted)
    }

    fn begin_trial(&mut self, trial: &Trial, start_ns: u64) {
        self.trial = trial.number;
        self.stats.iter_mut().for_each(|group| *group = GroupStats::default());
        self.due.clear();
        let total_flows = self.plan.flows.len() as f64;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            if *flow.session.state() != State::Ready {
                continue;
            }
            let group = &self.plan.groups[flow.group];
            let rate = group.packets_per_sec * trial.rate_factor;
            let run = u64::from(group.run);
            let total = trial.count.unwrap_or_else(|| {
                trial.duration.map_or(u64::MAX, |d| Pace::packets_within(rate, run, d.as_nanos() as u64))
            });
            let interval_ns = if rate.is_finite() { run as f64 * 1e9 / rate } else { 0.0 };
            let spread_ns = trial.spread.map_or(interval_ns, |spread| spread.as_nanos() as f64);
            // Evenly spread starts: the load is as smooth as the flows' own runs allow.
            let offset_ns = (spread_ns * f64::from(flow.id) / total_flows) as u64;
            flow.pace = Pace::new(start_ns + offset_ns, rate, run, total);
            flow.tracker = Tracker::new((rate.min(1e6) * WINDOW_SECS) as u64);
            flow.nominal_gap_ns = (run == 1 && interval_ns > 0.0).then_some(interval_ns as u64);
            flow.drops_base = flow.socket().map_or(0, |socket| receive_drops(socket.as_fd()));
            if let Some(due_ns) = flow.pace.due_ns() {
                self.due.push(Reverse((due_ns.next_multiple_of(self.plan.tick_ns.max(1)), index as u32)));
            }
        }
    }

    /// Visits the flows whose time has come. Returns whether more of them wait.
    fn send_what_is_due(&mut self, now_ns: u64, trial: u32) -> bool {
        let visit = Visit {
            now_ns,
            trial,
            max_lag_ns: self.plan.max_lag_ns,
            gso: self.plan.gso,
            disrupt: self.plan.disrupt,
            over_streams: self.plan.transport.is_stream(),
        };
        let mut packets = 0;
        for _ in 0..VISITS_PER_TURN {
            if packets >= PACKETS_PER_TURN {
                return true;
            }
            let Some(&Reverse((due_ns, index))) = self.due.peek() else { return false };
            if due_ns > now_ns {
                return false;
            }
            self.due.pop();
            let flow = &mut self.flows[index as usize];
            let group = &self.plan.groups[flow.group];
            packets +=
                send_due(flow, group, &mut self.send, &mut self.stats[flow.group], &visit, &mut self.rng);
            if let Some(next_ns) = flow.pace.due_ns() {
                let at_ns = next_ns.next_multiple_of(self.plan.tick_ns.max(1));
                // A flow without a clock takes turns with the others.
                let at_ns = if flow.pace.is_flood() { now_ns + 1 } else { at_ns };
                let at_ns = if flow.is_blocked() { now_ns + BLOCKED_NS } else { at_ns };
                self.due.push(Reverse((at_ns, index)));
            }
            self.flush(index as usize);
        }
        true
    }

    fn publish(&self) -> (u64, u64) {
        let sent = self.stats.iter().map(|group| group.sent).sum();
        let received = self.stats.iter().map(|group| group.received).sum();
        self.live.sent.store(sent, Ordering::Relaxed);
        self.live.received.store(received, Ordering::Relaxed);
        self.live.running.store(self.flows.len() as u64, Ordering::Relaxed);
        (sent, received)
    }

    fn finish_trial(&mut self, sending: Duration, cpu_secs: f64, interrupted: bool) -> TrialReport {
        let mut renewal_failures = 0;
        for flow in &self.flows {
            let stats = &mut self.stats[flow.group];
            if flow.tracker.received > 1 {
                stats.add_jitter(flow.tracker.jitter_ns);
            }
            renewal_failures += flow.session.renewal_failures();
            if let Some(socket) = flow.socket() {
                stats.own_drops += receive_drops(socket.as_fd()).saturating_sub(flow.drops_base);
            }
        }
        self.live.running.store(0, Ordering::Relaxed);
        TrialReport {
            groups: self.stats.clone(),
            sending,
            cpu_secs,
            series: Vec::new(),
            interrupted,
            renewal_failures,
            connections_lost: std::mem::take(&mut self.connections_lost),
        }
    }

    fn release(&mut self, deadline_ns: u64) -> ReleaseReport {
        let mut waiting = (0..self.flows.len())
            .filter(|&index| self.flows[index].session.has_allocation())
            .collect::<Vec<_>>()
            .into_iter();
        let mut under_way: Vec<usize> = Vec::new();
        loop {
            let now_ns = mono_ns();
            while under_way.len() < self.in_flight()
                && let Some(index) = waiting.next()
            {
                self.flows[index].session.release(now_ns, &mut self.rng);
                self.settle(index);
                under_way.push(index);
            }
            if under_way.is_empty() || now_ns >= deadline_ns {
                break;
            }
            self.turn(1_000_000);
            under_way.retain(|&index| *self.flows[index].session.state() == State::Releasing);
            self.live.sessions.store(self.deleted() as u64, Ordering::Relaxed);
        }
        let left = self.flows.iter().filter(|flow| flow.session.has_allocation()).count();
        let confirmed = self.deleted();
        let connections_lost = self.connections_lost;
        ReleaseReport { held: left + confirmed, confirmed, connections_lost, elapsed: Duration::ZERO }
    }

    fn deleted(&self) -> usize {
        self.flows.iter().filter(|flow| flow.session.is_deleted()).count()
    }
}

fn new_flow(plan: &Plan, global: usize, local: &dyn Fn(usize) -> usize) -> Flow {
    let spec = &plan.flows[global];
    let id = global as u32;
    let (peer, expected_sender) = match spec.peer {
        PeerChoice::Partner(other) => (PeerChoice::Partner(local(other)), other as u32),
        peer => (peer, id),
    };
    Flow {
        id,
        expected_sender,
        group: spec.group,
        link: None,
        session: Session::new(plan.groups[spec.group].session.clone()),
        peer,
        prefix: Vec::new(),
        pace: Pace::new(0, 0.0, 1, 0),
        tracker: Tracker::new(0),
        nominal_gap_ns: None,
        even_port: spec.even_port,
        token_from: spec.token_from.map(local),
        armed_ns: u64::MAX,
        attempts: 0,
        started_ns: 0,
        first_sent_ns: 0,
        first_byte_done: false,
        measured: Measured::default(),
        drops_base: 0,
    }
}
