//! Entity tags: answers say how a client, a key or a policy is, and a change may be made on condition that it is so.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;

use super::error::ApiError;
use super::{applied, require};
use crate::store::{Precondition, Resource, Tags, entity_tag};

pub(super) const HEADER: HeaderName = header::IF_MATCH;
const RULE: &str = "only with a change of a client, a key or a policy";

/// What the path of a route names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    resource: Resource,
    parameter: &'static str,
    /// Nothing stands behind it: what is answered is the thing itself.
    is_whole: bool,
}

impl Named {
    pub(super) fn by(path: &str) -> Option<Self> {
        let known = [
            ("/v1/clients/{client}", Resource::Client, "client"),
            ("/v1/keys/{key}", Resource::Key, "key"),
            ("/v1/policies/{policy}", Resource::Policy, "policy"),
        ];
        known.into_iter().find_map(|(begins, resource, parameter)| {
            let rest = path.strip_prefix(begins)?;
            Some(Self { resource, parameter, is_whole: rest.is_empty() })
        })
    }

    /// Whether the answer to such a request has an entity tag.
    pub(super) fn is_tagged(self, method: &str) -> bool {
        self.is_whole && matches!(method, "get" | "patch" | "put")
    }
}

/// Passes the condition of a change on, and says how the thing is.
pub(crate) async fn tag(
    State(named): State<Option<Named>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut head, body) = request.into_parts();
    let is_change = !matches!(head.method, Method::GET | Method::HEAD);
    if let Some(tags) = tags(&head.headers).filter(|_| is_change) {
        let named = named.ok_or(());
        require(named.is_ok(), HEADER.as_str(), RULE)?;
        let params = RawPathParams::from_request_parts(&mut head, &()).await;
        let params = params.map_err(|error| ApiError::Internal(error.to_string()))?;
        if let Ok(named) = named
            && let Some((_, name)) = params.iter().find(|(parameter, _)| *parameter == named.parameter)
        {
            head.extensions.insert(Precondition::new(named.resource, name.to_owned(), tags));
        }
    }
    let is_tagged = named.is_some_and(|named| named.is_tagged(&head.method.as_str().to_ascii_lowercase()));
    let response = next.run(Request::from_parts(head, body)).await;
    if is_tagged && response.status().is_success() { tagged(response).await } else { Ok(response) }
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
        let tagged = |path, method| Named::by(path).is_some_and(|named| named.is_tagged(method));
        assert!(tagged("/v1/keys/{key}", "get") && tagged("/v1/policies/{policy}", "put"));
        assert!(!tagged("/v1/keys/{key}/revoke", "post") && Named::by("/v1/keys/{key}/revoke").is_some());
        for path in ["/v1/keys", "/v1/rings/{ring}/signing-keys/{key}/retire", "/v1/tokens/{token}/revoke"] {
            assert!(Named::by(path).is_none(), "{path}");
        }
    }
}
