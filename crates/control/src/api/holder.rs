//! Who asks with an API key, for that key. Its text is hashed as soon as it is found, and goes no further.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use keywheel_api::{Problem, ProblemKind};
use keywheel_keyring::{Digest, PlainKey};

use super::auth::{Actor, Caller, Guard, check_names, peer};
use super::error::ApiError;
use crate::metrics::{Listener, Refused};
use crate::ring::RingError;
use crate::serve::vouch;
use crate::store::Holder;
use crate::{Control, clock};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const SCHEME: &[u8] = b"bearer";
/// As much as a filter can be configured to read.
const MAX_KEY: usize = 4096;

/// For whom a handler works.
pub(crate) struct For(pub(crate) Holder);

/// Why a request bears no key that could be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoKey {
    Missing,
    Ambiguous,
    Malformed,
}

/// Lets those pass whose key proxies accept.
pub(crate) async fn guard(
    State(Guard { control, .. }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&control, &mut request).await {
        Err(error) => error.into_response(),
        Ok(id) => {
            let mut response = next.run(request).await;
            response.extensions_mut().insert(Actor(id));
            response
        }
    };
    // What it answers depends on the key, in a header that caches do not know as a credential.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Puts who asks into the request, in place of the key, and returns the name for the audit trail.
async fn admit(control: &Arc<Control>, request: &mut Request) -> Result<String, ApiError> {
    let digest = digest(request.headers());
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(API_KEY);
    let holder = identify(control, digest, peer(request.extensions())).await?;
    check_names(request, None).await?;
    vouch(request.extensions(), || holder.key.clone());
    // A restored copy does not know what was revoked since: a key that was could give itself a new version.
    if control.ring(&holder.ring).is_some_and(|ring| ring.record.held) {
        return Err(RingError::Held.into());
    }
    let id = format!("key:{}/{}", holder.key, holder.version);
    request.extensions_mut().insert(Caller::holder(id.clone(), &holder.ring));
    request.extensions_mut().insert(holder);
    Ok(id)
}

async fn identify(
    control: &Control,
    digest: Result<Digest, NoKey>,
    peer: Option<IpAddr>,
) -> Result<Holder, ApiError> {
    let metrics = &control.runtime.metrics;
    let refuse = |why, detail: &str| {
        metrics.refused(Listener::Consumer, why);
        Err(Problem::new(ProblemKind::KeyNotAccepted, detail).into())
    };
    let (why, detail) = match digest {
        // No key is no guess.
        Err(NoKey::Missing) => {
            return refuse(Refused::Missing, "send the key as `Authorization: Bearer` or as `x-api-key`");
        }
        Err(NoKey::Ambiguous) => {
            (Refused::Malformed, "send one key, once: in `Authorization` or in `x-api-key`")
        }
        Err(NoKey::Malformed) => (
            Refused::Malformed,
            "what was sent is no key: 1 to 4096 visible ASCII characters, after `Bearer` in `Authorization`",
        ),
        Ok(digest) => match control.store.holder(digest, clock::now()).await? {
            Some(Ok(holder)) => return Ok(holder),
            // Whoever sent this did not guess. Behind a proxy all have one address, and those who do guess there must
            // not hide from a client why its key is refused.
            Some(Err(why)) => return refuse(Refused::Ended, &why.to_string()),
            None => (Refused::Unknown, "the key is not one of this control plane's"),
        },
    };
    // Counted after the look, so that a good key is let in whoever fails beside it.
    let failed = peer.and_then(|peer| control.runtime.failed_keys.count(peer, Instant::now()));
    if let Some(retry_after) = failed {
        metrics.refused(Listener::Consumer, Refused::TooMany);
        return Err(ApiError::TooManyFailures { retry_after });
    }
    refuse(why, detail)
}

/// The digest of the one key in these headers.
fn digest(headers: &HeaderMap) -> Result<Digest, NoKey> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let mut keys = headers.get_all(API_KEY).iter();
    let key = match (values.next(), keys.next()) {
        (None, None) => return Err(NoKey::Missing),
        (Some(value), None) => bearer(value.as_bytes())?,
        (None, Some(key)) => key.as_bytes(),
        (Some(_), Some(_)) => return Err(NoKey::Ambiguous),
    };
    if values.next().is_some() || keys.next().is_some() {
        return Err(NoKey::Ambiguous);
    }
    let key = key.trim_ascii();
    if key.is_empty() {
        return Err(NoKey::Missing);
    }
    let text = std::str::from_utf8(key)
        .ok()
        .filter(|text| text.len() <= MAX_KEY && text.bytes().all(|byte| byte.is_ascii_graphic()));
    Ok(PlainKey::from(text.ok_or(NoKey::Malformed)?.to_owned()).digest())
}

