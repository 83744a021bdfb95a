//! Users in an embedded SQLite database: keys, never passwords.
//!
//! Who computes the keys is the caller's business, and so is what they are good for. All calls block:
//! an asynchronous caller runs them where blocking is allowed.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, ffi, params,
};
use zeroize::Zeroize;

use crate::limits::{MAX_NAME_BYTES, MAX_USERS};

/// How long to wait for another process that has the database.
const BUSY_TIME: Duration = Duration::from_secs(2);

/// One step of the schema each, never changed once released.
const MIGRATIONS: &[&str] = &["CREATE TABLE users (
    realm TEXT NOT NULL,
    name TEXT NOT NULL,
    key_md5 BLOB NOT NULL CHECK (length(key_md5) = 16),
    key_sha256 BLOB NOT NULL CHECK (length(key_sha256) = 32),
    quota INTEGER,
    max_bits_per_sec INTEGER,
    created_unix_secs INTEGER NOT NULL,
    updated_unix_secs INTEGER NOT NULL,
    PRIMARY KEY (realm, name)
) STRICT, WITHOUT ROWID;"];

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file can't be opened, or not be protected.
    #[error("the user database can't be opened: {0}")]
    File(#[from] io::Error),
    /// Somebody else has it for longer than one may wait.
    #[error("the user database is locked by another process")]
    Locked,
    /// The disk is full.
    #[error("the user database could not be written: its disk is full")]
    DiskFull,
    /// The file, its folder or its mount can't be written.
    #[error("the user database could not be written: it, or its folder, is read-only")]
    ReadOnly,
    /// SQLite said something else.
    #[error("the user database: {0}")]
    Sqlite(rusqlite::Error),
    /// It was written by a newer version of this program.
    #[error("the user database has version {0}, newer than this program knows")]
    TooNew(usize),
    /// There are too many users.
    #[error("the user database has {MAX_USERS} users: no more fit")]
    Full,
    /// A new user without keys, or with a name that is too long.
    #[error("{0}")]
    Invalid(&'static str),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(sqlite) = error.sqlite_error() else { return Self::Sqlite(error) };
        match sqlite.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked,
            ErrorCode::DiskFull => Self::DiskFull,
            ErrorCode::ReadOnly => Self::ReadOnly,
            // The memory that its users share lies on the same disk.
            ErrorCode::SystemIoFailure if sqlite.extended_code == ffi::SQLITE_IOERR_SHMSIZE => Self::DiskFull,
            _ => Self::Sqlite(error),
        }
    }
}

/// The long-term keys of a user (RFC 8489 s. 9.2.2): wiped when dropped, and without `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize)]
#[zeroize(drop)]
pub struct UserKeys {
    /// MD5(name:realm:password).
    pub md5: [u8; 16],
    /// SHA-256(name:realm:password).
    pub sha256: [u8; 32],
}

/// A user of the database.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// The name, prepared.
    pub name: String,
    /// The keys for both forms of MESSAGE-INTEGRITY (RFC 8489 s. 14.5, 14.6); never the password.
    pub keys: UserKeys,
    /// Allocations that the user may have at once; `None`: as many as `user-quota` says.
    pub quota: Option<u32>,
    /// Limit of each allocation in each direction, bits of payload per second.
    pub max_bits_per_sec: Option<u64>,
    /// When it was created, in seconds since 1970.
    pub created_unix_secs: u64,
    /// When it was last changed, in seconds since 1970.
    pub updated_unix_secs: u64,
}

/// What to write of a user.
#[derive(Clone)]
pub struct UserRecord<'a> {
    /// The name, prepared.
    pub name: &'a str,
    /// New keys; without them the user keeps those it has.
    pub keys: Option<UserKeys>,
    /// Allocations that the user may have at once; `None`: as many as `user-quota` says.
    pub quota: Option<u32>,
    /// Limit of each allocation in each direction, bits of payload per second.
    pub max_bits_per_sec: Option<u64>,
}

/// The users of one realm in a database.
pub struct UserStore {
    connection: Mutex<Connection>,
    realm: String,
}

