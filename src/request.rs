//! One request: what it needs, what it brings, and what becomes of it.
//!
//! Nothing here waits, and nothing is asked of anyone but the ring in memory. In `enforce` mode a request
//! passes only where [`judge`] says so; whatever cannot be explained is refused.

use std::borrow::Cow;
use std::cell::OnceCell;

use keywheel_keyring::Entry;

use crate::Now;
use crate::config::{Config, Mode, Preflight, Source};
use crate::credential::{self, Found, Headers};
use crate::decide::{Outcome, Reason};
use crate::path;
use crate::policy::{Access, Facts, plain_host};
use crate::reply::{self, Notice, Refused, Reply, refuse};
use crate::route;
use crate::shared::SharedData;
use crate::vm::{Ring, Vm};

/// A request as Envoy shows it.
pub trait Request: Headers {
    /// One of Envoy's attributes, such as `xds`, `route_name`.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if it is there, but Envoy cannot show it.
    fn property(&self, path: &[&str]) -> Result<Option<Self::Value>, Unreadable>;
    /// Sets filter state `wasm.<name>`, for access logs.
    fn tell(&self, name: &str, value: &[u8]);
}

/// Something is there that Envoy cannot show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on; its answer gets these headers.
    Pass(Option<Notice>),
    /// It ends here.
    Answer(Reply),
}

/// Decides on a request, and makes it ready for the upstream where it passes.
pub fn handle<R: Request>(
    config: &Config,
    vm: &mut Vm,
    shared: &impl SharedData,
    request: &R,
    now: Now,
) -> Verdict {
    if let Some(path) = &config.readiness
        && request.first(":path").is_some_and(|full| path::split_query(&full).0 == path.as_bytes())
    {
        return Verdict::Answer(reply::readiness(vm.ring(shared, now) == Ring::Fresh));
    }
    let mut needs = Needs { access: Cow::Borrowed(Access::ANY_KEY), used: None };
    let (outcome, notice) = match judge(config, vm, shared, request, &mut needs, now) {
        Ok((outcome, notice)) => (outcome, notice),
        Err(reason) if config.mode == Mode::Observe && remove_identity(config, request) => {
            (Outcome::Observed(reason), None)
        }
        Err(reason) => (Outcome::Denied(reason), None),
    };
    vm.count(outcome);
    if config.filter_state {
        request.tell("keywheel.outcome", outcome.label().as_bytes());
    }
    match outcome {
        Outcome::Denied(reason) => Verdict::Answer(refusal(config, request, reason, &needs)),
        _ => Verdict::Pass(notice),
    }
}

/// The refusal of a request that nothing can be said about.
#[must_use]
pub fn unexplained() -> Reply {
    refuse(Refused {
        reason: Reason::RingUnavailable,
        ring: "",
        sources: &[],
        used: None,
        access: Access::DENY,
        grpc: false,
    })
}

fn refusal(config: &Config, request: &impl Request, reason: Reason, needs: &Needs<'_>) -> Reply {
    // `application/grpc-web` is not gRPC: its callers read a body.
    let is_grpc =
        |kind: &[u8]| matches!(kind.strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..]));
    let grpc = request.first("content-type").is_some_and(|kind| is_grpc(&kind));
    let (sources, used, access) = (&config.sources, needs.used, &*needs.access);
    refuse(Refused { reason, ring: &config.ring, sources, used, access, grpc })
}

/// What was found out of a request on the way, for its refusal.
struct Needs<'c> {
    access: Cow<'c, Access>,
    /// Where its credential is.
    used: Option<&'c Source>,
}

fn judge<'c, R: Request>(
    config: &'c Config,
    vm: &mut Vm,
    shared: &impl SharedData,
    request: &R,
    needs: &mut Needs<'c>,
    now: Now,
) -> Result<(Outcome, Option<Notice>), Reason> {
    needs.access = access(config, request)?;
    if *needs.access == Access::Open {
        return forward(config, request, None).map(|()| (Outcome::Open, None));
    }
    if config.preflight == Preflight::Allow && *needs.access != Access::Deny && is_preflight(request) {
        return forward(config, request, None).map(|()| (Outcome::Preflight, None));
    }
    let optional = *needs.access == Access::Optional;
    if !optional {
        enforceable(vm, shared, now)?;
    }
    let found = credential::find(&config.sources, request, config.max_credential_bytes);
    needs.used = found.as_ref().map(|(source, _)| *source);
    let credential = match found {
        Some((_, Found::Credential(credential))) => credential,
        Some((_, Found::Ambiguous)) => return Err(Reason::AmbiguousKey),
        Some((_, Found::Malformed)) => return Err(Reason::MalformedKey),
        None | Some((_, Found::Empty | Found::Absent)) if optional => {
            return forward(config, request, None).map(|()| (Outcome::Anonymous, None));
        }
        None | Some((_, Found::Empty | Found::Absent)) => return Err(Reason::MissingKey),
    };
    if optional {
        enforceable(vm, shared, now)?;
    }
    let entry = match vm.check(shared, &credential, &needs.access, now) {
        Ok(entry) => entry,
        Err(refusal) => {
            if let Some(entry) = refusal.entry {
                tell(config, request, entry);
            }
            return Err(refusal.reason);
        }
    };
    drop(credential);
    tell(config, request, entry);
    forward(config, request, Some(entry))?;
    Ok((Outcome::Valid, reply::notice(entry, &config.notices, now.wall)))
}

