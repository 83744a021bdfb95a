//! Numbers, times and texts of answers as people read them, and tables of them.
//!
//! Names come from strangers: control characters and what turns text around are escaped.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// The entries of a list; none of anything else.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list in one line, or a hyphen.
pub(super) fn joined(value: &Value) -> String {
    let texts: Vec<_> = list(value).iter().map(text).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
}

/// A value without quotes, safe for a terminal.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        Value::Null => "-".to_owned(),
        other => harmless(&other.to_string()),
    }
}

/// A text with escapes for what would change the terminal, or the order of what is read.
pub(super) fn harmless(text: &str) -> String {
    let is_harmless = |character: char| {
        !character.is_control()
            && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let escaped = text.chars().flat_map(|character| {
        if is_harmless(character) { vec![character] } else { character.escape_default().collect() }
    });
    escaped.collect()
}

/// A rate with a unit of powers of 1000, as options are written.
pub(super) fn bits(value: u64) -> String {
    match value {
        0..1_000 => value.to_string(),
        1_000..1_000_000 => format!("{:.1}k", value as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", value as f64 / 1e6),
        _ => format!("{:.1}G", value as f64 / 1e9),
    }
}

/// An amount of bytes with a unit of powers of 1000.
pub(super) fn bytes(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} B"),
        1_000..1_000_000 => format!("{:.1} kB", value as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value as f64 / 1e6),
        _ => format!("{:.1} GB", value as f64 / 1e9),
    }
}

/// `1h 2m`: the two largest units.
pub(super) fn duration(secs: u64) -> String {
    let unit = match secs {
        DAY.. => HOUR,
        HOUR.. => MINUTE,
        _ => 1,
    };
    humantime::format_duration(Duration::from_secs(secs - secs % unit)).to_string()
}

/// A time in UTC, and how far it is from `now`; both in seconds since 1970. A hyphen where there is none.
pub(super) fn time(value: &Value, now_unix_secs: u64) -> String {
    let Some(at) = value.as_u64() else { return "-".to_owned() };
    format!("{} ({})", utc(at), from_now(at, now_unix_secs))
}

/// How far a time is from `now`; both in seconds since 1970.
pub(super) fn from_now(at_unix_secs: u64, now_unix_secs: u64) -> String {
    if at_unix_secs > now_unix_secs {
        format!("in {}", duration(at_unix_secs - now_unix_secs))
    } else {
        format!("{} ago", duration(now_unix_secs - at_unix_secs))
    }
}

/// RFC 3339. What is beyond the year 9999 stays a number.
fn utc(unix_secs: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    match UNIX_EPOCH.checked_add(Duration::from_secs(unix_secs)).filter(|_| unix_secs <= LAST) {
        Some(at) => humantime::format_rfc3339_seconds(at).to_string(),
        None => unix_secs.to_string(),
    }
}

/// Seconds since 1970.
pub(super) fn now_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Columns as wide as they have to be.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).chain([heads.len()]).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain(heads.get(column).copied()).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut page = String::new();
    if !heads.is_empty() {
        page.push_str(&line(&mut heads.iter().copied()));
    }
    rows.iter().for_each(|row| page.push_str(&line(&mut row.iter().map(String::as_str))));
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_the_two_largest_units() {
        let texts: Vec<_> = [0, 59, 61, 3600, 3725, 90_061].into_iter().map(duration).collect();
        assert_eq!(texts, ["0s", "59s", "1m 1s", "1h", "1h 2m", "1day 1h"]);
    }

    #[test]
    fn times_are_in_utc_and_relative() {
        let now = 1_800_000_000;
        assert_eq!(time(&json!(now - 3725), now), "2027-01-15T06:57:55Z (1h 2m ago)");
        assert_eq!(time(&json!(now + 600), now), "2027-01-15T08:10:00Z (in 10m)");
        assert_eq!(time(&Value::Null, now), "-");
        assert!(time(&json!(u64::MAX), now).starts_with("18446744073709551615 (in "), "no panic");
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!([bits(64_000), bits(2_000_000)], ["64.0k", "2.0M"]);
        assert_eq!([bytes(7), bytes(1_500), bytes(2_000_000_000)], ["7 B", "1.5 kB", "2.0 GB"]);
    }
}
