//! Starts the relay and keeps it running until it is told to stop.
//!
//! ```text
//!   addresses ─► listeners ─► shared state ─► workers ─► control ─► ready line ─► signals ─► drain ─► stop
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};
use turnpike_admin::model::Counts;
use turnpike_driver::Driver;
use turnpike_driver::choose::{self, Backend};
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::reserved::Reserved;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions, bind_listeners, bind_listeners_apart};
use turnpike_driver::streams::{StreamListener, StreamOptions, Streams};
use turnpike_driver::uring::UringDriver;
use turnpike_driver::{clock, heap};
use turnpike_offload::pinning::{self, Pinned};
use turnpike_proto::shared::Shared;
use turnpike_proto::{Server, WorkerId};

use super::admin::Administration;
use super::descriptors;
use super::error::StartError;
use super::inherit::{self, Gate, GateKeeper, Heirs, Inherited};
use super::signals::{self, Signal, SignalSource};
use super::stop::{self, WorkerThread};
use super::streams::{self, StreamListeners};
use super::watch::Watch;
use crate::banner::{self, DataPath, Ready};
use crate::config::resolve::{Addresses, Host, resolve};
use crate::config::{Config, Loader};
use crate::control::{Control, Parts, Users, follow_addresses, follow_certificates, follow_publics};
use crate::kernel::KernelPath;
use crate::network::{AddressNews, Publics};
use crate::service_manager::{News, tell};
use crate::setup;
use crate::takeover::{self, Door, Folder, Inheritance, Invitation};
use crate::worker::handover::Handover;
use crate::worker::known::Known;
use crate::worker::proxied::Proxies;
use crate::worker::{EventSink, EventSource, Worker, WorkerHandle, event_queue};

/// How often a drain looks whether the last allocation has gone, and the main thread whether a worker has died.
const GLANCE: Duration = Duration::from_millis(200);

/// How long the start waits for the first address where the kernel data path depends on it.
const PATIENCE_FOR_ADDRESSES: Duration = Duration::from_secs(5);

/// Runs the relay; returns when it was told to stop. `loader` loads the configuration again for a reload.
///
/// # Errors
/// If the relay can't start or can't go on.
pub fn run(config: Config, loader: Arc<Loader>) -> Result<(), StartError> {
    let signals = signals::listen().map_err(StartError::system("signals"))?;
    descriptors::raise_limit();
    heap::keep_small();
    // Before the first look: what changes after it is heard of.
    let news = AddressNews::open();
    let Some(addresses) = first_addresses(&config, &signals) else { return Ok(()) };
    for warning in &addresses.warnings {
        warn!("{warning}");
    }
    let folder = config.state_directory.as_deref().map(Folder::open).transpose();
    let folder = folder.map_err(StartError::StateDirectory)?;
    let (mut relay, ready) = Relay::start(&config, loader, addresses, news, folder.as_ref())?;
    relay.door = folder.map(Door::open).transpose().map_err(StartError::StateDirectory)?;
    // Also while an address is waited for: whatever systemd starts next may be what brings it.
    tell(News::Ready);
    let outcome = relay.serve(&signals, Announcement { ready: Some(ready), config: &config });
    tell(News::Stopping);
    outcome.and(relay.stop())
}

/// The addresses to start with. The kernel data path chooses its interfaces by them, so where it may, a host
/// without any is given a moment; `None` if it was told to stop meanwhile.
fn first_addresses(config: &Config, signals: &SignalSource) -> Option<Addresses> {
    let chooses = config.offload != crate::config::Offload::Off && config.offload_interface.is_empty();
    let end = Instant::now() + if chooses { PATIENCE_FOR_ADDRESSES } else { Duration::ZERO };
    loop {
        let addresses = resolve(config, &Host::detect_for(config));
        let is_bare = addresses.relay.is_empty() && addresses.questions.is_empty();
        if !is_bare || Instant::now() >= end {
            return Some(addresses);
        }
        if signals.next(GLANCE) == Ok(Signal::Stop) {
            return None;
        }
    }
}

