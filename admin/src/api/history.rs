//! The last minutes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::extract::NoQuery;
use crate::guard::{Needs, Read};
use crate::model::History;
use crate::problem::Problems;
use crate::state::AppState;

/// The counters of the last 15 minutes: what a chart shows before it has watched for itself.
#[utoipa::path(
    get, path = "/v1/history", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "Samples, the oldest first", body = History), Problems)
)]
pub async fn history(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<History> {
    Json(shared.history.read())
}
