//! Who may ask for what. A token is looked up by its hash, so nothing compares secrets byte by byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::RequestExt as _;
use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::{Problem, ProblemKind, Role};
use keywheel_keyring::Millis;
use tracing::warn;

use super::error::ApiError;
use super::request::RequestId;
use crate::secret::PlainToken;
use crate::store::{Bearer, Context, Refusal, StoreError, TokenEnd};
use crate::{Control, RingAuth, clock};

/// What a route asks of a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Those that suffice; none: everyone may ask, without a token.
    pub(crate) roles: &'static [Role],
    /// Whether it reaches over all rings, so that a token which is limited to some does not suffice.
    pub(crate) all_rings: bool,
    /// Whether `--ring-auth open` lets everyone in.
    pub(crate) ring_listener: bool,
}

/// Nothing: it holds no secret and changes nothing.
pub(crate) const OPEN: Access = Access::of(&[]);
pub(crate) const READ: Access = Access::of(&[Role::Admin, Role::Operator, Role::Auditor]);
pub(crate) const CHANGE: Access = Access::of(&[Role::Admin, Role::Operator]);
pub(crate) const CHANGE_ALL: Access = CHANGE.over_all_rings();
/// The trail is one for all rings.
pub(crate) const AUDIT: Access = Access::of(&[Role::Admin, Role::Auditor]).over_all_rings();
/// A token that may make tokens may be given more than it has.
pub(crate) const ADMINISTER: Access = Access::of(&[Role::Admin]).over_all_rings();
/// Whoever may see or change a ring may read it.
pub(crate) const READ_RING: Access = Access::of(&Role::ALL).on_the_ring_listener();
pub(crate) const REPORT: Access = Access::of(&[Role::Admin, Role::Proxy]).on_the_ring_listener();

/// The shortest time between two notes of one token's use, in milliseconds.
const NOTE_USE_EVERY: u64 = 60 * 1000;

/// Checks the token of one route.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) control: Arc<Control>,
    pub(crate) access: Access,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    token: String,
    /// All rings when absent.
    rings: Option<Vec<String>>,
}

/// When each token's use was noted last.
#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<String, Millis>>);

/// Lets those pass whose token suffices, and no path with a control character in it.
pub(crate) async fn guard(
    State(Guard { control, access }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let open = access.roles.is_empty() || access.ring_listener && control.ring_auth == RingAuth::Open;
    let caller = if open { None } else { Some(authorize(&control, access, request.headers()).await?) };
    let names = request.extract_parts::<RawPathParams>().await;
    let names = names.map_err(|_| Problem::field("path", "percent-encoded UTF-8"))?;
    for (what, name) in &names {
        // No name has one, and not every database could look for it.
        let plain = !name.chars().any(char::is_control);
        super::require(plain, what, "a name without control characters")?;
        if let Some(caller) = caller.as_ref().filter(|_| what == "ring") {
            caller.require_ring(name)?;
        }
    }
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(next.run(request).await)
}

async fn authorize(control: &Arc<Control>, access: Access, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let now = clock::now();
    let bearer = bearer(control, headers, now).await?;
    let forbidden = |detail| Problem::new(ProblemKind::Forbidden, detail);
    if !access.roles.contains(&bearer.role) {
        let detail =
            format!("this needs a token of role {}, and yours is `{}`", access.in_words(), bearer.role);
        return Err(forbidden(detail).into());
    }
    if let Some(rings) = bearer.rings.as_ref().filter(|_| access.all_rings) {
        let rings = rings.join("`, `");
        let detail = format!("this reaches over all rings, and your token is limited to `{rings}`");
        return Err(forbidden(detail).into());
    }
    note_use(control, &bearer, now);
    Ok(Caller { token: bearer.token, rings: bearer.rings })
}

async fn bearer(control: &Control, headers: &HeaderMap, now: Millis) -> Result<Bearer, ApiError> {
    let unauthorized = |detail| Problem::new(ProblemKind::Unauthorized, detail);
    let header = headers.get(header::AUTHORIZATION);
    let header = header.ok_or_else(|| unauthorized("send `Authorization: Bearer kwt_…`"))?;
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| PlainToken::from(token.trim()))
    });
    let token = token.ok_or_else(|| unauthorized("the Authorization header is not `Bearer kwt_…`"))?;
    let found = control.store.bearer(token.hash(), now).await?;
    let found = found.ok_or_else(|| unauthorized("the token is not one of this control plane's"))?;
    // Whoever holds the secret may know what became of it.
    match found.ended {
        None => Ok(found),
        Some(TokenEnd::Revoked) => Err(unauthorized("the token is revoked; use another one").into()),
        Some(TokenEnd::Expired) => Err(unauthorized("the token has expired; use another one").into()),
        Some(TokenEnd::Rotated) => {
            Err(unauthorized("the token was rotated and the overlap is over; use its new text").into())
        }
    }
}

