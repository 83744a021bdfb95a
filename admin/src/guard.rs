//! What each request must pass, and what each answer carries, whatever was asked.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::audit::Call;
use crate::limits::MAX_TOKEN_BYTES;
use crate::problem::Problem;
use crate::state::AppState;
use crate::token::{Scope, Scopes};

/// Nothing but our own files runs, and nobody frames them.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const ANSWER_HEADERS: [(HeaderName, HeaderValue); 7] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Around everything: where the request may come from, how long it may take, and what browsers must
/// know about the answer.
pub async fn around(State(shared): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let refused = check_host(request.uri(), request.headers(), &shared.hosts)
        .and_then(|()| check_origin(request.method(), request.headers()))
        .err();
    let token = || shared.tokens.load().find(bearer(request.headers())?);
    let call = Call::of(&request, token);
    let mut response = match refused {
        Some(problem) => problem.into_response(),
        None => in_time(shared.request_time, request, next).await,
    };
    for (name, value) in ANSWER_HEADERS {
        response.headers_mut().insert(name, value);
    }
    if let Some(call) = call {
        shared.audit.finished(call, &response);
    }
    shared.counts.answered(response.status().as_u16());
    response
}

async fn in_time(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long")
            .with(header::CONNECTION, "close")
            .into_response(),
    }
}

/// A page of somebody else can make its own name point at us (DNS rebinding), but a browser still says
/// that name. An address can't be rebound.
fn check_host(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> Result<(), Problem> {
    let mut given = headers.get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    let host = first.and_then(|value| value.to_str().ok());
    let (Some(host), None) = (host, second) else {
        let detail = "a request has exactly one Host header";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_host", detail));
    };
    let known = is_known(host, hosts) && uri.authority().is_none_or(|other| is_known(other.as_str(), hosts));
    if known {
        return Ok(());
    }
    let detail = "this name is not one of ours: use an address, or name it with admin-host";
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", detail))
}

fn is_known(host: &str, hosts: &[String]) -> bool {
    let Some(name) = without_port(host) else {
        return false;
    };
    if let Some(ip) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return ip.parse::<std::net::Ipv6Addr>().is_ok();
    }
    name.parse::<std::net::Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> Option<&str> {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            (port.is_empty() || port.parse::<u16>().is_ok()).then_some(name)
        }
        _ => Some(host),
    }
}

/// A token in a header can't be forged by a page of somebody else; this is the second lock.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let of_origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")));
    if of_origin.is_some_and(|of_origin| of_origin.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let detail = "a page of another origin may not change anything here";
    Err(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail))
}

/// What a handler asks for as its first argument: a token with a scope.
pub struct Needs<S>(PhantomData<S>);

/// A scope as a type.
pub trait ScopeOf {
    /// The scope that the operation needs.
    const SCOPE: Scope;
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident),*) => { $(
        $(#[$doc])*
        pub struct $name;
        impl ScopeOf for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )* };
}

scopes! {
    /// Scrape the metrics.
    Metrics,
    /// Look at everything.
    Read,
    /// Hand out credentials.
    Credentials,
    /// Change things.
    Admin
}

impl<S: ScopeOf + Send> FromRequestParts<Arc<AppState>> for Needs<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<AppState>) -> Result<Self, Problem> {
        check_scope(scopes_of(shared, parts)?, S::SCOPE)?;
        Ok(Self(PhantomData))
    }
}

/// What a handler asks for that answers every token of ours: what this one opens.
pub struct AnyToken(pub Scopes);

impl FromRequestParts<Arc<AppState>> for AnyToken {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<AppState>) -> Result<Self, Problem> {
        Ok(Self(scopes_of(shared, parts)?))
    }
}

/// The scopes of the token that a request carries.
fn scopes_of(shared: &AppState, parts: &Parts) -> Result<Scopes, Problem> {
    let source = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let Some(token) = bearer(&parts.headers) else {
        let detail = "a token is needed: Authorization: Bearer TOKEN";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_needed", detail)
            .with(header::WWW_AUTHENTICATE, "Bearer realm=\"turnpike\""));
    };
    shared.tokens.load().scopes_of(token).ok_or_else(|| wrong_token(shared, source))
}

fn check_scope(scopes: Scopes, wanted: Scope) -> Result<(), Problem> {
    if scopes.allow(wanted) {
        return Ok(());
    }
    let scope = wanted.name();
    let detail = format!("this token lacks the scope {scope}");
    Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing", detail).with(
        header::WWW_AUTHENTICATE,
        format!("Bearer realm=\"turnpike\", error=\"insufficient_scope\", scope=\"{scope}\""),
    ))
}

fn wrong_token(shared: &AppState, source: Option<IpAddr>) -> Problem {
    shared.counts.wrong_tokens.fetch_add(1, Ordering::Relaxed);
    let source = source.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    shared.audit.wrong_token(source);
    match shared.strangers.wrong_token(source) {
        Ok(()) => Problem::new(StatusCode::UNAUTHORIZED, "wrong_token", "this is none of our tokens")
            .with(header::WWW_AUTHENTICATE, "Bearer realm=\"turnpike\", error=\"invalid_token\""),
        Err(wait) => {
            let secs = wait.as_secs() + 1;
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_tokens", "too many wrong tokens")
                .with(header::RETRY_AFTER, secs.to_string())
        }
    }
}

/// The token of exactly one Authorization header (RFC 6750 s. 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (given.next()?, given.next()) else {
        return None;
    };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let plausible =
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN_BYTES;
    plausible.then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_that_were_configured_are_known_hosts() {
        let hosts = ["turn.example.org".to_owned()];
        let good = [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "localhost:8080",
            "LOCALHOST",
            "192.0.2.1:80",
            "turn.example.org",
            "Turn.Example.org:443",
        ];
        for host in good {
            assert!(is_known(host, &hosts), "{host}");
        }
        let bad = [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "turn.example.org.",
            "::1",
            "[::1",
            "[localhost]",
            "localhost:99999",
            "localhost:80:80",
            "user@localhost",
            "127.1",
        ];
        for host in bad {
            assert!(!is_known(host, &hosts), "{host}");
        }
    }

    #[test]
    fn an_origin_must_be_the_host_that_is_asked() {
        let headers = |origin: &str| {
            let origin = HeaderValue::from_str(origin).expect("a header");
            let host = HeaderValue::from_static("localhost:8080");
            HeaderMap::from_iter([(header::HOST, host), (header::ORIGIN, origin)])
        };
        let allowed = |method, origin| check_origin(&method, &headers(origin)).is_ok();
        assert!(allowed(Method::POST, "http://localhost:8080"));
        assert!(allowed(Method::GET, "http://evil.example"));
        for origin in ["http://localhost:8081", "http://evil.example", "null", "localhost:8080", ""] {
            assert!(!allowed(Method::POST, origin), "{origin}");
        }
    }

    #[test]
    fn a_token_is_taken_from_one_bearer_header() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_static(value))).collect()
        };
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer abc"])), Some("abc"));
        for values in [&[][..], &["abc"], &["Bearer "], &["Basic abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(values)), None, "{values:?}");
        }
    }
}
