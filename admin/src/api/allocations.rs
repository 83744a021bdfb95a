//! Who relays what, and what to do about it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::filter::ListQuery;
use crate::audit::{Detailed, detailed};
use crate::extract::{Body, IdInPath, NoQuery, Query};
use crate::guard::{Admin, Needs, Read};
use crate::limits::MAX_BITS_PER_SEC;
use crate::model::{AllocationDetail, AllocationPage, LimitChange};
use crate::problem::{Problem, Problems};
use crate::state::AppState;

/// A page of the allocations that match, from a snapshot that is at most a second old.
#[utoipa::path(
    get, path = "/v1/allocations", tag = "allocations", security(("token" = ["read"])),
    params(ListQuery),
    responses((status = 200, description = "A page", body = AllocationPage), Problems)
)]
pub async fn list(
    _: Needs<Read>,
    Query(query): Query<ListQuery>,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<AllocationPage>, Problem> {
    let query = query.checked()?;
    let snapshot = shared.relay.snapshot().await?;
    Ok(Json(query.page(&snapshot)))
}

/// Everything about one allocation, as its worker knows it now.
#[utoipa::path(
    get, path = "/v1/allocations/{id}", tag = "allocations", security(("token" = ["read"])),
    params(("id" = crate::model::AllocationId, Path, description = "Its number")),
    responses((status = 200, description = "The allocation", body = AllocationDetail), Problems)
)]
pub async fn detail(
    _: Needs<Read>,
    IdInPath(id): IdInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<AllocationDetail>, Problem> {
    Ok(Json(shared.relay.allocation(id).await?))
}

/// Ends an allocation at once.
#[utoipa::path(
    delete, path = "/v1/allocations/{id}", tag = "allocations", security(("token" = ["admin"])),
    params(("id" = crate::model::AllocationId, Path, description = "Its number")),
    responses((status = 204, description = "It has ended"), Problems)
)]
pub async fn disconnect(
    _: Needs<Admin>,
    IdInPath(id): IdInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<StatusCode, Problem> {
    shared.relay.disconnect(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces the bandwidth limit of an allocation.
#[utoipa::path(
    patch, path = "/v1/allocations/{id}", tag = "allocations", security(("token" = ["admin"])),
    params(("id" = crate::model::AllocationId, Path, description = "Its number")),
    request_body = LimitChange,
    responses((status = 200, description = "The allocation, limited", body = AllocationDetail), Problems)
)]
pub async fn limit(
    _: Needs<Admin>,
    IdInPath(id): IdInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
    Body(change): Body<LimitChange>,
) -> Result<Detailed<Json<AllocationDetail>>, Problem> {
    let bits_per_sec = checked_limit(change.max_bits_per_sec)?;
    let allocation = shared.relay.limit(id, bits_per_sec).await?;
    Ok(detailed(format!("max_bits_per_sec={bits_per_sec}"), Json(allocation)))
}

pub(super) fn checked_limit(bits_per_sec: u64) -> Result<u64, Problem> {
    if bits_per_sec <= MAX_BITS_PER_SEC {
        return Ok(bits_per_sec);
    }
    let detail = format!("max_bits_per_sec is at most {MAX_BITS_PER_SEC}");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", detail))
}
