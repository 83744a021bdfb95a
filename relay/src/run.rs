//! Starts the relay and keeps it running until it is told to stop.
//!
//! ```text
//!   addresses ─► listeners ─► shared state ─► workers ─► ready line ─► signals ─► drain ─► stop
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
use turnpike_proto::Server;
use turnpike_proto::auth::BadCredential;
use turnpike_proto::shared::Shared;
use turnpike_proto::stats::VerdictCounts;

use crate::backend::{self, Backend, Choice};
use crate::banner::{self, Ready};
use crate::config::resolve::{self, Addresses};
use crate::config::{Config, Loaded, Loader, Problems};
use crate::control::{Command, WorkerHandle};
use crate::driver::Driver;
use crate::driver::epoll::EpollDriver;
use crate::driver::uring::UringDriver;
use crate::handover::Handover;
use crate::offload::{KernelPath, pinning};
use crate::shard::Shard;
use crate::signals::{self, Signal};
use crate::sockets::{ListenerSocket, SocketOptions, bind_listeners};
use crate::{clock, setup};

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

    fn system(what: &str) -> impl FnOnce(io::Error) -> StartError + '_ {
        move |source| StartError::System { what: what.to_owned(), source }
    }
}

/// Runs the relay; returns when it was told to stop. `loader` loads the configuration again on SIGHUP.
///
/// # Errors
/// If the relay can't start or can't go on.
pub fn run(config: Config, loader: &Loader) -> Result<(), StartError> {
    let signals = signals::listen().map_err(StartError::system("signals"))?;
    raise_descriptor_limit();
    let addresses = resolve::resolve_here(&config)?;
    for warning in &addresses.warnings {
        warn!("{warning}");
    }
    let mut relay = Relay::start(config, addresses)?;
    let (listen, relayed) = (relay.listeners.clone(), relay.addresses.relay.clone());
    let ready = Ready::new(&relay.config, listen, relayed, relay.io.clone(), relay.kernel.data_path());
    banner::announce(&ready, &relay.config).map_err(StartError::system("stdout"))?;
    info!("{ready}");
    notify(&[NotifyState::Ready]);
    let outcome = relay.serve(&signals, loader);
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
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("systemd was not notified: {error}");
    }
}

/// The running relay.
struct Relay {
    config: Config,
    addresses: Addresses,
    listeners: Vec<SocketAddr>,
    io: Choice,
    kernel: KernelPath,
    shared: Arc<Shared>,
    workers: Vec<Worker>,
}

struct Worker {
    handle: WorkerHandle,
    thread: JoinHandle<io::Result<()>>,
}

impl Relay {
    fn start(config: Config, addresses: Addresses) -> Result<Self, StartError> {
        let io = backend::choose(config.io)
            .map_err(io::Error::other)
            .map_err(StartError::system("io = \"io-uring\""))?;
        let options = SocketOptions { coalesce: config.coalesce, ..SocketOptions::default() };
        let sockets = bind_all(&addresses.listen, config.workers.get(), &options)?;
        let listeners: Vec<SocketAddr> = sockets
            .first()
            .map(|own| own.iter().map(ListenerSocket::local_addr).collect())
            .unwrap_or_default();
        let seed = || setup::seed().map_err(StartError::system("random numbers"));
        let kernel = KernelPath::start(&config, &addresses, &listeners)
            .map_err(io::Error::other)
            .map_err(StartError::system("offload = \"require\""))?;
        let shared = setup::shared(&config, &addresses, &listeners, seed()?, kernel.plane())?;
        let mut workers = Vec::with_capacity(sockets.len());
        let handovers = Handover::between(sockets.len());
        for (number, (own, handover)) in sockets.into_iter().zip(handovers).enumerate() {
            let server = Server::new(Arc::clone(&shared), number as u16, seed()?);
            workers.push(Worker::open(io.backend, number, own, options, server, handover, &kernel)?);
        }
        Ok(Self { config, addresses, listeners, io, kernel, shared, workers })
    }

    /// Until a signal says stop and, if so configured, the last allocation has gone.
    fn serve(&mut self, signals: &Receiver<Signal>, loader: &Loader) -> Result<(), StartError> {
        loop {
            match signals.recv_timeout(GLANCE) {
                Ok(Signal::Reload) => self.reload(loader),
                Ok(Signal::Stop) => {
                    self.drain(signals);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout)
                    if self.workers.iter().any(|worker| worker.thread.is_finished()) =>
                {
                    let source = io::Error::other("a worker has ended; see the log");
                    return Err(StartError::System { what: "workers".to_owned(), source });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let source = io::Error::other("the signal thread has ended");
                    return Err(StartError::System { what: "signals".to_owned(), source });
                }
            }
        }
    }