impl UserStore {
    /// Opens the database, or creates it; only its owner can read it.
    ///
    /// # Errors
    /// If it can't be opened, or is of a newer version.
    pub fn open(path: &Path, realm: &str) -> Result<Self, StoreError> {
        protect(path)?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIME)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An answer says that it is written: it is, even if the power fails.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Old keys don't stay in free pages.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        migrate(&mut connection)?;
        Ok(Self { connection: Mutex::new(connection), realm: realm.to_owned() })
    }

    /// All users of the realm, by name.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn all(&self) -> Result<Vec<StoredUser>, StoreError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT name, key_md5, key_sha256, quota, max_bits_per_sec, created_unix_secs, updated_unix_secs
             FROM users WHERE realm = ?1 ORDER BY name LIMIT ?2",
        )?;
        let users = statement.query_map(params![self.realm, MAX_USERS], stored)?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    /// One user of the realm.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn one(&self, name: &str) -> Result<Option<StoredUser>, StoreError> {
        Ok(find(&self.connection(), &self.realm, name)?)
    }

    /// Creates a user or changes it; answers with the user as it is now, and whether it is new.
    ///
    /// # Errors
    /// If it can't be, or the database does not answer.
    pub fn put(&self, record: &UserRecord<'_>, now_unix_secs: u64) -> Result<(StoredUser, bool), StoreError> {
        if record.name.is_empty() || record.name.len() > MAX_NAME_BYTES {
            return Err(StoreError::Invalid("the name of a user has 1 to 508 bytes"));
        }
        let mut connection = self.connection();
        let transaction = begin(&mut connection)?;
        let old = find(&transaction, &self.realm, record.name)?;
        let new = old.is_none();
        if new && count(&transaction)? >= MAX_USERS {
            return Err(StoreError::Full);
        }
        let keys = match (&record.keys, &old) {
            (Some(keys), _) => keys.clone(),
            (None, Some(old)) => old.keys.clone(),
            (None, None) => return Err(StoreError::Invalid("a new user needs a password")),
        };
        let user = StoredUser {
            name: record.name.to_owned(),
            keys,
            quota: record.quota,
            max_bits_per_sec: record.max_bits_per_sec,
            created_unix_secs: old.map_or(now_unix_secs, |old| old.created_unix_secs),
            updated_unix_secs: now_unix_secs,
        };
        write(&transaction, &self.realm, &user)?;
        transaction.commit()?;
        Ok((user, new))
    }

    /// Removes a user; answers whether there was one.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn delete(&self, name: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM users WHERE realm = ?1 AND name = ?2";
        Ok(self.connection().execute(sql, params![self.realm, name])? > 0)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic can't leave a transaction behind: it is rolled back when dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the file, and takes it from everybody but its owner. SQLite gives the files beside it the
/// same rights.
fn protect(path: &Path) -> io::Result<()> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.set_permissions(Permissions::from_mode(0o600))
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version = |connection: &Connection| -> rusqlite::Result<usize> {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    // Without a need it is not written: somebody else may be at it.
    if version(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = begin(connection)?;
    let version = version(&transaction)?;
    for step in MIGRATIONS.get(version..).ok_or(StoreError::TooNew(version))? {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len())?;
    Ok(transaction.commit()?)
}

/// Begins to write. A transaction that begins by reading can't wait for another writer later: SQLite answers
/// at once then, whatever the time to wait is.
fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn find(connection: &Connection, realm: &str, name: &str) -> rusqlite::Result<Option<StoredUser>> {
    connection
        .prepare_cached(
            "SELECT name, key_md5, key_sha256, quota, max_bits_per_sec, created_unix_secs, updated_unix_secs
             FROM users WHERE realm = ?1 AND name = ?2",
        )?
        .query_row(params![realm, name], stored)
        .optional()
}

fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM users", [], |row| row.get(0))
}

