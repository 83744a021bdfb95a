//! Taking requests apart, strictly: what is unknown, missing or of the wrong type is named in the error.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::limits::{MAX_BODY_BYTES, MAX_NAME_BYTES};
use crate::model::AllocationId;
use crate::problem::Problem;
use crate::state::AppState;

/// A query in which every parameter is known.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<AppState>> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<AppState>) -> Result<Self, Problem> {
        parse_query(&parts.uri).map(Self)
    }
}

/// No query at all.
pub struct NoQuery;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl FromRequestParts<Arc<AppState>> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<AppState>) -> Result<Self, Problem> {
        parse_query::<Nothing>(&parts.uri).map(|Nothing {}| Self)
    }
}

fn parse_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|rejection| Problem::query(innermost(&rejection)))
}

/// What the last cause says: the ones around it only say that there is one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<AppState>) -> Result<Self, Problem> {
        let (parts, bytes) = whole(request, shared).await?;
        parse_json(parts, bytes, shared).await.map(Self)
    }
}

/// A JSON body that may be left out.
pub struct OptionalBody<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<AppState>> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Arc<AppState>) -> Result<Self, Problem> {
        let (parts, bytes) = whole(request, shared).await?;
        let none = bytes.is_empty() && !parts.headers.contains_key(header::CONTENT_TYPE);
        if none || bytes.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        parse_json(parts, bytes, shared).await.map(Self)
    }
}

/// The whole body, and what came before it.
async fn whole(request: Request, shared: &Arc<AppState>) -> Result<(Parts, Bytes), Problem> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    Ok((parts, Bytes::from_request(request, shared).await.map_err(bad_body)?))
}

async fn parse_json<T: DeserializeOwned>(
    parts: Parts,
    bytes: Bytes,
    shared: &Arc<AppState>,
) -> Result<T, Problem> {
    let first = bytes.trim_ascii_start().first().copied();
    let request = Request::from_parts(parts, bytes.into());
    match Json::from_request(request, shared).await {
        // serde would take a list of the fields' values for an object.
        Ok(Json(_)) if first != Some(b'{') => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", "expected an object"))
        }
        Ok(Json(value)) => Ok(value),
        Err(rejection) => Err(bad_json(rejection)),
    }
}

fn bad_json(rejection: JsonRejection) -> Problem {
    match rejection {
        JsonRejection::JsonDataError(error) => {
            let detail = without_values(&innermost(&error));
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_value", detail)
        }
        JsonRejection::JsonSyntaxError(error) => {
            let detail = format!("this is not JSON: {}", without_values(&innermost(&error)));
            Problem::new(StatusCode::BAD_REQUEST, "bad_json", detail)
        }
        JsonRejection::MissingJsonContentType(_) => {
            let detail = "Content-Type must be application/json";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail)
        }
        JsonRejection::BytesRejection(error) => bad_body(error),
        _ => Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body can't be read"),
    }
}

fn bad_body(rejection: BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("a body has at most {MAX_BODY_BYTES} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    }
    Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body can't be read")
}

/// An error without the value that caused it: that may have been a password.
fn without_values(message: &str) -> String {
    let (place, fault) = match message.split_once(": ") {
        Some((place, fault)) if !place.contains(' ') => (format!("{place}: "), fault),
        _ => (String::new(), message),
    };
    let about_names = ["unknown field", "missing field", "duplicate field"];
    match fault.rsplit_once(", expected ") {
        Some((before, expected)) if !about_names.iter().any(|start| before.starts_with(start)) => {
            format!("{place}expected {expected}")
        }
        _ => message.to_owned(),
    }
}

/// The allocation in the path.
pub struct IdInPath(pub AllocationId);

impl FromRequestParts<Arc<AppState>> for IdInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<AppState>) -> Result<Self, Problem> {
        let text = segment(parts, shared).await?;
        let id = text.parse().map_err(|bad: crate::model::BadAllocationId| {
            Problem::new(StatusCode::BAD_REQUEST, "bad_id", bad.to_string())
        })?;
        Ok(Self(id))
    }
}

/// The user in the path.
pub struct NameInPath(pub String);

impl FromRequestParts<Arc<AppState>> for NameInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<AppState>) -> Result<Self, Problem> {
        let name = segment(parts, shared).await?;
        if name.is_empty() || name.contains(char::is_control) {
            let detail = "a name has no control characters";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_name", detail));
        }
        if name.len() > MAX_NAME_BYTES {
            let detail = format!("a name has at most {MAX_NAME_BYTES} bytes");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "name_too_long", detail));
        }
        Ok(Self(name))
    }
}

async fn segment(parts: &mut Parts, shared: &Arc<AppState>) -> Result<String, Problem> {
    let Path(text) = Path::<String>::from_request_parts(parts, shared).await.map_err(bad_path)?;
    Ok(text)
}

fn bad_path(_: PathRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_path", "the path is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_fields_and_types_but_no_values() {
        let kept = "unknown field `passwort`, expected one of `password`, `quota`";
        assert_eq!(without_values(kept), kept);
        let told =
            without_values("invalid type: string \"my, expected secret\", expected u32 at line 1 column 9");
        assert_eq!(told, "expected u32 at line 1 column 9");
    }
}
