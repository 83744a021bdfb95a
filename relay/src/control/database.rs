//! The database of users, where one is configured.

use turnpike_admin::RelayError;
use turnpike_admin::users::{StoreError, StoredUser, UserStore};

use crate::config::Config;

/// Users beside those of the configuration, if there is a database for them.
#[derive(Default)]
pub struct Users(Option<UserStore>);

impl Users {
    /// Opens the configured database, if any.
    ///
    /// # Errors
    /// If it can't be used.
    pub fn open(config: &Config) -> Result<Users, StoreError> {
        let open = |path| UserStore::open(path, &config.realm);
        config.user_database.as_deref().map(open).transpose().map(Users)
    }

    /// All of them; none without a database.
    pub(super) fn all(&self) -> Result<Vec<StoredUser>, StoreError> {
        self.0.as_ref().map_or(Ok(Vec::new()), UserStore::all)
    }

    /// The database.
    pub(super) fn store(&self) -> Result<&UserStore, RelayError> {
        self.0.as_ref().ok_or_else(|| RelayError::Conflict("no user-database is configured".to_owned()))
    }

    /// Whether there is a database.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }
}
