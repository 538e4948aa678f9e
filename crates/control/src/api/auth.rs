//! Who may ask for what. A token is looked up by its hash, so nothing compares secrets byte by byte.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::RequestExt as _;
use axum::extract::{ConnectInfo, FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use keywheel_api::{Problem, ProblemKind, Role};
use keywheel_keyring::Millis;
use tracing::warn;

use super::error::ApiError;
use super::request::RequestId;
use super::texts;
use crate::failed_logins::network;
use crate::metrics::{Listener, Refused};
use crate::ring::proxies;
use crate::secret::{HashedToken, PlainToken};
use crate::serve::{ClientCertificate, vouch};
use crate::store::{Attempt, Bearer, Committed, Context, Precondition, Refusal, StoreError, TokenEnd};
use crate::{Control, RingAuth, clock};

/// What a route asks of a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Those that suffice; none: everyone may ask, without a token.
    pub(crate) roles: &'static [Role],
    /// Whether it reaches over all rings, so that a token which is limited to some does not suffice.
    pub(crate) all_rings: bool,
    /// Whether `--ring-auth open` lets everyone in, and a client certificate whoever has one.
    pub(crate) ring_listener: bool,
    /// Whether the last caller is let in for [`SCRAPER_KNOWN`] while the database does not answer.
    pub(crate) in_outages: bool,
    /// Whether an API key is asked for in place of a token, which then reaches itself alone.
    pub(crate) own_key: bool,
}

/// Nothing: it holds no secret and changes nothing.
pub(crate) const OPEN: Access = Access::of(&[]);
pub(crate) const READ: Access = Access::of(&[Role::Admin, Role::Operator, Role::Auditor]);
pub(crate) const CHANGE: Access = Access::of(&[Role::Admin, Role::Operator]);
pub(crate) const CHANGE_ALL: Access = CHANGE.over_all_rings();
/// The trail is one for all rings.
pub(crate) const AUDIT: Access = Access::of(&[Role::Admin, Role::Auditor]).over_all_rings();
/// A token that may make tokens may be given more than it has, and who has the signing keys or a copy of the database
/// has everything.
pub(crate) const ADMINISTER: Access = Access::of(&[Role::Admin]).over_all_rings();
/// What is wrong with the database is to be seen while it is, of all times.
pub(crate) const SCRAPE: Access = Access { in_outages: true, ..Access::of(&Role::ALL).over_all_rings() };
/// Whoever may see or change a ring may read it.
pub(crate) const READ_RING: Access = Access::of(&Role::ALL).on_the_ring_listener();
pub(crate) const REPORT: Access = Access::of(&[Role::Admin, Role::Proxy]).on_the_ring_listener();
/// No token is a key.
pub(crate) const OWN_KEY: Access = Access { own_key: true, ..Access::of(&[]) };

/// The shortest time between two notes of one token's use, in milliseconds.
const NOTE_USE_EVERY: u64 = 60 * 1000;
/// How long the last token of a scrape is known without the database.
const SCRAPER_KNOWN: Duration = Duration::from_secs(15 * 60);

/// Checks the token of one route.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) control: Arc<Control>,
    pub(crate) access: Access,
}

/// The id of a token, of a client certificate, or of a key and its version. Rides in the response, for the layer that logs requests.
#[derive(Debug, Clone)]
pub(crate) struct Actor(pub(crate) String);

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The id of a token, of a client certificate, or of a key and its version.
    id: String,
    /// All rings when absent.
    rings: Option<Vec<String>>,
    /// Whether what it says of a proxy is taken.
    is_proxy: bool,
    /// Whether it is a key, which asks for itself.
    is_holder: bool,
}

/// When each token's use was noted last.
#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<String, Millis>>);

/// Whose token was good when it was last looked up for a scrape, and when that was.
#[derive(Debug, Default)]
pub(crate) struct LastScraper(Mutex<Option<(HashedToken, Caller, Instant)>>);

