//! What follows from the host's addresses while the relay runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};
use turnpike_proto::addr::Family;

use super::lock::lock;
use super::state::Control;
use crate::config::resolve::{Addresses, Awaited, Host, resolve};
use crate::setup;
use crate::worker::Order;

impl Control {
    /// Looks at the host's addresses, and at what is known of public ones, and puts what follows from them in force:
    /// which addresses are relayed from, and which peers are our own. Says whether every worker was told; if not,
    /// it has to be called again.
    pub fn follow_network(&self) -> bool {
        let _following = lock(&self.following);
        let config = self.config.load_full();
        let old = self.addresses.load_full();
        let mut host = Host::detect_for(&config);
        host.publics = self.publics.answers();
        host.had.clone_from(&lock(&self.had));
        let new = resolve(&config, &host);
        if new == *old && self.all_told.load(Ordering::Acquire) {
            return true;
        }
        if new.own != old.own || new.questions != old.questions {
            self.publics.ask(&new.questions);
        }
        log_change(&old, &new);
        self.addresses.store(Arc::new(new));
        self.put_addresses_in_force()
    }

    /// Puts the addresses and the configuration, as they are now, in force. Says whether every worker was told.
    pub(super) fn put_addresses_in_force(&self) -> bool {
        let _enforcing = lock(&self.enforcing);
        let (config, addresses) = (self.config.load(), self.addresses.load());
        note_families(&mut lock(&self.had), &addresses);
        let peers = setup::peer_rules(&config, &addresses, &self.ready.listeners());
        self.shared.set_network(&setup::relay_ips(&addresses), &peers);
        let told = self.tell(Order::PolicyChanged).is_ok();
        self.all_told.store(told, Ordering::Release);
        told
    }

    /// The host's addresses, as they are used now.
    pub fn addresses(&self) -> Arc<Addresses> {
        self.addresses.load_full()
    }

    /// What the network has still to deliver.
    pub fn awaited(&self) -> Vec<Awaited> {
        self.addresses.load().awaited.clone()
    }
}

/// Families that are relayed from are missed when they have gone.
pub(super) fn note_families(had: &mut Vec<Family>, addresses: &Addresses) {
    for relay in &addresses.relay {
        let family = Family::of(&relay.local);
        if !had.contains(&family) {
            had.push(family);
        }
    }
}

/// Addresses are for DEBUG, except those of the relay itself.
fn log_change(old: &Addresses, new: &Addresses) {
    if old.relay != new.relay || old.near != new.near {
        let now: Vec<String> = new.relays().map(|relay| relay.to_string()).collect();
        let now = if now.is_empty() { "no address".to_owned() } else { now.join(",") };
        info!("relaying from {now}");
    }
    for warning in new.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
        warn!("{warning}");
    }
}
