//! The relay as its operators see it, by signal or by API.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, broadcast, oneshot};
use tracing::debug;
use turnpike_admin::model::{self, AllocationId, Event};
use turnpike_admin::{Answer, Relay, RelayError};
use turnpike_offload::status::StatusCell;
use turnpike_proto::addr::Family;
use turnpike_proto::shared::Shared;

use super::convert::{self, Moment};
use super::liveness::Liveness;
use super::operate::Drain;
use super::snapshots::Snapshots;
use super::totals::Loads;
use super::users::Users;
use super::{Command, EventSource, Question, Reply, Unreachable, WorkerEvent, WorkerHandle};
use crate::banner::Ready;
use crate::config::resolve::Addresses;
use crate::config::{Config, Kind, Loader, OPTIONS, Shown};
use crate::network::Publics;
use crate::refusals::{self, RecentRefusal};

/// How long a worker may take for an answer: far more than any turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events kept for a subscriber that lags; then it loses the oldest, and learns how many.
const MAX_LAG: usize = 4096;
/// Highest limit of an allocation, bits per second: as for `max-bitrate`.
const MAX_BITRATE: u64 = 1_000_000_000_000;
/// Refusals listed.
const MAX_REFUSALS: usize = 512;
/// What stands for a secret.
const MASK: &str = "***";

/// What a running relay consists of.
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// Reads it again.
    pub loader: Arc<Loader>,
    /// The addresses in use.
    pub addresses: Addresses,
    /// Who knows public addresses.
    pub publics: Arc<Publics>,
    /// What the ready line says.
    pub ready: Ready,
    /// What workers share.
    pub shared: Arc<Shared>,
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// The kernel's data path.
    pub offload: Arc<StatusCell>,
    /// Users beside those of the configuration.
    pub users: Users,
}

/// Everything that operators may ask and order. Shared by the main thread and the API's threads.
pub struct Control {
    pub(super) started: Moment,
    pub(super) config: ArcSwap<Config>,
    pub(super) loader: Arc<Loader>,
    /// As the host has them now.
    pub(super) addresses: ArcSwap<Addresses>,
    /// Families that there was a relay address of.
    pub(super) had: Mutex<Vec<Family>>,
    pub(super) publics: Arc<Publics>,
    pub(super) ready: Ready,
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) offload: Arc<StatusCell>,
    pub(super) users: Users,
    pub(super) drain: Mutex<Drain>,
    /// Held while credentials are put together, so that the last change wins.
    pub(super) reloading: Mutex<()>,
    /// Held while the host's addresses are looked at.
    pub(super) following: Mutex<()>,
    /// Held while policy and relay addresses are put in force, so that the last change wins; never while anything
    /// is waited for.
    pub(super) enforcing: Mutex<()>,
    /// Every worker knows of the last change.
    pub(super) all_told: AtomicBool,
    pub(super) snapshots: Snapshots,
    pub(super) loads: Loads,
    pub(super) liveness: Liveness,
    events: broadcast::Sender<Arc<Event>>,
    /// Events that found their queue full, once somebody publishes them.
    lost_events: OnceLock<Arc<AtomicU64>>,
    /// The administration, once it runs.
    pub(super) admin: OnceLock<turnpike_admin::Handle>,
    /// For threads that are to do what blocks.
    me: Weak<Control>,
    /// The turn of whoever wants something of the users' database.
    pub(super) database: Arc<Semaphore>,
    /// The turn of whoever wants a reload.
    reload: Arc<Semaphore>,
}