fn seed() -> Result<[u8; 32], StartError> {
    setup::seed().map_err(StartError::system("random numbers"))
}

/// The public addresses that have a name only, asked for from now on.
fn asked_publics(addresses: &Addresses) -> Arc<Publics> {
    let publics = Arc::new(Publics::default());
    publics.ask(&addresses.questions);
    publics
}

/// The running relay.
struct Relay {
    control: Arc<Control>,
    kernel: KernelPath,
    threads: Vec<WorkerThread>,
    reserved: Arc<Reserved>,
    known: Known,
    /// Ends when dropped.
    admin: Option<Administration>,
    /// Where another process that takes over comes in.
    door: Option<Door>,
}

impl Relay {
    /// Also gives what there is to announce.
    fn start(
        config: &Config,
        loader: Arc<Loader>,
        addresses: Addresses,
        news: AddressNews,
        folder: Option<&Folder>,
    ) -> Result<(Self, Ready), StartError> {
        let invitation = inherit::knock(config, folder)?;
        let config = &inherit::with_workers(config, invitation.as_ref());
        let io = choose::choose(config.io.wanted()).map_err(StartError::other("io = \"io-uring\""))?;
        // What may take its time comes before the clients of the other process have to wait.
        let users = Users::open(config).map_err(StartError::other("user-database"))?;
        let certificates = streams::open_certificates(config, &loader)?;
        let opened = Opened::all(config, &addresses, &socket_options(config), invitation)?;
        let Opened { mut inheritance, sockets, known, listeners, streams, kernel } = opened;
        let seed_here = inheritance.as_ref().map_or_else(seed, |it| Ok(*it.snapshot.seed()))?;
        let beside = streams.beside(&listeners);
        let shared = setup::shared(config, &addresses, &beside, seed_here, kernel.plane())?;
        let ((events, event_source), reserved) = (event_queue(), Arc::new(Reserved::default()));
        let mut heirs = inherit::adopt_shared(inheritance.as_mut(), &shared, &reserved)?;
        let proxies = Arc::new(setup::proxies(config));
        let (tls, stream_options) = streams::options(config, &streams, &certificates, &proxies)?;
        let crew = Crew {
            config,
            backend: io.backend,
            options: socket_options(config),
            shared: &shared,
            kernel: &kernel,
            reserved: &reserved,
            events: &events,
            proxies: &proxies,
            known: &known,
            streams: &stream_options,
        };
        let (workers, threads, keeper) =
            crew.start(sockets.into_iter().zip(streams.by_worker), &mut heirs, &mut inheritance)?;
        let listening = [listeners, streams.tcp, streams.tls];
        let mut ready = Ready::new(config, listening, addresses.relay.clone(), io, kernel.data_path());
        let control = Control::new(Parts {
            config: config.clone(),
            loader,
            publics: asked_publics(&addresses),
            addresses,
            ready: ready.clone(),
            shared,
            workers,
            offload: Arc::clone(kernel.status()),
            users,
            certificates,
            tls,
            proxies,
        });
        control.apply_credentials(config).map_err(StartError::other("users"))?;
        heirs.confirm(inheritance)?;
        keeper.open();
        let admin = administer(config, &control, event_source, heirs.is_taking_over())?;
        ready.admin = admin.as_ref().map(Administration::url);
        follow_all(news, &control)?;
        Ok((Self { control, kernel, threads, reserved, known, admin, door: None }, ready))
    }

