//! Answers of the API for people: each a table of its own.

use serde_json::Value;

use super::words::{
    bits, bytes, duration, from_now, harmless, joined, list, now_unix_secs, table, text, time,
};

/// Nothing to be told but that it was done.
pub(super) fn done(_: &Value) -> String {
    "done\n".to_owned()
}

/// What runs.
pub(super) fn status(answer: &Value) -> String {
    let texts = |list_of: &Value, key: &str| {
        list(list_of).iter().map(|entry| text(&entry[key])).collect::<Vec<_>>().join(" ")
    };
    let (path, offload) = (&answer["data_path"], &answer["offload"]);
    let kernel = if offload["active"] == true { "active" } else { "not active" };
    let mut rows = vec![
        row("version", text(&answer["version"])),
        row("uptime", duration(answer["uptime_secs"].as_u64().unwrap_or(0))),
        row("listen", listeners(answer)),
        row("relay", texts(&answer["relay_addresses"], "address")),
        row("userspace", format!("{} ({})", text(&path["name"]), text(&path["why"]))),
        row("kernel", format!("{kernel} ({})", text(&offload["why"]))),
        row("allocations", text(&answer["allocations"])),
        row("draining", yes(&answer["drain"]["draining"])),
    ];
    for certificate in list(&answer["certificates"]) {
        let expires = time(&certificate["expires_unix_secs"], now_unix_secs());
        let fault = certificate["fault"].as_str();
        let fault = fault.map_or_else(String::new, |why| format!("; not renewed: {}", harmless(why)));
        let line = format!("{}, expires {expires}{fault}", joined(&certificate["names"]));
        rows.push(row("certificate", line));
    }
    for worker in list(&answer["workers"]) {
        let busy = worker["busy_ratio"].as_f64().unwrap_or(0.0) * 100.0;
        let line = format!("{} allocations, {busy:.0} % busy", text(&worker["allocations"]));
        rows.push(row(&format!("worker {}", text(&worker["index"])), line));
    }
    table(&[], &rows)
}

fn listeners(status: &Value) -> String {
    let show = |own: &Value| format!("{}/{}", text(&own["address"]), text(&own["transport"]));
    list(&status["listeners"]).iter().map(show).collect::<Vec<_>>().join(" ")
}

/// The options that are set.
pub(super) fn config(answer: &Value) -> String {
    let rows: Vec<_> = list(&answer["options"])
        .iter()
        .filter(|option| !list(&option["values"]).is_empty())
        .map(|option| vec![text(&option["name"]), joined(&option["values"])])
        .collect();
    table(&["option", "value"], &rows)
}

/// A list of allocations.
pub(super) fn allocations(answer: &Value) -> String {
    let heads = ["id", "user", "client", "relayed", "to peer", "to client", "limit", "path"];
    let list = list(&answer["allocations"]);
    let rate = |value: &Value| bits(value.as_u64().unwrap_or(0));
    let rows: Vec<_> = list
        .iter()
        .map(|allocation| {
            vec![
                text(&allocation["id"]),
                text(&allocation["user"]),
                text(&allocation["client"]),
                joined(&allocation["relayed"]),
                rate(&allocation["to_peer_bits_per_sec"]),
                rate(&allocation["to_client_bits_per_sec"]),
                limit_of(allocation, "-"),
                path(&allocation["offload"]).to_owned(),
            ]
        })
        .collect();
    let (shown, matching, total) = (list.len(), text(&answer["matching"]), text(&answer["total"]));
    format!("{}{shown} of {matching} that match, {total} in all\n", table(&heads, &rows))
}

