//! What a token opens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::token::Scope;

/// What a token opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenScopes {
    /// Every scope that is open to it, those that another one implies, too.
    #[schema(inline)]
    pub scopes: Vec<Scope>,
}
