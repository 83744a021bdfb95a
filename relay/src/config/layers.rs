//! The raw values of file, environment and command line, and which of them win.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;
use zeroize::Zeroizing;

use super::options::{Kind, OPTIONS, Spec};
use super::plain::variable_line;
use super::report::{Place, Problem, Report, quoted};

/// Options that are replaced together: whoever sets a secret in a later layer doesn't want an
/// earlier layer's to stay valid.
const GROUPS: &[&[&str]] =
    &[&["user", "user-file"], &["auth-secret", "auth-secret-file"], &["admin-token", "admin-token-file"]];

/// Variables of ours that aren't options.
const OTHER_VARIABLES: &[&str] = &["TURNPIKE_CONFIG"];

/// Most edits between a mistyped key and the one that is suggested.
const MAX_EDITS: usize = 3;

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
        let setting = self.by_key.get_mut(key)?;
        let mut parsed = Vec::with_capacity(setting.values.len());
        setting.values.retain(|value| {
            let fine = parse_value(key, value, &parse, report);
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
        parse_value(key, value, &parse, report)
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

fn parse_value<T>(
    key: &'static str,
    value: &Value,
    parse: impl Fn(&str) -> Result<T, String>,
    report: &mut Report,
) -> Option<T> {
    match parse(&value.text) {
        Ok(parsed) => Some(parsed),
        Err(why) => {
            let secret = spec(key).is_some_and(|spec| spec.kind == Kind::Secrets);
            let message = if secret { why } else { format!("{}: {why}", quoted(&value.text)) };
            report.fault(Problem::new(value.place.clone(), key, message));
            None
        }
    }
}

/// The option with this key.
pub(super) fn spec(key: &str) -> Option<&'static Spec> {
    OPTIONS.iter().find(|spec| spec.key == key)
}

/// What the flags say.
pub(super) fn from_flags(matches: &ArgMatches) -> Layer {
    let mut layer = Layer::new();
    for spec in OPTIONS {
        // A command that doesn't have the flag at all is an error to clap; here it is merely unset.
        let Ok(Some(values)) = matches.try_get_many::<String>(spec.key) else { continue };
        if matches.value_source(spec.key) != Some(ValueSource::CommandLine) {
            continue;
        }
        let values = values
            .map(|text| Value { text: Zeroizing::new(text.clone()), place: Place::CommandLine })
            .collect();
        layer.insert(spec.key, Setting { values });
    }
    layer
}

/// What `TURNPIKE_*` variables say. Empty ones count as unset, as compose files leave them; of a list the
/// parts are separated by commas, of secrets, which may have a comma, by line ends. Unknown ones are common (Kubernetes sets them for a service of that
/// name), so only one that looks like a typing error is worth a warning.
pub(super) fn from_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    report: &mut Report,
) -> Layer {
    let mut layer = Layer::new();
    for (name, text) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("TURNPIKE_")) else { continue };
        if text.is_empty() || OTHER_VARIABLES.contains(&name) {
            continue;
        }
        let place = Place::Environment(name.to_owned());
        let Some(spec) = OPTIONS.iter().find(|spec| spec.variable() == name) else {
            if let Some(near) = nearest(name, OPTIONS.iter().map(Spec::variable)) {
                let message = format!("unknown, ignored; did you mean {near}?");
                report.warn(Problem { place, key: None, message });
            }
            continue;
        };
        let Ok(text) = text.into_string().map(Zeroizing::new) else {
            report.fault(Problem::new(place, spec.key, "is not UTF-8"));
            continue;
        };
        let values = match spec.kind {
            Kind::Secrets => secrets_of(spec.key, &text, &place, report),
            _ => split(spec, &text, &place),
        };
        layer.insert(spec.key, Setting { values });
    }
    layer
}

fn split(spec: &Spec, text: &str, place: &Place) -> Vec<Value> {
    let value = |text: &str| Value { text: Zeroizing::new(text.to_owned()), place: place.clone() };
    if !spec.is_list() {
        return vec![value(text)];
    }
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(value).collect()
}

/// One secret a line.
fn secrets_of(key: &'static str, text: &str, place: &Place, report: &mut Report) -> Vec<Value> {
    let mut values = Vec::new();
    for line in text.lines() {
        match variable_line(line) {
            Ok(Some(secret)) => {
                let text = Zeroizing::new(secret.to_owned());
                values.push(Value { text, place: place.clone() });
            }
            Ok(None) => {}
            Err(why) => report.fault(Problem::new(place.clone(), key, why)),
        }
    }
    if key == "user" && values.iter().any(|value| is_like_a_list(&value.text)) {
        let message = "has a comma, which belongs to the password: if several users are meant, write each on a \
                       line of its own";
        report.warn(Problem::new(place.clone(), key, message));
    }
    values
}

/// `alice:one,bob:two`.
fn is_like_a_list(user: &str) -> bool {
    user.split(',').skip(1).any(|part| part.contains(':'))
}

/// The candidate that is most alike, if any is alike enough to be meant.
pub(super) fn nearest(name: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (edits(name, &candidate), candidate))
        .filter(|(edits, candidate)| *edits <= MAX_EDITS && *edits < candidate.len() / 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes; keys are short and ASCII.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
