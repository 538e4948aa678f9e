//! The ring endpoints, as a control plane has them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use keywheel_api::problem::MEDIA_TYPE;
use keywheel_api::ring::MAX_PROXY_REPORTS;
use keywheel_api::{Problem, ProblemKind, ProxyReports};
use keywheel_control::clock;
use keywheel_control::failed_logins::network;
use keywheel_control::metrics::{Listener, Refused as NotLetIn};
use keywheel_control::ring::proxies::HEADER;
use keywheel_control::serve::{ClientCertificate, vouch};
use keywheel_keyring::usage::MAX_REPORT;
use keywheel_keyring::{Digest, Epoch, Millis};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, error, info};

use crate::access::Access;
use crate::archive::Unanswered;
use crate::relay::Relay;
use crate::ring::{NoAnswer, Ring, Standing};
use crate::usage::Taken;

/// The longest wait for a change, in seconds.
const MAX_WAIT: u64 = 60;
/// How long a body may take to come.
const BODY: Duration = Duration::from_secs(20);

#[derive(Debug, Deserialize)]
struct ChangesQuery {
    epoch: Epoch,
    since: u64,
    #[serde(default)]
    wait: u64,
}

#[derive(Debug, Deserialize)]
struct SnapshotQuery {
    after: Option<Digest>,
    epoch: Option<Epoch>,
    #[serde(default)]
    at_least: u64,
}

/// A problem that is the answer.
struct Refused(Box<Problem>);

type Asked<T> = Result<Query<T>, QueryRejection>;

/// What proxies, and relays behind this one, talk to.
pub fn app(relay: Arc<Relay>) -> Router {
    let guarded = Router::new()
        .route("/v1/rings/{ring}/snapshot", get(snapshot))
        .route("/v1/rings/{ring}/changes", get(changes))
        .route("/v1/rings/{ring}/usage", post(usage))
        .route("/v1/rings/{ring}/proxies", post(proxies))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(MAX_REPORT))
        .route_layer(middleware::from_fn_with_state(relay.clone(), guard));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { refused(Problem::new(ProblemKind::NotFound, "there is no such path")) })
        .method_not_allowed_fallback(|| async {
            refused(Problem::new(ProblemKind::MethodNotAllowed, "this path does not take that method"))
        })
        .with_state(relay)
        .layer(middleware::from_fn(log))
}

/// What stands for whoever may ask: his certificate, the hash of his token, or, where anybody may, his address.
fn shown(request: &Request, access: &Access) -> String {
    let extensions = request.extensions();
    if let Some(certificate) = extensions.get::<ClientCertificate>() {
        return certificate.id.clone();
    }
    match request.headers().get(header::AUTHORIZATION).filter(|_| !matches!(access, Access::Open)) {
        Some(token) => Digest::of(token.as_bytes()).to_string(),
        None => extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|peer| network(peer.0.ip()).to_string())
            .unwrap_or_default(),
    }
}

