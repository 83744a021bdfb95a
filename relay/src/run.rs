//! Starts the relay and keeps it running until it is told to stop.
//!
//! ```text
//!   addresses ─► listeners ─► shared state ─► workers ─► control ─► ready line ─► signals ─► drain ─► stop
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tracing::{debug, error, info, warn};
use turnpike_admin::model::Counts;
use turnpike_driver::Driver;
use turnpike_driver::choose::{self, Backend};
use turnpike_driver::epoll::EpollDriver;
use turnpike_driver::sockets::{ListenerSocket, SocketOptions, bind_listeners};
use turnpike_driver::uring::UringDriver;
use turnpike_driver::{clock, heap};
use turnpike_proto::Server;
use turnpike_proto::auth::BadCredential;

use crate::admin::Administration;
use crate::banner::{self, DataPath, Ready};
use crate::config::resolve::{self, Addresses};
use crate::config::{Config, Loader, Problems};
use crate::control::{Command, Control, EventSink, Parts, Users, WorkerHandle, event_queue};
use crate::handover::Handover;
use crate::offload::{KernelPath, pinning};
use crate::setup;
use crate::shard::Shard;
use crate::signals::{self, Signal};

/// How often a drain looks whether the last allocation has gone, and the main thread whether a worker has died.
const GLANCE: Duration = Duration::from_millis(200);

/// Why the relay couldn't start, or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration doesn't fit this host.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A user's name or password can't be used.
    #[error(transparent)]
    Credential(#[from] BadCredential),
    /// Something the relay needs from the operating system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried, for the operator.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code: 2 for the configuration, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(_) | StartError::Credential(_) => 2,
            StartError::System { .. } => 1,
        }
    }

    fn other<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> StartError + '_ {
        move |why| Self::system(what)(io::Error::other(why.to_string()))
    }

    fn system(what: &str) -> impl FnOnce(io::Error) -> StartError + '_ {
        move |source| StartError::System { what: what.to_owned(), source }
    }
}

/// Runs the relay; returns when it was told to stop. `loader` loads the configuration again for a reload.
///
/// # Errors
/// If the relay can't start or can't go on.
pub fn run(config: Config, loader: Loader) -> Result<(), StartError> {
    let signals = signals::listen().map_err(StartError::system("signals"))?;
    raise_descriptor_limit();
    heap::keep_small();
    let addresses = resolve::resolve_here(&config)?;
    for warning in &addresses.warnings {
        warn!("{warning}");
    }
    let (relay, ready) = Relay::start(&config, loader, addresses)?;
    if let Err(error) = banner::announce(&ready, &config) {
        warn!("the ready line could not be printed on stdout: {error}");
    }
    info!("{ready}");
    notify(&[NotifyState::Ready]);
    let outcome = relay.serve(&signals);
    notify(&[NotifyState::Stopping]);
    relay.stop();
    outcome
}

/// Each relayed address needs a descriptor: as many as the system lets us have without asking.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

/// Tells systemd, if it listens; nobody else minds.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("systemd was not notified: {error}");
    }
}

/// The running relay.
struct Relay {
    control: Arc<Control>,
    kernel: KernelPath,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Ends when dropped.
    _admin: Option<Administration>,
}

impl Relay {
    /// Also gives what there is to announce.
    fn start(config: &Config, loader: Loader, addresses: Addresses) -> Result<(Self, Ready), StartError> {
        let io = choose::choose(config.io.wanted())
            .map_err(io::Error::other)
            .map_err(StartError::system("io = \"io-uring\""))?;
        let options = SocketOptions { coalesce: config.coalesce, ..SocketOptions::default() };
        let sockets = bind_all(&addresses.listen, config.workers.get(), &options)?;
        let listeners: Vec<SocketAddr> = sockets
            .first()
            .map(|own| own.iter().map(ListenerSocket::local_addr).collect())
            .unwrap_or_default();
        let seed = || setup::seed().map_err(StartError::system("random numbers"));
        let kernel = KernelPath::start(config, &addresses, &listeners)
            .map_err(StartError::other("offload = \"require\""))?;
        let shared = setup::shared(config, &addresses, &listeners, seed()?, kernel.plane())?;
        let users = Users::open(config).map_err(StartError::other("user-database"))?;
        let (events, event_source) = event_queue();
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        let handovers = Handover::between(sockets.len());
        for (number, (own, handover)) in sockets.into_iter().zip(handovers).enumerate() {
            let server = Server::new(Arc::clone(&shared), number as u16, seed()?);
            let parts = WorkerParts { number, server, handover, events: events.clone(), kernel: &kernel };
            let (handle, thread) = parts.open(io.backend, own, options)?;
            workers.push(handle);
            threads.push(thread);
        }
        let mut ready = Ready::new(config, listeners, addresses.relay.clone(), io, kernel.data_path());
        let control = Control::new(Parts {
            config: config.clone(),
            loader,
            addresses,
            ready: ready.clone(),
            shared,
            workers,
            offload: Arc::clone(kernel.status()),
            users,
        });
        control.apply_credentials(config).map_err(StartError::other("users"))?;
        let admin =
            Administration::start(config, &control, event_source).map_err(StartError::other("admin"))?;
        ready.admin = admin.as_ref().map(Administration::url);
        Ok((Self { control, kernel, threads, _admin: admin }, ready))
    }

