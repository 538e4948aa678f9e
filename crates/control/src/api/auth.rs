//! Who may ask. A token is looked up by its hash, so nothing compares secrets byte by byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use keywheel_api::{Problem, ProblemKind, Role};

use super::error::ApiError;
use super::request::RequestId;
use crate::metrics::{Listener, Refused};
use crate::secret::{HashedToken, PlainToken};
use crate::serve::ClientCertificate;
use crate::store::{Committed, Context};
use crate::{Control, RingAuth, clock};

/// How long the last token of a scrape is known without the database.
const SCRAPER_KNOWN: Duration = Duration::from_secs(15 * 60);

/// The id of a token, or of a client certificate.
#[derive(Debug, Clone)]
pub(crate) struct Actor(pub(crate) String);

/// Lets bearers of an `admin` token pass.
pub(crate) async fn admin(
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (id, role) = bearer(&control, Listener::Admin, request.headers(), peer(request.extensions())).await?;
    if role != Role::Admin {
        control.runtime.metrics.refused(Listener::Admin, Refused::Role);
        let problem = Problem::new(ProblemKind::Forbidden, "this needs a token of role `admin`");
        return Ok(as_actor(id, ApiError::from(problem).into_response()));
    }
    request.extensions_mut().insert(Actor(id.clone()));
    Ok(as_actor(id, next.run(request).await))
}

/// Whose token was good when it was last looked up for a scrape, and when that was.
#[derive(Debug, Default)]
pub(crate) struct LastScraper(Mutex<Option<(HashedToken, String, Instant)>>);

/// Lets bearers of any token pass, on the admin listener. While the database does not answer, the last of them
/// passes for [`SCRAPER_KNOWN`]: what is wrong with the database is to be seen then of all times.
pub(crate) async fn scraper(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let found = bearer(&control, Listener::Admin, request.headers(), peer(request.extensions())).await;
    let hash = request.headers().get(header::AUTHORIZATION).and_then(token).map(|token| token.hash());
    let last = &control.runtime.last_scraper;
    let id = match (found, hash) {
        (Ok((id, _)), Some(hash)) => last.remember(hash, id),
        (Err(error @ (ApiError::Unavailable(_) | ApiError::Database(_))), Some(hash)) => {
            let id = last.known(hash).ok_or(error)?;
            control.runtime.metrics.database_error("metrics");
            id
        }
        (found, _) => found?.0,
    };
    Ok(as_actor(id, next.run(request).await))
}

/// Tells the layer that logs requests whose it was.
fn as_actor(id: String, mut response: Response) -> Response {
    response.extensions_mut().insert(Actor(id));
    response
}

/// Lets proxies pass.
pub(crate) async fn proxy(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let certificate =
        request.extensions().get::<ClientCertificate>().map(|certificate| certificate.id.clone());
    let actor = match certificate {
        Some(id) => Some(id),
        // Whoever may change a ring may read it, so every role may.
        None if control.ring_auth == RingAuth::Token => {
            Some(bearer(&control, Listener::Ring, request.headers(), peer(request.extensions())).await?.0)
        }
        None => None,
    };
    let response = next.run(request).await;
    Ok(match actor {
        Some(id) => as_actor(id, response),
        None => response,
    })
}

async fn bearer(
    control: &Control,
    listener: Listener,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<(String, Role), ApiError> {
    let metrics = &control.runtime.metrics;
    let unauthorized = |detail| Problem::new(ProblemKind::Unauthorized, detail);
    let Some(header) = headers.get(header::AUTHORIZATION) else {
        metrics.refused(listener, Refused::Missing);
        return Err(unauthorized("send `Authorization: Bearer kwt_…`").into());
    };
    // Looked up before failures are counted: a good token is let in whoever fails beside it.
    let (why, detail) = match token(header) {
        None => (Refused::Malformed, "the Authorization header is not `Bearer kwt_…`"),
        Some(token) => match control.store.token(token.hash()).await? {
            Some(found) => return Ok(found),
            None => (Refused::Unknown, "the token is not one of this control plane's"),
        },
    };
    let too_many = peer.and_then(|peer| control.runtime.failed_logins.count(peer, Instant::now()));
    if let Some(retry_after) = too_many {
        metrics.refused(listener, Refused::TooMany);
        return Err(ApiError::TooManyFailures { retry_after });
    }
    metrics.refused(listener, why);
    Err(unauthorized(detail).into())
}

/// Absent where the application is called without a socket.
fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical())
}

fn token(header: &HeaderValue) -> Option<PlainToken> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| PlainToken::from(token.trim()))
}

/// The context of a change: the authenticated caller's.
pub(crate) struct By(pub(crate) Context);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let actor = parts.extensions.get::<Actor>();
        let actor = actor.ok_or_else(|| ApiError::Internal("a route without authentication".into()))?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        let client_address = peer(&parts.extensions);
        // Present where somebody waits for what is committed.
        let committed = parts.extensions.get::<Committed>().cloned().unwrap_or_default();
        let actor = actor.0.clone();
        Ok(Self(Context { actor, now: clock::now(), request_id, client_address, committed }))
    }
}

// === impl LastScraper ===

impl LastScraper {
    fn remember(&self, hash: HashedToken, id: String) -> String {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((hash, id.clone(), Instant::now()));
        id
    }

    fn known(&self, hash: HashedToken) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, id, at) = last.as_ref()?;
        let same = known.as_bytes() == hash.as_bytes() && at.elapsed() < SCRAPER_KNOWN;
        same.then(|| id.clone())
    }
}