async fn guard(State(relay): State<Arc<Relay>>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let certificate = request.extensions().get::<ClientCertificate>().is_some();
    // A good token is let in whoever fails beside it.
    if relay.access.lets_in(authorization, certificate) {
        vouch(request.extensions(), || shown(&request, &relay.access));
        return next.run(request).await;
    }
    // No token is no guess.
    let Some(_) = authorization else {
        return unauthorized(&relay, NotLetIn::Missing);
    };
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    match peer.and_then(|peer| relay.failed_logins.count(peer, Instant::now())) {
        None => unauthorized(&relay, NotLetIn::Unknown),
        Some(retry_after) => {
            relay.listener.refused(Listener::Ring, NotLetIn::TooMany);
            let detail = "too many tokens of this address were refused; wait, or send a good one";
            let mut response = refused(Problem::new(ProblemKind::TooManyFailures, detail)).into_response();
            let seconds = HeaderValue::from(retry_after.as_secs().saturating_add(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
    }
}

fn unauthorized(relay: &Relay, why: NotLetIn) -> Response {
    relay.listener.refused(Listener::Ring, why);
    let detail =
        "send `Authorization: Bearer …` with a token that this relay was given, or a client certificate";
    refused(Problem::new(ProblemKind::Unauthorized, detail)).into_response()
}

/// Queries, headers and the text of paths are in no line.
async fn log(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<axum::extract::MatchedPath>().cloned();
    let method = request.method().clone();
    let start = Instant::now();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", axum::extract::MatchedPath::as_str);
    let (status, elapsed_ms) = (response.status().as_u16(), start.elapsed().as_secs_f64() * 1000.0);
    if matches!(status, 401 | 500) {
        info!(%method, route, status, elapsed_ms, "Answered");
    } else {
        debug!(%method, route, status, elapsed_ms, "Answered");
    }
    response
}

async fn snapshot(
    State(relay): State<Arc<Relay>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    query: Asked<SnapshotQuery>,
) -> Result<Response, Refused> {
    let ring = find(&relay, &name)?;
    let Query(SnapshotQuery { after, epoch, at_least }) = query.map_err(bad_query)?;
    note(&ring, &headers).await?;
    answer(ring.snapshot(after, epoch, at_least)).await
}

async fn changes(
    State(relay): State<Arc<Relay>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    query: Asked<ChangesQuery>,
) -> Result<Response, Refused> {
    let ring = find(&relay, &name)?;
    let Query(ChangesQuery { epoch, since, wait }) = query.map_err(bad_query)?;
    if wait > MAX_WAIT {
        return Err(refused(Problem::field("wait", "0 to 60 seconds")));
    }
    note(&ring, &headers).await?;
    answer(ring.changes(epoch, since, Duration::from_secs(wait))).await
}

async fn usage(
    State(relay): State<Arc<Relay>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let ring = find(&relay, &name)?;
    note(&ring, request.headers()).await?;
    let body = body(request).await?;
    match ring.usage.take(&ring, body).await {
        Ok(Taken::Kept) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(Taken::Passed(status, body)) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
            if !status.is_success() {
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            }
            Ok(response)
        }
        Err(error) => {
            error!(ring = name, %error, "Usage can neither be handed over nor be written down");
            Err(away("neither the upstream nor this relay's disk takes usage now; keep it and try again"))
        }
    }
}

async fn proxies(
    State(relay): State<Arc<Relay>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let ring = find(&relay, &name)?;
    note(&ring, request.headers()).await?;
    let body = body(request).await?;
    let reports: ProxyReports = serde_json::from_slice(&body)
        .map_err(|error| refused(Problem::field(".", format!("not a report of proxies: {error}"))))?;
    if reports.proxies.len() > MAX_PROXY_REPORTS {
        return Err(refused(Problem::field("proxies", format!("at most {MAX_PROXY_REPORTS} of them"))));
    }
    let now = clock::now();
    let said = |report: keywheel_api::ProxyReport| {
        (ring.proxies.behind_another(report.proxy), Millis(now.0.saturating_sub(report.ago_ms)))
    };
    let (own, others): (Vec<_>, Vec<_>) = reports
        .proxies
        .into_iter()
        .filter(|report| is_line(&report.proxy))
        .partition(|report| ring.proxies.is_own(&report.proxy));
    if !own.is_empty() {
        ring.found_in_a_circle();
    }
    let said: Vec<_> = others.into_iter().map(said).collect();
    match ring.proxies.hear(&ring, &said).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => {
            error!(ring = name, %error, "Proxies can neither be told of nor be written down");
            Err(away("neither the upstream nor this relay's disk takes word of proxies now; try again"))
        }
    }
}

async fn metrics(State(relay): State<Arc<Relay>>) -> Result<Response, Refused> {
    let text = relay.metrics().map_err(|error| {
        error!(%error, "The metrics cannot be written");
        refused(Problem::new(ProblemKind::Internal, "the relay failed; its log has the cause"))
    })?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// An upstream that is away makes a relay no less ready: it is there for that.
async fn ready(State(relay): State<Arc<Relay>>) -> Response {
    let word = |ok: bool, no: &'static str| if ok { "ok" } else { no };
    let rings = relay.rings();
    let absent = rings.clone().any(|ring| ring.position().is_none());
    let installable = rings.clone().all(|ring| ring.is_installable());
    let saved = rings.clone().all(|ring| ring.is_saved());
    let standing = |standing: Standing| rings.clone().any(|ring| ring.standing() == standing);
    let upstream = match (standing(Standing::Away), standing(Standing::Unknown)) {
        (true, _) => "away",
        (false, true) => "unknown",
        (false, false) => "ok",
    };
    let running = !relay.is_stopping();
    let is_ready = !absent && installable && running;
    let checks = json!({
        "rings": if absent { "absent" } else { word(installable, "expired") },
        "disk": word(saved, "failed"),
        "upstream": upstream,
        "running": word(running, "stopping"),
    });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "ready": is_ready, "checks": checks }))).into_response()
}

