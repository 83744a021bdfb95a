//! Users with passwords: those of the configuration, and those that the API keeps in a database.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;
use turnpike_admin::RelayError;
use turnpike_admin::model::{User, UserChange, UserSource};
use turnpike_admin::users::{StoreError, StoredUser, UserKeys, UserRecord};
use turnpike_proto::auth::{BadCredential, StoredKeys, prepare_name};
use turnpike_proto::shared::UserLimits;

use super::convert::Moment;
use super::lock::lock;
use super::state::Control;
use crate::config::{self, Config};
use crate::setup;
use crate::worker::WorkerHandle;

impl Control {
    /// Puts the users and secrets of a configuration and those of the database in force.
    ///
    /// # Errors
    /// If one can't be used, or the database can't be read; then nothing has changed.
    pub fn apply_credentials(&self, config: &Config) -> Result<(), RelayError> {
        let mut credentials =
            setup::credentials(config).map_err(|why| RelayError::Conflict(format!("a user: {why}")))?;
        let mut limits = HashMap::new();
        for user in self.users.all().map_err(broken)? {
            // The configuration wins.
            if credentials.has_user(&user.name) {
                continue;
            }
            let keys = StoredKeys { md5: user.keys.md5, sha256: user.keys.sha256 };
            if let Err(why) = credentials.add_user_keys(&user.name, &keys) {
                warn!("a user of the database is left out: {why}");
                continue;
            }
            if user.quota.is_some() || user.max_bits_per_sec.is_some() {
                let own = UserLimits { quota: user.quota, bitrate_bits: user.max_bits_per_sec };
                limits.insert(Arc::from(user.name), own);
            }
        }
        let replaced = self.shared.auth.replace_credentials(credentials);
        replaced.map_err(|why| RelayError::Conflict(why.to_string()))?;
        self.shared.set_user_limits(limits);
        // What belongs to users who are gone ends.
        self.workers.iter().for_each(WorkerHandle::wake);
        Ok(())
    }

    pub(super) async fn list_users(&self) -> Result<Vec<User>, RelayError> {
        let stored = self.in_database(|control| control.users.all().map_err(broken)).await?;
        let configured: Vec<User> = self.config.load().users.iter().filter_map(configured).collect();
        let is_configured = |name: &str| configured.iter().any(|user| user.name == name);
        let mut users: Vec<User> =
            stored.into_iter().filter(|user| !is_configured(&user.name)).map(from_database).collect();
        users.extend(configured);
        users.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(users)
    }

    pub(super) async fn find_user(&self, name: &str) -> Result<User, RelayError> {
        // What can't be a name is nobody's.
        let name = prepare_name(name).map_err(|_| RelayError::NotFound("user"))?;
        if let Some(user) = self.configured_user(&name) {
            return Ok(user);
        }
        if !self.users.is_open() {
            return Err(RelayError::NotFound("user"));
        }
        let name = name.into_owned();
        let find = move |control: &Control| control.users.store()?.one(&name).map_err(broken);
        let stored = self.in_database(find).await?;
        stored.map(from_database).ok_or(RelayError::NotFound("user"))
    }

    pub(super) async fn store_user(
        &self,
        name: &str,
        change: UserChange,
    ) -> Result<(User, bool), RelayError> {
        let name = prepare_name(name).map_err(|why| invalid("the name", why))?;
        // A name with an expiry in it belongs to a time-limited credential.
        if name.contains(':') {
            return Err(RelayError::Invalid("the name contains a colon".to_owned()));
        }
        if self.configured_user(&name).is_some() {
            return Err(RelayError::Conflict("the user is kept in the configuration".to_owned()));
        }
        self.users.store()?;
        let keys = change.password.as_ref().map(|password| {
            StoredKeys::derive(&name, self.shared.auth.realm(), password.expose())
                .map(|keys| UserKeys { md5: keys.md5, sha256: keys.sha256 })
        });
        let keys = keys.transpose().map_err(|why| invalid("the password", why))?;
        let name = name.into_owned();
        let UserChange { quota, max_bits_per_sec, .. } = change;
        let put = move |control: &Control| {
            let _reloading = lock(&control.reloading);
            let record = UserRecord { name: &name, keys, quota, max_bits_per_sec };
            let stored = control.users.store()?.put(&record, Moment::now().unix_secs()).map_err(broken)?;
            control.apply_credentials(&control.config.load())?;
            Ok(stored)
        };
        let (stored, is_new) = self.in_database(put).await?;
        Ok((from_database(stored), is_new))
    }

    pub(super) async fn remove_user(&self, name: &str) -> Result<(), RelayError> {
        let name = prepare_name(name).map_err(|_| RelayError::NotFound("user"))?;
        if self.configured_user(&name).is_some() {
            return Err(RelayError::Conflict("the user is kept in the configuration".to_owned()));
        }
        if !self.users.is_open() {
            return Err(RelayError::NotFound("user"));
        }
        let name = name.into_owned();
        let delete = move |control: &Control| {
            let _reloading = lock(&control.reloading);
            if !control.users.store()?.delete(&name).map_err(broken)? {
                return Err(RelayError::NotFound("user"));
            }
            control.apply_credentials(&control.config.load())
        };
        self.in_database(delete).await
    }

    /// Asks the database, on a thread that may wait for it.
    async fn in_database<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control) -> Result<T, RelayError> + Send + 'static,
    ) -> Result<T, RelayError> {
        self.in_turn(&self.database, "others wait for the user database already", work).await
    }

    fn configured_user(&self, name: &str) -> Option<User> {
        self.config.load().users.iter().filter_map(configured).find(|user| user.name == name)
    }
}

fn configured(user: &config::User) -> Option<User> {
    let name = prepare_name(&user.name).ok()?.into_owned();
    Some(User {
        name,
        source: UserSource::Configuration,
        quota: None,
        max_bits_per_sec: None,
        created_unix_secs: None,
        updated_unix_secs: None,
    })
}

fn from_database(user: StoredUser) -> User {
    User {
        name: user.name,
        source: UserSource::Database,
        quota: user.quota,
        max_bits_per_sec: user.max_bits_per_sec,
        created_unix_secs: Some(user.created_unix_secs),
        updated_unix_secs: Some(user.updated_unix_secs),
    }
}

fn invalid(what: &str, why: BadCredential) -> RelayError {
    RelayError::Invalid(format!("{what}: {why}"))
}

fn broken(error: StoreError) -> RelayError {
    match error {
        StoreError::Locked => RelayError::Busy(error.to_string()),
        StoreError::DiskFull | StoreError::ReadOnly => RelayError::Storage(error.to_string()),
        StoreError::Full | StoreError::Invalid(_) => RelayError::Conflict(error.to_string()),
        _ => RelayError::Internal(error.to_string()),
    }
}
