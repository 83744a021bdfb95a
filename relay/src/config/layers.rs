//! The raw values of environment and command line, and what a mistyped key may have meant.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;
use zeroize::Zeroizing;

use super::options::{Kind, OPTIONS, Spec};
use super::plain::variable_line;
use super::report::{Place, Problem, Report};
use super::settings::{Layer, Setting, Value};

/// Variables of ours that aren't options.
const OTHER_VARIABLES: &[&str] = &["TURNPIKE_CONFIG"];

/// Most edits between a mistyped key and the one that is suggested.
const MAX_EDITS: usize = 3;

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
