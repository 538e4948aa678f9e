//! Observing, preflights, readiness and old rings.

use serde_json::json;

use crate::stage::{Stage, outcome, seen};

#[tokio::test]
async fn observing_refuses_nothing_and_tells_what_would_be() {
    let stage = Stage::with(json!({"mode": "observe"})).await;
    for (key, outcome) in [
        ("good", "valid"),
        ("revoked", "observed_key_revoked"),
        ("nobody", "observed_unknown_key"),
        ("", "observed_missing_key"),
    ] {
        let path = format!("/observed-{outcome}");
        let headers: &[(&str, &str)] = if key.is_empty() { &[] } else { &[("x-api-key", key)] };
        let reply = stage.get(&path, &[headers, &[("x-client-id", "root")]].concat()).await;
        assert_eq!(
            seen(&reply, "x-api-key"),
            if key.is_empty() { "-" } else { key },
            "who checks behind still can"
        );
        assert_eq!(seen(&reply, "x-client-id"), if key == "good" { "acme" } else { "-" });
        let line = keywheel_testkit::until("the access log shows it", async || {
            let log = stage.envoy.access_log();
            log.lines().find(|line| line.contains(&path)).map(str::to_owned)
        });
        let line: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
        assert_eq!(line["outcome"], outcome);
    }
    let count = stage.envoy.metrics().stats("observed_unknown_key").await.unwrap();
    assert_eq!(count.values().sum::<u64>(), 1, "{count:?}");
}

#[tokio::test]
async fn a_real_preflight_needs_no_key_where_that_is_allowed() {
    let preflight = [
        ("origin", "https://example.com"),
        ("access-control-request-method", "POST"),
        ("x-client-id", "root"),
    ];
    let allow = Stage::with(json!({"preflight": "allow"})).await;
    let reply = allow.send("OPTIONS", "/", &preflight).await;
    assert_eq!(seen(&reply, "x-client-id"), "-");
    assert_eq!(outcome(&allow.send("OPTIONS", "/", &preflight[..1]).await), "401 missing_key");
    assert_eq!(outcome(&allow.send("GET", "/", &preflight).await), "401 missing_key");
    let deny = Stage::with(json!({})).await;
    assert_eq!(outcome(&deny.send("OPTIONS", "/", &preflight).await), "401 missing_key");
}

#[tokio::test]
async fn readiness_is_answered_by_the_filter() {
    let stage = Stage::with(json!({"readiness": {"path": "/keywheel/ready"}})).await;
    let reply = stage.get("/keywheel/ready", &[]).await;
    assert_eq!((reply.status, &*reply.body), (200, &b"ready\n"[..]));
    assert_eq!(outcome(&stage.get("/keywheel/readyx", &[]).await), "401 missing_key");
}

#[tokio::test]
async fn a_caller_whose_key_is_about_to_retire_is_told() {
    let stage = Stage::with(json!({"notices": {"link": "https://example.com/rotate", "sunset": true}})).await;
    let reply = stage.get("/", &[("x-api-key", "retiring")]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("api-key-status"), "retiring");
    assert_eq!(reply.header("api-key-expires"), crate::stage::FAR_DATE);
    assert_eq!(reply.header("sunset"), crate::stage::FAR_DATE);
    assert!(reply.header("deprecation").starts_with('@'));
    assert_eq!(reply.header("link"), r#"<https://example.com/rotate>; rel="deprecation""#);
    let reply = stage.get("/", &[("x-api-key", "good")]).await;
    for name in ["api-key-status", "api-key-expires", "sunset", "deprecation", "link"] {
        assert_eq!(reply.header(name), "", "{name}");
    }
}
