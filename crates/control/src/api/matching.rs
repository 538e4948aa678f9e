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
/// What [`tags`] takes, for OpenAPI.
pub(super) const PATTERN: &str =
    r#"^(\*|((W/)?"[!#-+\--~]*"|[0-9A-Fa-f]{32})( *, *((W/)?"[!#-+\--~]*"|[0-9A-Fa-f]{32}))*)$"#;
const TAGS_RULE: &str = "`*`, or entity tags as `ETag` has them, each in double quotes, separated by commas";
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
    let tags = if tagging.is_change { tags(&head.headers) } else { Ok(None) };
    let tags = tags.map_err(|rule| Problem::field(HEADER.as_str(), rule))?;
    if let Some(tags) = tags {
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

/// As RFC 9110 writes them in section 13.1.1, but for commas in tags, which ours have none of; and ours without quotes,
/// too: whoever forgets them in a shell means the same. A weak tag is the tag of nothing.
///
/// # Errors
///
/// The rule, for what is no tag.
fn tags(headers: &HeaderMap) -> Result<Option<Tags>, &'static str> {
    if !headers.contains_key(HEADER) {
        return Ok(None);
    }
    let mut tags = Vec::new();
    let mut any = false;
    for value in headers.get_all(HEADER) {
        for tag in value.to_str().map_err(|_| TAGS_RULE)?.split(',').map(str::trim) {
            if tag == "*" {
                any = true;
            } else {
                tags.push(tag_in(tag).ok_or(TAGS_RULE)?);
            }
        }
    }
    match (any, tags.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (true, false) => Err(TAGS_RULE),
        (false, _) => Ok(Some(Tags::These(tags))),
    }
}

/// With its quotes.
fn tag_in(text: &str) -> Option<String> {
    let is_ours = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_ours(text) {
        return Some(format!("\"{text}\""));
    }
    let quoted = text.strip_prefix("W/").unwrap_or(text);
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    inner.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"').then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<Tags>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        tags(&headers)
    }

    #[test]
    fn entity_tags_are_read_with_quotes_and_ours_without() {
        let these = |tags: &[&str]| Ok(Some(Tags::These(tags.iter().map(|&tag| tag.to_owned()).collect())));
        let ours = "0123456789abcdef0123456789abcdef";
        let quoted = format!("\"{ours}\"");
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["*"]), Ok(Some(Tags::Any)));
        assert_eq!(read(&["*", " *"]), Ok(Some(Tags::Any)));
        assert_eq!(read(&[r#""a""#]), these(&[r#""a""#]));
        assert_eq!(read(&[ours]), these(&[&quoted]));
        assert_eq!(read(&[r#""""#]), these(&[r#""""#]));
        assert_eq!(read(&[&format!(r#""a","b" , {ours}"#)]), these(&[r#""a""#, r#""b""#, &quoted]));
        assert_eq!(read(&[r#""a""#, r#""b""#]), these(&[r#""a""#, r#""b""#]));
        // Weak ones are never the same as a strong one.
        assert_eq!(read(&[&format!("W/{quoted}")]), these(&[&format!("W/{quoted}")]));
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        let ours = format!("\"{}\"", "a".repeat(32));
        let with_any = format!("* {ours}");
        for value in
            ["", "zz", "\u{e9}", ",", "\"", "\"a", "a\"", "\"a\" \"b\"", "\"a b\"", "W/a", "W/", &with_any]
        {
            assert_eq!(read(&[value]), Err(TAGS_RULE), "{value}");
        }
        assert_eq!(read(&["*", &ours]), Err(TAGS_RULE));
        assert_eq!(read(&[&format!("{ours},")]), Err(TAGS_RULE));
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
