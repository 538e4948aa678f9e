//! Every request has an id: in the log, in the audit trail and in the problem that it meets.

use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::Problem;
use keywheel_api::problem::MEDIA_TYPE;
use tracing::{Instrument as _, debug, info_span};
use uuid::Uuid;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request at hand.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Takes the caller's id, or makes one, and writes the body of problems.
pub(crate) async fn identify(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER).and_then(given).unwrap_or_else(|| Uuid::now_v7().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = info_span!("request", id);
    // The path holds ids only; the query is left out, and headers are never logged.
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());

    async move {
        let start = Instant::now();
        let mut response = next.run(request).await;
        debug!(%method, path, status = response.status().as_u16(), elapsed = ?start.elapsed(), "Answered");
        let unread = response.status() == StatusCode::BAD_REQUEST;
        let problem = response.extensions_mut().remove::<Problem>();
        // A path that is not UTF-8 is refused before any handler of ours.
        let problem = problem.or_else(|| unread.then(|| Problem::field("path", "percent-encoded UTF-8")));
        if let Some(problem) = problem {
            write(&mut response, Problem { request_id: Some(id.clone()), ..problem });
        }
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HEADER, id);
        }
        response
    }
    .instrument(span)
    .await
}

/// Other ids could forge lines in the log.
fn given(id: &HeaderValue) -> Option<String> {
    let id = id.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=128).contains(&id.len()) && id.bytes().all(plain)).then(|| id.to_owned())
}

fn write(response: &mut Response, problem: Problem) {
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}
