//! Every refusal through Envoy: status, code, challenge, body, and what the access log says.

use keywheel_keyring::Kind;
use keywheel_testkit::fake_control::document;
use keywheel_testkit::{Envoy, FakeControl, Reply, Upstream, http, until};
use serde_json::json;

use crate::scene::paths;
use crate::stage::{Stage, config, with_fields, with_raw_paths};

const API_KEY: &str = r#"ApiKey realm="production", header="x-api-key""#;

fn assert_is(reply: &Reply, status: u16, code: &str, title: &str, challenge: &str, retry: &str) {
    let kind = format!("https://github.com/keywheel/keywheel/blob/main/docs/errors/{code}.md");
    assert_eq!(reply.json(), json!({"type": kind, "title": title, "status": status, "code": code}));
    assert_eq!(reply.status, status, "{code}");
    assert_eq!(reply.header("content-type"), "application/problem+json", "{code}");
    assert_eq!(reply.header("cache-control"), "no-store", "{code}");
    assert_eq!(reply.header("www-authenticate"), challenge, "{code}");
    assert_eq!(reply.header("retry-after"), retry, "{code}");
    let page = format!("{}/docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
    assert!(std::path::Path::new(&page).is_file(), "{page} explains it");
}

#[tokio::test]
async fn every_refusal_is_as_documented() {
    let rules = json!({
        "rules": [
            {"match": {"path": "/trade"}, "access": {"scopes": ["trade"]}},
            {"match": {"path": "/desk"}, "access": {"clients": ["desk"]}},
            {"match": {"path": "/closed"}, "access": "deny"},
        ],
        "default": "any_key",
    });
    let stage = Stage::of(|config| with_raw_paths(with_fields(config, &rules))).await;
    let long = "k".repeat(513);
    for (path, key, status, code, title, challenge, retry) in [
        ("/", "", 401, "missing_key", "An API key is required", API_KEY, ""),
        ("/", "a b", 401, "malformed_key", "This cannot be an API key", API_KEY, ""),
        ("/", &long, 401, "malformed_key", "This cannot be an API key", API_KEY, ""),
        ("/", "kw_live_0_typo", 401, "malformed_key", "This cannot be an API key", API_KEY, ""),
        ("/", "nobody", 401, "unknown_key", "The API key is not known", API_KEY, ""),
        ("/", "early", 401, "key_not_yet_valid", "The API key is not valid yet", API_KEY, ""),
        ("/", "late", 401, "key_expired", "The API key has expired", API_KEY, ""),
        ("/", "retired", 401, "key_retired", "The API key was retired; use its successor", API_KEY, ""),
        ("/", "revoked", 401, "key_revoked", "The API key was revoked", API_KEY, ""),
        ("/", "leaked", 401, "key_revoked", "The API key was revoked", API_KEY, ""),
        (
            "/",
            "brown",
            401,
            "key_brownout",
            "The API key is about to retire and is refused at times; use its successor",
            API_KEY,
            "1",
        ),
        (
            "/trade",
            "reader",
            403,
            "insufficient_scope",
            "The API key lacks a scope that this request needs",
            API_KEY,
            "",
        ),
        ("/desk", "good", 403, "client_not_allowed", "The API key's client may not do this", "", ""),
        ("/closed", "trader", 403, "no_rule", "No API key may do this", "", ""),
        ("/a//b", "good", 400, "path_not_canonical", "The path can be read in more than one way", "", ""),
    ] {
        let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("x-api-key", key)] };
        assert_is(&stage.get(path, headers).await, status, code, title, challenge, retry);
    }
    let twice = stage.get("/", &[("x-api-key", "good"), ("x-api-key", "good")]).await;
    assert_is(&twice, 401, "ambiguous_key", "The request carries several API keys", API_KEY, "");
    let log = stage.envoy.access_log();
    assert!(!log.contains("nobody") && !log.contains("typo"), "no log holds a key");
}