    /// Until a signal says stop and, if so configured, the last allocation has gone.
    fn serve(
        &mut self,
        signals: &SignalSource,
        mut announcement: Announcement<'_>,
    ) -> Result<(), StartError> {
        let (mut reloads, mut watch) = (Reloads::default(), Watch::new());
        loop {
            announcement.make_when_due(&self.control);
            if self.give_away() {
                self.drain_streams(signals);
                return Ok(());
            }
            match signals.next(GLANCE) {
                Ok(Signal::Reload) => reloads.wish(),
                Ok(Signal::Stop) => {
                    self.drain(signals, &mut watch);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) if self.threads.iter().any(JoinHandle::is_finished) => {
                    let source = io::Error::other("a worker has ended; see the log");
                    return Err(StartError::System { what: "workers".to_owned(), source });
                }
                Err(RecvTimeoutError::Timeout) => self.control.enforce_deadline(),
                Err(RecvTimeoutError::Disconnected) => {
                    let source = io::Error::other("the signal thread has ended");
                    return Err(StartError::System { what: "signals".to_owned(), source });
                }
            }
            reloads.pursue(&self.control);
            watch.look(&self.control);
        }
    }

    /// Gives everything to another process, if one has come for it. Whether it has; else this one goes on.
    fn give_away(&mut self) -> bool {
        let Some(door) = &mut self.door else { return false };
        let control = Arc::clone(&self.control);
        let Some(guest) = door.look(control.workers().len() as u16, || why_not_given(&control)) else {
            return false;
        };
        let (admin, mut is_shut) = (&mut self.admin, false);
        let let_go = || {
            drop(admin.take());
            door.shut();
            is_shut = true;
        };
        let given = takeover::give(guest, &control, (&self.reserved, &self.known), let_go);
        if let Err(why) = &given {
            warn!("not taken over: {why}; this process goes on");
            if is_shut {
                error!("the administration is gone until the next start: it had made room already");
                door.open_again();
            }
        }
        given.is_ok()
    }

    /// Clients over TCP and TLS can't move: they live on as after a signal to stop.
    fn drain_streams(&self, signals: &SignalSource) {
        let deadline = Instant::now() + self.control.drain_timeout();
        while self.control.allocations() > 0 && Instant::now() < deadline {
            if signals.next(GLANCE) == Ok(Signal::Stop) {
                return;
            }
        }
    }

    /// Lets existing allocations live on for the configured time; a second signal ends the wait. It is the
    /// drain that the API knows, too.
    fn drain(&self, signals: &SignalSource, watch: &mut Watch) {
        let timeout = self.control.drain_timeout();
        if timeout.is_zero() || self.control.allocations() == 0 {
            return;
        }
        tell(News::Stopping);
        if let Err(why) = self.control.begin_stop(timeout) {
            error!("not draining: {why}");
        }
        let deadline = Instant::now() + timeout;
        while self.control.allocations() > 0
            && Instant::now() < deadline
            && !self.control.deadline_has_passed()
        {
            match signals.next(GLANCE) {
                Ok(Signal::Stop) => {
                    info!("a second signal: stopping at once");
                    return;
                }
                // It is refused, and that is in the log.
                Ok(Signal::Reload) => drop(self.control.reload_all()),
                Err(_) => {}
            }
            watch.look(&self.control);
        }
    }

    /// Ends everything, within two seconds if something stands still.
    fn stop(self) -> Result<(), StartError> {
        if let Some(admin) = &self.admin {
            admin.begin_stop();
        }
        let workers_ended = stop::end_workers(self.control.workers(), self.threads);
        let path = self.kernel.data_path();
        let forwarded = stop::end_kernel_path(self.kernel);
        log_totals(&turnpike_admin::ManagedRelay::totals(&*self.control).sum, &path, forwarded.unwrap_or(0));
        if workers_ended && forwarded.is_some() {
            return Ok(());
        }
        let source = io::Error::other("something stood still and was left behind; see the log");
        Err(StartError::System { what: "stopping".to_owned(), source })
    }
}

/// What is open before there are workers.
struct Opened {
    inheritance: Option<Inheritance>,
    sockets: Vec<Vec<ListenerSocket>>,
    known: Known,
    listeners: Vec<SocketAddr>,
    streams: StreamListeners,
    kernel: KernelPath,
}