/// Everything about one allocation.
pub(super) fn allocation(answer: &Value) -> String {
    let now = answer["as_of_unix_millis"].as_u64().map_or_else(now_unix_secs, |millis| millis / 1000);
    let user = match (text(&answer["user"]), text(&answer["quota_user"])) {
        (user, quota) if user == quota => user,
        (user, quota) => format!("{user} (quota of {quota})"),
    };
    let mut rows = vec![
        row("id", text(&answer["id"])),
        row("user", user),
        row("client", format!("{} by {}", text(&answer["client"]), text(&answer["transport"]))),
        row("server", text(&answer["server"])),
    ];
    if answer["tls"].is_object() {
        rows.push(row("tls", tls(&answer["tls"])));
    }
    rows.extend([
        row("relayed", joined(&answer["relayed"])),
        row("created", time(&answer["created_unix_secs"], now)),
        row("expires", time(&answer["expires_unix_secs"], now)),
        row("limit", limit_of(answer, "none")),
    ]);
    for (name, way) in [("to peer", "to_peer"), ("to client", "to_client")] {
        rows.extend(traffic(name, answer, way));
    }
    rows.push(row("path", explained(&answer["offload"])));
    let mut page = table(&[], &rows);
    let until = |entry: &Value| {
        entry["expires_unix_secs"].as_u64().map_or_else(|| "-".to_owned(), |at| from_now(at, now))
    };
    let permissions: Vec<_> = list(&answer["permission_list"])
        .iter()
        .map(|entry| vec![text(&entry["peer"]), until(entry)])
        .collect();
    section(&mut page, &["permission for", "ends"], &permissions);
    let channels: Vec<_> = list(&answer["channel_list"])
        .iter()
        .map(|entry| {
            let number = entry["number"].as_u64().unwrap_or(0);
            vec![format!("0x{number:04x}"), text(&entry["peer"]), until(entry), explained(&entry["offload"])]
        })
        .collect();
    section(&mut page, &["channel", "peer", "ends", "path"], &channels);
    let drops = answer["drops"].as_object().into_iter().flatten();
    let drops: Vec<_> = drops.map(|(reason, count)| vec![harmless(reason), text(count)]).collect();
    section(&mut page, &["dropped because", "datagrams"], &drops);
    page
}

fn tls(agreed: &Value) -> String {
    let alpn = if agreed["alpn"].is_null() { String::new() } else { format!(", {}", text(&agreed["alpn"])) };
    format!("{}, {}{alpn}", text(&agreed["version"]), text(&agreed["cipher_suite"]))
}

/// A limit that was changed.
pub(super) fn limit(answer: &Value) -> String {
    let limit = match answer["max_bits_per_sec"].as_u64() {
        Some(limit) if limit > 0 => format!("{} bit/s in each direction", bits(limit)),
        _ => "none".to_owned(),
    };
    let rows = [row("id", text(&answer["id"])), row("user", text(&answer["user"])), row("limit", limit)];
    table(&[], &rows)
}

/// How many allocations of a user were ended.
pub(super) fn disconnected(answer: &Value) -> String {
    match answer["allocations"].as_u64().unwrap_or(0) {
        1 => "1 allocation ended\n".to_owned(),
        count => format!("{count} allocations ended\n"),
    }
}

/// Whether new allocations are taken, and what happens to the others.
pub(super) fn drain(answer: &Value) -> String {
    let now = now_unix_secs();
    let is_draining = answer["draining"] == true;
    let mut rows = vec![row("draining", yes(&answer["draining"]))];
    if is_draining {
        let others = list(&answer["alternate_servers"]);
        let sent = format!("sent to {}", joined(&answer["alternate_servers"]));
        let refused = if others.is_empty() { "refused (508)".to_owned() } else { sent };
        let end = &answer["deadline_unix_secs"];
        let end = if end.is_null() { "none: the others live on".to_owned() } else { time(end, now) };
        rows.extend([
            row("since", time(&answer["since_unix_secs"], now)),
            row("deadline", end),
            row("new ones are", refused),
        ]);
    }
    rows.push(row("allocations", text(&answer["allocations"])));
    table(&[], &rows)
}

/// What a reload did.
pub(super) fn reload(answer: &Value) -> String {
    let mut rows = vec![row("applied", joined(&answer["applied"]))];
    if !list(&answer["restart_needed"]).is_empty() {
        rows.push(row("needs a restart", joined(&answer["restart_needed"])));
    }
    rows.extend(list(&answer["warnings"]).iter().map(|warning| row("warning", text(warning))));
    table(&[], &rows)
}

/// Time-limited credentials.
pub(super) fn credentials(answer: &Value) -> String {
    let mut rows =
        vec![row("username", text(&answer["username"])), row("password", text(&answer["password"]))];
    if let Some(ttl_secs) = answer["ttl_secs"].as_u64() {
        rows.push(row("ttl", duration(ttl_secs)));
    }
    rows.extend(list(&answer["uris"]).iter().map(|uri| row("uri", text(uri))));
    table(&[], &rows)
}

