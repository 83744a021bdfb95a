//! Whatever is wrong with a request, the answer is a problem that names it, and no more.

use axum::body::Body;
use axum::http::{Request, header};

use super::{ADMIN, Api};
use crate::fake::SECRET;

#[tokio::test]
async fn unknown_parameters_are_named() {
    let api = Api::new(1);
    for path in
        ["/v1/status?verbose=1", "/v1/allocations?usr=x", "/v1/users?usr=x", "/healthz?x=1", "/readyz?x"]
    {
        let detail = api.get(path).await.problem(400, "bad_query");
        let name = path.split_once('?').expect("a query").1.split('=').next().expect("a name");
        assert!(detail.contains(&format!("`{name}`")), "{path}: {detail}");
    }
    for query in [
        "limit=x",
        "limit=-1",
        "offset=1e9",
        "sort=size",
        "offloaded=maybe",
        "min_age_secs=",
        "limit=1&limit=2",
    ] {
        let detail = api.get(&format!("/v1/allocations?{query}")).await.problem(400, "bad_query");
        let name = query.split('=').next().expect("a name");
        assert!(detail.contains(name), "{query}: {detail}");
    }
}

#[tokio::test]
async fn bodies_are_json_with_known_fields_of_the_right_type() {
    let api = Api::new(1);
    let path = "/v1/users/alice";
    let put = async |json: &str| api.ask("PUT", path, Some(ADMIN), json).await;
    put("{").await.problem(400, "bad_json");
    put("nonsense").await.problem(400, "bad_json");
    for json in ["[[[[", "[]", r#"["x",1,2]"#, "1", r#""password""#, &"[".repeat(5000)] {
        put(json).await.problem(422, "bad_value");
    }
    put(r#"{"password":"x"}{"#).await.problem(400, "bad_json");
    assert!(put(r#"{"passwort":"x"}"#).await.problem(422, "bad_value").contains("`passwort`"));
    put(r#"{"quota":-1}"#).await.problem(422, "bad_value");
    put(r#"{"quota":4294967296}"#).await.problem(422, "bad_value");
    put(r#"{"quota":1,"quota":2}"#).await.problem(422, "bad_value");
    put(r#"{"password":""}"#).await.problem(422, "bad_value");
    put(r#"{"password":"x","max_bits_per_sec":1000000000001}"#).await.problem(422, "bad_value");
    put(&format!(r#"{{"password":"{}"}}"#, "x".repeat(1025))).await.problem(422, "bad_value");
    put(&format!(r#"{{"password":"{}"}}"#, "x".repeat(70_000))).await.problem(413, "body_too_large");
    let request = Request::put(path)
        .header(header::HOST, "localhost")
        .header("authorization", format!("Bearer {ADMIN}"));
    let said = api.send(request.body(Body::from("{}")).expect("a request")).await;
    said.problem(415, "not_json");
    api.ask("POST", "/v1/drain", Some(ADMIN), r#"{"deadline_secs":604801}"#).await.problem(422, "bad_value");
    api.ask("POST", "/v1/drain", Some(ADMIN), "[1]").await.problem(422, "bad_value");
    api.ask("POST", "/v1/drain", Some(ADMIN), r#"{"deadline":1}"#).await.problem(422, "bad_value");
    for json in
        [r#"{"user":""}"#, r#"{"user":"a","ttl_secs":0}"#, r#"{"user":"a","ttl_secs":31536001}"#, "{}"]
    {
        api.ask("POST", "/v1/credentials", Some(ADMIN), json).await.problem(422, "bad_value");
    }
    api.ask("POST", "/v1/credentials", Some(ADMIN), r#"{"user":"a:b"}"#).await.problem(422, "invalid");
}

#[tokio::test]
async fn an_error_never_repeats_a_value_that_may_be_a_password() {
    let api = Api::new(1);
    for json in [
        r#"{"quota":"hunter2"}"#,
        r#"{"password":"x","max_bits_per_sec":"hunter2"}"#,
        r#"{"password":"hunter2" "#,
    ] {
        let said = api.ask("PUT", "/v1/users/alice", Some(ADMIN), json).await;
        assert!(said.status.is_client_error() && !said.text.contains("hunter2"), "{}", said.text);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_missing() {
    let api = Api::new(1);
    api.get("/v1/nothing").await.problem(404, "no_such_path");
    api.get("/v1").await.problem(404, "no_such_path");
    api.get("/../etc/passwd").await.problem(404, "no_such_path");
    api.get("/v1/allocations/00000000000000ff").await.problem(404, "not_found");
    api.get("/v1/users/nobody").await.problem(404, "not_found");
    let missing = "/v1/allocations/00000000000000ff";
    api.ask("DELETE", missing, Some(ADMIN), "").await.problem(404, "not_found");
    api.ask("PATCH", missing, Some(ADMIN), r#"{"max_bits_per_sec":1}"#).await.problem(404, "not_found");
    api.ask("DELETE", "/v1/users/nobody", Some(ADMIN), "").await.problem(404, "not_found");
    for (method, path) in
        [("POST", "/v1/status"), ("PUT", "/v1/drain"), ("OPTIONS", "/v1/users"), ("DELETE", "/")]
    {
        let said = api.ask(method, path, Some(ADMIN), "").await;
        said.problem(405, "wrong_method");
        assert!(said.header(header::ALLOW).contains("GET"), "{method} {path}");
    }
}

#[tokio::test]
async fn hostile_ids_and_names_are_refused_or_taken_as_they_are() {
    let api = Api::new(1);
    for id in [
        "1",
        "000000000000000G",
        "0x00000000000001",
        "%2e%2e",
        "000100000000000A",
        "%00",
        "%F0%9F%92%A9",
        "'--",
    ] {
        api.get(&format!("/v1/allocations/{id}")).await.problem(400, "bad_id");
    }
    api.get("/v1/allocations/%ff").await.problem(400, "bad_path");
    for name in ["a%00b", "a%0ab", "%7f", "%C2%85"] {
        api.get(&format!("/v1/users/{name}")).await.problem(400, "bad_name");
    }
    api.get(&format!("/v1/users/{}", "x".repeat(509))).await.problem(422, "name_too_long");
    api.get(&format!("/v1/users?search={}", "x".repeat(601))).await.problem(400, "bad_query");
    api.get("/v1/users/%ff").await.problem(400, "bad_path");
    for name in [
        "%27%3B%20DROP%20TABLE%20users%3B--",
        "..%2F..%2Fetc%2Fpasswd",
        "%25n%25s",
        "%3Cscript%3E",
        "%E2%80%AEx",
    ] {
        let said = api.ask("PUT", &format!("/v1/users/{name}"), Some(ADMIN), r#"{"password":"x"}"#).await;
        assert_eq!(said.status.as_u16(), 201, "{name}: {}", said.text);
        let read = api.get(&format!("/v1/users/{name}")).await.json();
        assert_eq!(read["name"], said.json()["name"], "{name}");
    }
    let listed = api.get("/v1/users?search=%3Cscript").await;
    assert_eq!(listed.json()["users"][0]["name"], "<script>");
    assert_eq!(listed.header(header::CONTENT_TYPE), "application/json");
}

#[tokio::test]
async fn no_answer_has_a_secret() {
    let api = Api::new(5);
    let written = api.ask("PUT", "/v1/users/alice", Some(ADMIN), r#"{"password":"swordfish-secret"}"#).await;
    assert!(!written.text.contains("swordfish"), "{}", written.text);
    for path in [
        "/v1/status",
        "/v1/config",
        "/v1/totals",
        "/v1/users",
        "/v1/users/alice",
        "/metrics",
        "/v1/openapi.json",
    ] {
        let said = api.get(path).await;
        for secret in [SECRET, "swordfish", ADMIN, READ_ONLY] {
            assert!(!said.text.contains(secret), "{path} has {secret}");
        }
    }
}

const READ_ONLY: &str = super::READ;