impl Opened {
    /// From the process that runs, where there is an invitation; else everything anew.
    fn all(
        config: &Config,
        addresses: &Addresses,
        options: &SocketOptions,
        invitation: Option<Invitation>,
    ) -> Result<Opened, StartError> {
        let start_kernel = |listeners: &[SocketAddr]| {
            let started = KernelPath::start(config, addresses, listeners);
            started.map_err(StartError::other("offload = \"require\""))
        };
        let early = invitation.as_ref().map(|_| start_kernel(&addresses.listen)).transpose()?;
        let mut inheritance = invitation.map(Invitation::accept).transpose()?;
        let (sockets, known) = bind_all(&addresses.listen, config, options, &mut inheritance)?;
        let listeners: Vec<_> = sockets[0].iter().map(ListenerSocket::local_addr).collect();
        let streams = StreamListeners::bind(addresses, &listeners, config.workers.get(), &mut inheritance)?;
        let kernel = early.map_or_else(|| start_kernel(&listeners), Ok)?;
        Ok(Opened { inheritance, sockets, known, listeners, streams, kernel })
    }
}

/// Starts the administration. Where clients of another process are served already, they are without it, too.
fn administer(
    config: &Config,
    control: &Arc<Control>,
    events: EventSource,
    is_taking_over: bool,
) -> Result<Option<Administration>, StartError> {
    if is_taking_over {
        inherit::await_port(config.admin);
    }
    match Administration::start(config, control, events) {
        Err(why) if is_taking_over => {
            error!("there is no administration until the next start: {why}");
            Ok(None)
        }
        started => started.map_err(StartError::other("admin")),
    }
}

/// Why no process may take over now.
fn why_not_given(control: &Control) -> Option<String> {
    let is_draining = control.drains();
    let why = control
        .kernel_is_active()
        .then_some("the kernel data path can't be handed over yet: offload = \"off\"");
    why.or(is_draining.then_some("it drains, and ends by itself")).map(str::to_owned)
}

fn socket_options(config: &Config) -> SocketOptions {
    SocketOptions {
        coalesce: config.coalesce,
        max_relay_descriptor: descriptors::for_relay_sockets(),
        ..SocketOptions::default()
    }
}

/// Follows what changes while the relay runs.
fn follow_all(news: AddressNews, control: &Arc<Control>) -> Result<(), StartError> {
    follow_publics(control).map_err(StartError::system("thread for public addresses"))?;
    follow_addresses(news, control).map_err(StartError::system("thread for addresses"))?;
    follow_certificates(control).map_err(StartError::system("thread for certificates"))
}

/// Reloads that signals asked for: one at a time, on a thread of its own, since files and databases may
/// take their time.
#[derive(Default)]
struct Reloads {
    thread: Option<JoinHandle<()>>,
    is_wanted: bool,
}

impl Reloads {
    /// Another one; several wishes during a reload are one.
    fn wish(&mut self) {
        self.is_wanted = true;
    }

    /// Begins what is wanted, unless the last one is still under way.
    fn pursue(&mut self, control: &Arc<Control>) {
        if !self.is_wanted || self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.is_wanted = false;
        let control = Arc::clone(control);
        // Its outcome is in the log.
        let reload = move || drop(control.reload_all());
        match thread::Builder::new().name("reload".to_owned()).spawn(reload) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => error!("not reloaded: there is no thread for it: {error}"),
        }
    }
}

/// The ready line, for those who wait for it: printed once, as soon as everything that is configured is there.
struct Announcement<'a> {
    ready: Option<Ready>,
    config: &'a Config,
}

impl Announcement<'_> {
    fn make_when_due(&mut self, control: &Control) {
        let addresses = control.addresses();
        if !addresses.awaited.is_empty() {
            return;
        }
        let Some(ready) = self.ready.take() else { return };
        let ready = Ready { relay: addresses.relay.clone(), ..ready };
        if let Err(error) = banner::announce(&ready, self.config) {
            warn!("the ready line could not be printed on stdout: {error}");
        }
        info!("{ready}");
        if !addresses.near.is_empty() {
            let near: Vec<String> = addresses.near.iter().map(ToString::to_string).collect();
            info!("clients that talk to {} are relayed from there", near.join(" or "));
        }
    }
}

