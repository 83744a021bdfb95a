//! The API as its users see it: in memory where that is enough, over real connections where it isn't.

mod answers;
mod audit;
mod connections;
mod errors;
mod events;
mod refusals;
mod scopes;
mod scrape;
mod tls;
mod watching;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::fake::Fake;
use crate::server::LIMITS;
use crate::state::AppState;
use crate::token::{Scope, Tokens};

const ADMIN: &str = "admin-token-0123456789";
const READ: &str = "read-token-0123456789";
const METRICS: &str = "metrics-token-0123456789";
const CREDENTIALS: &str = "credentials-token-0123456789";

fn tokens() -> Tokens {
    let mut tokens = Tokens::default();
    tokens.add(ADMIN, [Scope::Admin]);
    tokens.add(READ, [Scope::Read]);
    tokens.add(METRICS, [Scope::Metrics]);
    tokens.add(CREDENTIALS, [Scope::Credentials]);
    tokens
}

/// The API of an invented relay, without a connection.
struct Api {
    fake: Arc<Fake>,
    shared: Arc<AppState>,
    router: Router,
    stop: watch::Sender<bool>,
}

/// What it said.
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a readable header"))
    }

    /// Checks that it is an error that says what it must.
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header(header::CONTENT_TYPE), "application/problem+json");
        let problem: crate::ProblemBody = serde_json::from_str(&self.text).expect("a problem");
        assert_eq!((problem.status, &*problem.code), (status, code), "{}", self.text);
        assert_eq!(problem.title, self.status.canonical_reason().expect("a known status"));
        problem.detail.into_owned()
    }
}

impl Api {
    fn new(allocations: u64) -> Self {
        let fake = Fake::new(allocations);
        let (stop, stopping) = watch::channel(false);
        let hosts = vec!["turn.example.org".into()];
        let shared = Arc::new(AppState::new(fake.clone(), tokens(), hosts, LIMITS.request_time, stopping));
        Self { fake, router: crate::api::router(Arc::clone(&shared)), shared, stop }
    }

    /// The id of some allocation.
    async fn some_id(&self) -> String {
        let page = self.get("/v1/allocations?limit=1").await.json();
        page["allocations"][0]["id"].as_str().expect("an id").to_owned()
    }

    async fn get(&self, path: &str) -> Said {
        self.ask("GET", path, Some(ADMIN), "").await
    }

    async fn ask(&self, method: &str, path: &str, token: Option<&str>, json: &str) -> Said {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !json.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        self.send(request.body(Body::from(json.to_owned())).expect("a request")).await
    }

    async fn send(&self, mut request: Request<Body>) -> Said {
        let client = SocketAddr::from(([127, 0, 0, 1], 50_000));
        request.extensions_mut().insert(ConnectInfo(client));
        let response = self.router.clone().oneshot(request).await.expect("a router always answers");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        Said { status: parts.status, headers: parts.headers, text }
    }
}
