//! Another configuration while the relay runs.

use std::sync::Arc;

use tracing::{error, info, warn};
use turnpike_admin::model::ReloadReport;
use turnpike_admin::{Certificate, RelayError, TlsError};

use super::lock::lock;
use super::state::Control;
use crate::config::{Loaded, Loader, Problems};
use crate::service_manager::{News, tell};
use crate::setup;

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
        let (loaded, certificate) = self.read_files()?;
        let Loaded { config, warnings } =
            loaded.map_err(|problems| RelayError::Conflict(problems.to_string()))?;
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let old = self.config.load_full();
        let merged = old.reloaded(&config);
        let (applied, restart_needed) = (old.differences(&merged), merged.differences(&config));
        let config = merged;
        self.apply_credentials(&config)?;
        let (per_user, total) = setup::quota_limits(&config);
        self.shared.quotas.set_limits(per_user, total);
        self.shared.set_unauthenticated_rate(setup::unauthenticated_rate(&config));
        setup::set_alternates(&self.shared, &config);
        if let Some(admin) = self.admin.get() {
            admin.set_tokens(setup::admin_tokens(&config.admin_tokens));
            match certificate {
                Ok(Some(certificate)) => admin.set_certificate(certificate),
                Ok(None) => {}
                // The old certificate stays in force then.
                Err(why) => warnings.push(format!("not reloaded: {why}")),
            }
        }
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
        let admin = self.admin.get().cloned();
        let certificate = self.config.load().admin_tls_cert.clone();
        let read = move |loader: &Loader| {
            let loaded = loader.load();
            if let Some(path) = &certificate {
                loader.note(path);
            }
            (loaded, admin.map_or(Ok(None), |admin| admin.read_certificate()))
        };
        self.loader.in_time(read).map_err(|stuck| RelayError::Busy(stuck.to_string()))
    }
}

/// What a reload has read.
type Files = (Result<Loaded, Problems>, Result<Option<Certificate>, TlsError>);
