//! What runs here.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::extract::NoQuery;
use crate::guard::{Needs, Read};
use crate::model::{Config, DropReasons, Status, Totals};
use crate::problem::Problems;
use crate::state::AppState;

/// Version, addresses, data paths and workers.
#[utoipa::path(
    get, path = "/v1/status", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "What runs here", body = Status), Problems)
)]
pub async fn status(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<Status> {
    Json(shared.relay.status())
}

/// The configuration in force, secrets masked.
#[utoipa::path(
    get, path = "/v1/config", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "Each option", body = Config), Problems)
)]
pub async fn config(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<Config> {
    Json(shared.relay.config())
}

/// All counters: what the events send each second, and the metrics say to Prometheus.
#[utoipa::path(
    get, path = "/v1/totals", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "All counters", body = Totals), Problems)
)]
pub async fn totals(_: Needs<Read>, _: NoQuery, State(shared): State<Arc<AppState>>) -> Json<Totals> {
    Json(shared.relay.totals())
}

/// Every reason of a drop, and whether it is worth a look: policy and senders' mistakes are not.
#[utoipa::path(
    get, path = "/v1/drop-reasons", tag = "status", security(("token" = ["read"])),
    responses((status = 200, description = "Each reason with its cause", body = DropReasons), Problems)
)]
pub async fn drop_reasons(
    _: Needs<Read>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Json<DropReasons> {
    Json(DropReasons { reasons: shared.relay.drop_reasons() })
}
