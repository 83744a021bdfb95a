//! Draining and reloading.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::audit::{Detailed, detailed};
use crate::extract::{NoQuery, OptionalBody};
use crate::guard::{Admin, Needs, Read};
use crate::limits::MAX_DEADLINE_SECS;
use crate::model::{DrainRequest, DrainState, ReloadReport};
use crate::problem::{Problem, Problems};
use crate::state::AppState;

/// Whether new allocations are refused.
#[utoipa::path(
    get, path = "/v1/drain", tag = "operation", security(("token" = ["read"])),
    responses((status = 200, description = "Whether it drains", body = DrainState), Problems)
)]
pub async fn state(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<DrainState> {
    Json(shared.relay.status().drain)
}

/// Refuses new allocations (300 with an alternate server if there is one, else 508); those that exist
/// live on, until the deadline if there is one. Readiness turns false.
#[utoipa::path(
    post, path = "/v1/drain", tag = "operation", security(("token" = ["admin"])),
    request_body = Option<DrainRequest>,
    responses((status = 200, description = "It drains", body = DrainState), Problems)
)]
pub async fn begin(
    _: Needs<Admin>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
    OptionalBody(request): OptionalBody<DrainRequest>,
) -> Result<Detailed<Json<DrainState>>, Problem> {
    if request.deadline_secs.is_some_and(|secs| secs > MAX_DEADLINE_SECS) {
        let detail = format!("deadline_secs is at most {MAX_DEADLINE_SECS}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", detail));
    }
    let state = shared.relay.drain(request).await?;
    let deadline =
        request.deadline_secs.map_or("no deadline".to_owned(), |secs| format!("deadline_secs={secs}"));
    Ok(detailed(deadline, Json(state)))
}

/// Takes new allocations again.
#[utoipa::path(
    delete, path = "/v1/drain", tag = "operation", security(("token" = ["admin"])),
    responses((status = 200, description = "It no longer drains", body = DrainState), Problems)
)]
pub async fn end(
    _: Needs<Admin>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<DrainState>, Problem> {
    let state = shared.relay.resume().await?;
    Ok(Json(state))
}

/// Reads the configuration again and applies what can change while running: what SIGHUP does.
#[utoipa::path(
    post, path = "/v1/reload", tag = "operation", security(("token" = ["admin"])),
    responses((status = 200, description = "What was applied", body = ReloadReport), Problems)
)]
pub async fn reload(
    _: Needs<Admin>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<ReloadReport>, Problem> {
    Ok(Json(shared.relay.reload().await?))
}
