//! coturn's `turnserver.conf`: what takes the place of each of its options, as advice, as a page, and as an import.
//!
//! ```text
//!   table: every option, once ─► advice: to who writes one into a file of ours
//!                             ─► page:   the tables of docs/migrate-from-coturn.md
//!   lines ─► draft (by the table) ─► finish: what lines mean together ─► TOML, and a remark on every line
//! ```
//!
//! No remark has a value of the file in it: values may be secrets.

mod draft;
mod finish;
mod page;
mod peers;
mod table;

use std::fmt;

pub use self::page::tables;
use super::options::OPTIONS;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It means here what it meant there.
    TakenOver,
    /// It means something else here, which the remark says.
    Changed,
    /// It is so without being said, or means nothing any more.
    NotNeeded,
    /// Nothing here does it.
    NotSupported,
    /// It would open what should be closed: left out, or to be looked at.
    Unsafe,
}

impl Fate {
    /// All of them.
    pub const ALL: [Fate; 5] =
        [Fate::TakenOver, Fate::Changed, Fate::NotNeeded, Fate::NotSupported, Fate::Unsafe];
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::TakenOver => "taken over",
            Fate::Changed => "changed in meaning",
            Fate::NotNeeded => "not needed",
            Fate::NotSupported => "not supported",
            Fate::Unsafe => "unsafe",
        })
    }
}

/// Where something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// What the database has, by its place among that.
    Database(usize),
    /// Nowhere: it is so in coturn without being said.
    Unsaid,
}

/// What is to be said about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it is.
    pub origin: Origin,
    /// The option, or what it is about.
    pub name: String,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, or by what.
    pub why: String,
}

/// What was made of a file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// A configuration of ours.
    pub toml: String,
    /// One remark on every line that says something, in their order; then what the file doesn't say.
    pub remarks: Vec<Remark>,
}

/// What coturn's database has for a realm, or for all.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// A shared secret (`turn_secret`).
    Secret(String),
    /// A range of peers (`allowed_peer_ip`).
    Allowed(String),
    /// The same (`denied_peer_ip`).
    Denied(String),
    /// A limit (`turn_realm_option`).
    Limit {
        /// Its name, as in the file.
        name: String,
        /// Its value.
        value: String,
    },
    /// So many users (`turnusers_lt`).
    Users(usize),
}

/// Makes a configuration of ours from a `turnserver.conf`, and from what its database has. `invented` is the secret that
/// takes the place of credentials, where there are none.
pub fn import(text: &str, stored: &[Stored], invented: &str) -> Imported {
    let mut draft = draft::Draft::default();
    lines(text).for_each(|line| draft.take(&line));
    (1..).zip(stored).for_each(|(place, stored)| draft.take_stored(Origin::Database(place), stored));
    draft.finish(invented)
}

/// The realm that a `turnserver.conf` names last.
pub fn realm(text: &str) -> Option<&str> {
    lines(text).filter(|line| line.name == "realm").last().map(|line| line.value)
}

/// A line that says something.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    origin: Origin,
    name: &'a str,
    value: &'a str,
}

/// As coturn reads them: a name, then blanks or equals signs, then a value, which may stand in quotes.
fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let is_between = |c: char| matches!(c, ' ' | '=' | '\t');
    let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let numbered = text.lines().map(str::trim).zip(1..).filter(move |(line, _)| said(line));
    numbered.map(move |(line, number)| {
        let (name, value) = line.split_once(is_between).unwrap_or((line, ""));
        let value = value.trim_start_matches(is_between);
        let value = value.strip_prefix('"').map_or(value, |rest| rest.strip_suffix('"').unwrap_or(rest));
        Line { origin: Origin::Line(number), name, value }
    })
}

/// What to do about a key of our own file, if it is coturn's.
pub(super) fn advice(key: &str) -> Option<String> {
    if OPTIONS.iter().any(|spec| spec.key == key) {
        return None;
    }
    let row = table::find(key)?;
    Some(match (row.key, row.fate) {
        (Some(here), _) => format!("is coturn's; here it is `{here}`"),
        (None, Fate::TakenOver | Fate::NotNeeded) => {
            "is coturn's; here it is always so: leave it out".to_owned()
        }
        (None, _) => "is coturn's; nothing here does it: see docs/migrate-from-coturn.md".to_owned(),
    })
}

/// The lines of a text that are coturn's, numbered from 1, with what to do about each. For a text that isn't TOML.
pub(super) fn advised_lines(text: &str) -> impl Iterator<Item = (usize, &str, String)> {
    lines(text).filter_map(|line| {
        let Origin::Line(number) = line.origin else { return None };
        Some((number, line.name, advice(line.name)?))
    })
}