impl Control {
    /// Takes over a relay whose workers run.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, loader, addresses, publics, ready, shared, workers, offload, users } = parts;
        Arc::new_cyclic(|me| Self {
            started: Moment::now(),
            config: ArcSwap::from_pointee(config),
            loader,
            addresses: ArcSwap::from_pointee(addresses),
            had: Mutex::default(),
            publics,
            ready,
            shared,
            workers,
            offload,
            users,
            drain: Mutex::default(),
            reloading: Mutex::default(),
            following: Mutex::default(),
            enforcing: Mutex::default(),
            all_told: AtomicBool::new(true),
            snapshots: Snapshots::default(),
            loads: Loads::default(),
            liveness: Liveness::default(),
            events: broadcast::Sender::new(MAX_LAG),
            lost_events: OnceLock::new(),
            admin: OnceLock::new(),
            me: Weak::clone(me),
            database: Arc::new(Semaphore::new(1)),
            reload: Arc::new(Semaphore::new(1)),
        })
    }

    /// Names the running administration: a reload changes its tokens and its certificate.
    pub fn set_admin(&self, handle: turnpike_admin::Handle) {
        // There is one at most.
        let _ = self.admin.set(handle);
    }

    /// Allocations of all workers.
    pub fn allocations(&self) -> usize {
        self.workers.iter().map(|worker| worker.status.allocations()).sum()
    }

    /// The workers, in the order of their numbers.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Tells every worker; an error names the first that was not reached, the others are told all the same.
    pub(super) fn tell(&self, command: Command) -> Result<(), RelayError> {
        let outcomes: Vec<_> = self.workers.iter().map(|worker| worker.send(command)).collect();
        outcomes.into_iter().find_map(Result::err).map_or(Ok(()), |unreachable| Err(busy(unreachable)))
    }

    /// Publishes what workers tell, until none is left.
    pub async fn publish_events(self: Arc<Self>, mut source: EventSource) {
        source.set_listening(true);
        self.lost_events.get_or_init(|| source.lost());
        while let Some(event) = source.next().await {
            if self.events.receiver_count() == 0 {
                continue;
            }
            let at = Moment::now();
            self.publish(match event {
                WorkerEvent::Created(view) => {
                    Event::Created { allocation: convert::allocation(*view, at, [0; 2]) }
                }
                WorkerEvent::Ended(record) => convert::ended(*record, at),
                WorkerEvent::Refused(request) => {
                    let recent = RecentRefusal::one(*request, at.unix_secs());
                    Event::Refused(convert::refusal(recent))
                }
            });
        }
    }

    /// What is done once a second: load, and a walk where somebody needs it.
    pub async fn tick(self: Arc<Self>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            self.loads.sample(&self.workers);
            let is_watched = self.events.receiver_count() > 0;
            if !is_watched && !self.snapshot_is_wanted() && !self.offload.read().active {
                continue;
            }
            match self.take_snapshot().await {
                Ok(snapshot) if is_watched => {
                    let limited = self.newly_limited(&snapshot);
                    limited.into_iter().for_each(|limited| self.publish(Event::Limited(limited)));
                }
                Ok(_) => {}
                Err(error) => debug!("no snapshot: {error}"),
            }
        }
    }

    /// Does what blocks on a thread for such work, one after the other: nobody's packets, and no other
    /// request, wait for it.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        turn: &Arc<Semaphore>,
        otherwise: &str,
        work: impl FnOnce(&Control) -> Result<T, RelayError> + Send + 'static,
    ) -> Result<T, RelayError> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(RelayError::Busy(otherwise.to_owned())) };
        let control = self.me.upgrade().expect("whoever calls keeps it alive");
        let work = move || {
            // Also if whoever asked has gone.
            let _turn = turn;
            work(&control)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| RelayError::Internal(format!("a thread of the administration: {error}")))?
    }

    fn publish(&self, event: Event) {
        // It fails only if nobody listens.
        let _ = self.events.send(Arc::new(event));
    }

    /// Asks all workers at once, and waits for all answers.
    pub(super) async fn ask_all<T>(
        &self,
        question: impl Fn(Reply<T>) -> Question,
    ) -> Result<Vec<T>, RelayError> {
        let asked: Vec<_> = self.workers.iter().map(|worker| put(worker, &question)).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(wait_for(answer?).await?);
        }
        Ok(answers)
    }

    fn worker_of(&self, id: AllocationId) -> Result<&WorkerHandle, RelayError> {
        self.workers.get((id.0 >> 48) as usize).ok_or(RelayError::NotFound("allocation"))
    }

    async fn inspect(&self, id: AllocationId) -> Result<model::AllocationDetail, RelayError> {
        let found = ask(self.worker_of(id)?, |reply| Question::Inspect(id.0, reply)).await?;
        let detail = found.ok_or(RelayError::NotFound("allocation"))?;
        let at = Moment::now();
        let rates = self.rates_of(&detail.view, at);
        Ok(convert::detail(*detail, at, rates))
    }

    async fn set_limit(&self, id: AllocationId, bits_per_sec: u64) -> Result<(), RelayError> {
        if bits_per_sec > MAX_BITRATE {
            return Err(RelayError::Invalid(format!("a limit is at most {MAX_BITRATE} bits per second")));
        }
        let found = ask(self.worker_of(id)?, |reply| Question::SetRate(id.0, bits_per_sec, reply)).await?;
        let view = found.ok_or(RelayError::NotFound("allocation"))?.view;
        self.publish(Event::Limited(model::Limited {
            id,
            user: view.user.to_string(),
            why: model::LimitedWhy::Changed,
            max_bits_per_sec: view.bitrate_bits,
            rate_drops: view.to_peer.total().rate_drops + view.to_client.total().rate_drops,
        }));
        Ok(())
    }

    async fn end(&self, id: AllocationId) -> Result<(), RelayError> {
        let found = ask(self.worker_of(id)?, |reply| Question::Disconnect(id.0, reply)).await?;
        found.ok_or(RelayError::NotFound("allocation"))?;
        Ok(())
    }

    async fn end_all_of(&self, user: &str) -> Result<model::Disconnected, RelayError> {
        // Each worker tells askers apart by the name they gave it.
        let counts = self.ask_all(|reply| Question::DisconnectUser(user.into(), reply)).await?;
        let counts: Option<Vec<u64>> = counts.into_iter().collect();
        let busy = || RelayError::Busy("too many users are being disconnected".to_owned());
        let allocations = counts.ok_or_else(busy)?.into_iter().sum();
        Ok(model::Disconnected { allocations })
    }

    fn shown_config(&self) -> model::Config {
        let shown = self.config.load().shown();
        let options = OPTIONS.iter().zip(shown).map(|(spec, shown)| model::ConfigOption {
            name: spec.key.to_owned(),
            values: match shown {
                Shown::Nothing => Vec::new(),
                Shown::One(value) if spec.kind == Kind::Switch && value == "false" => Vec::new(),
                Shown::One(value) => vec![value],
                Shown::Many(values) => values,
                Shown::Secrets(count) => vec![MASK.to_owned(); count],
            },
            secret: spec.kind == Kind::Secrets,
            reloadable: super::reload::is_reloadable(spec.key),
        });
        model::Config { options: options.collect() }
    }

    fn describe(&self) -> model::Status {
        let (now, ready) = (Moment::now(), &self.ready);
        let listener = |address| model::Listener { address, transport: model::Transport::Udp };
        let relay = |address: &crate::config::resolve::RelayAddress| model::RelayAddress {
            address: address.local,
            external: Some(address.public).filter(|public| *public != address.local),
            first_port: ready.port_range.first,
            last_port: ready.port_range.last,
        };
        model::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_secs: self.started.unix_secs(),
            uptime_secs: now.mono_ns.saturating_sub(self.started.mono_ns) / 1_000_000_000,
            realm: self.shared.auth.realm().to_owned(),
            listeners: ready.listen.iter().copied().map(listener).collect(),
            relay_addresses: self.addresses.load().relays().map(relay).collect(),
            data_path: model::DataPath {
                name: ready.io.backend.name().to_owned(),
                why: ready.io.why.clone(),
            },
            offload: self.offload_status(),
            workers: self.worker_status(),
            allocations: self.allocations() as u64,
            drain: self.drain_state(),
            readiness: self.readiness(),
            log_records_dropped: crate::logging::records_dropped(),
            events_dropped: self.lost_events.get().map_or(0, |lost| lost.load(Relaxed)),
        }
    }
}

