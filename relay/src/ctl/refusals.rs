//! `turnpike ctl refusals`: why calls fail.

use serde_json::Value;

use super::words::{list, now_unix_secs, table, text, time};

/// The latest refusals, then how many there were by reason.
pub(super) fn refusals(answer: &Value) -> String {
    show(answer, now_unix_secs())
}

fn show(answer: &Value, now_unix_secs: u64) -> String {
    let latest: Vec<Vec<String>> = list(&answer["refusals"])
        .iter()
        .map(|refusal| {
            let known = |key: &str| Some(&refusal[key]).filter(|value| !value.is_null()).map(text);
            let peer = known("peer").map(|peer| format!("peer {peer}"));
            let remedy = known("remedy").map(|remedy| format!("{remedy} would allow it"));
            let words: Vec<String> = [known("detail"), peer, remedy].into_iter().flatten().collect();
            let mut row = vec![time(&refusal["last_unix_secs"], now_unix_secs)];
            row.extend(
                ["count", "user", "client", "method", "code", "reason"].map(|key| text(&refusal[key])),
            );
            row.push(words.join("; "));
            row
        })
        .collect();
    if latest.is_empty() && list(&answer["totals"]).is_empty() {
        return "nothing was refused\n".to_owned();
    }
    let heads = ["last", "times", "user", "client", "method", "code", "reason", ""];
    let totals = list(&answer["totals"]).iter();
    let totals: Vec<Vec<String>> = totals
        .map(|total| ["count", "method", "code", "reason"].map(|key| text(&total[key])).to_vec())
        .collect();
    format!(
        "{}\nsince the start\n{}",
        table(&heads, &latest),
        table(&["times", "method", "code", "reason"], &totals)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_refusal_is_a_row_and_hostile_names_stay_in_it() {
        let answer = json!({
            "refusals": [{
                "first_unix_secs": 900, "last_unix_secs": 940, "count": 3, "method": "create_permission",
                "code": 403, "reason": "peer-denied", "user": "eve\n\u{1b}[2J", "client": "198.51.100.7:50000",
                "peer": "10.0.0.20", "detail": null, "remedy": "--allow-peer 10.0.0.20",
            }],
            "totals": [{ "method": "create_permission", "code": 403, "reason": "peer-denied", "count": 3 }],
        });
        let page = show(&answer, 1000);
        assert_eq!(page.lines().count(), 6, "{page}");
        assert!(page.contains("eve\\n\\u{1b}[2J  198.51.100.7:50000"), "{page}");
        assert!(page.contains("peer 10.0.0.20; --allow-peer 10.0.0.20 would allow it"), "{page}");
        assert_eq!(show(&json!({ "refusals": [], "totals": [] }), 1), "nothing was refused\n");
    }
}
