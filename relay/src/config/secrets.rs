//! Users and secrets from files of their own.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::MAX_FILE_BYTES;
use super::layers::Settings;
use super::options::Config;
use super::parse;
use super::report::{Place, Problem, Report};

/// Adds what `user-file`, `auth-secret-file` and `admin-token-file` hold.
pub(super) fn load(config: &mut Config, settings: &Settings, report: &mut Report) {
    for (index, path) in config.user_file.iter().enumerate() {
        let place = settings.place("user-file", index);
        config.users.0.extend(lines(path, "user-file", place, report, parse::user));
    }
    for (index, path) in config.auth_secret_file.iter().enumerate() {
        let place = settings.place("auth-secret-file", index);
        config.auth_secrets.0.extend(lines(path, "auth-secret-file", place, report, parse::secret));
    }
    for (index, path) in config.admin_token_file.iter().enumerate() {
        let place = settings.place("admin-token-file", index);
        config.admin_tokens.0.extend(lines(path, "admin-token-file", place, report, parse::scoped_token));
    }
}

/// The text of a file of bounded size; wiped when dropped.
pub(super) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path)?;
    // Enough at once: growing would leave copies of the text behind in freed memory.
    let expected = file.metadata().map_or(0, |metadata| metadata.len().min(MAX_FILE_BYTES));
    text.reserve_exact(usize::try_from(expected).unwrap_or(0) + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn lines<T>(
    path: &Path,
    key: &'static str,
    place: Place,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            report.fault(Problem::new(place, key, format!("{:?} can't be read: {error}", path.display())));
            return Vec::new();
        }
    };
    let file = Arc::new(PathBuf::from(path));
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match parse(line) {
            Ok(value) => found.push(value),
            Err(why) => report.fault(Problem::new(Place::File(Arc::clone(&file), index + 1, 1), key, why)),
        }
    }
    if found.is_empty() && !report.blames(key) {
        report.fault(Problem::new(place, key, format!("{:?} has no entry", path.display())));
    }
    found
}
