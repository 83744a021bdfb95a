//! Messages through bound connections: raw bytes, cut every `-l` of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::client::Client;
use crate::engine::mmsg::{Poller, mono_ns, thread_cpu_ns};
use crate::engine::payload::{Header, MIN_PAYLOAD, tag};
use crate::engine::schedule::Pace;
use crate::engine::stream::{Inbox, LinkError};
use crate::engine::{Group, PeerChoice, Plan, Snapshot, Trial, TrialReport};
use crate::limits::BATCH;
use crate::session::SetupError;
use crate::stats::{Arrival, GroupStats, Tracker};

/// Bytes that wait in a client's connection from which on its messages wait, too.
const FULL_QUEUE_BYTES: usize = 64 << 10;
/// How often timers and counters are looked at.
const SAMPLE_NS: u64 = 100_000_000;
/// Longest wait for a socket: messages may be due sooner.
const TURN_NS: u64 = 20_000_000;

/// One client's part.
struct Leg {
    pace: Pace,
    tracker: Tracker,
    /// The tag of what comes: its own echo, or its partner's.
    expected_tag: u32,
    /// The beginning of a message.
    partial: Vec<u8>,
    /// Whether its sockets are watched for room: data, control.
    writing: [bool; 2],
}

/// A transfer under way.
pub(super) struct Transfer<'a> {
    plan: &'a Plan,
    trial: Trial,
    clients: &'a mut [Client],
    legs: Vec<Leg>,
    poller: Poller,
    inbox: Inbox,
    rng: ChaCha8Rng,
    stats: GroupStats,
    /// When something was last handed over or received.
    moved_ns: u64,
    lost: HashMap<String, u64>,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(plan: &'a Plan, trial: Trial, clients: &'a mut [Client]) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        for (index, client) in clients.iter().enumerate() {
            poller.add(client.control.link.fd(), key(index, true))?;
            if let Some(data) = &client.data {
                poller.add(data.fd(), key(index, false))?;
            }
        }
        let now_ns = mono_ns();
        let legs = plan.flows.iter().enumerate().map(|(index, flow)| {
            let rate = plan.groups[0].packets_per_sec;
            let start_ns = now_ns + (1e9 / rate * index as f64 / plan.flows.len() as f64) as u64;
            let sender = if let PeerChoice::Partner(partner) = flow.peer { partner } else { index };
            Leg {
                pace: Pace::new(start_ns, rate, 1, trial.count.unwrap_or(u64::MAX)),
                tracker: Tracker::new(0),
                expected_tag: tag(trial.number, sender as u32),
                partial: Vec::new(),
                writing: [false; 2],
            }
        });
        let legs = legs.collect();
        Ok(Self {
            plan,
            trial,
            clients,
            legs,
            poller,
            inbox: Inbox::default(),
            rng: ChaCha8Rng::from_os_rng(),
            stats: GroupStats::default(),
            moved_ns: now_ns,
            lost: HashMap::new(),
        })
    }

    /// Sends and receives until all has arrived, nothing moves any more, or `stop`. Gives what was found, and why
    /// connections ended, one line each.
    pub(super) fn run(
        mut self,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Snapshot),
    ) -> (TrialReport, Vec<String>) {
        let (begun_ns, cpu_ns) = (mono_ns(), thread_cpu_ns());
        let (mut sample_ns, mut ready) = (begun_ns, Vec::new());
        let mut report = TrialReport::default();
        while !stop.load(Ordering::Relaxed) && !self.is_finished() {
            self.send();
            self.poller.wait(self.wait_ns(), &mut ready);
            ready.drain(..).for_each(|key| self.receive(key));
            let now_ns = mono_ns();
            if now_ns >= sample_ns {
                sample_ns = now_ns + SAMPLE_NS;
                self.renew(now_ns);
                let now = self.snapshot(Duration::from_nanos(now_ns - begun_ns));
                report.series.push((now.elapsed.as_secs_f64(), now.sent, now.received));
                progress(&now);
            }
        }
        report.interrupted = stop.load(Ordering::Relaxed);
        if !report.interrupted {
            self.give_up();
        }
        report.sending = Duration::from_nanos(self.moved_ns.saturating_sub(begun_ns));
        report.cpu_secs = (thread_cpu_ns() - cpu_ns) as f64 / 1e9;
        report.renewal_failures = self.clients.iter().map(|client| client.session.renewal_failures()).sum();
        report.connections_lost = self.lost.values().sum();
        self.legs.iter().filter(|leg| leg.tracker.received > 0).for_each(|leg| {
            self.stats.jitter_flows += 1;
            self.stats.jitter_sum_ns += leg.tracker.jitter_ns;
            self.stats.jitter_max_ns = self.stats.jitter_max_ns.max(leg.tracker.jitter_ns);
        });
        report.groups = vec![self.stats];
        let why = self.lost.into_iter().map(|(why, count)| format!("{count} connections ended: {why}"));
        (report, why.collect())
    }

    fn group(&self) -> &'a Group {
        &self.plan.groups[0]
    }

    /// Whether all has arrived, or has had its time to, or nothing can any more.
    fn is_finished(&self) -> bool {
        if self.clients.iter().all(|client| client.data.is_none()) {
            return true;
        }
        let now_ns = mono_ns();
        let next_ns = self.legs.iter().filter_map(|leg| leg.pace.due_ns()).min();
        if next_ns.is_none() && self.stats.received >= self.stats.sent {
            return true;
        }
        // As long as the next is not due, nothing has to move.
        let quiet_ns = now_ns.saturating_sub(self.moved_ns);
        quiet_ns > self.trial.drain.as_nanos() as u64 && next_ns.is_none_or(|due_ns| due_ns <= now_ns)
    }

    fn wait_ns(&self) -> u64 {
        let now_ns = mono_ns();
        let free = |(leg, client): (&Leg, &Client)| {
            let is_full = client.data.as_ref().is_some_and(|data| data.queued() >= FULL_QUEUE_BYTES);
            leg.pace.due_ns().filter(|_| !is_full)
        };
        let next_ns = self.legs.iter().zip(&*self.clients).filter_map(free).min();
        next_ns.map_or(TURN_NS, |due_ns| due_ns.saturating_sub(now_ns).min(TURN_NS))
    }

    /// Queues what is due.
    fn send(&mut self) {
        let (group, number) = (self.group(), self.trial.number);
        let mut message = vec![0; MIN_PAYLOAD];
        message.extend_from_slice(group.fill.bytes(0, group.payload_bytes - MIN_PAYLOAD));
        for index in 0..self.legs.len() {
            let (leg, client) = (&mut self.legs[index], &mut self.clients[index]);
            let is_full = client.data.as_ref().is_some_and(|data| data.queued() >= FULL_QUEUE_BYTES);
            if is_full {
                continue;
            }
            let (first, count) = leg.pace.take_due(mono_ns(), BATCH as u64);
            if count == 0 {
                continue;
            }
            self.stats.scheduled += count;
            self.stats.sent += count;
            self.moved_ns = mono_ns();
            let Some(data) = &mut client.data else {
                self.stats.stalled += count;
                continue;
            };
            for packet in first..first + count {
                let sent_ns = mono_ns();
                let header = Header { number: packet as u32, tag: tag(number, index as u32), sent_ns };
                header.write(&mut message);
                data.send_bytes(&message);
                self.stats.send_lag.record(sent_ns.saturating_sub(leg.pace.due_of(packet)));
            }
            let flushed = data.flush();
            self.settle(index, false, flushed);
        }
    }

    /// A socket can be read, or written again.
    fn receive(&mut self, key: u64) {
        let (index, is_control) = ((key / 2) as usize, key % 2 == 1);
        let Self { clients, inbox, rng, .. } = self;
        let client = &mut clients[index];
        let outcome = if is_control {
            let outcome = client.control.link.receive(inbox);
            (0..inbox.len()).for_each(|message| {
                client.session.handle(mono_ns(), rng, inbox.message(message));
            });
            outcome.and_then(|()| client.control.link.flush())
        } else {
            let Some(data) = &mut client.data else { return };
            let outcome = data.receive_bytes(inbox).and_then(|()| data.flush());
            self.take(index);
            outcome
        };
        self.settle(index, is_control, outcome);
    }

    /// Cuts what has come into messages, and counts them.
    fn take(&mut self, index: usize) {
        let (group, late_ns, now_ns) = (self.group(), self.plan.late_ns, mono_ns());
        let is_echo = matches!(self.plan.flows[index].peer, PeerChoice::Fixed(_));
        let leg = &mut self.legs[index];
        if !self.inbox.bytes().is_empty() {
            self.moved_ns = now_ns;
        }
        leg.partial.extend_from_slice(self.inbox.bytes());
        let mut messages = leg.partial.chunks_exact(group.payload_bytes);
        for message in &mut messages {
            let header = Header::read(message).filter(|header| header.tag == leg.expected_tag);
            let rest = &message[MIN_PAYLOAD..];
            let Some(header) = header.filter(|_| rest == group.fill.bytes(0, rest.len())) else {
                self.stats.corrupted += 1;
                continue;
            };
            match leg.tracker.arrive(header.number) {
                Arrival::Duplicate | Arrival::TooOld => {
                    self.stats.duplicated += 1;
                    continue;
                }
                Arrival::Reordered => self.stats.reordered += 1,
                Arrival::InOrder | Arrival::Ahead => {}
            }
            let delay_ns = now_ns.saturating_sub(header.sent_ns);
            self.stats.received += 1;
            self.stats.late += u64::from(delay_ns > late_ns);
            let delays = if is_echo { &mut self.stats.round_trip } else { &mut self.stats.one_way };
            delays.record(delay_ns);
            if let Some(gap_ns) = leg.tracker.time(header.sent_ns, now_ns) {
                self.stats.deviation.record(gap_ns.abs_diff((1e9 / group.packets_per_sec) as u64));
            }
        }
        leg.partial = messages.remainder().to_vec();
    }

    /// After each use of a connection: it has ended, or is watched for what it needs.
    fn settle(&mut self, index: usize, is_control: bool, outcome: Result<(), LinkError>) {
        let (client, leg) = (&mut self.clients[index], &mut self.legs[index]);
        if let Err(error) = outcome {
            *self.lost.entry(error.to_string()).or_default() += 1;
            if is_control {
                // Readable for ever: it is watched no longer.
                let _ = self.poller.remove(client.control.link.fd());
                client.session.disconnect(SetupError::Connection(error));
            } else {
                client.data = None;
            }
            return;
        }
        let link = if is_control { Some(&client.control.link) } else { client.data.as_ref() };
        let Some(link) = link else { return };
        let (writing, wants) = (&mut leg.writing[usize::from(is_control)], link.wants_write());
        if *writing != wants {
            *writing = wants;
            let set = self.poller.set_writing(link.fd(), key(index, is_control), wants);
            set.expect("the socket is one of the poller's");
        }
    }

    /// Renewals, and answers that don't come.
    fn renew(&mut self, now_ns: u64) {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            client.session.handle_timeout(now_ns, &mut self.rng);
            let mut is_new = false;
            while let Some(message) = client.session.poll_transmit() {
                client.control.link.send(&message);
                is_new = true;
            }
            if is_new {
                let flushed = client.control.link.flush();
                self.settle(index, true, flushed);
            }
        }
    }

    fn snapshot(&self, elapsed: Duration) -> Snapshot {
        let running = self.legs.iter().filter(|leg| leg.pace.due_ns().is_some()).count() as u64;
        let GroupStats { sent, received, .. } = self.stats;
        Snapshot { elapsed, sent, received, running, sessions: 0 }
    }

    /// What was never taken counts as sent and lost: an application would have had to drop it.
    fn give_up(&mut self) {
        for leg in &mut self.legs {
            let (_, count) = leg.pace.take_due(u64::MAX, u64::MAX);
            self.stats.scheduled += count;
            self.stats.sent += count;
            self.stats.stalled += count;
        }
    }
}

/// A socket's number for the poller.
fn key(index: usize, is_control: bool) -> u64 {
    2 * index as u64 + u64::from(is_control)
}
