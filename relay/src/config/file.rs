//! The TOML file as a layer: known keys with values of the right kind, each with its line and column.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::coturn;
use super::layers::{nearest, spec};
use super::options::{Kind, OPTIONS, Spec};
use super::parse;
use super::report::{Place, Problem, Report, quoted};
use super::settings::{Layer, Setting, Value};

/// A file's text, able to tell where a byte is.
struct Source<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
}

impl Source<'_> {
    /// The place of a byte offset: line and column (in characters) from 1.
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        Place::File(Arc::clone(&self.path), line, column)
    }

    fn value(&self, text: String, span: &Range<usize>) -> Value {
        Value { text: Zeroizing::new(text), place: self.place(span.start) }
    }
}

/// Reads a layer out of a file's text; what is wrong with it goes to the report.
pub(super) fn from_toml(path: Arc<PathBuf>, text: &str, report: &mut Report) -> Layer {
    let source = Source { path, text };
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() && report_coturn(&source, report) {
        return Layer::new();
    }
    // Behind the first error of syntax everything is guesswork.
    let trusted = report_syntax(&source, &errors, report);
    let mut layer = Layer::new();
    let mut entries: Vec<_> =
        table.get_ref().iter().filter(|(_, value)| value.span().end < trusted).collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let Some(spec) = spec(key.get_ref()) else {
            report.fault(unknown_key(&source, key.get_ref(), key.span()));
            continue;
        };
        match values(&source, spec, value, report) {
            Ok(values) => drop(layer.insert(spec.key, Setting { values })),
            Err(problem) => report.fault(problem),
        }
    }
    layer
}

/// Whether this is coturn's file, which isn't TOML; then each of its keys is a fault that says what to write.
fn report_coturn(source: &Source<'_>, report: &mut Report) -> bool {
    let place = |line| Place::File(Arc::clone(&source.path), line, 1);
    let keys: Vec<_> = coturn::advised_lines(source.text).collect();
    if keys.is_empty() {
        return false;
    }
    report.incomplete = true;
    let message =
        "is not TOML; it looks like coturn's turnserver.conf: docs/migrate-from-coturn.md".to_owned();
    report.fault(Problem { place: place(0), key: None, message });
    for (line, key, advice) in keys {
        let message = format!("{key}: {advice}");
        report.fault(Problem { place: place(line), key: None, message });
    }
    true
}

/// Reports the first error of each line; answers where the text stops being trustworthy.
fn report_syntax(source: &Source<'_>, errors: &[toml::de::Error], report: &mut Report) -> usize {
    let offset = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let mut errors: Vec<_> = errors.iter().collect();
    errors.sort_by_key(|error| offset(error));
    report.incomplete |= !errors.is_empty();
    let mut last_line = 0;
    for error in &errors {
        let place = source.place(offset(error));
        if let Place::File(_, line, _) = place
            && line != std::mem::replace(&mut last_line, line)
        {
            // Only the message: the library's own rendering quotes the line, which may hold a secret.
            let message = format!("not TOML: {}", one_line(error.message()));
            report.fault(Problem { place, key: None, message });
        }
    }
    errors.first().map_or(usize::MAX, |error| offset(error))
}

fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(", ")
}

fn unknown_key(source: &Source<'_>, key: &str, span: Range<usize>) -> Problem {
    if let Some(advice) = coturn::advice(key) {
        let message = format!("{}: {advice}", quoted(key));
        return Problem { place: source.place(span.start), key: None, message };
    }
    let hint = match nearest(key, OPTIONS.iter().map(|spec| spec.key.to_owned())) {
        Some(near) => format!("did you mean {near}?"),
        None => "`turnpike run --help` lists the keys".to_owned(),
    };
    let message = format!("unknown key {}: {hint}", quoted(key));
    Problem { place: source.place(span.start), key: None, message }
}

/// The values of one key, or the fault that its kind of value is.
fn values(
    source: &Source<'_>,
    spec: &'static Spec,
    value: &Spanned<DeValue<'_>>,
    report: &mut Report,
) -> Result<Vec<Value>, Problem> {
    match (value.get_ref(), spec.is_list()) {
        (DeValue::Array(items), true) => {
            let mut found = Vec::with_capacity(items.len());
            for item in items.iter() {
                match scalar(source, spec, item) {
                    Ok(value) => found.push(value),
                    Err(problem) => report.fault(problem),
                }
            }
            Ok(found)
        }
        (DeValue::Table(users), true) if spec.key == "user" => Ok(user_table(source, users, report)),
        _ => Ok(vec![scalar(source, spec, value)?]),
    }
}

fn scalar(source: &Source<'_>, spec: &'static Spec, value: &Spanned<DeValue<'_>>) -> Result<Value, Problem> {
    let span = value.span();
    match (spec.kind, value.get_ref()) {
        (Kind::Switch, DeValue::Boolean(on)) => Ok(source.value(on.to_string(), &span)),
        (Kind::Number, DeValue::Integer(number)) => {
            let decimal = i64::from_str_radix(number.as_str(), number.radix()).map(|n| n.to_string());
            Ok(source.value(decimal.unwrap_or_else(|_| number.to_string()), &span))
        }
        (Kind::Switch, _) => Err(wrong_kind(source, spec, value, "true or false, without quotes")),
        (_, DeValue::String(text)) => Ok(source.value(text.to_string(), &span)),
        (Kind::Number, _) => Err(wrong_kind(source, spec, value, "a whole number")),
        (Kind::Text, _) => Err(wrong_kind(source, spec, value, "a string in quotes")),
        (Kind::List | Kind::Secrets, _) => {
            Err(wrong_kind(source, spec, value, "a list of strings, such as [\"...\", \"...\"]"))
        }
    }
}

fn wrong_kind(
    source: &Source<'_>,
    spec: &'static Spec,
    value: &Spanned<DeValue<'_>>,
    wanted: &str,
) -> Problem {
    let message = format!("has a value of type {}: write {wanted}", value.get_ref().type_str());
    Problem::new(source.place(value.span().start), spec.key, message)
}

/// `[user]` with lines `NAME = "PASSWORD"`.
fn user_table(source: &Source<'_>, users: &DeTable<'_>, report: &mut Report) -> Vec<Value> {
    let mut entries: Vec<_> = users.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let mut values = Vec::with_capacity(entries.len());
    for (name, password) in entries {
        let span = name.span();
        let fault = |message: String| Problem::new(source.place(span.start), "user", message);
        if let Err(why) = parse::user_name(name.get_ref()) {
            report.fault(fault(why));
        } else if let DeValue::String(password) = password.get_ref() {
            values.push(source.value(format!("{}:{password}", name.get_ref()), &span));
        } else {
            report.fault(fault("the password is not a string in quotes".to_owned()));
        }
    }
    values
}
