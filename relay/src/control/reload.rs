//! Another configuration while the relay runs.

use std::sync::Arc;

use tracing::{error, info, warn};
use turnpike_admin::RelayError;
use turnpike_admin::model::ReloadReport;

use super::certificates::wanted;
use super::lock::lock;
use super::state::Control;
use crate::config::{Loaded, Loader, Problems};
use crate::service_manager::{News, tell};
use crate::setup;
use crate::tls::store::{self, Found};

impl Control {
    /// Reads the configuration again and applies what can change while running. Says so in the log; a
    /// configuration with a fault changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload_all(&self) -> Result<ReloadReport, RelayError> {
        tell(News::Reloading(turnpike_driver::clock::monotonic_ns() / 1_000));
        let outcome = self.reload_config();
        tell(News::Ready);
        match &outcome {
            Ok(report) => {
                let restart_needed = report.restart_needed.join(" ");
                info!(applied = report.applied.join(" "), restart_needed, "reloaded");
            }
            Err(why) => error!("not reloaded: {why}"),
        }
        outcome
    }

    fn reload_config(&self) -> Result<ReloadReport, RelayError> {
        let _reloading = lock(&self.reloading);
        if self.is_stopping() {
            return Err(RelayError::Conflict("the relay was told to stop".to_owned()));
        }
        let (loaded, certificates) = self.read_files()?;
        let Loaded { config, warnings } =
            loaded.map_err(|problems| RelayError::Conflict(problems.to_string()))?;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let old = self.config.load_full();
        let merged = old.reloaded(&config);
        let (applied, restart_needed) = (old.differences(&merged), merged.differences(&config));
        let config = merged;
        let prepared = self.certificates.prepare(certificates);
        let certificates = prepared.map_err(|why| RelayError::Conflict(why.to_string()))?;
        self.apply_credentials(&config)?;
        let (per_user, total) = setup::quota_limits(&config);
        self.shared.quotas.set_limits(per_user, total);
        self.shared.set_unauthenticated_rate(setup::unauthenticated_rate(&config));
        setup::set_alternates(&self.shared, &config);
        self.proxies.set_trusted(config.proxy_protocol_from.clone());
        if let Some(admin) = self.admin.get() {
            admin.set_tokens(setup::admin_tokens(&config.admin_tokens));
        }
        let stays = |(why, _): &(String, bool)| format!("{why}: the certificate from before stays in force");
        warnings.extend(certificates.faults.iter().map(stays));
        self.put_certificates(certificates);
        self.config.store(Arc::new(config));
        let are_told = self.put_addresses_in_force() & self.follow_network();
        warnings.iter().for_each(|warning| warn!("{warning}"));
        if !are_told {
            return Err(RelayError::Busy(
                "a worker is too busy to be told; it is told as soon as it can".to_owned(),
            ));
        }
        let names = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
        Ok(ReloadReport { applied: names(applied), restart_needed: names(restart_needed), warnings })
    }

    /// Whatever takes its time, before anything changes.
    fn read_files(&self) -> Result<Files, RelayError> {
        let old = self.config.load_full();
        let read = move |loader: &Loader| {
            let loaded = loader.load();
            let merged = loaded.as_ref().map(|loaded| old.reloaded(&loaded.config));
            let wanted = merged.map_or(Vec::new(), |config| wanted(&config));
            let found = store::read(wanted, |path| loader.note(path));
            (loaded, found)
        };
        self.loader.in_time(read).map_err(|stuck| RelayError::Busy(stuck.to_string()))
    }
}

/// What a reload has read.
type Files = (Result<Loaded, Problems>, Vec<Found>);