/// The last record: what all allocations together have come to.
fn log_totals(sum: &Counts, path: &DataPath, forwarded_in_kernel: u64) {
    let datagrams: Vec<String> = sum.verdicts.iter().map(|(verdict, n)| format!("{verdict}={n}")).collect();
    let ended: u64 = sum.allocations_ended.values().sum();
    info!(
        allocations_created = sum.allocations_created,
        allocations_ended = ended,
        to_peer_packets = sum.to_peer.userspace.packets,
        to_peer_bytes = sum.to_peer.userspace.bytes,
        to_client_packets = sum.to_client.userspace.packets,
        to_client_bytes = sum.to_client.userspace.bytes,
        to_peer_kernel_packets = sum.to_peer.kernel.packets,
        to_peer_kernel_bytes = sum.to_peer.kernel.bytes,
        to_client_kernel_packets = sum.to_client.kernel.packets,
        to_client_kernel_bytes = sum.to_client.kernel.bytes,
        datagrams = datagrams.join(" "),
        data_path = path.to_string(),
        forwarded_in_kernel,
        "stopped"
    );
}

/// All workers' listeners, one of each address for each worker, and what the kernel is to know of their clients. All
/// are bound before anybody reads, since the kernel spreads clients over those that are there.
fn bind_all(
    addresses: &[SocketAddr],
    config: &Config,
    options: &SocketOptions,
    inheritance: &mut Option<Inheritance>,
) -> Result<(Vec<Vec<ListenerSocket>>, Known), StartError> {
    let workers = config.workers.get();
    let mut by_worker: Vec<Vec<ListenerSocket>> = (0..workers).map(|_| Vec::new()).collect();
    let mut known = Vec::new();
    for (address, place) in addresses.iter().zip(0..) {
        let inherited = inheritance.as_mut().and_then(|it| it.take_listeners(*address, place));
        let (group, pinned) = match inherited {
            // They are pinned already.
            Some(inherited) => inherited,
            None => bind_group(*address, config, options)?,
        };
        known.push(pinned);
        for (own, socket) in by_worker.iter_mut().zip(group) {
            own.push(socket);
        }
    }
    Ok((by_worker, Known::new(known)))
}

/// One listener of each worker at an address, and what the kernel knows of their clients.
fn bind_group(
    address: SocketAddr,
    config: &Config,
    options: &SocketOptions,
) -> Result<(Vec<ListenerSocket>, Option<Pinned>), StartError> {
    let workers = config.workers.get();
    let group = match config.no_stranger_queue {
        true => bind_listeners(address, workers, options),
        false => bind_listeners_apart(address, workers, options),
    };
    let mut group = group.map_err(StartError::system("listen"))?;
    let pinned = keep_clients(&mut group);
    Ok((group, pinned))
}

/// Pins clients to workers, and keeps strangers apart; where that is not permitted, the kernel's hash does the first as
/// long as all workers' sockets stay open.
fn keep_clients(group: &mut [ListenerSocket]) -> Option<Pinned> {
    let strangers: Vec<_> = group.iter().filter_map(ListenerSocket::strangers).collect();
    if group.len() < 2 && strangers.is_empty() {
        return None;
    }
    let separates = !strangers.is_empty();
    match pinning::pin(group, &strangers) {
        Ok(pinned) => {
            debug!(workers = group.len(), separates, "the eBPF program keeps clients on their workers");
            Some(pinned)
        }
        Err(error) => {
            group.iter_mut().for_each(ListenerSocket::close_strangers);
            let strangers = if separates { "; strangers have no queue of their own" } else { "" };
            info!("the kernel spreads clients over workers by its own hash{strangers}: {error}");
            None
        }
    }
}

/// What all workers are made of.
struct Crew<'a> {
    config: &'a Config,
    backend: Backend,
    options: SocketOptions,
    shared: &'a Arc<Shared>,
    kernel: &'a KernelPath,
    reserved: &'a Arc<Reserved>,
    events: &'a EventSink,
    proxies: &'a Arc<Proxies>,
    known: &'a Known,
    streams: &'a StreamOptions,
}