fn find(relay: &Relay, name: &str) -> Result<Arc<Ring>, Refused> {
    let none =
        || refused(Problem::new(ProblemKind::NotFound, "this relay has no such ring; start it with --ring"));
    relay.ring(name).ok_or_else(none)
}

/// A proxy that asks for the first time is told of, or written down, before it gets anything.
async fn note(ring: &Arc<Ring>, headers: &HeaderMap) -> Result<(), Refused> {
    let Some(said) = headers.get(HEADER).and_then(|said| said.to_str().ok()) else { return Ok(()) };
    if ring.proxies.is_own(said) {
        let detail = "this relay is asked by itself: its --upstream leads to its own listener; give it the ring \
                      listener of a control plane, or of another relay";
        return Err(refused(Problem::new(ProblemKind::InvalidRequest, detail)));
    }
    let said = ring.proxies.behind_this(said);
    if let Err(error) = ring.proxies.hear(ring, &[(said, clock::now())]).await {
        // A proxy without a ring refuses everybody.
        error!(ring = ring.name, %error, "A new proxy is answered that can neither be told of nor be written down");
    }
    Ok(())
}

/// Nobody writes a second line into the file of those whom the upstream does not know of.
fn is_line(said: &str) -> bool {
    said.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

async fn body(request: Request) -> Result<Bytes, Refused> {
    use axum::extract::FromRequest as _;
    let read = timeout(BODY, Bytes::from_request(request, &())).await;
    let read = read.map_err(|_| {
        refused(Problem::new(ProblemKind::RequestTimeout, "the body did not come within 20 seconds"))
    })?;
    read.map_err(|error: BytesRejection| {
        let too_large = error.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let detail = format!("a body holds at most {MAX_REPORT} bytes; nothing was done");
        refused(match too_large {
            true => Problem::new(ProblemKind::BodyTooLarge, detail),
            false => Problem::field(".", "the body ended early"),
        })
    })
}

async fn answer(
    asked: impl Future<Output = Result<keywheel_control::ring::Signed, NoAnswer>>,
) -> Result<Response, Refused> {
    match asked.await {
        Ok(signed) => Ok(signed.into_response()),
        Err(error @ (NoAnswer::Gone | NoAnswer::Unanswered(Unanswered::EarlierEpoch(_)))) => {
            Err(refused(Problem::new(ProblemKind::RevisionGone, error.to_string())))
        }
        Err(error) => Err(away(&error.to_string())),
    }
}

fn bad_query(error: QueryRejection) -> Refused {
    refused(Problem::field("query", error.body_text()))
}

fn away(detail: &str) -> Refused {
    refused(Problem::new(ProblemKind::RelayBehind, detail))
}

fn refused(problem: Problem) -> Refused {
    Refused(Box::new(problem))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        let more = match status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"keywheel\"")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
