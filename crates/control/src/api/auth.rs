//! Who may ask. A token is looked up by its hash, so nothing compares secrets byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::{Problem, ProblemKind, Role};

use super::error::ApiError;
use super::request::RequestId;
use crate::secret::PlainToken;
use crate::store::{Committed, Context};
use crate::{Control, RingAuth, clock};

#[derive(Debug, Clone)]
struct Actor(String);

/// Lets bearers of an `admin` token pass.
pub(crate) async fn admin(
    State(control): State<Arc<Control>>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (id, role) = bearer(&control, request.headers()).await?;
    if role != Role::Admin {
        return Err(Problem::new(ProblemKind::Forbidden, "this needs a token of role `admin`").into());
    }
    request.extensions_mut().insert(Actor(id));
    Ok(next.run(request).await)
}

/// Lets proxies pass.
pub(crate) async fn proxy(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if control.ring_auth == RingAuth::Token {
        // Whoever may change a ring may read it, so every role may.
        bearer(&control, request.headers()).await?;
    }
    Ok(next.run(request).await)
}

async fn bearer(control: &Control, headers: &HeaderMap) -> Result<(String, Role), ApiError> {
    let unauthorized = |detail| Problem::new(ProblemKind::Unauthorized, detail);
    let header = headers.get(header::AUTHORIZATION);
    let header = header.ok_or_else(|| unauthorized("send `Authorization: Bearer kwt_…`"))?;
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| PlainToken::from(token.trim()))
    });
    let token = token.ok_or_else(|| unauthorized("the Authorization header is not `Bearer kwt_…`"))?;
    let found = control.store.token(token.hash()).await?;
    Ok(found.ok_or_else(|| unauthorized("the token is not one of this control plane's"))?)
}

/// The context of a change: the authenticated caller's.
pub(crate) struct By(pub(crate) Context);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let actor = parts.extensions.get::<Actor>();
        let actor = actor.ok_or_else(|| ApiError::Internal("a route without authentication".into()))?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        // Absent where the application is called without a socket.
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let client_address = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        // Present where somebody waits for what is committed.
        let committed = parts.extensions.get::<Committed>().cloned().unwrap_or_default();
        let actor = actor.0.clone();
        Ok(Self(Context { actor, now: clock::now(), request_id, client_address, committed }))
    }
}
