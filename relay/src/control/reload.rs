//! Another configuration while the relay runs.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::{error, info, warn};
use turnpike_admin::model::ReloadReport;
use turnpike_admin::{Certificate, RelayError, TlsError};

use super::lock::lock;
use super::state::Control;
use crate::config::{Config, Loaded, Loader, OPTIONS, Problems};
use crate::service_manager::{News, tell};
use crate::setup;

/// Options whose change a reload applies; all others need a restart.
const RELOADABLE: &[&str] = &[
    "external-address",
    "user",
    "user-file",
    "auth-secret",
    "auth-secret-file",
    "allow-peer",
    "deny-peer",
    "allow-loopback-peers",
    "user-quota",
    "total-quota",
    "unauthenticated-rate",
    "drain-timeout",
    "alternate-server",
    "admin-token",
    "admin-token-file",
];

/// Whether a reload applies a change of an option.
pub(super) fn is_reloadable(key: &str) -> bool {
    RELOADABLE.contains(&key)
}

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
        let changed = changes(&old, &config);
        let (applied, restart_needed) = changed.into_iter().partition(|key| is_reloadable(key));
        let config = merge(&old, config);
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

/// The options that differ, secrets included, which no text shows.
fn changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut changed: HashSet<&str> = OPTIONS
        .iter()
        .zip(old.shown().into_iter().zip(new.shown()))
        .filter(|(_, (old, new))| old != new)
        .map(|(spec, _)| spec.key)
        .collect();
    for (key, differ) in [
        ("user", old.users != new.users),
        ("auth-secret", old.auth_secrets != new.auth_secrets),
        ("admin-token", old.admin_tokens != new.admin_tokens),
    ] {
        if differ {
            changed.insert(key);
        }
    }
    OPTIONS.iter().map(|spec| spec.key).filter(|key| changed.contains(key)).collect()
}

/// The old configuration with what may change while running.
fn merge(old: &Config, new: Config) -> Config {
    Config {
        external_address: new.external_address,
        users: new.users,
        user_file: new.user_file,
        auth_secrets: new.auth_secrets,
        auth_secret_file: new.auth_secret_file,
        allow_peer: new.allow_peer,
        deny_peer: new.deny_peer,
        allow_loopback_peers: new.allow_loopback_peers,
        user_quota: new.user_quota,
        total_quota: new.total_quota,
        unauthenticated_rate: new.unauthenticated_rate,
        drain_timeout: new.drain_timeout,
        alternate_server: new.alternate_server,
        admin_tokens: new.admin_tokens,
        admin_token_file: new.admin_token_file,
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Hidden, Secret};

    #[test]
    fn a_reload_names_what_changed_also_where_nothing_may_be_shown() {
        let secret = |text: &str| Hidden(vec![Secret::new(Zeroizing::new(text.to_owned()))]);
        let old = Config { auth_secrets: secret("one"), ..Config::default() };
        let new = Config {
            auth_secrets: secret("two"),
            realm: "other".to_owned(),
            total_quota: std::num::NonZeroU32::new(7),
            ..Config::default()
        };
        assert_eq!(changes(&old, &new), ["realm", "auth-secret", "total-quota"]);
        assert!(changes(&old, &old).is_empty());
        let merged = merge(&old, new);
        assert_eq!(merged.realm, old.realm, "it needs a restart");
        assert_eq!(changes(&old, &merged), ["auth-secret", "total-quota"]);
    }

    #[test]
    fn every_reloadable_option_exists() {
        for key in RELOADABLE {
            assert!(OPTIONS.iter().any(|spec| spec.key == *key), "{key}");
        }
    }
}
