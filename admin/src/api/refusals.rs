//! Why calls fail.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::extract::NoQuery;
use crate::guard::{Needs, Read};
use crate::model::Refusals;
use crate::problem::Problems;
use crate::state::AppState;

/// Why requests were refused: the latest, with user and client, and how many by reason.
#[utoipa::path(
    get, path = "/v1/refusals", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "The latest first", body = Refusals), Problems)
)]
pub async fn refusals(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<Refusals> {
    Json(shared.relay.refusals())
}
