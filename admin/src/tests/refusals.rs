//! Why calls fail: the same in the API, the metrics and the events.

use super::{Api, METRICS, READ};
use crate::model::{Counts, Refusals};

#[tokio::test]
async fn api_and_metrics_count_the_same_reasons() {
    let api = Api::new(1);
    let said = api.ask("GET", "/v1/refusals", Some(READ), "").await;
    let refusals: Refusals = serde_json::from_str(&said.text).expect("refusals");
    let times = || refusals.refusals.iter().map(|refusal| refusal.last_unix_secs);
    assert!(times().is_sorted_by(|one, other| one >= other), "the latest first");
    let page = api.ask("GET", "/metrics", Some(METRICS), "").await.text;
    for counted in &refusals.totals {
        let labels =
            [("method", &counted.method), ("code", &counted.code.to_string()), ("reason", &counted.reason)];
        let line = page.lines().find(|line| {
            line.starts_with("turnpike_refusals_total{")
                && labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
        });
        assert!(
            line.is_some_and(|line| line.ends_with(&format!(" {}", counted.count))),
            "{counted:?}: {line:?}"
        );
    }
    let totals = api.ask("GET", "/v1/totals", Some(READ), "").await.json();
    let sum: Counts = serde_json::from_value(totals["sum"].clone()).expect("counts");
    assert_eq!(sum.refusals.len(), refusals.totals.len());
}

#[tokio::test]
async fn what_is_unknown_of_a_refusal_is_null() {
    let json = Api::new(1).get("/v1/refusals").await.json();
    let unknown =
        json["refusals"].as_array().expect("a list").iter().find(|refusal| refusal["user"].is_null());
    let unknown = unknown.expect("the invented relay has one");
    for field in ["peer", "detail", "remedy"] {
        assert!(unknown.get(field).is_some_and(serde_json::Value::is_null), "{field}: {unknown}");
    }
}
