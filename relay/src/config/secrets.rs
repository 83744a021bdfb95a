//! Users and secrets from files of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::options::Config;
use super::parse;
use super::plain::{self, Entry};
use super::reading::Reader;
use super::report::{Place, Problem, Report};
use super::settings::Settings;
use super::strength::{Strength, exposure};

/// Adds what `user-file`, `auth-secret-file` and `admin-token-file` hold.
pub(super) fn load(config: &mut Config, settings: &Settings, reader: &Reader, report: &mut Report) {
    for (index, path) in config.user_file.iter().enumerate() {
        let source = Source { key: "user-file", path, place: settings.place("user-file", index) };
        config.users.0.extend(source.read(reader, report, plain::user_line, parse::user));
    }
    for (index, path) in config.auth_secret_file.iter().enumerate() {
        let source =
            Source { key: "auth-secret-file", path, place: settings.place("auth-secret-file", index) };
        config.auth_secrets.0.extend(source.read(reader, report, plain::secret_line, parse::secret));
    }
    for (index, path) in config.admin_token_file.iter().enumerate() {
        let source =
            Source { key: "admin-token-file", path, place: settings.place("admin-token-file", index) };
        config.admin_tokens.0.extend(source.read(reader, report, plain::token_line, parse::scoped_token));
    }
}

/// A file of secrets, and where it was named.
struct Source<'a> {
    key: &'static str,
    path: &'a Path,
    place: Place,
}

impl Source<'_> {
    fn read<T: Strength>(
        self,
        reader: &Reader,
        report: &mut Report,
        entry: fn(&str) -> Entry<'_>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Source { key, path, place } = self;
        let text = match reader.text(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("{:?} can't be read: {error}", path.display());
                report.fault(Problem::new(place, key, message));
                return Vec::new();
            }
        };
        if let Some(why) = exposure(path) {
            report.warn(Problem::new(place.clone(), key, format!("{:?}: {why}", path.display())));
        }
        let file = Arc::new(PathBuf::from(path));
        let (mut found, mut weak) = (Vec::new(), Vec::new());
        for (index, line) in plain::without_mark(&text).lines().enumerate() {
            let at =
                |message: String| Problem::new(Place::File(Arc::clone(&file), index + 1, 1), key, message);
            match entry(line).and_then(|line| line.map(parse).transpose()) {
                Ok(Some(value)) => {
                    weak.extend(value.weakness().map(at));
                    found.push(value);
                }
                Ok(None) => {}
                Err(why) => report.fault(at(why)),
            }
        }
        report.warn_once(weak);
        if found.is_empty() && !report.blames(key) {
            report.fault(Problem::new(place, key, format!("{:?} has no entry", path.display())));
        }
        found
    }
}
