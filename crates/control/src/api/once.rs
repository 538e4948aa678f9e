//! `Idempotency-Key` on a POST: the request is carried out once, and repeats get its answer.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use keywheel_api::{Problem, ProblemKind};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::auth::By;
use super::body::bytes;
use super::error::ApiError;
use super::{applied, import, require, uncancelled};
use crate::Control;
use crate::metrics::Listener;
use crate::store::{Answered, Attempt, Context, Found, Request as Known};

pub(super) const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const RULE: &str = "1 to 128 visible ASCII characters";
pub(super) const PATTERN: &str = "^[!-~]{1,128}$";
const MAX_KEY: usize = 128;
/// The members of answers that hold a secret. They are not kept.
const SECRETS: [&str; 2] = ["secret", "token"];

/// Sees to it that what comes with a key is carried out once. An answer that is no success is not kept: the request
/// may be mended, and sent again with the same key.
pub(crate) async fn once(
    State((control, listener)): State<(Arc<Control>, Listener)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    let (mut head, body) = request.into_parts();
    let what = format!("{} {}", head.method, head.uri.path());
    // Each handler has its own limit, of which this is the highest.
    let body = Request::from_parts(head.clone(), body);
    let body = bytes(body, "the body of a request to this listener", import::MAX_BODY).await?;
    let By(context) = By::from_request_parts(&mut head, &()).await?;
    let fingerprint = Sha256::digest(&body).into();
    let known = Known { caller: context.actor.clone(), key, what, fingerprint };
    let attempt = Attempt::new(known.clone());
    head.extensions.insert(attempt.clone());
    let request = Request::from_parts(head, Body::from(body));
    // To its end: a change that is parked must not be dropped because nobody waits for the answer.
    uncancelled(async move {
        if let Some(found) = control.store.answered(&known, context.now).await? {
            return again(found);
        }
        let response = next.run(request).await;
        // A holder changes little, and asks as often as it likes: what changed nothing needs no answer kept.
        if listener == Listener::Consumer && response.status().is_success() && !attempt.changes() {
            return Ok(response);
        }
        finish(&control, &context, &attempt, response).await
    })
    .await
}

fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut given = headers.get_all(HEADER).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let key = key.as_bytes();
    let fits = (1..=MAX_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    require(fits && given.next().is_none(), HEADER.as_str(), RULE)?;
    Ok(Some(String::from_utf8_lossy(key).into_owned()))
}

/// Commits with the answer.
async fn finish(
    control: &Control,
    context: &Context,
    attempt: &Attempt,
    response: Response,
) -> Result<Response, ApiError> {
    if !response.status().is_success() {
        return attempt.give_up().map_or(Ok(response), again);
    }
    let (head, body) = response.into_parts();
    let body = to_bytes(body, applied::MAX_ANSWER).await;
    let body = body.map_err(|error| ApiError::Internal(error.to_string()))?;
    let answered = Answered { status: head.status.as_u16(), answer: without_secrets(&body)? };
    match control.store.complete(attempt, context, &answered).await? {
        Some(found) => again(found),
        None => Ok(Response::from_parts(head, Body::from(body))),
    }
}

fn without_secrets(answer: &[u8]) -> Result<String, ApiError> {
    let answer = serde_json::from_slice(answer);
    let mut answer: Value = answer.map_err(|error| ApiError::Internal(error.to_string()))?;
    for name in SECRETS {
        if let Some(secret) = answer.get_mut(name) {
            *secret = Value::Null;
        }
    }
    Ok(answer.to_string())
}

/// The answer to a repeat.
fn again(found: Found) -> Result<Response, ApiError> {
    match found {
        Ok(Answered { status, answer }) => {
            let status = StatusCode::from_u16(status);
            let status = status.map_err(|error| ApiError::Internal(error.to_string()))?;
            let json = HeaderValue::from_static("application/json");
            Ok((status, [(header::CONTENT_TYPE, json)], answer).into_response())
        }
        Err(reused) => {
            let detail = format!(
                "this Idempotency-Key was used for `{}` within 24 hours, with another path or body; choose another \
                 key for another request",
                reused.what,
            );
            Err(Problem::new(ProblemKind::IdempotencyKeyReused, detail).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let answer = br#"{"id":"key_1","secret":"kw_live_1","token":"kwt_1","labels":{"token":"x"}}"#;
        let kept = without_secrets(answer).unwrap();
        assert_eq!(kept, r#"{"id":"key_1","labels":{"token":"x"},"secret":null,"token":null}"#);
    }

    #[test]
    fn a_key_keeps_its_rule() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            key(&headers).map_err(|_| ())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["\"8e03978e\""]), Ok(Some("\"8e03978e\"".into())));
        for wrong in [&[""][..], &["a b"], &["a", "a"], &["\u{e9}"]] {
            assert_eq!(of(wrong), Err(()), "{wrong:?}");
        }
    }
}
