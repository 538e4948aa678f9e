//! Where a credential may be, and that it goes no further.

use serde_json::json;

use crate::stage::{Stage, seen};

#[tokio::test]
async fn a_key_is_taken_from_query_cookie_or_header_and_the_rest_stays_as_it_was() {
    let stage = Stage::with(json!({"sources": [
        {"header": "x-api-key"},
        {"header": "authorization", "scheme": "Bearer"},
        {"query": "api_key"},
        {"cookie": "api_key"},
    ]}))
    .await;
    let reply = stage.get("/v1/t?z=%7E&api%5Fkey=good&a=+&&a=2", &[]).await;
    assert_eq!(reply.json()["path"], "/v1/t?z=%7E&a=+&&a=2");
    let reply = stage.get("/v1/t?api_key=good", &[]).await;
    assert_eq!(reply.json()["path"], "/v1/t");

    let reply = stage.get("/", &[("cookie", "z=%7E; api_key=good;  b= 1")]).await;
    assert_eq!(seen(&reply, "cookie"), "z=%7E;  b= 1");
    let reply = stage.get("/", &[("cookie", "api_key=good")]).await;
    assert_eq!(seen(&reply, "cookie"), "-");

    let reply = stage.get("/", &[("authorization", "bearer good")]).await;
    assert_eq!(seen(&reply, "authorization"), "-");
    let reply = stage.get("/?api_key=x", &[("x-api-key", "good"), ("authorization", "Basic dTpw")]).await;
    assert_eq!(seen(&reply, "authorization"), "Basic dTpw", "another scheme's credential is not ours");
    assert_eq!(seen(&reply, "x-api-key"), "-");
    assert_eq!(reply.json()["path"], "/", "every source is cleared");
    assert_eq!(seen(&reply, "x-client-id"), "acme");
}

#[tokio::test]
async fn two_values_in_one_source_are_refused_and_the_first_source_decides() {
    let stage = Stage::with(json!({"sources": [
        {"query": "api_key"}, {"cookie": "api_key"}, {"header": "x-api-key"},
    ]}))
    .await;
    let good = ("x-api-key", "good");
    assert_eq!(stage.outcome("/?api_key=good&api%5Fkey=good", &[]).await, "401 ambiguous_key");
    assert_eq!(stage.outcome("/", &[("cookie", "api_key=good; api_key=good")]).await, "401 ambiguous_key");
    let crumbs = [("cookie", "api_key=good"), ("cookie", "api_key=nobody")];
    assert_eq!(stage.outcome("/", &crumbs).await, "401 ambiguous_key");
    assert_eq!(stage.outcome("/?api_key=nobody", &[good]).await, "401 unknown_key");
    assert_eq!(stage.outcome("/?api_key=", &[good]).await, "401 missing_key");
    assert_eq!(stage.outcome("/?api_key=%ff", &[good]).await, "401 malformed_key");
    assert_eq!(stage.outcome("/?api_key=good", &[("cookie", "api_key=nobody")]).await, "200");
    assert_eq!(stage.outcome("/?api_keys=nobody", &[good]).await, "200");
}