/// A list of users.
pub(super) fn users(answer: &Value) -> String {
    let list = list(&answer["users"]);
    let rows: Vec<_> = list
        .iter()
        .map(|user| vec![text(&user["name"]), text(&user["source"]), quota_of(user), bitrate_of(user)])
        .collect();
    let page = table(&["name", "kept in", "quota", "limit"], &rows);
    format!("{page}{} of {} that match\n", list.len(), text(&answer["matching"]))
}

/// One user.
pub(super) fn user(answer: &Value) -> String {
    let now = now_unix_secs();
    let mut rows = vec![
        row("name", text(&answer["name"])),
        row("kept in", text(&answer["source"])),
        row("quota", quota_of(answer)),
        row("limit", bitrate_of(answer)),
    ];
    for (name, key) in [("created", "created_unix_secs"), ("changed", "updated_unix_secs")] {
        if !answer[key].is_null() {
            rows.push(row(name, time(&answer[key], now)));
        }
    }
    table(&[], &rows)
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn yes(value: &Value) -> String {
    if *value == true { "yes" } else { "no" }.to_owned()
}

/// Adds a table behind an empty line, unless there is nothing in it.
fn section(page: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        page.push('\n');
        page.push_str(&table(heads, rows));
    }
}

fn limit_of(allocation: &Value, none: &str) -> String {
    match allocation["max_bits_per_sec"].as_u64() {
        Some(limit) if limit > 0 => bits(limit),
        _ => none.to_owned(),
    }
}

fn quota_of(user: &Value) -> String {
    if user["quota"].is_null() { "default".to_owned() } else { text(&user["quota"]) }
}

fn bitrate_of(user: &Value) -> String {
    match user["max_bits_per_sec"].as_u64() {
        None => "default".to_owned(),
        Some(0) => "none".to_owned(),
        Some(limit) => bits(limit),
    }
}

/// One way's datagrams, a row for each data path that forwarded any.
fn traffic(name: &str, answer: &Value, way: &str) -> Vec<Vec<String>> {
    let number = |path: &str, key: &str| answer[way][path][key].as_u64().unwrap_or(0);
    let line = |path: &str| {
        let (packets, sum) = (number(path, "packets"), bytes(number(path, "bytes")));
        let over = match number(path, "rate_drops") {
            0 => String::new(),
            drops => format!(", {drops} above the limit dropped"),
        };
        format!("{packets} datagrams, {sum} by {path}{over}")
    };
    let was_used = |path: &&str| number(path, "packets") + number(path, "rate_drops") > 0;
    let mut lines: Vec<_> = ["userspace", "kernel"].into_iter().filter(was_used).map(line).collect();
    if lines.is_empty() {
        lines.push("nothing yet".to_owned());
    }
    lines.into_iter().map(|line| row(name, line)).collect()
}

fn path(offload: &Value) -> &'static str {
    if offload["active"] == true { "kernel" } else { "userspace" }
}

