//! What a refused caller is told, to the byte.

use keywheel_testkit::Reply;
use serde_json::json;

/// Checks the whole answer: status, problem, challenge.
pub(crate) fn assert_refused(reply: &Reply, code: &str, title: &str) {
    let kind = format!("https://github.com/keywheel/keywheel/blob/main/docs/errors/{code}.md");
    assert_eq!(reply.json(), json!({"type": kind, "title": title, "status": 401, "code": code}));
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("www-authenticate"), r#"ApiKey realm="production", header="x-api-key""#);
    let known = ["content-type", "cache-control", "www-authenticate", "content-length", "date", "server"];
    for name in reply.headers.keys() {
        assert!(known.contains(&name.as_str()), "an answer without {name} says as much");
    }
}
