//! What each operation does, where nothing is wrong.

use axum::http::{StatusCode, header};
use serde_json::json;

use super::{ADMIN, Api, CREDENTIALS};
use crate::ManagedRelay;
use crate::model::{AllocationDetail, AllocationPage, Credentials, DrainState, Status, Totals};

#[tokio::test]
async fn answers_can_be_read_back_into_the_model() {
    let api = Api::new(7);
    let status: Status = serde_json::from_str(&api.get("/v1/status").await.text).expect("a status");
    assert_eq!((status.allocations, status.drain.draining), (7, false));
    let totals: Totals = serde_json::from_str(&api.get("/v1/totals").await.text).expect("totals");
    assert_eq!((totals.sum.allocations, totals.sum.allocations_created), (7, 7));
    let page: AllocationPage = serde_json::from_str(&api.get("/v1/allocations").await.text).expect("a page");
    assert_eq!((page.total, page.matching, page.allocations.len()), (7, 7, 7));
    let id = page.allocations[0].id;
    let detail = api.get(&format!("/v1/allocations/{id}")).await;
    let detail: AllocationDetail = serde_json::from_str(&detail.text).expect("a detail");
    assert_eq!(detail.allocation.id, id);
    assert_eq!(detail.permission_list.len(), 1);
    let config = api.get("/v1/config").await.json();
    assert_eq!(
        config["options"][1],
        json!({"name": "auth-secret", "values": ["***"], "secret": true, "reloadable": true})
    );
}

#[tokio::test]
async fn pages_of_a_list_cover_it() {
    let api = Api::new(250);
    let mut seen = Vec::new();
    for offset in [0, 100, 200, 300] {
        let page = api.get(&format!("/v1/allocations?sort=id&order=asc&offset={offset}")).await.json();
        assert_eq!((page["matching"].as_u64(), page["offset"].as_u64()), (Some(250), Some(offset)));
        let ids = page["allocations"].as_array().expect("allocations").iter();
        seen.extend(ids.map(|allocation| allocation["id"].as_str().expect("an id").to_owned()));
    }
    assert_eq!(seen.len(), 250);
    assert!(seen.is_sorted_by(|one, other| one < other));
    let found = api.get("/v1/allocations?user=alice&limit=500").await.json();
    assert!(found["matching"].as_u64().is_some_and(|n| (30..60).contains(&n)), "{}", found["matching"]);
}

