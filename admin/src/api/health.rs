//! For load balancers and supervisors: no token, and next to no information.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::extract::NoQuery;
use crate::model::Readiness;
use crate::problem::Problems;
use crate::state::AppState;

/// Whether it works: all its workers turn.
#[utoipa::path(
    get, path = "/healthz", tag = "status",
    responses(
        (status = 200, description = "It works", body = String, content_type = "text/plain"),
        (status = 503, description = "It doesn't, and why", body = String, content_type = "text/plain"),
        Problems
    )
)]
pub async fn healthz(_: NoQuery, State(shared): State<Arc<AppState>>) -> (StatusCode, String) {
    let faults = shared.relay.faults();
    match faults.is_empty() {
        true => (StatusCode::OK, "ok\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n") + "\n"),
    }
}

/// Whether new allocations are welcome: it does not drain, and all its workers turn.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    responses(
        (status = 200, description = "They are", body = Readiness),
        (status = 503, description = "They are not, and why", body = Readiness),
        Problems
    )
)]
pub async fn readyz(_: NoQuery, State(shared): State<Arc<AppState>>) -> (StatusCode, Json<Readiness>) {
    let readiness = shared.relay.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}
