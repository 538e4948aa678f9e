//! What a refused caller is told.

use crate::config::Source;
use crate::decide::Reason;

/// A refusal, as it goes over the wire. It never holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%` in the access log.
    pub details: String,
    pub headers: Vec<(&'static str, String)>,
    /// RFC 9457.
    pub body: String,
    /// For gRPC callers.
    pub grpc_status: i32,
}

/// Where the problem types are explained.
const DOCS: &str = "https://github.com/keywheel/keywheel/blob/main/docs/errors/";

const UNAUTHENTICATED: i32 = 16;
const UNAVAILABLE: i32 = 14;

/// Writes the refusal. `source` is where the credential was, or would have been looked for first.
#[must_use]
pub fn refuse(reason: Reason, ring: &str, source: &Source) -> Reply {
    let (status, title, grpc_status) = match reason {
        Reason::MissingKey => (401, "An API key is required", UNAUTHENTICATED),
        Reason::AmbiguousKey => (401, "The request carries several API keys", UNAUTHENTICATED),
        Reason::MalformedKey => (401, "This cannot be an API key", UNAUTHENTICATED),
        Reason::UnknownKey => (401, "The API key is not known", UNAUTHENTICATED),
        Reason::KeyNotYetValid => (401, "The API key is not valid yet", UNAUTHENTICATED),
        Reason::KeyExpired => (401, "The API key has expired", UNAUTHENTICATED),
        Reason::KeyRetired => (401, "The API key was retired; use its successor", UNAUTHENTICATED),
        Reason::KeyRevoked => (401, "The API key was revoked", UNAUTHENTICATED),
        Reason::RingUnavailable => (503, "API keys cannot be checked yet; try again", UNAVAILABLE),
    };
    let code = reason.code();
    let mut headers = vec![
        ("content-type", "application/problem+json".to_owned()),
        ("cache-control", "no-store".to_owned()),
    ];
    if status == 401 {
        headers.push(("www-authenticate", challenge(reason, ring, source)));
    } else {
        headers.push(("retry-after", "1".to_owned()));
    }
    Reply {
        status,
        details: format!("keywheel{{{code}}}"),
        headers,
        body: format!(r#"{{"type":"{DOCS}{code}.md","title":"{title}","status":{status},"code":"{code}"}}"#),
        grpc_status,
    }
}

/// RFC 9110 §11.6.1; for a Bearer source with the errors of RFC 6750 §3.1. The ring's name and the
/// header's need no escaping: the configuration limits both to tokens.
fn challenge(reason: Reason, ring: &str, source: &Source) -> String {
    let Source::Header { name, scheme } = source;
    match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("bearer") => match reason {
            Reason::MissingKey => format!(r#"Bearer realm="{ring}""#),
            Reason::AmbiguousKey => format!(r#"Bearer realm="{ring}", error="invalid_request""#),
            _ => format!(r#"Bearer realm="{ring}", error="invalid_token""#),
        },
        Some(scheme) => format!(r#"{scheme} realm="{ring}""#),
        None => format!(r#"ApiKey realm="{ring}", header="{name}""#),
    }
}