/// Whether there is a ring to enforce.
fn enforceable(vm: &mut Vm, shared: &impl SharedData, now: Now) -> Result<(), Reason> {
    match vm.ring(shared, now) {
        Ring::Fresh => Ok(()),
        Ring::Stale => Err(Reason::RingStale),
        Ring::Absent => Err(Reason::RingUnavailable),
    }
}

/// What the request needs: what its route says, or else the rules.
fn access<'c>(config: &'c Config, request: &impl Request) -> Result<Cow<'c, Access>, Reason> {
    let policy = &config.policy;
    if policy.is_trivial() {
        return Ok(Cow::Borrowed(Access::ANY_KEY));
    }
    if policy.route_overrides {
        // An override that cannot be explained lets nobody in.
        match request.property(&["xds", "route_metadata", "filter_metadata", "keywheel", "access"]) {
            Ok(None) => {}
            Ok(Some(bytes)) => return Ok(Cow::Owned(route::access(&bytes).unwrap_or(Access::Deny))),
            Err(Unreadable) => return Ok(Cow::Borrowed(Access::DENY)),
        }
    }
    if policy.rules.is_empty() {
        return Ok(Cow::Borrowed(&policy.default));
    }
    let full = request.first(":path").ok_or(Reason::PathNotCanonical)?;
    let path = path::canonical(&full).ok_or(Reason::PathNotCanonical)?;
    let seen =
        Seen { request, path: &path, host: OnceCell::new(), method: OnceCell::new(), route: OnceCell::new() };
    let access = policy.access(&seen);
    // A rule was passed over because of a host that somebody else may read as the rule's.
    if seen.host.get() == Some(&None) { Err(Reason::PathNotCanonical) } else { Ok(Cow::Borrowed(access)) }
}

/// What rules look at, each read when the first of them asks.
struct Seen<'r, R> {
    request: &'r R,
    path: &'r [u8],
    host: OnceCell<Option<Vec<u8>>>,
    method: OnceCell<Vec<u8>>,
    route: OnceCell<Vec<u8>>,
}

impl<R: Request> Facts for Seen<'_, R> {
    fn path(&self) -> &[u8] {
        self.path
    }

    fn host(&self) -> Option<&[u8]> {
        let host = || plain_host(&self.request.first(":authority")?);
        self.host.get_or_init(host).as_deref()
    }

    fn method(&self) -> &[u8] {
        self.method
            .get_or_init(|| self.request.first(":method").map(|method| method.to_vec()).unwrap_or_default())
    }

    fn route(&self) -> &[u8] {
        let name = || {
            self.request
                .property(&["xds", "route_name"])
                .ok()
                .flatten()
                .map(|name| name.to_vec())
                .unwrap_or_default()
        };
        self.route.get_or_init(name)
    }

    fn route_metadata(&self, name: &str) -> Option<Vec<u8>> {
        let value = self.request.property(&["xds", "route_metadata", "filter_metadata", "keywheel", name]);
        Some(value.ok()??.to_vec())
    }
}

/// The CORS protocol's own request, which no browser sends a credential with: Fetch §4.8.
fn is_preflight(request: &impl Request) -> bool {
    request.first(":method").is_some_and(|method| *method == *b"OPTIONS")
        && request.first("origin").is_some_and(|origin| !origin.is_empty())
        && request.first("access-control-request-method").is_some_and(|method| !method.is_empty())
}

/// Says who calls in place of whatever the client said, and takes the credential out. In `observe` mode the
/// credential stays, for whoever checks it behind.
fn forward(config: &Config, request: &impl Request, entry: Option<&Entry>) -> Result<(), Reason> {
    let hidden =
        !config.hide_credential || config.mode == Mode::Observe || credential::hide(&config.sources, request);
    let identified = match entry {
        Some(entry) => identify(config, request, entry),
        None => remove_identity(config, request),
    };
    // A host that refuses leaves the request in a state that nobody can explain.
    if hidden && identified { Ok(()) } else { Err(Reason::RingUnavailable) }
}

fn identify(config: &Config, request: &impl Request, entry: &Entry) -> bool {
    let set = |name: &Option<String>, value: &str| match name {
        None => true,
        Some(name) if value.is_empty() => request.remove(name),
        Some(name) => request.set(name, value.as_bytes()),
    };
    let scopes = || match config.identity.scopes {
        Some(_) => entry.scopes.join(" "),
        None => String::new(),
    };
    set(&config.identity.client, &entry.client)
        && set(&config.identity.key, &entry.key)
        && set(&config.identity.scopes, &scopes())
}

fn remove_identity(config: &Config, request: &impl Request) -> bool {
    config.identity.names().all(|name| request.remove(name))
}

fn tell(config: &Config, request: &impl Request, entry: &Entry) {
    if config.filter_state {
        request.tell("keywheel.client", entry.client.as_bytes());
        request.tell("keywheel.key", entry.key.as_bytes());
        request.tell("keywheel.version", entry.version.as_bytes());
    }
}