fn write(connection: &Connection, realm: &str, user: &StoredUser) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "INSERT INTO users (realm, name, key_md5, key_sha256, quota, max_bits_per_sec,
                                created_unix_secs, updated_unix_secs)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (realm, name) DO UPDATE SET
                 key_md5 = excluded.key_md5, key_sha256 = excluded.key_sha256, quota = excluded.quota,
                 max_bits_per_sec = excluded.max_bits_per_sec,
                 updated_unix_secs = excluded.updated_unix_secs",
        )?
        .execute(params![
            realm,
            user.name,
            user.keys.md5,
            user.keys.sha256,
            user.quota,
            user.max_bits_per_sec,
            user.created_unix_secs,
            user.updated_unix_secs,
        ])
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredUser> {
    Ok(StoredUser {
        name: row.get(0)?,
        keys: UserKeys { md5: row.get(1)?, sha256: row.get(2)? },
        quota: row.get(3)?,
        max_bits_per_sec: row.get(4)?,
        created_unix_secs: row.get(5)?,
        updated_unix_secs: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> UserKeys {
        UserKeys { md5: [byte; 16], sha256: [byte; 32] }
    }

    fn record(name: &str, keys: Option<UserKeys>) -> UserRecord<'_> {
        UserRecord { name, keys, quota: Some(3), max_bits_per_sec: Some(2_000_000) }
    }

    fn store() -> (tempfile::TempDir, UserStore) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = UserStore::open(&folder.path().join("users.db"), "example.org").expect("a database");
        (folder, store)
    }

    #[test]
    fn a_user_is_created_changed_and_removed() {
        let (_folder, store) = store();
        let (user, new) = store.put(&record("alice", Some(keys(1))), 100).expect("written");
        assert!(new && user.quota == Some(3) && user.created_unix_secs == 100);
        let change = UserRecord { name: "alice", keys: None, quota: None, max_bits_per_sec: Some(0) };
        let (user, new) = store.put(&change, 200).expect("written");
        assert!(!new && user.keys == keys(1) && user.quota.is_none() && user.max_bits_per_sec == Some(0));
        assert_eq!((user.created_unix_secs, user.updated_unix_secs), (100, 200));
        assert!(store.one("alice").expect("read").is_some_and(|read| read == user));
        assert!(
            store.delete("alice").expect("removed") && !store.delete("alice").expect("nothing to remove")
        );
        assert!(store.one("alice").expect("read").is_none());
    }

    #[test]
    fn what_was_written_is_there_after_opening_again_and_only_in_its_realm() {
        let (folder, store) = store();
        store.put(&record("alice", Some(keys(1))), 100).expect("written");
        drop(store);
        let path = folder.path().join("users.db");
        let again = UserStore::open(&path, "example.org").expect("a database");
        assert_eq!(again.all().expect("read").len(), 1);
        let other = UserStore::open(&path, "example.com").expect("a database");
        assert!(other.all().expect("read").is_empty());
    }

    #[test]
    fn only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users.db");
        std::fs::write(&path, "").expect("an empty file");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("open to all");
        let store = UserStore::open(&path, "example.org").expect("a database");
        store.put(&record("alice", Some(keys(1))), 100).expect("written");
        for entry in std::fs::read_dir(folder.path()).expect("the folder") {
            let entry = entry.expect("a file");
            let mode = entry.metadata().expect("its rights").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn names_are_data_whatever_they_say() {
        let (_folder, store) = store();
        for name in ["'; DROP TABLE users; --", "%n%s", "a\u{0}b", "\u{202e}", "x\"y"] {
            store.put(&record(name, Some(keys(1))), 1).expect("written");
            assert!(store.one(name).expect("read").is_some_and(|user| user.name == name), "{name:?}");
        }
        assert_eq!(store.all().expect("read").len(), 5);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (_folder, store) = store();
        assert!(matches!(store.put(&record("alice", None), 1), Err(StoreError::Invalid(_))));
        assert!(matches!(store.put(&record("", Some(keys(1))), 1), Err(StoreError::Invalid(_))));
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert!(matches!(store.put(&record(&long, Some(keys(1))), 1), Err(StoreError::Invalid(_))));
    }

    #[test]
    fn a_database_of_a_newer_program_is_left_alone() {
        let (folder, store) = store();
        store.connection().pragma_update(None, "user_version", 99).expect("written");
        drop(store);
        let again = UserStore::open(&folder.path().join("users.db"), "example.org");
        assert!(matches!(again, Err(StoreError::TooNew(99))));
    }

    #[test]
    fn a_database_that_is_locked_for_a_moment_is_waited_for() {
        let (folder, store) = store();
        let other = Connection::open(folder.path().join("users.db")).expect("another process");
        other.execute_batch("BEGIN IMMEDIATE").expect("it is free");
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            other.execute_batch("COMMIT").expect("ended");
        });
        store.put(&record("alice", Some(keys(1))), 1).expect("written when it is free");
        release.join().expect("it ends");
    }

    #[test]
    fn a_database_that_stays_locked_says_so() {
        let (folder, store) = store();
        let other = Connection::open(folder.path().join("users.db")).expect("another process");
        other.execute_batch("BEGIN IMMEDIATE").expect("it is free");
        store.connection().busy_timeout(Duration::from_millis(20)).expect("set");
        assert!(matches!(store.put(&record("alice", Some(keys(1))), 1), Err(StoreError::Locked)));
        assert!(matches!(store.delete("alice"), Err(StoreError::Locked)));
        assert!(store.all().is_ok(), "readers go on");
        other.execute_batch("COMMIT").expect("ended");
        assert!(store.put(&record("alice", Some(keys(1))), 1).is_ok());
    }

    #[test]
    fn a_full_or_read_only_database_says_so_and_keeps_what_it_has() {
        let (_folder, store) = store();
        store.put(&record("alice", Some(keys(1))), 1).expect("written");
        let pages: u64 =
            store.connection().pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
        store.connection().pragma_update(None, "max_page_count", pages).expect("set");
        let outcomes = (0..1000).map(|n| store.put(&record(&format!("user{n}"), Some(keys(2))), 1));
        let refused = outcomes.filter_map(Result::err).next().expect("it fills");
        assert!(matches!(refused, StoreError::DiskFull), "{refused}");
        store.connection().pragma_update(None, "query_only", true).expect("set");
        assert!(matches!(store.delete("alice"), Err(StoreError::ReadOnly)));
        assert!(store.one("alice").expect("read").is_some());
    }

    #[test]
    fn thousands_of_users_are_read_at_once() {
        let (_folder, store) = store();
        let mut connection = store.connection();
        let transaction = connection.transaction().expect("a transaction");
        for number in 0..5000_u64 {
            let user = StoredUser {
                name: format!("user{number:05}"),
                keys: keys(number as u8),
                quota: None,
                max_bits_per_sec: None,
                created_unix_secs: 1,
                updated_unix_secs: 1,
            };
            write(&transaction, "example.org", &user).expect("written");
        }
        transaction.commit().expect("written");
        drop(connection);
        let users = store.all().expect("read");
        assert_eq!(users.len(), 5000);
        assert!(users.is_sorted_by(|one, other| one.name < other.name));
    }
}
