//! What the dashboard asks for besides lists: history, talkers, causes of drops, the token's scopes.

use serde_json::json;

use super::{ADMIN, Api, CREDENTIALS, METRICS, READ};
use crate::ManagedRelay;
use crate::model::{AllocationId, DropReasons, History, Talkers};

#[tokio::test]
async fn a_token_learns_what_it_opens() {
    let api = Api::new(1);
    for (token, scopes) in [
        (METRICS, json!(["metrics"])),
        (READ, json!(["metrics", "read"])),
        (CREDENTIALS, json!(["credentials"])),
        (ADMIN, json!(["metrics", "read", "credentials", "admin"])),
    ] {
        let said = api.ask("GET", "/v1/token", Some(token), "").await;
        assert_eq!(said.json()["scopes"], scopes, "{token}");
    }
    api.ask("GET", "/v1/token", None, "").await.problem(401, "token_needed");
    api.ask("GET", "/v1/token", Some("another"), "").await.problem(401, "wrong_token");
}

#[tokio::test]
async fn history_has_what_the_totals_were() {
    let api = Api::new(3);
    let empty: History = serde_json::from_str(&api.get("/v1/history").await.text).expect("a history");
    assert_eq!((empty.period_secs, empty.samples.len()), (5, 0));
    let totals = api.fake.totals();
    api.shared.history.record((&totals).into());
    let history: History = serde_json::from_str(&api.get("/v1/history").await.text).expect("a history");
    let [sample] = &history.samples[..] else { panic!("{history:?}") };
    assert_eq!(sample.as_of_unix_millis, totals.as_of_unix_millis);
    assert_eq!((sample.allocations, sample.allocations_created), (3, 3));
    assert_eq!((sample.to_peer, sample.to_client), (totals.sum.to_peer, totals.sum.to_client));
    assert!(sample.drops.keys().all(|name| name.starts_with("drop_")), "{sample:?}");
}

#[tokio::test]
async fn talkers_are_users_with_all_of_their_allocations() {
    // The fake gives eight names in turn.
    let api = Api::new(17);
    api.ask(
        "PATCH",
        &format!("/v1/allocations/{}", AllocationId(1 << 48 | 1)),
        Some(ADMIN),
        r#"{"max_bits_per_sec":1}"#,
    )
    .await;
    let talkers: Talkers = serde_json::from_str(&api.get("/v1/talkers").await.text).expect("talkers");
    assert_eq!((talkers.total, talkers.talkers.len()), (8, 8));
    assert_eq!(talkers.talkers.iter().map(|talker| talker.allocations).sum::<u64>(), 17);
    let rates: Vec<u64> =
        talkers.talkers.iter().map(|one| one.to_peer_bits_per_sec + one.to_client_bits_per_sec).collect();
    assert!(rates.is_sorted_by(|one, next| one >= next), "{rates:?}");
    let first = &talkers.talkers[0].user;
    let short: Talkers = serde_json::from_str(&api.get("/v1/talkers?limit=1").await.text).expect("talkers");
    assert_eq!((short.total, short.talkers.len()), (8, 1));
    assert!(!first.contains(':'), "the name that quotas count, not {first}");
    for limit in ["0", "501", "x"] {
        api.get(&format!("/v1/talkers?limit={limit}")).await.problem(400, "bad_query");
    }
}

#[tokio::test]
async fn each_drop_of_the_totals_has_a_cause() {
    let api = Api::new(1);
    let reasons: DropReasons =
        serde_json::from_str(&api.get("/v1/drop-reasons").await.text).expect("reasons");
    let known: Vec<&str> = reasons.reasons.iter().map(|reason| &*reason.name).collect();
    let totals = api.fake.totals();
    for name in totals.sum.verdicts.keys().filter(|name| name.starts_with("drop_")) {
        assert!(known.contains(&&**name), "{name}");
    }
}
