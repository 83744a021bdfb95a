//! The audit trail: who changed what, from where, and what came of it.
//!
//! One record with the target `audit` for each changing call of a token that is ours, and for wrong tokens.
//! What succeeds is always written; what is refused can be repeated by anybody at any rate, so it is written
//! at most [`LOGGED_REFUSALS_PER_SEC`] times a second, with the number of those left out.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Extension;
use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::limits::{LOGGED_REFUSALS_AT_ONCE, LOGGED_REFUSALS_PER_SEC, MAX_LOGGED_PATH_BYTES};
use crate::token::TokenId;

/// What a handler adds to the record of its call.
#[derive(Clone, Debug)]
pub struct Details(String);

/// An answer with its details for the record.
pub type Detailed<T> = (Extension<Details>, T);

/// An answer whose record says more than method and path.
pub fn detailed<T>(details: String, answer: T) -> Detailed<T> {
    (Extension(Details(details)), answer)
}

impl From<String> for Details {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// How often refused calls are written down.
pub struct Audit {
    refused: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

/// A call that would change something.
pub struct Call {
    method: Method,
    uri: Uri,
    source: IpAddr,
    token: Option<TokenId>,
}

impl Call {
    /// A request as it came, with the token that it shows; none if it only reads.
    pub fn of(request: &Request, token: impl FnOnce() -> Option<TokenId>) -> Option<Self> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let connected = request.extensions().get::<ConnectInfo<SocketAddr>>();
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            source: connected.map_or(Ipv6Addr::UNSPECIFIED.into(), |info| info.0.ip()),
            token: token(),
        })
    }
}

impl Audit {
    /// Nothing has been written yet.
    pub fn new() -> Self {
        let quota = Quota::per_second(LOGGED_REFUSALS_PER_SEC).allow_burst(LOGGED_REFUSALS_AT_ONCE);
        Self { refused: RateLimiter::direct(quota), left_out: AtomicU64::new(0) }
    }

    /// Writes what came of a call. Without a token of ours there is nobody to name: [`Self::wrong_token`].
    pub fn finished(&self, call: Call, response: &Response) {
        let Some(token) = call.token else { return };
        let status = response.status();
        let outcome = outcome(status);
        // Handed out at a signaling server's rate, and nothing is changed by them.
        if outcome == "done" && call.uri.path() == "/v1/credentials" {
            return;
        }
        if outcome != "done" && !self.may_write() {
            return;
        }
        let path = call.uri.path();
        tracing::info!(
            target: "audit",
            token = token.name(),
            scopes = token.scopes().names(),
            source = %call.source,
            method = call.method.as_str(),
            path = path.get(..MAX_LOGGED_PATH_BYTES).unwrap_or(path),
            details = response.extensions().get::<Details>().map(|details| details.0.as_str()),
            status = status.as_u16(),
            outcome,
            left_out = self.take_left_out(),
            "administration"
        );
    }

    /// Writes that somebody showed a token that is none of ours.
    pub fn wrong_token(&self, source: IpAddr) {
        if self.may_write() {
            let left_out = self.take_left_out();
            tracing::warn!(target: "audit", %source, left_out, "a wrong token for the administration");
        }
    }

    fn may_write(&self) -> bool {
        let may = self.refused.check().is_ok();
        if !may {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    fn take_left_out(&self) -> Option<u64> {
        Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|left_out| *left_out > 0)
    }
}

fn outcome(status: StatusCode) -> &'static str {
    match status {
        _ if status.is_success() => "done",
        _ if status.is_server_error() => "failed",
        _ => "refused",
    }
}
