//! What all questions and orders work on.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, broadcast};
use turnpike_admin::RelayError;
use turnpike_admin::model::Event;
use turnpike_offload::status::StatusCell;
use turnpike_proto::addr::Family;
use turnpike_proto::shared::Shared;

use super::ask::{PATIENCE, busy};
use super::convert::Moment;
use super::database::Users;
use super::liveness::Liveness;
use super::loads::Loads;
use super::snapshots::Snapshots;
use crate::banner::Ready;
use crate::config::resolve::Addresses;
use crate::config::{Config, Loader};
use crate::limits::MAX_EVENT_LAG;
use crate::network::Publics;
use crate::tls::server::ClientTls;
use crate::tls::store::Store;
use crate::worker::proxied::Proxies;
use crate::worker::{Order, WorkerHandle};

/// What a running relay consists of.
pub struct Parts {
    /// The configuration in force.
    pub config: Config,
    /// What reads the configuration again.
    pub loader: Arc<Loader>,
    /// The addresses in use.
    pub addresses: Addresses,
    /// Who knows public addresses.
    pub publics: Arc<Publics>,
    /// What the ready line says.
    pub ready: Ready,
    /// What workers share.
    pub shared: Arc<Shared>,
    /// The workers, by their numbers.
    pub workers: Vec<WorkerHandle>,
    /// The kernel's data path.
    pub offload: Arc<StatusCell>,
    /// Users beside those of the configuration.
    pub users: Users,
    /// The certificates that are shown.
    pub certificates: Store,
    /// How TLS is spoken with clients, where it is.
    pub tls: Option<Arc<ClientTls>>,
    /// Proxies that are trusted, as workers know them.
    pub proxies: Arc<Proxies>,
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
    pub(super) certificates: Store,
    pub(super) tls: Option<Arc<ClientTls>>,
    pub(super) proxies: Arc<Proxies>,
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
    pub(super) events: broadcast::Sender<Arc<Event>>,
    /// Events that found their queue full, once somebody publishes them.
    pub(super) lost_events: OnceLock<Arc<AtomicU64>>,
    /// The administration, once it runs.
    pub(super) admin: OnceLock<turnpike_admin::Handle>,
    /// For threads that are to do what blocks.
    me: Weak<Control>,
    /// The turn of whoever wants something of the users' database.
    pub(super) database: Arc<Semaphore>,
    /// The turn of whoever wants a reload.
    pub(super) reload: Arc<Semaphore>,
}

impl Control {
    /// Takes over a relay whose workers run.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            loader,
            addresses,
            publics,
            ready,
            shared,
            workers,
            offload,
            users,
            certificates,
            tls,
            proxies,
        } = parts;
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
            certificates,
            tls,
            proxies,
            drain: Mutex::default(),
            reloading: Mutex::default(),
            following: Mutex::default(),
            enforcing: Mutex::default(),
            all_told: AtomicBool::new(true),
            snapshots: Snapshots::default(),
            loads: Loads::default(),
            liveness: Liveness::default(),
            events: broadcast::Sender::new(MAX_EVENT_LAG),
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

    /// Whether the kernel forwards.
    pub(crate) fn kernel_is_active(&self) -> bool {
        self.offload.read().active
    }

    /// What workers share.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The workers, in the order of their numbers.
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Looks whether each worker turns, and wakes those that are silent; answers whether all turn. Looks at the mirror,
    /// too. To be called once every [`LOOK_PERIOD`](super::LOOK_PERIOD).
    pub fn look_at_workers(&self) -> bool {
        self.liveness.look_at_mirror(self.offload.turns());
        self.liveness.look(&self.workers)
    }

    /// Tells every worker; an error names the first that was not reached, the others are told all the same.
    pub(super) fn tell(&self, order: Order) -> Result<(), RelayError> {
        let outcomes: Vec<_> = self.workers.iter().map(|worker| worker.send(order)).collect();
        outcomes.into_iter().find_map(Result::err).map_or(Ok(()), |unreachable| Err(busy(unreachable)))
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

    pub(super) fn publish(&self, event: Event) {
        // It fails only if nobody listens.
        let _ = self.events.send(Arc::new(event));
    }
}

/// Whether new allocations are refused, since when, and until when the others may live.
#[derive(Debug, Default)]
pub(super) struct Drain {
    pub(super) since: Option<Moment>,
    pub(super) deadline_ns: Option<u64>,
    /// The process was told to end: no way back.
    pub(super) stopping: bool,
}
