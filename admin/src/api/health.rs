//! For load balancers and supervisors: no token, and next to no information.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Problems;
use crate::extract::NoQuery;
use crate::model::Readiness;
use crate::state::Shared;

/// It runs.
#[utoipa::path(
    get, path = "/healthz", tag = "status",
    responses((status = 200, description = "It runs", body = String, content_type = "text/plain"), Problems)
)]
pub async fn healthz(_: NoQuery) -> &'static str {
    "ok\n"
}

/// Whether new allocations are welcome.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    responses(
        (status = 200, description = "They are", body = Readiness),
        (status = 503, description = "They are not, and why", body = Readiness),
        Problems
    )
)]
pub async fn readyz(_: NoQuery, State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Readiness>) {
    let readiness = shared.relay.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}
