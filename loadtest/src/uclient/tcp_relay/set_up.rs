//! The set-up, one client after another, and the release.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::client::{Client, Patience};
use crate::engine::mmsg::mono_ns;
use crate::engine::{PeerChoice, Plan, ReleaseReport, SetupReport};
use crate::session::{SessionConfig, SetupError, State};

/// What a set-up works with.
pub(super) struct SetUp<'a> {
    plan: &'a Plan,
    config: Arc<SessionConfig>,
    patience: Patience<'a>,
    rng: ChaCha8Rng,
    report: SetupReport,
}

/// Sets clients up, up to the first that can't be: the report says why.
pub(super) fn set_up(plan: &Plan, stop: &AtomicBool) -> (Vec<Client>, SetupReport) {
    let begun = Instant::now();
    let patience = Patience { until: begun + plan.setup_deadline, stop: Some(stop) };
    let report = SetupReport { wanted: plan.flows.len(), ..SetupReport::default() };
    let config = Arc::clone(&plan.groups[0].session);
    let mut set_up = SetUp { plan, config, patience, rng: ChaCha8Rng::from_os_rng(), report };
    let mut clients = Vec::new();
    let mut failed = None;
    while failed.is_none() && clients.len() < plan.flows.len() {
        failed = set_up.next(&mut clients).err();
    }
    let mut report = set_up.report;
    report.elapsed = begun.elapsed();
    report.interrupted = stop.load(Ordering::Relaxed);
    // The signal is the reason, whatever it stopped.
    report.failures.extend(failed.filter(|_| !report.interrupted).map(|error| (error, 1)));
    (clients, report)
}

impl SetUp<'_> {
    /// One more client with its peer, or two that are each other's.
    fn next(&mut self, clients: &mut Vec<Client>) -> Result<(), SetupError> {
        let begun_ns = mono_ns();
        let first = self.allocate(clients)?;
        if let PeerChoice::Fixed(peer) = self.plan.flows[first].peer {
            let client = &mut clients[first];
            self.permit(client, peer)?;
            self.connect(client, peer)?;
        } else {
            self.allocate(clients)?;
            let [.., one, other] = &mut clients[..] else { unreachable!("two were allocated") };
            self.pair(one, other)?;
        }
        for _ in first..clients.len() {
            self.report.ready += 1;
            self.report.ready_delay.record(mono_ns() - begun_ns);
        }
        Ok(())
    }

    fn allocate(&mut self, clients: &mut Vec<Client>) -> Result<usize, SetupError> {
        let begun_ns = mono_ns();
        let index = clients.len();
        clients.push(Client::open(self.plan, &self.config)?);
        let client = &mut clients[index];
        client.session.start(begun_ns, &mut self.rng, None, None);
        client.drive(&State::Allocated, self.patience, &mut self.rng)?;
        client.control.link.opened_after_ns().into_iter().for_each(|ns| self.report.connect.record(ns));
        self.report.allocate.record(mono_ns() - begun_ns);
        Ok(index)
    }

    /// One connects to the other's relayed address, both bind.
    fn pair(&mut self, one: &mut Client, other: &mut Client) -> Result<(), SetupError> {
        let relayed = |client: &Client| client.session.relayed().ok_or(SetupError::NoRelayedAddress);
        let (from, to) = (relayed(one)?, relayed(other)?);
        self.permit(other, from)?;
        self.permit(one, to)?;
        self.connect(one, to)?;
        let id = other.attempt(from, self.patience, &mut self.rng)?;
        self.bind(other, id)
    }

    /// RFC 6062 section 4.4: a peer's connection is only taken with a permission.
    fn permit(&mut self, client: &mut Client, peer: SocketAddr) -> Result<(), SetupError> {
        client.session.bind(mono_ns(), &mut self.rng, peer);
        client.drive(&State::Ready, self.patience, &mut self.rng)
    }

    /// RFC 6062 section 4.3: Connect, and a data connection for it.
    fn connect(&mut self, client: &mut Client, peer: SocketAddr) -> Result<(), SetupError> {
        client.session.connect(mono_ns(), &mut self.rng, peer);
        client.drive(&State::Ready, self.patience, &mut self.rng)?;
        let id = client.session.connection().ok_or(SetupError::NoConnectionId)?;
        self.bind(client, id)
    }

    fn bind(&mut self, client: &mut Client, id: u32) -> Result<(), SetupError> {
        let mut data = Client::open(self.plan, &self.config)?;
        data.session.bind_connection(mono_ns(), &mut self.rng, id, &client.session);
        data.drive(&State::Ready, self.patience, &mut self.rng)?;
        client.data = Some(data.control.link);
        Ok(())
    }
}

/// Deletes all allocations, and with them the connections; each is confirmed.
pub(super) fn release(clients: Vec<Client>, within: Duration) -> ReleaseReport {
    let begun = Instant::now();
    let patience = Patience { until: begun + within, stop: None };
    let mut rng = ChaCha8Rng::from_os_rng();
    let mut report = ReleaseReport::default();
    for mut client in clients {
        let had_one = client.session.has_allocation();
        report.held += usize::from(had_one);
        client.session.release(mono_ns(), &mut rng);
        // Whatever goes wrong, it isn't confirmed, which is what is said.
        let released = client.drive(&State::Released, patience, &mut rng);
        let is_gone = client.session.is_deleted() || !client.session.has_allocation();
        report.confirmed += usize::from(had_one && released.is_ok() && is_gone);
    }
    report.elapsed = begun.elapsed();
    report
}
