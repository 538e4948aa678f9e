//! Bodies and queries that say which field broke which rule. No text in them has a control character.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use keywheel_api::object::Object;
use keywheel_api::{Problem, ProblemKind};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::ApiError;
use super::{texts, wording};
use crate::app::MAX_BODY;

/// How long, and how many bytes, a body that is too large is read on.
const DRAINED: (Duration, usize) = (Duration::from_secs(5), 64 * 1024 * 1024);
const WHAT: &str = "the body of a request to this listener";

/// How long the body of the request at hand may take to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyDeadline(pub(crate) Duration);

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be left out, or be `null`: then it is the default.
pub(crate) struct JsonOrDefault<T>(pub(crate) T);

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request, WHAT, MAX_BODY).await?;
        texts::check(&bytes)?;
        let Object(body) = parse(&bytes)?;
        Ok(Self(body))
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for JsonOrDefault<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = bytes(request, WHAT, MAX_BODY).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        texts::check(&bytes)?;
        Ok(Self(parse::<Option<Object<T>>>(&bytes)?.map(|Object(body)| body).unwrap_or_default()))
    }
}

/// The whole body of a request, of which `what` names the kind.
///
/// # Errors
///
/// A problem: the body is longer than `most`, ended early, took longer than the [`BodyDeadline`], or is not JSON by its
/// headers.
pub(crate) async fn bytes(request: Request, what: &str, most: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        Problem::new(
            ProblemKind::BodyTooLarge,
            format!("{what} holds at most {most} bytes; nothing was done"),
        )
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    let longer = announced.is_some_and(|length| length > most as u64);
    if longer && request.headers().contains_key(header::EXPECT) {
        // It waits for leave to send the body, and gets none.
        return Err(too_large().into());
    }
    let deadline = request.extensions().get::<BodyDeadline>();
    let deadline =
        deadline.ok_or_else(|| ApiError::Internal("a route without a deadline for bodies".into()))?.0;
    let (head, mut body) = request.into_parts();
    if longer {
        drain(body).await;
        return Err(too_large().into());
    }
    let read = timeout(deadline, async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Unread::EndedEarly)?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len().saturating_add(data.len()) > most {
                return Err(Unread::TooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Bytes::from(bytes))
    });
    match read.await {
        Ok(Ok(bytes)) => {
            if !bytes.is_empty() {
                require_json(&head.headers)?;
            }
            Ok(bytes)
        }
        Ok(Err(Unread::EndedEarly)) => Err(Problem::field(".", "the body ended early").into()),
        Ok(Err(Unread::TooLarge)) => {
            drain(body).await;
            Err(too_large().into())
        }
        Err(_) => {
            let detail =
                format!("the body did not come within {} seconds; nothing was done", deadline.as_secs_f64());
            Err(Problem::new(ProblemKind::RequestTimeout, detail).into())
        }
    }
}

/// Reads on for a while and keeps nothing. A client that is still sending would not read the answer, and the
/// end of the connection would take it away.
async fn drain(mut body: Body) {
    let mut left = DRAINED.1;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    let _ = timeout(DRAINED.0, read).await;
}

/// Why a body could not be read.
enum Unread {
    EndedEarly,
    TooLarge,
}

/// A body of which nothing is said is taken for JSON.
fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let media_type = given.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "a body is JSON; send it with `Content-Type: application/json`";
    Err(Problem::new(ProblemKind::UnsupportedMediaType, detail).into())
}

/// Texts in it are as they came: whoever takes them says which they may be.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        wording::of_json(bytes, &field, error.inner())
    })?;
    json.end().map_err(|error| wording::of_json(bytes, ".", &error))?;
    Ok(value)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        texts::check_query(query)?;
        let pairs = form_urlencoded::parse(query.as_bytes());
        let query = serde_urlencoded::Deserializer::new(pairs);
        let query = serde_path_to_error::deserialize(query).map_err(|error| {
            let field = error.path().to_string();
            wording::of_field(&field, &error.into_inner().to_string())
        })?;
        Ok(Self(query))
    }
}