#[tokio::test]
async fn a_bearer_source_is_challenged_with_its_errors() {
    let stage = Stage::with(json!({
        "sources": [{"header": "authorization", "scheme": "Bearer"}, {"cookie": "key"}],
        "rules": [{"match": {"path": "/trade"}, "access": {"scopes": ["trade"]}}],
        "default": "any_key",
    }))
    .await;
    let challenge = async |path: &str, headers: &[(&str, &str)]| {
        stage.get(path, headers).await.header("www-authenticate").to_owned()
    };
    let cookie = r#"ApiKey realm="production", cookie="key""#;
    let said = |bearer: &str| format!("{bearer}, {cookie}");
    assert_eq!(challenge("/", &[]).await, said(r#"Bearer realm="production""#));
    assert_eq!(challenge("/", &[("cookie", "key=nobody")]).await, said(r#"Bearer realm="production""#));
    assert_eq!(
        challenge("/", &[("authorization", "Bearer nobody")]).await,
        said(r#"Bearer realm="production", error="invalid_token""#)
    );
    assert_eq!(
        challenge("/", &[("authorization", "Bearer a"), ("authorization", "Bearer b")]).await,
        said(r#"Bearer realm="production", error="invalid_request""#)
    );
    assert_eq!(
        challenge("/trade", &[("authorization", "Bearer good")]).await,
        said(r#"Bearer realm="production", error="insufficient_scope", scope="trade""#)
    );
}

#[tokio::test]
async fn a_grpc_caller_gets_the_matching_status_and_a_short_message() {
    let stage = Stage::with(json!({
        "rules": [{"match": {"path": "/a.S/Trade"}, "access": {"scopes": ["trade"]}}],
        "default": "any_key",
    }))
    .await;
    let call = async |path: &str, key: &str| {
        let reply =
            stage.send("POST", path, &[("content-type", "application/grpc"), ("x-api-key", key)]).await;
        let message = reply.header("grpc-message").replace("%20", " ");
        (reply.status, reply.header("grpc-status").to_owned(), message)
    };
    let expect = |status: &str, message: &str| (200, status.to_owned(), message.to_owned());
    assert_eq!(call("/a.S/M", "nobody").await, expect("16", "The API key is not known"));
    assert_eq!(
        call("/a.S/Trade", "good").await,
        expect("7", "The API key lacks a scope that this request needs")
    );
}

#[tokio::test]
async fn without_a_ring_the_answer_says_when_to_try_again() {
    let fake = FakeControl::start().await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let envoy = Envoy::start(&paths(), config(&fake, &upstream), 2).await.unwrap();
    for key in ["", "good"] {
        let reply = http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap();
        assert_is(&reply, 503, "ring_unavailable", "API keys cannot be checked yet; try again", "", "1");
    }
}

#[tokio::test]
async fn a_ring_that_is_too_old_lets_nobody_in() {
    const DAY: u64 = 86_400_000;
    let fake = FakeControl::start().await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let mut ring = document(Kind::Snapshot { after: None, through: None }, 1, Vec::new());
    ring.issued_at.0 -= 2 * DAY;
    let page = fake.sign(&ring);
    let seed = json!({
        "signer": page.signer, "signature": page.signature, "document": String::from_utf8(page.body).unwrap(),
    });
    let config = config(&fake, &upstream).with_plugin(|plugin| {
        plugin["control"]["clusters"] = json!([]);
        plugin["seed"] = seed;
        plugin["stale"] = json!({"after": "24h", "then": "refuse"});
    });
    let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
    let ask = async || http::get(envoy.listener(), "/", &[("x-api-key", "good")]).await.unwrap();
    let reply = until("the seed is there", async || {
        Some(ask().await).filter(|reply| reply.json()["code"] != "ring_unavailable")
    })
    .await
    .unwrap();
    assert_is(&reply, 503, "ring_stale", "API keys cannot be checked any more; try again", "", "1");
}
