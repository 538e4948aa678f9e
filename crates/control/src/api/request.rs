//! Every request has an id: in the log, in the audit trail and in the problem that it meets.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::Problem;
use keywheel_api::problem::MEDIA_TYPE;
use tracing::{Instrument as _, debug, info, info_span};
use uuid::Uuid;

use super::auth::Actor;
use super::auth::peer;
use super::body::BodyDeadline;
use super::error::DatabaseFailed;
use crate::Control;
use crate::metrics::Listener;

/// The route of what matches none.
const NO_ROUTE: &str = "none";

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request at hand.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Takes the caller's id, or makes one, writes the body of problems, and has the request counted and logged.
pub(crate) async fn identify(
    State((control, listener)): State<(Arc<Control>, Listener)>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request.headers().get(HEADER).and_then(given).unwrap_or_else(|| Uuid::now_v7().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    request.extensions_mut().insert(BodyDeadline(control.runtime.limits.body));
    let span = info_span!("request", id);
    // The pattern and not the path, in which a key may stand by mistake. Queries and headers are never logged.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = name(request.method());
    let client = peer(request.extensions()).map(|peer| peer.to_string());

    async move {
        let start = Instant::now();
        let mut response = next.run(request).await;
        let (status, elapsed) = (response.status().as_u16(), start.elapsed());
        let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
        let metrics = &control.runtime.metrics;
        metrics.request(listener, method, route, status, elapsed);
        if let Some(DatabaseFailed(kind)) = response.extensions_mut().remove() {
            metrics.database_error(kind);
        }
        let actor = response.extensions_mut().remove().map(|Actor(id)| id);
        let listener_name = listener.name();
        let elapsed_ms = elapsed.as_secs_f64() * 1000.0;
        // What people do is a line each. What machines ask again and again is one when it failed.
        let by_person = listener == Listener::Admin && !is_polled(route);
        // Of the consumer listener that is what clients do whose keys have ended, as often as they like.
        let refused = listener == Listener::Ring && matches!(status, 401 | 403 | 429);
        if by_person || refused || status >= 500 && status != 503 {
            info!(listener = listener_name, method, route, status, elapsed_ms, actor, client, "Answered");
        } else {
            debug!(listener = listener_name, method, route, status, elapsed_ms, actor, client, "Answered");
        }
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

/// The method, unless it is none that a route takes.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn is_polled(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
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
