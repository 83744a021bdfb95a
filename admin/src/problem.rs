//! Errors as `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::managed::RelayError;

/// What went wrong (RFC 9457). The type is always `about:blank`: `code` says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// The HTTP status in words.
    pub title: Cow<'static, str>,
    /// One word for programs, which stays the same.
    pub code: Cow<'static, str>,
    /// A sentence for people.
    pub detail: Cow<'static, str>,
}

/// An error answer.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// An error with a word for programs and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), headers: Vec::new() }
    }

    /// Adds a header to the answer, such as Retry-After; one that can't be a header is left out.
    pub fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// 400 for a query that can't be.
    pub fn query(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            status: self.status.as_u16(),
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            code: self.code.into(),
            detail: self.detail,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.headers);
        response
    }
}

/// The answer of every operation that failed.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemBody::name()))).build();
        let response = ResponseBuilder::new()
            .description("What went wrong: RFC 9457")
            .content("application/problem+json", content)
            .build();
        [("default".to_owned(), response.into())].into()
    }
}

impl From<RelayError> for Problem {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::NotFound(what) => {
                Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"))
            }
            RelayError::Conflict(why) => Self::new(StatusCode::CONFLICT, "conflict", why),
            RelayError::Invalid(why) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", why),
            RelayError::Busy(why) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", why).with(header::RETRY_AFTER, "1")
            }
            RelayError::Storage(why) => {
                tracing::error!(%why, "a request of the administration failed");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage", why)
            }
            RelayError::Internal(why) => {
                tracing::error!(%why, "a request of the administration failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "this is our fault: see the log")
            }
        }
    }
}