impl Crew<'_> {
    /// One for each entry of `sockets`, with what its predecessor had. They begin when the gate is opened.
    fn start(
        &self,
        sockets: impl Iterator<Item = (Vec<ListenerSocket>, Vec<StreamListener>)>,
        heirs: &mut Heirs,
        inheritance: &mut Option<Inheritance>,
    ) -> Result<(Vec<WorkerHandle>, Vec<WorkerThread>, GateKeeper), StartError> {
        let gate = Gate::default();
        let keeper = gate.keeper();
        let handovers = Handover::between(self.config.workers.get());
        let started = sockets.zip(handovers).zip(0..).map(|(((own, streams), handover), number)| {
            let mut server = Server::new(Arc::clone(self.shared), WorkerId(number), seed()?);
            let inherited = heirs.adopt(inheritance.as_mut(), &mut server, number)?;
            let parts = WorkerParts {
                worker: WorkerId(number),
                server,
                inherited,
                gate: gate.clone(),
                handover,
                events: self.events.clone(),
                kernel: self.kernel,
                reserved: Arc::clone(self.reserved),
                max_queue_delay: self.config.max_queue_delay,
                proxies: Arc::clone(self.proxies),
                known: self.known.clone(),
                streams: streams::of_worker(streams, self.streams)?,
            };
            parts.open(self.backend, own, self.options)
        });
        let (workers, threads) = started.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        Ok((workers, threads, keeper))
    }
}

/// What a worker is made of, besides its driver.
struct WorkerParts<'a> {
    worker: WorkerId,
    server: Server,
    inherited: Inherited,
    gate: Gate,
    handover: Handover,
    events: EventSink,
    kernel: &'a KernelPath,
    reserved: Arc<Reserved>,
    max_queue_delay: Duration,
    proxies: Arc<Proxies>,
    known: Known,
    streams: Option<Streams>,
}

impl WorkerParts<'_> {
    fn open(
        self,
        backend: Backend,
        listeners: Vec<ListenerSocket>,
        options: SocketOptions,
    ) -> Result<(WorkerHandle, WorkerThread), StartError> {
        match backend {
            Backend::IoUring => {
                let driver = UringDriver::new(listeners, options).map_err(StartError::system("io_uring"))?;
                let reserved = Arc::clone(&self.reserved);
                self.start(driver.with_reserved(reserved))
            }
            Backend::Epoll => {
                let driver = EpollDriver::new(listeners, options).map_err(StartError::system("epoll"))?;
                let reserved = Arc::clone(&self.reserved);
                self.start(driver.with_reserved(reserved))
            }
        }
    }

    fn start(
        self,
        mut driver: impl Driver + Send + 'static,
    ) -> Result<(WorkerHandle, WorkerThread), StartError> {
        let Self { worker: id, server, handover, events, kernel, inherited, gate, .. } = self;
        for (relay, socket, lost) in inherited.relays {
            let adopted = driver.adopt_port(relay, socket, lost);
            adopted.map_err(StartError::system("a relay socket of the process that runs"))?;
        }
        let (handle, told, status) = WorkerHandle::new(driver.waker());
        let outbox = kernel.outbox(id, driver.waker());
        let worker = Worker::new(driver, server, told, status).with_ended(&inherited.ended);
        let worker = worker.with_handover(handover).with_events(events).with_proxies(self.proxies);
        let mut worker = worker.with_max_queue_delay(self.max_queue_delay).with_known(self.known);
        if let Some(outbox) = outbox {
            worker.set_offload(outbox);
        }
        if let Some(streams) = self.streams {
            worker = worker.with_streams(streams).map_err(StartError::system("listeners for TCP"))?;
        }
        let thread = thread::Builder::new()
            .name(format!("worker-{}", id.0))
            .spawn(move || if gate.pass() { worker.run(clock::now) } else { Ok(()) })
            .map_err(StartError::system("worker thread"))?;
        Ok((handle, thread))
    }
}