    /// Until a signal says stop and, if so configured, the last allocation has gone.
    fn serve(&self, signals: &Receiver<Signal>) -> Result<(), StartError> {
        loop {
            match signals.recv_timeout(GLANCE) {
                // Its outcome is in the log.
                Ok(Signal::Reload) => drop(self.control.reload_all()),
                Ok(Signal::Stop) => {
                    self.drain(signals);
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
        }
    }

    /// Lets existing allocations live on for the configured time; a second signal ends the wait. It is the
    /// drain that the API knows, too.
    fn drain(&self, signals: &Receiver<Signal>) {
        let timeout = self.control.drain_timeout();
        if timeout.is_zero() || self.control.allocations() == 0 {
            return;
        }
        notify(&[NotifyState::Stopping]);
        if let Err(why) = self.control.begin_drain(Some(timeout)) {
            error!("not draining: {why}");
        }
        let deadline = Instant::now() + timeout;
        while self.control.allocations() > 0 && Instant::now() < deadline {
            if signals.recv_timeout(GLANCE) == Ok(Signal::Stop) {
                info!("a second signal: stopping at once");
                return;
            }
        }
    }

    fn stop(self) {
        for worker in self.control.workers() {
            // The thread's own outcome says why it has ended before.
            let _ = worker.insist(Command::Stop);
        }
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!("a worker failed: {error}"),
                Err(_) => error!("a worker panicked"),
            }
        }
        let path = self.kernel.data_path();
        let frames = self.kernel.stop();
        log_totals(&turnpike_admin::Relay::totals(&*self.control).sum, &path, frames);
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

/// All workers' listeners, one of each address for each worker. All are bound before anybody reads, since
/// the kernel spreads clients over those that are there.
fn bind_all(
    addresses: &[SocketAddr],
    workers: usize,
    options: &SocketOptions,
) -> Result<Vec<Vec<ListenerSocket>>, StartError> {
    let mut by_worker: Vec<Vec<ListenerSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for address in addresses {
        let group = bind_listeners(*address, workers, options).map_err(StartError::system("listen"))?;
        keep_clients(&group);
        for (own, socket) in by_worker.iter_mut().zip(group) {
            own.push(socket);
        }
    }
    Ok(by_worker)
}

/// Pins clients to workers; where that is not permitted, the kernel's hash does the same as long as all
/// workers' sockets stay open.
fn keep_clients(group: &[ListenerSocket]) {
    if group.len() < 2 {
        return;
    }
    match pinning::pin(group) {
        Ok(_) => debug!(workers = group.len(), "the eBPF program keeps clients on their workers"),
        Err(error) => info!("the kernel spreads clients over workers by its own hash: {error}"),
    }
}

/// What a worker is made of, besides its driver.
struct WorkerParts<'a> {
    number: usize,
    server: Server,
    handover: Handover,
    events: EventSink,
    kernel: &'a KernelPath,
}

type WorkerThread = JoinHandle<io::Result<()>>;

impl WorkerParts<'_> {
    fn open(
        self,
        backend: Backend,
        listeners: Vec<ListenerSocket>,
        options: SocketOptions,
    ) -> Result<(WorkerHandle, WorkerThread), StartError> {
        match backend {
            Backend::IoUring => {
                self.start(UringDriver::new(listeners, options).map_err(StartError::system("io_uring"))?)
            }
            Backend::Epoll => {
                self.start(EpollDriver::new(listeners, options).map_err(StartError::system("epoll"))?)
            }
        }
    }

    fn start(self, driver: impl Driver + Send + 'static) -> Result<(WorkerHandle, WorkerThread), StartError> {
        let Self { number, server, handover, events, kernel } = self;
        let (handle, messages, status) = WorkerHandle::new(driver.waker());
        let outbox = kernel.outbox(number as u16, driver.waker());
        let shard = Shard::new(driver, server, messages, status);
        let mut shard = shard.with_handover(handover).with_events(events);
        if let Some(outbox) = outbox {
            shard.set_offload(outbox);
        }
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || shard.run(clock::now))
            .map_err(StartError::system("worker thread"))?;
        Ok((handle, thread))
    }
}
