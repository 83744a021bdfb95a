//! The paths, and the document that describes them.
//!
//! ```text
//!   guard::around ──► route ──► Needs<Scope> ──► path, query, body ──► trait ManagedRelay ──► JSON
//!        (host, origin, time, headers)    (all errors: problem+json)
//! ```

#![allow(unused_qualifications, reason = "the macros of utoipa write them")]

mod allocations;
mod credentials;
mod drain;
mod events;
mod filter;
mod health;
mod history;
mod refusals;
mod status;
mod talkers;
mod token;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::guard;
use crate::limits::MAX_BODY_BYTES;
use crate::model::Event;
use crate::problem::{Problem, ProblemBody, Problems};
use crate::state::AppState;
use crate::{dashboard, metrics};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Turnpike administration",
        description = "What runs, what it carries, and what to change about it. Bytes are payload bytes; \
                       rates and limits are bits of payload per second, in each direction."
    ),
    tags(
        (name = "status", description = "What runs here"),
        (name = "allocations", description = "Who relays what"),
        (name = "users", description = "Who may"),
        (name = "operation", description = "Draining, reloading, watching"),
    ),
    components(schemas(Event, ProblemBody)),
    modifiers(&Tokens)
)]
struct Document;

/// Adds the one way to authenticate.
struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "A token of the configuration. Its scopes: `metrics`, `read` (metrics too), `credentials`, \
             `admin` (everything).",
        ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme.build()));
    }
}

/// The routes with their document.
fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::status))
        .routes(routes!(status::config))
        .routes(routes!(status::totals))
        .routes(routes!(status::drop_reasons))
        .routes(routes!(history::history))
        .routes(routes!(token::token))
        .routes(routes!(talkers::talkers))
        .routes(routes!(refusals::refusals))
        .routes(routes!(allocations::list))
        .routes(routes!(allocations::detail, allocations::disconnect, allocations::limit))
        .routes(routes!(users::disconnect_all))
        .routes(routes!(users::list))
        .routes(routes!(users::one, users::put, users::delete))
        .routes(routes!(credentials::issue))
        .routes(routes!(drain::state, drain::begin, drain::end))
        .routes(routes!(drain::reload))
        .routes(routes!(events::events))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::scrape))
        .routes(routes!(document))
}

/// The OpenAPI 3.1 document as text, with a newline at its end.
pub fn openapi() -> String {
    let document = routes().into_openapi();
    let mut text = document.to_pretty_json().expect("a document has nothing that JSON can't say");
    text.push('\n');
    text
}

/// This document: OpenAPI 3.1.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "status",
    responses((status = 200, description = "The document", content_type = "application/json"), Problems)
)]
async fn document(_: crate::extract::NoQuery) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], openapi())
}

/// Everything that HTTP can ask for.
pub fn router(shared: Arc<AppState>) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .merge(dashboard::routes())
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&shared), guard::around))
        .with_state(shared)
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this path has no such method")
}