/// The path, and why it is not the kernel.
fn explained(offload: &Value) -> String {
    match &offload["explanation"] {
        Value::Null => path(offload).to_owned(),
        why => format!("{} ({})", path(offload), text(why)),
    }
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
    fn an_allocation_is_shown_with_readable_times_permissions_and_channels() {
        let answer = json!({
            "as_of_unix_millis": 1_800_000_000_500_u64, "id": "0001000000000007",
            "user": "1800003600:alice", "quota_user": "alice", "transport": "udp",
            "client": "192.0.2.1:1", "server": "192.0.2.9:3478", "relayed": ["192.0.2.9:50000"],
            "created_unix_secs": 1_799_996_275, "expires_unix_secs": 1_800_000_600, "max_bits_per_sec": 0,
            "to_peer": { "userspace": { "packets": 3, "bytes": 1_500, "rate_drops": 1 },
                         "kernel": { "packets": 0, "bytes": 0, "rate_drops": 0 } },
            "to_client": {}, "offload": { "active": false, "explanation": "offload is off" },
            "permission_list": [{ "peer": "198.51.100.7", "expires_unix_secs": 1_800_000_300 }],
            "channel_list": [{ "number": 0x4000, "peer": "198.51.100.7:9", "expires_unix_secs": 1_800_000_600,
                               "offload": { "active": true } }],
            "drops": { "drop_no_permission_from_peer": 2 },
        });
        let expected = "\
id         0001000000000007
user       1800003600:alice (quota of alice)
client     192.0.2.1:1 by udp
server     192.0.2.9:3478
relayed    192.0.2.9:50000
created    2027-01-15T06:57:55Z (1h 2m ago)
expires    2027-01-15T08:10:00Z (in 10m)
limit      none
to peer    3 datagrams, 1.5 kB by userspace, 1 above the limit dropped
to client  nothing yet
path       userspace (offload is off)

permission for  ends
198.51.100.7    in 5m

channel  peer            ends    path
0x4000   198.51.100.7:9  in 10m  kernel

dropped because               datagrams
drop_no_permission_from_peer  2
";
        assert_eq!(allocation(&answer), expected);
        let mut secure = answer;
        for (alpn, shown) in [(Value::Null, ""), (json!("stun.turn"), ", stun.turn")] {
            let suite = "TLS_AES_256_GCM_SHA384";
            secure["tls"] = json!({ "version": "1.3", "cipher_suite": suite, "alpn": alpn });
            let page = allocation(&secure);
            assert!(page.contains(&format!("\ntls        1.3, {suite}{shown}\n")), "{page}");
        }
    }

    #[test]
    fn a_drain_says_until_when_and_where_clients_go() {
        let now = now_unix_secs();
        let state = |deadline: Value, others: &[&str]| {
            let answer = json!({ "draining": true, "since_unix_secs": now - 61, "deadline_unix_secs": deadline,
                                 "allocations": 3, "alternate_servers": others });
            drain(&answer)
        };
        let page = state(json!(now + 3600), &["192.0.2.8:3478"]);
        assert!(page.contains("draining      yes") && page.contains("(1m 1s ago)"), "{page}");
        assert!(page.contains("Z (in 1h)") || page.contains("Z (in 59m "), "{page}");
        assert!(page.contains("new ones are  sent to 192.0.2.8:3478\n"), "{page}");
        let page = state(Value::Null, &[]);
        assert!(page.contains("deadline      none") && page.contains("refused (508)"), "{page}");
        assert_eq!(
            drain(&json!({ "draining": false, "allocations": 3 })),
            "draining     no\nallocations  3\n"
        );
    }

    #[test]
    fn a_reload_says_what_needs_a_restart_and_each_warning() {
        let answer = json!({ "applied": ["user-quota", "user"], "restart_needed": ["realm"],
                             "warnings": ["one\nline", "two"] });
        let page = reload(&answer);
        assert!(page.starts_with("applied          user-quota user\nneeds a restart  realm\n"), "{page}");
        assert!(page.ends_with("warning          one\\nline\nwarning          two\n"), "{page}");
        assert_eq!(reload(&json!({ "applied": [], "restart_needed": [], "warnings": [] })), "applied  -\n");
    }

    #[test]
    fn limits_counts_and_users_are_sentences_of_their_own() {
        let limited = |bits: u64| limit(&json!({ "id": "0001", "user": "alice", "max_bits_per_sec": bits }));
        assert_eq!(limited(2_000_000), "id     0001\nuser   alice\nlimit  2.0M bit/s in each direction\n");
        assert!(limited(0).ends_with("limit  none\n"));
        assert_eq!(disconnected(&json!({ "allocations": 1 })), "1 allocation ended\n");
        let page = user(&json!({ "name": "bob", "source": "database", "max_bits_per_sec": 0,
                                 "created_unix_secs": 0, "updated_unix_secs": 3600 }));
        for line in
            ["quota    default", "limit    none", "created  1970-01-01T00:00:00Z", "changed  1970-01-01T01:"]
        {
            assert!(page.contains(line), "{page}");
        }
        let page =
            credentials(&json!({ "username": "1:a", "password": "p", "ttl_secs": 3600, "uris": ["turn:x"] }));
        assert_eq!(page, "username  1:a\npassword  p\nttl       1h\nuri       turn:x\n");
    }
}
