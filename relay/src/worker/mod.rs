//! One worker: a driver, a server, and the loop between them.
//!
//! ```text
//!   driver.wait ─► events ─► server.forward_* ─► driver.forward     data.rs: one question, one answer
//!                       └──► server.handle_input ─► outputs ─► driver / log
//!   orders, questions (bounded queue, one wake) ┘     a snapshot is gathered over several turns
//!   streams' messages, answers and ends (streams.rs) ─► the same way as datagrams
//!   other workers' datagrams for this one (bounded queue) ─► the same way as its own
//! ```
//!
//! It decides nothing about TURN. What a worker owns, no other thread touches; what others want to know
//! they read from [`Status`], what they want done or know comes as a [`ToWorker`].

mod data;
mod events;
pub mod handover;
pub mod known;
mod lag;
pub(crate) mod leaving;
pub(crate) mod notices;
mod orders;
pub mod proxied;
pub(crate) mod refusals;
pub mod relayed;
mod status;
mod streams;
mod walk;

pub use events::{EventSink, EventSource, WorkerEvent, event_queue};
pub use orders::{Order, Question, Reply, ToWorker, Unreachable, WorkerHandle};
pub use status::{Load, Report, Status, TURN_BOUNDS_NS};

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use turnpike_driver::streams::Streams;
use turnpike_driver::{Driver, DriverCounters, Event};
use turnpike_offload::{Answer, Outbox};
use turnpike_proto::addr::PeerAddr;
use turnpike_proto::stats::UserspaceDrop;
use turnpike_proto::{
    Egress, IcmpError, Input, Now, OffloadBinding, Output, RefusedRequest, Server, Verdict, WhyNot,
};

use self::handover::Handover;
use self::known::Known;
use self::lag::Lag;
use self::leaving::Leaving;
use self::notices::Notices;
use self::proxied::Proxies;
use self::status::Reporter;
use self::walk::Walk;
use crate::config::ProxyUdp;
use crate::limits::MAX_TOLD;

/// A worker's state; see the module's drawing.
pub struct Worker<D> {
    driver: D,
    server: Server,
    told: Receiver<ToWorker>,
    status: Arc<Status>,
    reporter: Reporter,
    walk: Walk,
    events: Option<EventSink>,
    notices: Notices,
    counted: DriverCounters,
    handover: Option<Handover>,
    /// Who waits for the end of which user's allocations; as many as the core takes.
    disconnecting: Vec<(Arc<str>, Reply<Option<u64>>)>,
    /// Where bindings for the kernel go, if there is a kernel data path.
    offload: Option<Outbox>,
    lag: Lag,
    /// Clients over TCP and TLS, if there may be any.
    streams: Option<Streams>,
    /// Proxies that are trusted, as all workers know them.
    proxies: Arc<Proxies>,
    /// Who is no stranger to the kernel.
    known: Known,
    stopping: bool,
    /// Another process wants what it has.
    leaving: Option<Leaving>,
    /// Another process has it: only clients over TCP and TLS are left.
    has_left: bool,
}

impl<D: Driver> Worker<D> {
    /// Puts a worker together; it does nothing until [`Worker::turn`] is called.
    pub fn new(driver: D, server: Server, told: Receiver<ToWorker>, status: Arc<Status>) -> Self {
        let notices = Notices::default();
        Self {
            driver,
            server,
            told,
            status,
            reporter: Reporter::default(),
            walk: Walk::default(),
            events: None,
            notices,
            counted: DriverCounters::default(),
            handover: None,
            disconnecting: Vec::new(),
            offload: None,
            lag: Lag::new(Duration::ZERO),
            streams: None,
            proxies: Arc::new(Proxies::new(Vec::new(), ProxyUdp::Off)),
            known: Known::default(),
            stopping: false,
            leaving: None,
            has_left: false,
        }
    }

    /// Allocations of the process before this one had ended, by reason: they are counted on.
    #[must_use]
    pub fn with_ended(mut self, ended: &[(String, u64)]) -> Self {
        self.reporter.add_ended(ended);
        self
    }

    /// Lets it give other workers what is theirs, and take its own from them.
    #[must_use]
    pub fn with_handover(mut self, handover: Handover) -> Self {
        handover.set_waker(self.driver.waker());
        self.handover = Some(handover);
        self
    }

