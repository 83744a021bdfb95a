//! Who may allocate.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::allocations::checked_limit;
use crate::audit::{Detailed, Details, detailed};
use crate::extract::{Body, NameInPath, NoQuery, Query};
use crate::guard::{Admin, Needs, Read};
use crate::limits::{MAX_OFFSET, MAX_PAGE, MAX_PASSWORD_BYTES, MAX_TEXT, USUAL_PAGE};
use crate::model::{Disconnected, User, UserChange, UserPage};
use crate::problem::{Problem, Problems};
use crate::state::AppState;

/// Which users to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// A part of the name, in any case.
    #[param(max_length = 600)]
    search: Option<String>,
    /// Users in the answer; the default is 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// How many users, by name, to leave out before the first one shown.
    #[param(minimum = 0, maximum = 10_000_000)]
    offset: Option<u32>,
}

/// A page of the users of configuration and database, by name.
#[utoipa::path(
    get, path = "/v1/users", tag = "users", security(("token" = ["read"])),
    params(UsersQuery),
    responses((status = 200, description = "A page", body = UserPage), Problems)
)]
pub async fn list(
    _: Needs<Read>,
    Query(query): Query<UsersQuery>,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<UserPage>, Problem> {
    let limit = query.limit.unwrap_or(USUAL_PAGE);
    let offset = query.offset.unwrap_or(0);
    if !(1..=MAX_PAGE).contains(&limit) || offset > MAX_OFFSET {
        return Err(Problem::query(format!("limit is 1 to {MAX_PAGE}, offset at most {MAX_OFFSET}")));
    }
    let search = query.search.unwrap_or_default().to_lowercase();
    if search.chars().count() > MAX_TEXT {
        return Err(Problem::query(format!("search has at most {MAX_TEXT} characters")));
    }
    let mut users = shared.relay.users().await?;
    users.retain(|user| user.name.to_lowercase().contains(&search));
    let matching = users.len() as u64;
    let users = users.into_iter().skip(offset as usize).take(limit as usize).collect();
    Ok(Json(UserPage { matching, offset: u64::from(offset), users }))
}

/// One user.
#[utoipa::path(
    get, path = "/v1/users/{name}", tag = "users", security(("token" = ["read"])),
    params(("name" = String, Path, description = "The user's name",
        min_length = 1, max_length = 508, pattern = r"^[^\u0000-\u001F\u007F-\u009F]+$")),
    responses((status = 200, description = "The user", body = User), Problems)
)]
pub async fn one(
    _: Needs<Read>,
    NameInPath(name): NameInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Json<User>, Problem> {
    Ok(Json(shared.relay.user(&name).await?))
}

/// Creates a user of the database, or changes it.
#[utoipa::path(
    put, path = "/v1/users/{name}", tag = "users", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The user's name",
        min_length = 1, max_length = 508, pattern = r"^[^\u0000-\u001F\u007F-\u009F]+$")),
    request_body = UserChange,
    responses(
        (status = 200, description = "The user was changed", body = User),
        (status = 201, description = "The user is new", body = User),
        Problems
    )
)]
pub async fn put(
    _: Needs<Admin>,
    NameInPath(name): NameInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
    Body(change): Body<UserChange>,
) -> Result<(StatusCode, Extension<Details>, Json<User>), Problem> {
    change.max_bits_per_sec.map(checked_limit).transpose()?;
    let password = change.password.as_ref().map(|password| password.expose().len());
    if password.is_some_and(|len| !(1..=MAX_PASSWORD_BYTES).contains(&len)) {
        let detail = format!("a password has 1 to {MAX_PASSWORD_BYTES} bytes");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", detail));
    }
    let changes_password = if password.is_some() { "changed" } else { "kept" };
    let (user, new) = shared.relay.put_user(&name, change).await?;
    let details = format!(
        "new={new} password={changes_password} quota={:?} max_bits_per_sec={:?}",
        user.quota, user.max_bits_per_sec
    );
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Extension(Details::from(details)), Json(user)))
}

/// Removes a user from the database; what it relays lives on.
#[utoipa::path(
    delete, path = "/v1/users/{name}", tag = "users", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The user's name",
        min_length = 1, max_length = 508, pattern = r"^[^\u0000-\u001F\u007F-\u009F]+$")),
    responses((status = 204, description = "The user is gone"), Problems)
)]
pub async fn delete(
    _: Needs<Admin>,
    NameInPath(name): NameInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<StatusCode, Problem> {
    shared.relay.delete_user(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all allocations of a user, known here or not: the name is the full one, or the part that quotas
/// count.
#[utoipa::path(
    delete, path = "/v1/users/{name}/allocations", tag = "users", security(("token" = ["admin"])),
    params(("name" = String, Path, description = "The user's name",
        min_length = 1, max_length = 508, pattern = r"^[^\u0000-\u001F\u007F-\u009F]+$")),
    responses((status = 200, description = "How many were ended", body = Disconnected), Problems)
)]
pub async fn disconnect_all(
    _: Needs<Admin>,
    NameInPath(name): NameInPath,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
) -> Result<Detailed<Json<Disconnected>>, Problem> {
    let disconnected = shared.relay.disconnect_user(&name).await?;
    Ok(detailed(format!("allocations={}", disconnected.allocations), Json(disconnected)))
}