/// Lets those pass whose token suffices, and no path with a control character in it.
pub(crate) async fn guard(
    State(Guard { control, access }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some((caller, may)) = identify(&control, access, request.headers(), request.extensions()).await?
    else {
        check_names(&mut request, None).await?;
        return Ok(next.run(request).await);
    };
    let metrics = &control.runtime.metrics;
    let pass = match may {
        Err((why, error)) => {
            metrics.refused(access.listener(), why);
            Err(error)
        }
        Ok(()) => check_names(&mut request, Some((&caller, &*control, access))).await,
    };
    let id = caller.id.clone();
    let mut response = match pass {
        Ok(()) => {
            // Not who is known and may not do this: every proxy has a token, and the admin listener is not for them.
            vouch(request.extensions(), || id.clone());
            // Whoever only reads a ring must not be able to say that proxies enforce it.
            if !caller.is_proxy {
                request.headers_mut().remove(proxies::HEADER);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(Actor(id));
    Ok(response)
}

/// What a token that is known lacks.
type Lack = (Refused, ApiError);

/// Who asks, if somebody has to be known, and whether they may.
async fn identify(
    control: &Arc<Control>,
    access: Access,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Option<(Caller, Result<(), Lack>)>, ApiError> {
    if access.roles.is_empty() {
        return Ok(None);
    }
    if access.ring_listener {
        if let Some(certificate) = extensions.get::<ClientCertificate>() {
            // It stands for a proxy of every ring.
            let caller = Caller { id: certificate.id.clone(), rings: None, is_proxy: true, is_holder: false };
            return Ok(Some((caller, Ok(()))));
        }
        if control.ring_auth == RingAuth::Open {
            // Who that is only its address tells.
            vouch(extensions, || peer(extensions).map(|peer| network(peer).to_string()).unwrap_or_default());
            return Ok(None);
        }
    }
    let now = clock::now();
    let found = bearer(control, access.listener(), headers, peer(extensions), now).await;
    if !access.in_outages {
        let bearer = found?;
        return Ok(Some(judge(control, access, bearer, now)));
    }
    let hash = headers.get(header::AUTHORIZATION).and_then(token).map(|token| token.hash());
    let last = &control.runtime.last_scraper;
    match (found, hash) {
        (Err(error @ (ApiError::Unavailable(_) | ApiError::Database(_))), Some(hash)) => {
            let caller = last.known(hash).ok_or(error)?;
            control.runtime.metrics.database_error("metrics");
            Ok(Some((caller, Ok(()))))
        }
        (found, hash) => {
            let (caller, may) = judge(control, access, found?, now);
            if let (Ok(()), Some(hash)) = (&may, hash) {
                last.remember(hash, caller.clone());
            }
            Ok(Some((caller, may)))
        }
    }
}

fn judge(control: &Arc<Control>, access: Access, bearer: Bearer, now: Millis) -> (Caller, Result<(), Lack>) {
    let may = access.suffices(&bearer);
    if may.is_ok() {
        note_use(control, &bearer, now);
    }
    let is_proxy = REPORT.roles.contains(&bearer.role);
    (Caller { id: bearer.token, rings: bearer.rings, is_proxy, is_holder: false }, may)
}

/// What stands in the path, and whether the caller may reach it.
pub(super) async fn check_names(
    request: &mut Request,
    caller: Option<(&Caller, &Control, Access)>,
) -> Result<(), ApiError> {
    let names = request.extract_parts::<RawPathParams>().await;
    let names = names.map_err(|_| Problem::field("path", "percent-encoded UTF-8"))?;
    for (what, name) in &names {
        if !texts::is_plain(name) {
            return Err(texts::refused(what));
        }
        if let Some((caller, control, access)) = caller.filter(|_| what == "ring") {
            caller.require_ring(name).inspect_err(|_| {
                control.runtime.metrics.refused(access.listener(), Refused::Ring);
            })?;
        }
    }
    Ok(())
}

async fn bearer(
    control: &Control,
    listener: Listener,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
    now: Millis,
) -> Result<Bearer, ApiError> {
    let metrics = &control.runtime.metrics;
    let unauthorized = |detail| Problem::new(ProblemKind::Unauthorized, detail);
    let Some(header) = headers.get(header::AUTHORIZATION) else {
        metrics.refused(listener, Refused::Missing);
        return Err(unauthorized("send `Authorization: Bearer kwt_…`").into());
    };
    // Looked up before failures are counted: a good token is let in whoever fails beside it.
    let (why, detail) = match token(header) {
        None => (Refused::Malformed, "the Authorization header is not `Bearer kwt_…`"),
        Some(token) => match control.store.bearer(token.hash(), now).await? {
            None => (Refused::Unknown, "the token is not one of this control plane's"),
            // Whoever holds the secret may know what became of it.
            Some(found) => match found.ended {
                None => return Ok(found),
                Some(TokenEnd::Revoked) => (Refused::Ended, "the token is revoked; use another one"),
                Some(TokenEnd::Expired) => (Refused::Ended, "the token has expired; use another one"),
                Some(TokenEnd::Rotated) => {
                    (Refused::Ended, "the token was rotated and the overlap is over; use its new text")
                }
            },
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
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip().to_canonical())
}

fn token(header: &HeaderValue) -> Option<PlainToken> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| PlainToken::from(token.trim()))
}

/// Rarely and beside the request, since every request of every proxy comes by here.
fn note_use(control: &Arc<Control>, bearer: &Bearer, now: Millis) {
    let fresh = |at: Millis| now.saturating_since(at) < NOTE_USE_EVERY;
    if bearer.last_used_at.is_some_and(fresh) || !control.runtime.uses.take(&bearer.token, now, fresh) {
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
        Self { roles, all_rings: false, ring_listener: false, in_outages: false, own_key: false }
    }

    /// Whether somebody has to be known.
    pub(crate) const fn is_guarded(self) -> bool {
        self.own_key || !self.roles.is_empty()
    }

    const fn over_all_rings(self) -> Self {
        Self { all_rings: true, ..self }
    }

    const fn on_the_ring_listener(self) -> Self {
        Self { ring_listener: true, ..self }
    }

    const fn listener(self) -> Listener {
        if self.ring_listener { Listener::Ring } else { Listener::Admin }
    }

    fn suffices(self, bearer: &Bearer) -> Result<(), Lack> {
        let forbidden = |detail| ApiError::from(Problem::new(ProblemKind::Forbidden, detail));
        if !self.roles.contains(&bearer.role) {
            let detail =
                format!("this needs a token of role {}, and yours is `{}`", self.in_words(), bearer.role);
            return Err((Refused::Role, forbidden(detail)));
        }
        if let Some(rings) = bearer.rings.as_ref().filter(|_| self.all_rings) {
            let rings = rings.join("`, `");
            let detail = format!("this reaches over all rings, and your token is limited to `{rings}`");
            return Err((Refused::Ring, forbidden(detail)));
        }
        Ok(())
    }

    /// "`admin` or `operator`".
    pub(crate) fn in_words(self) -> String {
        let roles: Vec<_> = self.roles.iter().map(|role| format!("`{role}`")).collect();
        roles.join(" or ")
    }
}

// === impl Caller ===

impl Caller {
    /// A key that asks for itself.
    pub(super) fn holder(id: String, ring: &str) -> Self {
        Self { id, rings: Some(vec![ring.to_owned()]), is_proxy: false, is_holder: true }
    }

    pub(crate) const fn is_holder(&self) -> bool {
        self.is_holder
    }

    /// Those that lists show the things of; all rings when absent.
    pub(crate) fn rings(&self) -> Option<&[String]> {
        self.rings.as_deref()
    }

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

    /// For a campaign that the request names: one of another ring is not there.
    pub(crate) async fn require_campaign(&self, control: &Control, campaign: &str) -> Result<(), ApiError> {
        if self.rings.is_none() || self.reaches(&control.store.campaign(campaign).await?.ring) {
            return Ok(());
        }
        Err(not_found("campaign", campaign))
    }
}

pub(super) fn not_found(what: &'static str, name: &str) -> ApiError {
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

// === impl LastScraper ===

impl LastScraper {
    fn remember(&self, hash: HashedToken, caller: Caller) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((hash, caller, Instant::now()));
    }

    fn known(&self, hash: HashedToken) -> Option<Caller> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, caller, at) = last.as_ref()?;
        let same = known.as_bytes() == hash.as_bytes() && at.elapsed() < SCRAPER_KNOWN;
        same.then(|| caller.clone())
    }
}

/// The context of a change: the authenticated caller's.
pub(crate) struct By(pub(crate) Context);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        let client_address = peer(&parts.extensions);
        // Present where somebody waits for what is committed.
        let committed = parts.extensions.get::<Committed>().cloned().unwrap_or_default();
        let attempt = parts.extensions.get::<Attempt>().cloned();
        let condition = parts.extensions.get::<Precondition>().cloned();
        let now = clock::now();
        Ok(Self(Context { actor: caller.id, now, request_id, client_address, committed, attempt, condition }))
    }
}
