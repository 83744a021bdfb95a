//! Secrets that can be guessed, and files of secrets that too many can read: warnings, since they work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::types::{AdminToken, Secret, User};

/// Fewest characters of a shared secret: who holds one credential may try all shorter ones, alone at home.
const MIN_SECRET_CHARS: usize = 16;
/// Fewest characters of a password: who has seen one request may try all shorter ones.
const MIN_PASSWORD_CHARS: usize = 8;
/// Permissions of a file by which others than its owner and its group have it.
const OTHERS: u32 = 0o007;

/// What is worth a warning about a value.
pub(super) trait Strength {
    /// Why it is weak, if it is.
    fn weakness(&self) -> Option<String>;
}

impl Strength for Secret {
    fn weakness(&self) -> Option<String> {
        (self.expose().chars().count() < MIN_SECRET_CHARS).then(|| {
            format!(
                "a secret has fewer than {MIN_SECRET_CHARS} characters: whoever holds one credential can find it \
                 by trying; use 32 random ones, such as `openssl rand -base64 32` prints"
            )
        })
    }
}

impl Strength for User {
    fn weakness(&self) -> Option<String> {
        (self.password.expose().chars().count() < MIN_PASSWORD_CHARS).then(|| {
            format!(
                "the password of {:?} has fewer than {MIN_PASSWORD_CHARS} characters: whoever sees one request \
                 can find it by trying",
                self.name
            )
        })
    }
}

/// Short tokens are faults.
impl Strength for AdminToken {
    fn weakness(&self) -> Option<String> {
        None
    }
}

/// Why a file of secrets should have other permissions, if it should. What isn't there is no matter here.
pub(super) fn exposure(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode();
    (mode & OTHERS != 0).then(|| {
        format!(
            "every user of this machine has access to its secrets (mode {:04o}): chmod o= {}",
            mode & 0o7777,
            path.display()
        )
    })
}
