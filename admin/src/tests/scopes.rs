//! Each operation needs the scope that the document says, and nothing else opens it.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::Value;

use super::{ADMIN, Api, CREDENTIALS, METRICS, READ, Said};
use crate::ManagedRelay;

struct Operation {
    method: String,
    path: String,
    scope: Option<String>,
    /// Any token will do, or a certain one.
    needs_token: bool,
}

/// All operations of the document, with a real id and name in their paths.
fn operations(id: &str) -> Vec<Operation> {
    let document: Value = serde_json::from_str(&crate::openapi()).expect("a document");
    let paths = document["paths"].as_object().expect("paths");
    let mut operations = Vec::new();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.replace("{id}", id).replace("{name}", "alice"),
                needs_token: operation["security"].is_array(),
                scope: operation["security"][0]["token"][0].as_str().map(str::to_owned),
            });
        }
    }
    operations
}

/// Streams of events never end: of those only the headers are asked for.
async fn ask(api: &Api, operation: &Operation, token: Option<&str>) -> Said {
    let method = if operation.path == "/v1/events" { "HEAD" } else { &operation.method };
    let mut said = api.ask(method, &operation.path, token, "").await;
    if method == "HEAD" && said.status.is_client_error() {
        said = api.ask("GET", &operation.path, token, "").await;
    }
    said
}

#[tokio::test]
async fn each_operation_opens_to_its_scope_only() {
    let some = Api::new(3);
    let all = operations(&some.some_id().await);
    assert!(all.len() >= 20, "{}", all.len());
    let opens = |scope: &str, needed: &str| {
        scope == "admin" || scope == needed || (scope, needed) == ("read", "metrics")
    };
    for operation in all.iter().filter(|operation| operation.scope.is_some()) {
        let needed = operation.scope.as_deref().expect("it has one");
        let what = format!("{} {}", operation.method, operation.path);
        for (token, scope) in
            [(ADMIN, "admin"), (READ, "read"), (METRICS, "metrics"), (CREDENTIALS, "credentials")]
        {
            let said = ask(&Api::new(3), operation, Some(token)).await;
            if opens(scope, needed) {
                assert!(![401, 403].contains(&said.status.as_u16()), "{what} with {scope}: {}", said.text);
            } else {
                said.problem(403, "scope_missing");
                let expected = format!("error=\"insufficient_scope\", scope=\"{needed}\"");
                assert!(said.header(header::WWW_AUTHENTICATE).ends_with(&expected), "{what}");
            }
        }
        let said = ask(&Api::new(3), operation, None).await;
        said.problem(401, "token_needed");
        assert_eq!(said.header(header::WWW_AUTHENTICATE), "Bearer realm=\"turnpike\"", "{what}");
        let said = ask(&Api::new(3), operation, Some("admin-token-012345678")).await;
        said.problem(401, "wrong_token");
        assert!(said.header(header::WWW_AUTHENTICATE).contains("invalid_token"), "{what}");
    }
}

#[tokio::test]
async fn only_what_reveals_nothing_needs_no_token() {
    let api = Api::new(1);
    let open: Vec<String> = operations("0000000000000001")
        .into_iter()
        .filter(|operation| !operation.needs_token)
        .map(|operation| operation.path)
        .collect();
    assert_eq!(open, ["/healthz", "/readyz", "/v1/openapi.json"]);
    for path in open.iter().map(String::as_str).chain(["/", "/main.js", "/style.css", "/icon.svg"]) {
        assert_eq!(api.ask("GET", path, None, "").await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn nothing_changes_without_the_scope_to_change_it() {
    let api = Api::new(2);
    let id = api.some_id().await;
    for token in [None, Some(READ), Some(METRICS), Some(CREDENTIALS), Some("wrong")] {
        for operation in
            operations(&id).iter().filter(|operation| operation.scope.as_deref() == Some("admin"))
        {
            let json = if operation.method == "PATCH" { r#"{"max_bits_per_sec":1}"# } else { "" };
            let said = api.ask(&operation.method, &operation.path, token, json).await;
            assert!(said.status.is_client_error(), "{} {}", operation.method, operation.path);
        }
    }
    assert_eq!(api.fake.totals().sum.allocations, 2);
    assert!(api.fake.readiness().ready);
}

#[tokio::test]
async fn wrong_tokens_are_limited_and_a_right_one_is_never_locked_out() {
    let api = Api::new(1);
    let mut refused = None;
    for guess in 0..50 {
        let said = api.ask("GET", "/v1/status", Some(&format!("guess{guess}")), "").await;
        if said.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(said);
            break;
        }
        said.problem(401, "wrong_token");
    }
    let refused = refused.expect("fifty guesses are too many");
    refused.problem(429, "too_many_wrong_tokens");
    let wait: u64 = refused.header(header::RETRY_AFTER).parse().expect("seconds");
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(api.get("/v1/status").await.status, StatusCode::OK);
    // Whoever sends none has guessed nothing.
    api.ask("GET", "/v1/status", None, "").await.problem(401, "token_needed");
}

#[tokio::test]
async fn a_page_of_another_origin_or_name_gets_nothing() {
    let api = Api::new(1);
    let request = |method: &str, name: header::HeaderName, value: &str| {
        let mut request = Request::builder().method(method).uri("/v1/drain");
        if name != header::HOST {
            request = request.header(header::HOST, "localhost:8080");
        }
        request = request.header(header::AUTHORIZATION, format!("Bearer {ADMIN}")).header(name, value);
        request.body(Body::empty()).expect("a request")
    };
    let said = api.send(request("POST", header::ORIGIN, "http://evil.example")).await;
    said.problem(403, "foreign_origin");
    let said = api.send(request("POST", header::ORIGIN, "null")).await;
    said.problem(403, "foreign_origin");
    assert!(api.fake.readiness().ready);
    for host in ["evil.example", "localhost.evil.example:8080", "a b"] {
        let said = api.send(request("GET", header::HOST, host)).await;
        said.problem(421, "unknown_host");
        assert!(!said.text.contains("evil"), "{}", said.text);
    }
    for host in ["turn.example.org", "127.0.0.1:1", "[::1]:8080"] {
        assert_eq!(api.send(request("GET", header::HOST, host)).await.status, StatusCode::OK, "{host}");
    }
    let said = api.send(request("POST", header::ORIGIN, "http://localhost:8080")).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text);
}
