//! Time-limited credentials for signaling servers to hand out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::extract::{Body, NoQuery};
use crate::guard::{self, Needs};
use crate::limits::{MAX_CREDENTIAL_USER_BYTES, MAX_TTL_SECS};
use crate::model::{CredentialRequest, Credentials};
use crate::problem::{Problem, Problems};
use crate::state::AppState;

/// Makes time-limited credentials with the first shared secret of the configuration.
#[utoipa::path(
    post, path = "/v1/credentials", tag = "users", security(("token" = ["credentials"])),
    request_body = CredentialRequest,
    responses((status = 200, description = "An entry of `iceServers`", body = Credentials), Problems)
)]
pub async fn issue(
    _: Needs<guard::Credentials>,
    _: NoQuery,
    State(shared): State<Arc<AppState>>,
    Body(request): Body<CredentialRequest>,
) -> Result<Json<Credentials>, Problem> {
    let name_fits = (1..=MAX_CREDENTIAL_USER_BYTES).contains(&request.user.len());
    if !name_fits || !request.ttl_secs.is_none_or(|secs| (1..=MAX_TTL_SECS).contains(&secs)) {
        let detail =
            format!("user has 1 to {MAX_CREDENTIAL_USER_BYTES} bytes, ttl_secs is 1 to {MAX_TTL_SECS}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", detail));
    }
    Ok(Json(shared.relay.credentials(request).await?))
}
