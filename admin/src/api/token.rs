//! What the token of a request may open.

use axum::Json;

use crate::extract::NoQuery;
use crate::guard::AnyToken;
use crate::model::TokenScopes;
use crate::problem::Problems;

/// What the token of this request opens: for pages and programs that offer only what will be answered.
#[utoipa::path(
    get, path = "/v1/token", tag = "status", security(("token" = [])),
    responses((status = 200, description = "Its scopes", body = TokenScopes), Problems)
)]
pub async fn token(AnyToken(scopes): AnyToken, _: NoQuery) -> Json<TokenScopes> {
    Json(TokenScopes { scopes: scopes.opened() })
}
