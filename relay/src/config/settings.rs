//! What was written for each option, by file, environment and command line, and which of them win.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::report::{Place, Problem, Report, quoted};

/// Options that are replaced together: whoever sets a secret in a later layer doesn't want an
/// earlier layer's to stay valid.
const GROUPS: &[&[&str]] =
    &[&["user", "user-file"], &["auth-secret", "auth-secret-file"], &["admin-token", "admin-token-file"]];

/// A value as it was written.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) text: Zeroizing<String>,
    pub(super) place: Place,
}

/// All values of one option in one layer.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) values: Vec<Value>,
}

/// What one source says, by key.
pub(super) type Layer = BTreeMap<&'static str, Setting>;

/// What all sources together say.
pub(super) struct Settings {
    by_key: Layer,
    /// Where a missing option is reported.
    pub(super) home: Place,
}

impl Settings {
    /// Puts layers over one another; the last one wins.
    pub(super) fn merge(home: Place, layers: impl IntoIterator<Item = Layer>) -> Self {
        let mut by_key = Layer::new();
        for layer in layers {
            for group in GROUPS.iter().filter(|group| group.iter().any(|key| layer.contains_key(key))) {
                group.iter().for_each(|key| drop(by_key.remove(key)));
            }
            by_key.extend(layer);
        }
        Settings { by_key, home }
    }

    /// The values of a list, or `None` if it isn't set. Each that can't be parsed is a fault and forgotten,
    /// so that [`Settings::place`] counts what is left.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Option<Vec<T>> {
        self.parse_all(key, |value| parse_shown(value, &parse), report)
    }

    /// The same for secrets: a fault doesn't repeat what was written.
    pub(super) fn secrets<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Option<Vec<T>> {
        self.parse_all(key, |value| parse(&value.text), report)
    }

    fn parse_all<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
        report: &mut Report,
    ) -> Option<Vec<T>> {
        let setting = self.by_key.get_mut(key)?;
        let mut parsed = Vec::with_capacity(setting.values.len());
        setting.values.retain(|value| {
            let fine = or_fault(key, value, parse(value), report);
            let keep = fine.is_some();
            parsed.extend(fine);
            keep
        });
        Some(parsed)
    }

    /// The value of a single option, if it is set and can be parsed.
    pub(super) fn one<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        report: &mut Report,
    ) -> Option<T> {
        let value = self.by_key.get(key)?.values.first()?;
        or_fault(key, value, parse_shown(value, &parse), report)
    }

    /// Whether the option is set, also to an empty list.
    pub(super) fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// The places of an option's values, in their order.
    pub(super) fn places(&self, key: &str) -> impl Iterator<Item = &Place> {
        self.by_key.get(key).into_iter().flat_map(|setting| setting.values.iter().map(|value| &value.place))
    }

    /// Where the value with this index was written.
    pub(super) fn place(&self, key: &str, index: usize) -> Place {
        let value = self.by_key.get(key).and_then(|setting| setting.values.get(index));
        value.map_or_else(|| self.home.clone(), |value| value.place.clone())
    }
}

/// A fault says what was written.
fn parse_shown<T>(value: &Value, parse: &impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    parse(&value.text).map_err(|why| format!("{}: {why}", quoted(&value.text)))
}

fn or_fault<T>(
    key: &'static str,
    value: &Value,
    parsed: Result<T, String>,
    report: &mut Report,
) -> Option<T> {
    parsed.map_err(|why| report.fault(Problem::new(value.place.clone(), key, why))).ok()
}