#[tokio::test]
async fn an_allocation_is_limited_and_disconnected() {
    let api = Api::new(3);
    let path = format!("/v1/allocations/{}", api.some_id().await);
    let limited = api.ask("PATCH", &path, Some(ADMIN), r#"{"max_bits_per_sec":64000}"#).await;
    assert_eq!(limited.json()["max_bits_per_sec"], 64_000);
    assert_eq!(api.fake.times_asked(), 1, "its worker is walked to once");
    assert_eq!(api.get(&path).await.json()["max_bits_per_sec"], 64_000);
    let gone = api.ask("DELETE", &path, Some(ADMIN), "").await;
    assert_eq!((gone.status, gone.text.as_str()), (StatusCode::NO_CONTENT, ""));
    api.get(&path).await.problem(404, "not_found");
    assert_eq!(api.fake.totals().sum.allocations_ended["disconnected"], 1);
}

#[tokio::test]
async fn a_user_is_written_read_disconnected_and_removed() {
    let api = Api::new(12);
    let alices = api.get("/v1/allocations?user=alice").await.json()["matching"].clone();
    assert_ne!(alices, 0);
    let path = "/v1/users/alice";
    api.ask("PUT", path, Some(ADMIN), r#"{"quota":1}"#).await.problem(422, "invalid");
    let json = r#"{"password":"x","quota":5,"max_bits_per_sec":2000000}"#;
    let new = api.ask("PUT", path, Some(ADMIN), json).await;
    assert_eq!((new.status, new.json()["quota"].as_u64()), (StatusCode::CREATED, Some(5)));
    let changed = api.ask("PUT", path, Some(ADMIN), "{}").await;
    assert_eq!((changed.status, &changed.json()["quota"]), (StatusCode::OK, &json!(null)));
    assert_eq!(api.get("/v1/users?search=ALI").await.json()["matching"], 1);
    assert_eq!(api.get("/v1/users?limit=1&offset=1").await.json()["users"][0]["name"], "from-the-file");
    let ended = api.ask("DELETE", "/v1/users/alice/allocations", Some(ADMIN), "").await;
    assert_eq!(ended.json(), json!({"allocations": alices}));
    assert_eq!(api.ask("DELETE", path, Some(ADMIN), "").await.status, StatusCode::NO_CONTENT);
    api.get(path).await.problem(404, "not_found");
    let configured = "/v1/users/from-the-file";
    api.ask("PUT", configured, Some(ADMIN), r#"{"password":"x"}"#).await.problem(409, "conflict");
    api.ask("DELETE", configured, Some(ADMIN), "").await.problem(409, "conflict");
}

#[tokio::test]
async fn credentials_are_handed_out() {
    let api = Api::new(1);
    let said =
        api.ask("POST", "/v1/credentials", Some(CREDENTIALS), r#"{"user":"alice","ttl_secs":60}"#).await;
    let credentials: Credentials = serde_json::from_str(&said.text).expect("credentials");
    assert!(credentials.username.ends_with(":alice") && !credentials.password.expose().is_empty());
    assert_eq!((credentials.ttl_secs, credentials.uris.len()), (60, 1));
    assert_eq!(said.header(header::CACHE_CONTROL), "no-store");
}

#[tokio::test]
async fn draining_turns_readiness_off_and_on() {
    let api = Api::new(1);
    assert_eq!(api.get("/readyz").await.status, StatusCode::OK);
    let said = api.ask("POST", "/v1/drain", Some(ADMIN), r#"{"deadline_secs":60}"#).await;
    let state: DrainState = serde_json::from_str(&said.text).expect("a state");
    assert!(state.draining && state.deadline_unix_secs.is_some());
    let unready = api.get("/readyz").await;
    assert_eq!(
        (unready.status, unready.json()["ready"].as_bool()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(false))
    );
    assert_eq!(api.get("/healthz").await.text, "ok\n");
    assert_eq!(api.get("/v1/drain").await.json()["draining"], true);
    assert_eq!(api.ask("DELETE", "/v1/drain", Some(ADMIN), "").await.json()["draining"], false);
    assert_eq!(api.get("/readyz").await.status, StatusCode::OK);
    assert_eq!(
        api.ask("POST", "/v1/drain", Some(ADMIN), "").await.json()["draining"],
        true,
        "without a body"
    );
    assert_eq!(
        api.ask("POST", "/v1/reload", Some(ADMIN), "").await.json()["applied"],
        json!(["auth-secret"])
    );
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let api = Api::new(1);
    for path in ["/", "/main.js", "/v1/status", "/v1/nothing", "/metrics", "/v1/users?x=1"] {
        let said = api.get(path).await;
        let policy = said.header(header::CONTENT_SECURITY_POLICY);
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(said.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(said.header(header::REFERRER_POLICY), "no-referrer", "{path}");
        assert_eq!(said.header(header::CACHE_CONTROL), "no-store", "{path}");
    }
}

#[tokio::test]
async fn the_page_has_nothing_that_its_policy_forbids() {
    let api = Api::new(1);
    let page = api.get("/").await;
    assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    let script = page.text.match_indices("<script").map(|(at, _)| &page.text[at..]);
    for tag in script {
        let tag = &tag[..tag.find("</script>").expect("an end")];
        assert!(tag.contains("src=") && tag.ends_with('>'), "an inline script: {tag}");
    }
    for forbidden in
        ["<style", " style=", " onclick=", " onload=", " onsubmit=", "javascript:", "http://", "https://"]
    {
        assert!(!page.text.contains(forbidden), "{forbidden}");
    }
}

/// `cargo xtask openapi` writes it.
#[test]
fn the_committed_document_is_what_the_code_says() {
    let committed = include_str!("../../../docs/openapi.json");
    assert!(committed == crate::openapi(), "docs/openapi.json is old: run `cargo xtask openapi`");
}