/// What stands behind the scheme, which is compared without regard to case.
fn bearer(value: &[u8]) -> Result<&[u8], NoKey> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len()).ok_or(NoKey::Malformed)?;
    let ours = scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(u8::is_ascii_whitespace);
    // A proxy may have joined two headers into one.
    let mut others = rest.split(|byte| *byte == b',').skip(1);
    let joined = |part: &[u8]| {
        let scheme = part.trim_ascii_start().split_at_checked(SCHEME.len());
        scheme.is_some_and(|(scheme, rest)| {
            scheme.eq_ignore_ascii_case(SCHEME) && rest.first().is_none_or(u8::is_ascii_whitespace)
        })
    };
    if others.any(joined) {
        return Err(NoKey::Ambiguous);
    }
    if ours { Ok(rest) } else { Err(NoKey::Malformed) }
}

impl<S: Send + Sync> FromRequestParts<S> for For {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let holder = parts.extensions.get::<Holder>().cloned().map(Self);
        holder.ok_or_else(|| ApiError::Internal("a route without a key".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    #[test]
    fn one_key_is_found_wherever_it_may_stand() {
        let expected = Ok(Digest::of(b"sk_1"));
        for (name, value) in [
            ("authorization", "Bearer sk_1"),
            ("authorization", "bEARER \t sk_1 "),
            ("x-api-key", "sk_1"),
            ("x-api-key", " sk_1"),
        ] {
            assert_eq!(digest(&headers(&[(name, value)])), expected, "{name}: {value}");
        }
        let comma = digest(&headers(&[("x-api-key", "sk,1")]));
        assert_eq!(comma, Ok(Digest::of(b"sk,1")), "a key from elsewhere may hold one");
    }

    #[test]
    fn several_keys_are_ambiguous_even_if_they_are_the_same() {
        for of in [
            &[("authorization", "Bearer sk_1"), ("x-api-key", "sk_1")][..],
            &[("authorization", "Bearer sk_1"), ("authorization", "Bearer sk_1")],
            &[("x-api-key", "sk_1"), ("x-api-key", "sk_2")],
            &[("authorization", "Bearer sk_1, bearer sk_2")],
            &[("authorization", "Basic eDp5"), ("x-api-key", "sk_1")],
        ] {
            assert_eq!(digest(&headers(of)), Err(NoKey::Ambiguous), "{of:?}");
        }
    }

    #[test]
    fn what_no_key_can_be_is_told_from_none() {
        for value in ["", " ", "\t"] {
            assert_eq!(digest(&headers(&[("x-api-key", value)])), Err(NoKey::Missing));
        }
        assert_eq!(digest(&headers(&[])), Err(NoKey::Missing));
        assert_eq!(digest(&headers(&[("authorization", "Bearer")])), Err(NoKey::Missing));
        let long = "k".repeat(MAX_KEY + 1);
        for (name, value) in [
            ("authorization", "Basic eDp5"),
            ("authorization", "Bearersk_1"),
            ("authorization", "sk_1"),
            ("x-api-key", "sk 1"),
            ("x-api-key", "sk_\u{e9}"),
            ("x-api-key", &long),
        ] {
            assert_eq!(digest(&headers(&[(name, value)])), Err(NoKey::Malformed), "{name}: {value}");
        }
        assert!(digest(&headers(&[("x-api-key", &long[1..])])).is_ok());
    }
}