    /// Lets existing allocations live on for the configured time; a second signal ends the wait.
    fn drain(&self, signals: &Receiver<Signal>) {
        let timeout = self.config.drain_timeout;
        if timeout.is_zero() || self.allocations() == 0 {
            return;
        }
        info!(allocations = self.allocations(), timeout_secs = timeout.as_secs(), "draining");
        self.tell(Command::Drain(true));
        let deadline = Instant::now() + timeout;
        while self.allocations() > 0 && Instant::now() < deadline {
            if signals.recv_timeout(GLANCE) == Ok(Signal::Stop) {
                info!("a second signal: stopping at once");
                return;
            }
        }
    }

    /// Users, secrets, peer policy, quotas and the rate of unauthenticated answers as the configuration says
    /// now; the rest needs a restart.
    fn reload(&mut self, loader: &Loader) {
        let Loaded { config, warnings } = match loader.load() {
            Ok(loaded) => loaded,
            Err(problems) => return error!("not reloaded: {problems}"),
        };
        for warning in &warnings {
            warn!("{warning}");
        }
        let config = Config { realm: self.config.realm.clone(), ..config };
        let credentials = match setup::credentials(&config) {
            Ok(credentials) => credentials,
            Err(problem) => return error!("not reloaded: {problem}"),
        };
        self.shared.auth.replace_credentials(credentials);
        self.shared.replace_policy(setup::peer_policy(&config, &self.addresses, &self.listeners));
        let (per_user, total) = setup::quota_limits(&config);
        self.shared.quotas.set_limits(per_user, total);
        self.shared.set_unauthenticated_rate(setup::unauthenticated_rate(&config));
        self.tell(Command::PolicyChanged);
        self.config.drain_timeout = config.drain_timeout;
        info!(
            "reloaded users, secrets, peer policy, quotas, unauthenticated rate and drain timeout; \
             other options need a restart"
        );
    }

    fn allocations(&self) -> usize {
        self.workers.iter().map(|worker| worker.handle.status.allocations()).sum()
    }

    fn tell(&self, command: Command) {
        for worker in &self.workers {
            if let Err(error) = worker.handle.send(command) {
                error!("{error}");
            }
        }
    }

    fn stop(self) {
        for worker in &self.workers {
            // The thread's own outcome says why it has ended before.
            let _ = worker.handle.insist(Command::Stop);
        }
        let mut verdicts = VerdictCounts::default();
        let (mut created, mut ended) = (0, 0);
        for worker in self.workers {
            let Worker { handle, thread } = worker;
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!("a worker failed: {error}"),
                Err(_) => error!("a worker panicked"),
            }
            let counts = handle.status.report().counts;
            counts.verdicts.nonzero().for_each(|(verdict, times)| verdicts.add(verdict, times));
            created += counts.allocations_created;
            ended += counts.allocations_ended;
        }
        let path = self.kernel.data_path();
        let forwarded_in_kernel = self.kernel.stop();
        let datagrams: Vec<String> =
            verdicts.nonzero().map(|(verdict, times)| format!("{}={times}", verdict.name())).collect();
        info!(
            allocations_created = created,
            allocations_ended = ended,
            datagrams = datagrams.join(" "),
            data_path = path.to_string(),
            forwarded_in_kernel,
            "stopped"
        );
    }
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

impl Worker {
    fn open(
        backend: Backend,
        number: usize,
        listeners: Vec<ListenerSocket>,
        options: SocketOptions,
        server: Server,
        handover: Handover,
        kernel: &KernelPath,
    ) -> Result<Self, StartError> {
        match backend {
            Backend::IoUring => {
                let driver = UringDriver::new(listeners, options).map_err(StartError::system("io_uring"))?;
                Self::start(number, driver, server, handover, kernel)
            }
            Backend::Epoll => {
                let driver = EpollDriver::new(listeners, options).map_err(StartError::system("epoll"))?;
                Self::start(number, driver, server, handover, kernel)
            }
        }
    }

    fn start(
        number: usize,
        driver: impl Driver + Send + 'static,
        server: Server,
        handover: Handover,
        kernel: &KernelPath,
    ) -> Result<Self, StartError> {
        let (handle, commands, status) = WorkerHandle::new(driver.waker());
        let outbox = kernel.outbox(number as u16, driver.waker());
        let mut shard = Shard::new(driver, server, commands, status).with_handover(handover);
        if let Some(outbox) = outbox {
            shard.set_offload(outbox);
        }
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || shard.run(clock::now))
            .map_err(StartError::system("worker thread"))?;
        Ok(Self { handle, thread })
    }
}
