//! The relay as its operators see it, by signal or by API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::broadcast;
use tracing::debug;
use turnpike_admin::limits::MAX_BITS_PER_SEC;
use turnpike_admin::model::{self, AllocationId, Event};
use turnpike_admin::{Answer, ManagedRelay, RelayError};
use turnpike_proto::settings::RelayIp;
use turnpike_proto::{AllocationDetail, WorkerId};

use super::ask::{ask, ask_all};
use super::convert::{self, Moment};
use super::drops;
use super::state::Control;
use crate::config::{Kind, OPTIONS, Shown};
use crate::limits::MAX_LISTED_REFUSALS;
use crate::worker::refusals::{self, RecentRefusal};
use crate::worker::{EventSource, WorkerEvent};
use crate::worker::{Question, WorkerHandle};

/// What stands for a secret.
const MASK: &str = "***";

impl Control {
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
            if !is_watched && !self.snapshots.are_wanted() && !self.offload.read().active {
                continue;
            }
            match self.snapshots.renewed(&self.workers).await {
                Ok(snapshot) if is_watched => {
                    let limited = self.snapshots.newly_limited(&snapshot);
                    limited.into_iter().for_each(|limited| self.publish(Event::Limited(limited)));
                }
                Ok(_) => {}
                Err(error) => debug!("no snapshot: {error}"),
            }
        }
    }

    fn worker_of(&self, id: AllocationId) -> Result<&WorkerHandle, RelayError> {
        self.workers.get(WorkerId::of_allocation(id.0).index()).ok_or(RelayError::NotFound("allocation"))
    }

    async fn inspect(&self, id: AllocationId) -> Result<model::AllocationDetail, RelayError> {
        let found = ask(self.worker_of(id)?, |reply| Question::Inspect(id.0, reply)).await?;
        self.shown_detail(found)
    }

    /// What a worker answered about an allocation.
    fn shown_detail(
        &self,
        found: Option<Box<AllocationDetail>>,
    ) -> Result<model::AllocationDetail, RelayError> {
        let detail = found.ok_or(RelayError::NotFound("allocation"))?;
        let at = Moment::now();
        let rates = self.snapshots.rates_of(&detail.view, at);
        Ok(convert::detail(*detail, at, rates))
    }

    async fn set_limit(
        &self,
        id: AllocationId,
        bits_per_sec: u64,
    ) -> Result<model::AllocationDetail, RelayError> {
        if bits_per_sec > MAX_BITS_PER_SEC {
            return Err(RelayError::Invalid(format!(
                "a limit is at most {MAX_BITS_PER_SEC} bits per second"
            )));
        }
        let found = ask(self.worker_of(id)?, |reply| Question::SetRate(id.0, bits_per_sec, reply)).await?;
        let detail = self.shown_detail(found)?;
        let allocation = &detail.allocation;
        self.publish(Event::Limited(model::Limited {
            id,
            user: allocation.user.to_string(),
            why: model::LimitedWhy::Changed,
            max_bits_per_sec: allocation.max_bits_per_sec,
            rate_drops: allocation.to_peer.total().rate_drops + allocation.to_client.total().rate_drops,
        }));
        Ok(detail)
    }

    async fn end(&self, id: AllocationId) -> Result<(), RelayError> {
        let found = ask(self.worker_of(id)?, |reply| Question::Disconnect(id.0, reply)).await?;
        found.ok_or(RelayError::NotFound("allocation"))?;
        Ok(())
    }

    async fn end_all_of(&self, user: &str) -> Result<model::Disconnected, RelayError> {
        // Each worker tells askers apart by the name they gave it.
        let counts = ask_all(&self.workers, |reply| Question::DisconnectUser(user.into(), reply)).await?;
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
            reloadable: spec.is_reloadable(),
        });
        model::Config { options: options.collect() }
    }

    fn shown_listeners(&self) -> Vec<model::Listener> {
        let ready = &self.ready;
        let all = [
            (model::Transport::Udp, &ready.listen),
            (model::Transport::Tcp, &ready.tcp),
            (model::Transport::Tls, &ready.tls),
        ];
        let of = |(transport, list): (model::Transport, &Vec<SocketAddr>)| {
            list.iter().map(|&address| model::Listener { address, transport }).collect::<Vec<_>>()
        };
        all.into_iter().flat_map(of).collect()
    }

    fn describe(&self) -> model::Status {
        let (now, ready) = (Moment::now(), &self.ready);
        let relay = |address: &RelayIp| model::RelayAddress {
            address: address.local,
            external: address.external,
            first_port: ready.port_range.first,
            last_port: ready.port_range.last,
        };
        model::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_secs: self.started.unix_secs(),
            uptime_secs: now.mono_ns.saturating_sub(self.started.mono_ns) / 1_000_000_000,
            realm: self.shared.auth.realm().to_owned(),
            listeners: self.shown_listeners(),
            tls_fallback: self.config.load().tls_fallback,
            certificates: self.shown_certificates(),
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

impl ManagedRelay for Control {
    fn status(&self) -> model::Status {
        self.describe()
    }

    fn config(&self) -> model::Config {
        self.shown_config()
    }

    fn readiness(&self) -> model::Readiness {
        let mut reasons = self.liveness.standstills();
        reasons.extend(self.liveness.mirror_standstill());
        reasons.extend(self.required_offload_lost());
        if self.drain_state().draining {
            reasons.push("draining: no new allocations".to_owned());
        }
        reasons.extend(self.awaited().iter().map(|awaited| format!("waiting for {awaited}")));
        model::Readiness { ready: reasons.is_empty(), reasons }
    }

    fn faults(&self) -> Vec<String> {
        self.liveness.standstills()
    }

    fn totals(&self) -> model::Totals {
        self.sum_up()
    }

    fn drop_reasons(&self) -> Vec<model::DropReason> {
        drops::reasons()
    }

    fn refusals(&self) -> model::Refusals {
        let workers = self.workers.iter().map(|worker| worker.status.refusals());
        let recent = refusals::merged(workers, MAX_LISTED_REFUSALS);
        model::Refusals {
            refusals: recent.into_iter().map(convert::refusal).collect(),
            totals: self.sum_up().sum.refusals,
        }
    }

    fn snapshot(&self) -> Answer<'_, Arc<model::Snapshot>> {
        Box::pin(self.snapshots.recent(&self.workers))
    }

    fn allocation(&self, id: AllocationId) -> Answer<'_, model::AllocationDetail> {
        Box::pin(self.inspect(id))
    }

    fn disconnect(&self, id: AllocationId) -> Answer<'_, ()> {
        Box::pin(self.end(id))
    }

    fn limit(&self, id: AllocationId, bits_per_sec: u64) -> Answer<'_, model::AllocationDetail> {
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