/// Rarely and beside the request, since every request of every proxy comes by here.
fn note_use(control: &Arc<Control>, bearer: &Bearer, now: Millis) {
    let fresh = |at: Millis| now.saturating_since(at) < NOTE_USE_EVERY;
    if bearer.last_used_at.is_some_and(fresh) || !control.uses.take(&bearer.token, now, fresh) {
        return;
    }
    let (control, token) = (control.clone(), bearer.token.clone());
    tokio::spawn(async move {
        if let Err(error) = control.store.note_token_use(&token, now).await {
            warn!(token.id = token, %error, "The use of token {token} could not be noted");
        }
    });
}

// === impl Access ===

impl Access {
    const fn of(roles: &'static [Role]) -> Self {
        Self { roles, all_rings: false, ring_listener: false }
    }

    const fn over_all_rings(self) -> Self {
        Self { all_rings: true, ..self }
    }

    const fn on_the_ring_listener(self) -> Self {
        Self { ring_listener: true, ..self }
    }

    /// "`admin` or `operator`".
    pub(crate) fn in_words(self) -> String {
        let roles: Vec<_> = self.roles.iter().map(|role| format!("`{role}`")).collect();
        roles.join(" or ")
    }
}

// === impl Caller ===

impl Caller {
    /// Whether lists show this ring's things.
    pub(crate) fn reaches(&self, ring: &str) -> bool {
        self.rings.as_ref().is_none_or(|rings| rings.iter().any(|name| name == ring))
    }

    /// For a ring that the request names. Whether there is such a ring, a caller who may not reach it does not learn.
    pub(crate) fn require_ring(&self, ring: &str) -> Result<(), ApiError> {
        if self.reaches(ring) {
            return Ok(());
        }
        let rings = self.rings.iter().flatten().map(String::as_str).collect::<Vec<_>>().join("`, `");
        let detail = format!("your token is limited to `{rings}`, and this is about ring `{ring}`");
        Err(Problem::new(ProblemKind::Forbidden, detail).into())
    }

    /// For a key that the request names: one of another ring is not there.
    pub(crate) async fn require_key(&self, control: &Control, key: &str) -> Result<(), ApiError> {
        if self.rings.is_none() || self.reaches(&control.store.key(key).await?.ring) {
            return Ok(());
        }
        Err(not_found("key", key))
    }

    /// For a rotation that the request names: one of another ring is not there.
    pub(crate) async fn require_rotation(&self, control: &Control, rotation: &str) -> Result<(), ApiError> {
        if self.rings.is_none() {
            return Ok(());
        }
        let key = control.store.rotation(rotation).await?.key;
        if self.reaches(&control.store.key(&key).await?.ring) {
            return Ok(());
        }
        Err(not_found("rotation", rotation))
    }
}

fn not_found(what: &'static str, name: &str) -> ApiError {
    StoreError::from(Refusal::NotFound { what, name: name.to_owned() }).into()
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::Internal("a route without authentication".into()))
    }
}

// === impl Uses ===

impl Uses {
    /// Whether this use is to be noted; it is taken for noted then.
    fn take(&self, token: &str, now: Millis, fresh: impl Fn(Millis) -> bool) -> bool {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.get(token).copied().is_some_and(fresh) {
            return false;
        }
        uses.insert(token.to_owned(), now);
        true
    }
}

/// The context of a change: the authenticated caller's.
pub(crate) struct By(pub(crate) Context);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        // Absent where the application is called without a socket.
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let client_address = peer.map(|ConnectInfo(peer)| peer.ip().to_canonical());
        Ok(Self(Context { actor: caller.token, now: clock::now(), request_id, client_address }))
    }
}
