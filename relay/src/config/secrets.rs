//! Users and secrets from files of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layers::Settings;
use super::options::Config;
use super::parse;
use super::reading::Reader;
use super::report::{Place, Problem, Report};

/// Adds what `user-file`, `auth-secret-file` and `admin-token-file` hold.
pub(super) fn load(config: &mut Config, settings: &Settings, reader: &Reader, report: &mut Report) {
    for (index, path) in config.user_file.iter().enumerate() {
        let place = settings.place("user-file", index);
        config.users.0.extend(lines(reader, path, "user-file", place, report, parse::user));
    }
    for (index, path) in config.auth_secret_file.iter().enumerate() {
        let place = settings.place("auth-secret-file", index);
        config.auth_secrets.0.extend(lines(reader, path, "auth-secret-file", place, report, parse::secret));
    }
    for (index, path) in config.admin_token_file.iter().enumerate() {
        let place = settings.place("admin-token-file", index);
        config.admin_tokens.0.extend(lines(
            reader,
            path,
            "admin-token-file",
            place,
            report,
            parse::scoped_token,
        ));
    }
}

fn lines<T>(
    reader: &Reader,
    path: &Path,
    key: &'static str,
    place: Place,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let text = match reader.text(path) {
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
