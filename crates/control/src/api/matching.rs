//! Entity tags: answers say how a client, a key or a policy is, and a change may be made on condition that it is so.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use keywheel_api::Problem;
use serde_json::Value;

use super::applied;
use super::error::ApiError;
use crate::store::{Precondition, Resource, Tags, entity_tag};

pub(super) const HEADER: HeaderName = header::IF_MATCH;
const RULE: &str = "only with a change of a client, a key or a policy";

/// What a route has to do with entity tags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tagging {
    /// What the path names, and by which parameter.
    named: Option<(Resource, &'static str)>,
    is_change: bool,
    /// Whether the answer is the thing itself, and has its tag.
    answers: bool,
}

impl Tagging {
    pub(super) fn of(method: &str, path: &str) -> Self {
        let known = [
            ("/v1/clients/{client}", Resource::Client, "client"),
            ("/v1/keys/{key}", Resource::Key, "key"),
            ("/v1/policies/{policy}", Resource::Policy, "policy"),
        ];
        let found = known.into_iter().find(|(begins, ..)| path.starts_with(begins));
        let is_whole = found.is_some_and(|(whole, ..)| path == whole);
        Self {
            named: found.map(|(_, resource, parameter)| (resource, parameter)),
            is_change: method != "get",
            answers: is_whole && method != "delete",
        }
    }

    /// Whether requests may be made on condition.
    pub(super) const fn matches(self) -> bool {
        self.is_change && self.named.is_some()
    }

    pub(super) const fn answers(self) -> bool {
        self.answers
    }
}

/// Passes the condition of a change on, and says how the thing is.
pub(crate) async fn tag(
    State(tagging): State<Tagging>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut head, body) = request.into_parts();
    if let Some(tags) = tags(&head.headers).filter(|_| tagging.is_change) {
        let Some((resource, parameter)) = tagging.named else {
            return Err(Problem::field(HEADER.as_str(), RULE).into());
        };
        let params = RawPathParams::from_request_parts(&mut head, &()).await;
        let params = params.map_err(|error| ApiError::Internal(error.to_string()))?;
        if let Some((_, name)) = params.iter().find(|(found, _)| *found == parameter) {
            head.extensions.insert(Precondition::new(resource, name.to_owned(), tags));
        }
    }
    let response = next.run(Request::from_parts(head, body)).await;
    if tagging.answers && response.status().is_success() { tagged(response).await } else { Ok(response) }
}

async fn tagged(response: Response) -> Result<Response, ApiError> {
    let (mut head, body) = response.into_parts();
    let internal = |error: String| ApiError::Internal(error);
    let body = to_bytes(body, applied::MAX_ANSWER).await.map_err(|error| internal(error.to_string()))?;
    let shown: Value = serde_json::from_slice(&body).map_err(|error| internal(error.to_string()))?;
    let tag = HeaderValue::try_from(entity_tag(shown)).map_err(|error| internal(error.to_string()))?;
    head.headers.insert(header::ETAG, tag);
    Ok(Response::from_parts(head, Body::from(body)))
}

/// As RFC 9110 writes them in section 13.1.1, and without quotes, too: whoever forgets them in a shell means the same.
/// What is no tag is the tag of nothing, and so is a weak one.
fn tags(headers: &HeaderMap) -> Option<Tags> {
    let values: Vec<_> = headers.get_all(HEADER).iter().filter_map(|value| value.to_str().ok()).collect();
    if !headers.contains_key(HEADER) {
        return None;
    }
    if values.iter().all(|value| value.trim() == "*") && !values.is_empty() {
        return Some(Tags::Any);
    }
    let tags = values.iter().flat_map(|value| value.split(','));
    Some(Tags::These(tags.map(|tag| format!("\"{}\"", tag.trim().trim_matches('"'))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<Tags> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tags(&headers)
    }

    #[test]
    fn entity_tags_are_read_with_quotes_and_without() {
        let these = |tags: &[&str]| Some(Tags::These(tags.iter().map(|&tag| tag.to_owned()).collect()));
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["*"]), Some(Tags::Any));
        assert_eq!(read(&[r#""a""#]), these(&[r#""a""#]));
        assert_eq!(read(&["a"]), these(&[r#""a""#]));
        assert_eq!(read(&[r#""a","b" , c"#]), these(&[r#""a""#, r#""b""#, r#""c""#]));
        assert_eq!(read(&[r#""a""#, r#""b""#]), these(&[r#""a""#, r#""b""#]));
    }

    #[test]
    fn what_is_no_tag_is_the_tag_of_nothing() {
        let ours = format!("\"{}\"", "a".repeat(32));
        for value in ["", "\u{e9}", ",", &format!("W/{ours}"), &format!("* {ours}"), "*, *"] {
            let Some(Tags::These(tags)) = read(&[value]) else { panic!("{value}") };
            assert!(!tags.contains(&ours), "{value}");
        }
        let Some(Tags::These(tags)) = read(&["*", "b"]) else { panic!("not any") };
        assert!(!tags.contains(&ours));
    }

    #[test]
    fn clients_keys_and_policies_have_tags() {
        let of = |method, path| {
            let tagging = Tagging::of(method, path);
            (tagging.matches(), tagging.answers())
        };
        assert_eq!(of("get", "/v1/keys/{key}"), (false, true));
        assert_eq!(of("put", "/v1/policies/{policy}"), (true, true));
        assert_eq!(of("delete", "/v1/policies/{policy}"), (true, false));
        assert_eq!(of("post", "/v1/keys/{key}/revoke"), (true, false));
        for path in ["/v1/keys", "/v1/rings/{ring}/signing-keys/{key}/retire", "/v1/tokens/{token}/revoke"] {
            assert_eq!(of("post", path), (false, false), "{path}");
        }
    }
}