    /// Lets it tell what happens to allocations.
    #[must_use]
    pub fn with_events(mut self, events: EventSink) -> Self {
        self.events = Some(events);
        self
    }

    /// Data that has waited for longer than this in a socket is dropped; zero is no bound.
    #[must_use]
    pub fn with_max_queue_delay(mut self, max: Duration) -> Self {
        self.lag = Lag::new(max);
        self
    }

    /// Lets it believe what these proxies say of clients over UDP; all workers share them.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Arc<Proxies>) -> Self {
        self.proxies = proxies;
        self
    }

    /// Lets the kernel know who has an allocation; all workers share it.
    #[must_use]
    pub fn with_known(mut self, known: Known) -> Self {
        self.known = known;
        self
    }

    /// Bindings go to the kernel data path from now on.
    pub fn set_offload(&mut self, outbox: Outbox) {
        self.offload = Some(outbox);
    }

    /// Turns until a [`Order::Stop`] was carried out and every relay socket is closed.
    ///
    /// # Errors
    /// If waiting for events is impossible.
    pub fn run(&mut self, clock: impl Fn() -> Now) -> io::Result<()> {
        // What adopting has left to be done.
        self.carry_out(clock());
        while !self.is_done() {
            let now = clock();
            self.reporter.end_turn(now);
            let events = self.driver.wait(self.timeout(now))?;
            self.turn(clock(), events);
        }
        self.driver.flush();
        self.count_driver_drops();
        self.report(clock());
        Ok(())
    }

    /// Handles the events of one `wait`, and whatever is due.
    pub fn turn(&mut self, now: Now, events: usize) {
        self.reporter.begin_turn(now);
        let mut has_streams = false;
        for index in 0..events {
            match self.driver.event(index) {
                Event::Datagram(datagram) => self.handle_datagram(now, &datagram),
                Event::Icmp { relay, peer, icmp_type, icmp_code, data } => {
                    let error = IcmpError { relay, peer: PeerAddr(peer), icmp_type, icmp_code, data };
                    self.handle(now, Input::PeerIcmp(error));
                }
                Event::PortOpened(relay) => self.handle(now, Input::PortOpened(relay)),
                Event::PortFailed(relay, error) => self.handle(now, Input::PortFailed(relay, error)),
                Event::PortClosed(relay) => self.handle(now, Input::PortClosed(relay)),
                Event::StreamsReady => has_streams = true,
                Event::Woken => {
                    self.handle_told(now);
                    self.handle_handed(now);
                    self.handle_handed_connections(now);
                    self.handle_offload_answers(now);
                }
            }
        }
        let has_streams = self.handle_streams(now, has_streams);
        let is_due = self.server.poll_timeout().is_some_and(|(due_ns, _)| due_ns <= now.mono_ns);
        if is_due {
            self.handle(now, Input::Tick);
        }
        if let Some(handover) = &mut self.handover {
            handover.wake();
        }
        self.flush_offload(now);
        let eventful = events > 0 || is_due || has_streams || self.walk.is_under_way();
        if self.walk.is_under_way() {
            self.walk.step(&self.server, &mut self.reporter);
        }
        let overflowed = self.count_driver_drops();
        if let Some(is_behind) = self.lag.end_turn(now, overflowed > 0) {
            self.handle(now, Input::Behind(is_behind));
        }
        self.flush_streams(now);
        if let Some(outbox) = &mut self.offload {
            outbox.note_missed(self.server.counts().kernel_missed);
        }
        if self.reporter.publish(now, &self.server, &self.status, eventful) {
            self.report(now);
        }
        if self.leaving.is_some() {
            self.pursue_leaving(now);
        }
    }

    fn report(&mut self, now: Now) {
        self.report_streams(now);
        self.reporter.note_coalescing(self.driver.counters().coalesce_ns);
        self.reporter.report(now, &self.server, &self.status);
    }

    /// How long `wait` may sleep: until the next deadline, and not at all while a walk is under way.
    pub fn timeout(&self, now: Now) -> Option<Duration> {
        if self.walk.is_under_way() {
            return Some(Duration::ZERO);
        }
        if self.leaving.is_some() {
            return Some(leaving::GLANCE);
        }
        let server_ns = self.server.poll_timeout().map(|(due_ns, _)| due_ns);
        let streams_ns = self.streams.as_ref().and_then(Streams::poll_timeout);
        let due_ns = [server_ns, streams_ns, self.reporter.due_ns()].into_iter().flatten().min()?;
        Some(Duration::from_nanos(due_ns.saturating_sub(now.mono_ns)))
    }

    /// It was told to stop, and has closed everything.
    pub fn is_done(&self) -> bool {
        self.stopping && self.server.table_counts().relay_sockets == 0 && self.streams_are_closed()
    }

    /// The driver, for what drives the loop step by step.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The server's counts and tables, for whoever wants to look.
    pub fn server(&self) -> &Server {
        &self.server
    }

    fn handle(&mut self, now: Now, input: Input<'_>) {
        self.server.handle_input(now, input);
        self.carry_out(now);
    }

    /// What others want, at most a queue's length in one turn.
    fn handle_told(&mut self, now: Now) {
        for _ in 0..MAX_TOLD {
            match self.told.try_recv() {
                Ok(ToWorker::Tell(order)) => self.obey(now, order),
                Ok(ToWorker::Ask(question)) => self.reply(now, question),
                Err(_) => return,
            }
        }
        self.driver.waker().wake();
    }

    fn obey(&mut self, now: Now, order: Order) {
        match order {
            Order::Drain(on) => self.handle(now, Input::Drain(on)),
            Order::PolicyChanged => self.handle(now, Input::PolicyChanged),
            Order::EndAll => self.handle(now, Input::Shutdown),
            Order::Stop => {
                self.stopping = true;
                self.handle(now, Input::Drain(true));
                self.handle(now, Input::Shutdown);
            }
        }
    }

    /// Whoever asked may have gone meanwhile: then the answer is for nobody.
    fn reply(&mut self, now: Now, question: Question) {
        match question {
            Question::Leave(leaving) => self.begin_leaving(*leaving),
            Question::Snapshot(reply) => self.walk.begin(reply),
            Question::Inspect(allocation, reply) => {
                let _ = reply.send(self.server.inspect_one(now, allocation).map(Box::new));
            }
            Question::SetRate(allocation, bits_per_sec, reply) => {
                self.handle(now, Input::SetRate { allocation, bits_per_sec });
                let _ = reply.send(self.server.inspect_one(now, allocation).map(Box::new));
            }
            Question::Disconnect(allocation, reply) => {
                let found = self.server.inspect_one(now, allocation).map(drop);
                self.handle(now, Input::Disconnect { allocation });
                let _ = reply.send(found);
            }
            Question::DisconnectUser(user, reply) => {
                self.disconnecting.push((Arc::clone(&user), reply));
                self.handle(now, Input::DisconnectUser { user });
            }
        }
    }

    fn answer_disconnected(&mut self, user: &Arc<str>, allocations: Option<u64>) {
        // Several may have asked about the same user: each has a name of its own.
        let asked = self.disconnecting.iter().position(|(asked, _)| Arc::ptr_eq(asked, user));
        if let Some((_, reply)) = asked.map(|place| self.disconnecting.swap_remove(place)) {
            let _ = reply.send(allocations);
        }
    }

    fn carry_out(&mut self, now: Now) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Transmit { egress: Egress::Client { socket, .. }, payload, .. }
                    if !socket.is_listener() =>
                {
                    self.answer_stream(now, socket, &payload);
                }
                Output::Transmit { egress, to, payload, tos, dont_fragment } => {
                    self.driver.transmit(egress, to, &payload, tos, dont_fragment);
                }
                Output::OpenPort { relay, address, reserve: None } => self.driver.open_port(relay, address),
                Output::OpenPort { relay, address, reserve: Some(reserve) } => {
                    self.driver.open_pair(relay, address, reserve);
                }
                Output::ReleasePort(port) => self.driver.release_port(port.address),
                Output::ClosePort(relay) => self.close_port(now, relay),
                Output::Listen { relay, address } => self.listen(now, relay, address),
                Output::Connect { connection, relay, peer } => self.connect(now, connection, relay, peer.0),
                Output::Bind { connection, client } => self.bind(now, connection, &client),
                Output::CloseConnection(connection) => self.close_connection(connection),
                Output::HandOver { client, worker, request } => self.hand_over(now, &client, worker, request),
                Output::Offload(binding) => self.offload(now, binding),
                Output::Withdraw(binding) => match &mut self.offload {
                    Some(outbox) => outbox.withdraw(binding),
                    None => self.server.handle_input(now, Input::OffloadWithdrawn(binding)),
                },
                Output::PathMtuFell(destination) => {
                    if let Some(outbox) = &self.offload {
                        outbox.recheck(destination);
                    }
                }
                Output::Created(view) => {
                    self.known.enter(&view.five_tuple, view.socket);
                    self.notices.allocation_created(&view);
                    if let Some(events) = &self.events {
                        events.tell(|| WorkerEvent::Created(view));
                    }
                }
                // Another process goes on with it.
                Output::Ended(record) if self.has_left && !record.five_tuple.transport.is_stream() => {}
                Output::Ended(record) => {
                    self.known.leave(&record.five_tuple, record.socket);
                    self.reporter.count_end(&record);
                    self.notices.allocation_ended(&record);
                    if let Some(events) = &self.events {
                        events.tell(|| WorkerEvent::Ended(record));
                    }
                }
                Output::CloseStream(path) => self.close_stream(now, path),
                Output::UserDisconnected { user, allocations } => {
                    self.answer_disconnected(&user, allocations);
                }
                Output::Refused(request) => self.tell_refused(now, request),
                Output::OldChannelNumber { channel } => self.notices.old_channel_number(channel),
                Output::OverShare { user, why } => self.notices.over_share(now, &user, why),
            }
        }
    }

    fn offload(&mut self, now: Now, binding: Box<OffloadBinding>) {
        match &mut self.offload {
            Some(outbox) => outbox.offload(binding),
            None => {
                let failed = Input::OffloadFailed(binding.binding, WhyNot::Off);
                self.server.handle_input(now, failed);
            }
        }
    }

    fn tell_refused(&mut self, now: Now, request: Box<RefusedRequest>) {
        self.reporter.count_refusal(now, &request);
        let written = self.notices.refused(now, &request);
        if let Some(events) = self.events.as_ref().filter(|_| written) {
            events.tell(|| WorkerEvent::Refused(request));
        }
    }

    /// Hands over what this turn wants of the kernel data path, in one batch.
    fn flush_offload(&mut self, now: Now) {
        let answers = self.offload.as_mut().map(Outbox::flush).unwrap_or_default();
        self.handle_answers(now, answers);
    }

    fn handle_offload_answers(&mut self, now: Now) {
        let answers = self.offload.as_mut().map(Outbox::take_answers).unwrap_or_default();
        self.handle_answers(now, answers);
    }

    fn handle_answers(&mut self, now: Now, answers: Vec<Answer>) {
        for answer in answers {
            let input = match answer {
                Answer::Done(name) => Input::OffloadDone(name),
                Answer::Failed(name, why) => Input::OffloadFailed(name, why),
                Answer::Withdrawn(name) => Input::OffloadWithdrawn(name),
            };
            self.handle(now, input);
        }
    }

    /// Counts what the driver had to drop; gives how many of them because the buffer of a socket was full that isn't for
    /// strangers alone.
    fn count_driver_drops(&mut self) -> u64 {
        let counters = self.driver.counters();
        self.server.count(Verdict::DropSendFailed, counters.send_failed - self.counted.send_failed);
        self.server.count(Verdict::DropTooLarge, counters.send_too_large - self.counted.send_too_large);
        let unaddressed = counters.unaddressed - self.counted.unaddressed;
        self.server.count_userspace(UserspaceDrop::NoAddress, unaddressed);
        let of_strangers = counters.stranger_overflow - self.counted.stranger_overflow;
        self.server.count_userspace(UserspaceDrop::StrangerQueue, of_strangers);
        let overflowed = counters.socket_overflow - self.counted.socket_overflow;
        self.server.count(Verdict::DropSocketOverflow, overflowed);
        self.counted = counters;
        overflowed
    }
}
