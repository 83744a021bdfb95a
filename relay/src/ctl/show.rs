//! Answers of the API for people.
//!
//! Names come from strangers: control characters and what turns text around are escaped.

use serde_json::Value;

/// One field of an answer in each row.
pub(super) fn fields(answer: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", answer, &mut rows);
    table(&[], &rows.into_iter().map(|(name, value)| vec![name, value]).collect::<Vec<_>>())
}

/// Nothing to be told but that it was done.
pub(super) fn done(answer: &Value) -> String {
    if answer.is_null() { "done\n".to_owned() } else { fields(answer) }
}

/// What runs.
pub(super) fn status(answer: &Value) -> String {
    let texts = |list: &Value, key: &str| {
        let list = list.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().map(|entry| text(&entry[key])).collect::<Vec<_>>().join(" ")
    };
    let drain = match answer["drain"]["draining"].as_bool() {
        Some(true) => "yes",
        _ => "no",
    };
    let (path, offload) = (&answer["data_path"], &answer["offload"]);
    let kernel = if offload["active"] == true { "active" } else { "not active" };
    let mut rows = vec![
        vec!["version".to_owned(), text(&answer["version"])],
        vec!["uptime".to_owned(), duration(answer["uptime_secs"].as_u64().unwrap_or(0))],
        vec!["listen".to_owned(), texts(&answer["listeners"], "address")],
        vec!["relay".to_owned(), texts(&answer["relay_addresses"], "address")],
        vec!["userspace".to_owned(), format!("{} ({})", text(&path["name"]), text(&path["why"]))],
        vec!["kernel".to_owned(), format!("{kernel} ({})", text(&offload["why"]))],
        vec!["allocations".to_owned(), text(&answer["allocations"])],
        vec!["draining".to_owned(), drain.to_owned()],
    ];
    for worker in answer["workers"].as_array().into_iter().flatten() {
        let busy = worker["busy_ratio"].as_f64().unwrap_or(0.0) * 100.0;
        let line = format!("{} allocations, {busy:.0} % busy", text(&worker["allocations"]));
        rows.push(vec![format!("worker {}", text(&worker["index"])), line]);
    }
    table(&[], &rows)
}

/// The options that are set.
pub(super) fn config(answer: &Value) -> String {
    let options = answer["options"].as_array().into_iter().flatten();
    let rows: Vec<_> = options
        .map(|option| {
            let values = option["values"].as_array().into_iter().flatten();
            vec![text(&option["name"]), values.map(text).collect::<Vec<_>>().join(" ")]
        })
        .filter(|row| !row[1].is_empty())
        .collect();
    table(&["option", "value"], &rows)
}

/// A list of allocations.
pub(super) fn allocations(answer: &Value) -> String {
    let heads = ["id", "user", "client", "relayed", "to peer", "to client", "limit", "path"];
    let list = answer["allocations"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<_> = list
        .iter()
        .map(|allocation| {
            let relayed = allocation["relayed"].as_array().into_iter().flatten();
            let limit = allocation["max_bits_per_sec"].as_u64().unwrap_or(0);
            let in_kernel = allocation["offload"]["active"] == true;
            vec![
                text(&allocation["id"]),
                text(&allocation["user"]),
                text(&allocation["client"]),
                relayed.map(text).collect::<Vec<_>>().join(" "),
                rate(&allocation["to_peer_bits_per_sec"]),
                rate(&allocation["to_client_bits_per_sec"]),
                if limit == 0 { "-".to_owned() } else { bits(limit) },
                if in_kernel { "kernel" } else { "userspace" }.to_owned(),
            ]
        })
        .collect();
    let (shown, matching, total) = (list.len(), text(&answer["matching"]), text(&answer["total"]));
    format!("{}{shown} of {matching} that match, {total} in all\n", table(&heads, &rows))
}

/// A list of users.
pub(super) fn users(answer: &Value) -> String {
    let or_default = |value: &Value| if value.is_null() { "default".to_owned() } else { text(value) };
    let list = answer["users"].as_array().into_iter().flatten();
    let rows: Vec<_> = list
        .map(|user| {
            let limit = user["max_bits_per_sec"].as_u64().map_or_else(|| "default".to_owned(), bits);
            vec![text(&user["name"]), text(&user["source"]), or_default(&user["quota"]), limit]
        })
        .collect();
    table(&["name", "kept in", "quota", "limit"], &rows)
}

fn rate(value: &Value) -> String {
    bits(value.as_u64().unwrap_or(0))
}

/// With a unit of powers of 1000, as options are written.
fn bits(value: u64) -> String {
    match value {
        0..1_000 => value.to_string(),
        1_000..1_000_000 => format!("{:.1}k", value as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", value as f64 / 1e6),
        _ => format!("{:.1}G", value as f64 / 1e9),
    }
}

fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{minutes} min {} s", secs % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| flatten(&below(key), value, rows)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (index, value) in list.iter().enumerate() {
                flatten(&below(&index.to_string()), value, rows);
            }
        }
        Value::Array(list) => {
            rows.push((name.to_owned(), list.iter().map(text).collect::<Vec<_>>().join(" ")))
        }
        _ => rows.push((name.to_owned(), text(value))),
    }
}

/// A value without quotes, safe for a terminal.
fn text(value: &Value) -> String {
    let plain = match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let is_harmless = |character: char| {
        !character.is_control()
            && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let escaped = plain.chars().flat_map(|character| {
        if is_harmless(character) { vec![character] } else { character.escape_default().collect() }
    });
    escaped.collect()
}

/// Columns as wide as they have to be.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
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
    fn a_hostile_name_stays_within_its_cell() {
        let answer = json!({ "total": 1, "matching": 1, "allocations": [{
            "id": "0001000000000007", "user": "eve\n\u{1b}[2J\u{202e}", "client": "192.0.2.1:1",
            "relayed": ["192.0.2.9:50000"], "to_peer_bits_per_sec": 1_500_000, "to_client_bits_per_sec": 0,
            "max_bits_per_sec": 64_000, "offload": { "active": true },
        }] });
        let page = allocations(&answer);
        assert_eq!(page.lines().count(), 3, "{page}");
        assert!(page.contains("eve\\n\\u{1b}[2J\\u{202e}  192.0.2.1:1"), "{page}");
        assert!(page.contains("1.5M") && page.contains("64.0k") && page.contains("kernel"), "{page}");
    }

    #[test]
    fn an_answer_without_a_table_of_its_own_shows_every_field() {
        let answer = json!({ "draining": true, "alternate_servers": ["a", "b"], "list": [{ "x": 1 }] });
        let page = fields(&answer);
        for line in ["draining           true", "alternate_servers  a b", "list.0.x           1"] {
            assert!(page.contains(line), "{page}");
        }
    }
}
