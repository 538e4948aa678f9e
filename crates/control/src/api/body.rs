//! Bodies and queries that say which field broke which rule.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use keywheel_api::{Problem, ProblemKind};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::app::MAX_BODY;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be left out, or be `null`: then it is the default.
pub(crate) struct JsonOrDefault<T>(pub(crate) T);

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Ok(Self(parse(&read(request, state).await?)?))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        Ok(Self(parse::<Option<T>>(&bytes)?.unwrap_or_default()))
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let headers = request.headers().clone();
    let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = format!("a request body holds at most {MAX_BODY} bytes");
            Problem::new(ProblemKind::BodyTooLarge, detail)
        } else {
            Problem::field(".", "the body ended early")
        }
    })?;
    if !bytes.is_empty() {
        require_json(&headers)?;
    }
    Ok(bytes)
}

/// A body of which nothing is said is taken for JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media_type = given.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "a body is JSON; send it with `Content-Type: application/json`";
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail).into())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        broken(field, error.into_inner().to_string())
    })?;
    json.end().map_err(|error| Problem::field(".", error.to_string()))?;
    Ok(value)
}

/// A field that is missing is named itself, and not what it is missing from.
fn broken(within: String, rule: String) -> Problem {
    let missing = rule.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let Some(name) = missing else { return Problem::field(within, rule) };
    let field = if within == "." { name.to_owned() } else { format!("{within}.{name}") };
    Problem::field(field, "it is missing")
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let query = serde_urlencoded::Deserializer::new(pairs);
        let query = serde_path_to_error::deserialize(query).map_err(|error| {
            let field = error.path().to_string();
            broken(field, error.into_inner().to_string())
        })?;
        Ok(Self(query))
    }
}