impl Relay for Control {
    fn status(&self) -> model::Status {
        self.describe()
    }

    fn config(&self) -> model::Config {
        self.shown_config()
    }

    fn readiness(&self) -> model::Readiness {
        let mut reasons = self.standstills();
        if self.drain_state().draining {
            reasons.push("draining: no new allocations".to_owned());
        }
        reasons.extend(self.awaited().iter().map(|awaited| format!("waiting for {awaited}")));
        model::Readiness { ready: reasons.is_empty(), reasons }
    }

    fn faults(&self) -> Vec<String> {
        self.standstills()
    }

    fn totals(&self) -> model::Totals {
        self.sum_up()
    }

    fn drop_reasons(&self) -> Vec<model::DropReason> {
        super::drops::reasons()
    }

    fn refusals(&self) -> model::Refusals {
        let workers = self.workers.iter().map(|worker| worker.status.refusals());
        let recent = refusals::merged(workers, MAX_REFUSALS);
        model::Refusals {
            refusals: recent.into_iter().map(convert::refusal).collect(),
            totals: self.sum_up().sum.refusals,
        }
    }

    fn snapshot(&self) -> Answer<'_, Arc<model::Snapshot>> {
        Box::pin(self.recent_snapshot())
    }

    fn allocation(&self, id: AllocationId) -> Answer<'_, model::AllocationDetail> {
        Box::pin(self.inspect(id))
    }

    fn disconnect(&self, id: AllocationId) -> Answer<'_, ()> {
        Box::pin(self.end(id))
    }

    fn limit(&self, id: AllocationId, bits_per_sec: u64) -> Answer<'_, ()> {
        Box::pin(self.set_limit(id, bits_per_sec))
    }

    fn disconnect_user<'a>(&'a self, name: &'a str) -> Answer<'a, model::Disconnected> {
        Box::pin(self.end_all_of(name))
    }

    fn users(&self) -> Answer<'_, Vec<model::User>> {
        Box::pin(self.list_users())
    }

    fn user<'a>(&'a self, name: &'a str) -> Answer<'a, model::User> {
        Box::pin(self.find_user(name))
    }

    fn put_user<'a>(&'a self, name: &'a str, change: model::UserChange) -> Answer<'a, (model::User, bool)> {
        Box::pin(self.store_user(name, change))
    }

    fn delete_user<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(self.remove_user(name))
    }

    fn credentials(&self, request: model::CredentialRequest) -> Answer<'_, model::Credentials> {
        Box::pin(std::future::ready(self.issue(&request)))
    }

    fn drain(&self, request: model::DrainRequest) -> Answer<'_, model::DrainState> {
        let deadline = request.deadline_secs.map(Duration::from_secs);
        Box::pin(std::future::ready(self.begin_drain(deadline)))
    }

    fn resume(&self) -> Answer<'_, model::DrainState> {
        Box::pin(std::future::ready(self.end_drain()))
    }

    fn reload(&self) -> Answer<'_, model::ReloadReport> {
        // It reads files.
        Box::pin(self.in_turn(&self.reload, "another reload is under way", Control::reload_all))
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.events.subscribe()
    }
}

/// Asks a worker and waits for the answer, but not for ever.
async fn ask<T>(worker: &WorkerHandle, question: impl FnOnce(Reply<T>) -> Question) -> Result<T, RelayError> {
    wait_for(put(worker, question)?).await
}

fn put<T>(
    worker: &WorkerHandle,
    question: impl FnOnce(Reply<T>) -> Question,
) -> Result<oneshot::Receiver<T>, RelayError> {
    let (reply, answer) = oneshot::channel();
    worker.ask(question(reply)).map_err(busy)?;
    Ok(answer)
}

async fn wait_for<T>(answer: oneshot::Receiver<T>) -> Result<T, RelayError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(busy(Unreachable::Ended)),
        Err(_) => Err(RelayError::Busy("a worker did not answer in time".to_owned())),
    }
}

fn busy(unreachable: Unreachable) -> RelayError {
    RelayError::Busy(unreachable.to_string())
}

/// What a mutex of ours guards is whole at any time, also after a panic elsewhere.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
