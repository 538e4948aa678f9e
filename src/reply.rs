//! What callers are told: refusals, and that a key is about to retire.

use std::time::{Duration, UNIX_EPOCH};

use keywheel_keyring::{Entry, Millis, State};

use crate::config::{Notices, Source};
use crate::decide::Reason;
use crate::policy::Access;

/// An answer that the filter gives itself. It never holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%` in the access log.
    pub details: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// For gRPC callers.
    pub grpc_status: i32,
}

/// Headers for the answer to a request that passed.
pub type Notice = Vec<(&'static str, String)>;

/// A refusal in the making.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    pub reason: Reason,
    pub ring: &'a str,
    /// Where a credential may be.
    pub sources: &'a [Source],
    /// Which of them held the one that is refused.
    pub used: Option<&'a Source>,
    /// What the request needed.
    pub access: &'a Access,
    /// Whether the caller speaks gRPC, and sees no body but a message.
    pub grpc: bool,
}

/// Where the problem types are explained.
pub(crate) const DOCS: &str = "https://github.com/keywheel/keywheel/blob/main/docs/errors/";

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Writes the refusal: RFC 9457, or for gRPC its title.
#[must_use]
pub fn refuse(refused: Refused<'_>) -> Reply {
    let reason = refused.reason;
    let (status, title) = match reason {
        Reason::MissingKey => (401, "An API key is required"),
        Reason::AmbiguousKey => (401, "The request carries several API keys"),
        Reason::MalformedKey => (401, "This cannot be an API key"),
        Reason::UnknownKey => (401, "The API key is not known"),
        Reason::KeyNotYetValid => (401, "The API key is not valid yet"),
        Reason::KeyExpired => (401, "The API key has expired"),
        Reason::KeyRetired => (401, "The API key was retired; use its successor"),
        Reason::KeyRevoked => (401, "The API key was revoked"),
        Reason::KeyBrownout => {
            (401, "The API key is about to retire and is refused at times; use its successor")
        }
        Reason::InsufficientScope => (403, "The API key lacks a scope that this request needs"),
        Reason::ClientNotAllowed => (403, "The API key's client may not do this"),
        Reason::NoRule => (403, "No API key may do this"),
        Reason::PathNotCanonical => (400, "The path can be read in more than one way"),
        Reason::RingUnavailable => (503, "API keys cannot be checked yet; try again"),
        Reason::RingStale => (503, "API keys cannot be checked any more; try again"),
    };
    let code = reason.code();
    let grpc_status = match status {
        400 => INVALID_ARGUMENT,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        _ => UNAVAILABLE,
    };
    let mut headers = vec![("cache-control", "no-store".to_owned())];
    if status == 401 || reason == Reason::InsufficientScope {
        headers.push(("www-authenticate", challenges(refused)));
    }
    if status == 503 || reason == Reason::KeyBrownout {
        headers.push(("retry-after", "1".to_owned()));
    }
    let body = if refused.grpc {
        title.to_owned()
    } else {
        headers.push(("content-type", "application/problem+json".to_owned()));
        format!(r#"{{"type":"{DOCS}{code}.md","title":"{title}","status":{status},"code":"{code}"}}"#)
    };
    Reply { status, details: format!("keywheel{{{code}}}"), headers, body, grpc_status }
}

/// A challenge for each source, in their order: RFC 9110 §11.6.1. What is wrong is said of the source that
/// held the credential.
fn challenges(refused: Refused<'_>) -> String {
    let used = refused.used.or(refused.sources.first());
    let challenges: Vec<String> = refused
        .sources
        .iter()
        .map(|source| {
            challenge(refused, source, Some(source) == used && refused.reason != Reason::MissingKey)
        })
        .collect();
    challenges.join(", ")
}

/// For a Bearer source with the errors of RFC 6750 §3.1. Names of rings, sources and scopes need no escaping:
/// none may hold a quote or a backslash.
fn challenge(Refused { reason, ring, access, .. }: Refused<'_>, source: &Source, failed: bool) -> String {
    match source {
        Source::Header { scheme: Some(scheme), .. } if scheme.eq_ignore_ascii_case("bearer") => {
            match reason {
                _ if !failed => format!(r#"Bearer realm="{ring}""#),
                Reason::AmbiguousKey => format!(r#"Bearer realm="{ring}", error="invalid_request""#),
                Reason::InsufficientScope => {
                    let scopes = match access {
                        Access::Keyed(demand) => {
                            [&demand.scopes[..], demand.any_scope.as_deref().unwrap_or_default()].concat()
                        }
                        _ => Vec::new(),
                    };
                    format!(
                        r#"Bearer realm="{ring}", error="insufficient_scope", scope="{}""#,
                        scopes.join(" ")
                    )
                }
                _ => format!(r#"Bearer realm="{ring}", error="invalid_token""#),
            }
        }
        Source::Header { scheme: Some(scheme), .. } => format!(r#"{scheme} realm="{ring}""#),
        Source::Header { name, scheme: None } => format!(r#"ApiKey realm="{ring}", header="{name}""#),
        Source::Query { name } => format!(r#"ApiKey realm="{ring}", query="{name}""#),
        Source::Cookie { name } => format!(r#"ApiKey realm="{ring}", cookie="{name}""#),
    }
}

/// What the answer to a request with this key says of it; `None` for a key that is not about to retire.
#[must_use]
pub fn notice(entry: &Entry, notices: &Notices, now: Millis) -> Option<Notice> {
    if entry.state != State::Retiring || !notices.headers {
        return None;
    }
    let mut headers = vec![("api-key-status", "retiring".to_owned())];
    let ends = entry.expires_at.map(http_date);
    if let Some(ends) = &ends {
        headers.push(("api-key-expires", ends.clone()));
    }
    if let Some(link) = &notices.link {
        headers.push(("link", format!(r#"<{link}>; rel="deprecation""#)));
    }
    if notices.sunset {
        // RFC 9745 asks since when. The ring does not say, but by now the key is deprecated.
        headers.push(("deprecation", format!("@{}", now.0 / 1000)));
        headers.extend(ends.map(|ends| ("sunset", ends)));
    }
    Some(headers)
}

/// RFC 9110 §5.6.7.
fn http_date(at: Millis) -> String {
    // The last second of the year 9999, after which the format has no dates.
    let seconds = (at.0 / 1000).min(253_402_300_799);
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    httpdate::fmt_http_date(at)
}

/// The answer of the readiness endpoint.
#[must_use]
pub fn readiness(ready: bool) -> Reply {
    let (status, body) = if ready { (200, "ready\n") } else { (503, "no complete ring yet\n") };
    Reply {
        status,
        details: "keywheel{readiness}".to_owned(),
        headers: vec![("cache-control", "no-store".to_owned()), ("content-type", "text/plain".to_owned())],
        body: body.to_owned(),
        grpc_status: if ready { 0 } else { UNAVAILABLE },
    }
}
