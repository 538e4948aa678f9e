use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::{RingSummary, TokenWithSecret};
use keywheel_control::app;
use serde_json::json;

use crate::serving::{Serving, http, sample};
use crate::support::{call, plane};

#[tokio::test]
async fn metrics_need_a_token_of_any_role() {
    let plane = plane().await;
    let ask = async |authorization: &str| {
        let request = Request::builder().uri("/metrics").header("authorization", authorization);
        call(app::admin(plane.control.clone()), request.body(Body::empty()).unwrap()).await
    };
    ask("").await.problem("unauthorized");
    ask("Bearer kwt_0").await.problem("unauthorized");
    let token: TokenWithSecret =
        plane.post("/v1/tokens", json!({ "role": "proxy" })).await.json(StatusCode::CREATED);
    let answer = ask(&format!("Bearer {}", token.token.as_deref().unwrap())).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(answer.body.ends_with(b"# EOF\n"));
}

#[tokio::test]
async fn a_database_that_is_gone_shows_in_them() {
    let plane = plane().await;
    let other: TokenWithSecret =
        plane.post("/v1/tokens", json!({ "role": "proxy" })).await.json(StatusCode::CREATED);
    let serving = Serving::plain(plane).await;
    serving.metrics().await;
    serving.plane.store().close().await;
    assert_eq!(serving.plane.get("/v1/keys").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let metrics = serving.metrics().await;
    assert!(sample(&metrics, "keywheel_control_database_errors_total{kind=\"unavailable\"}") >= 1.0);
    assert!(sample(&metrics, "keywheel_control_database_errors_total{kind=\"metrics\"}") >= 1.0);

    // Who did not ask before is not known, and what was bad is not good now.
    for token in [other.token.as_deref().unwrap(), "kwt_0"] {
        let request = Request::builder().uri("/metrics").header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::empty()).unwrap();
        let answer = call(app::admin(serving.plane.control.clone()), request).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    serving.stop().await;
}

#[tokio::test]
async fn they_count_what_the_database_holds() {
    let plane = plane().await;
    let key = plane.key().await;
    plane.rotate(&key, 3600).await;
    let age = "UPDATE versions SET created_at = created_at - 8640000000 WHERE state = 'active'";
    sqlx::query(age).execute(&plane.database().await).await.unwrap();
    let serving = Serving::plain(plane).await;
    let metrics = serving.metrics().await;
    let is = |name: &str, value: f64| assert_eq!(sample(&metrics, name), value, "{name}");
    is("keywheel_control_ring_revision{ring=\"production\"}", serving.plane.head() as f64);
    is("keywheel_control_ring_entries{ring=\"production\",state=\"active\"}", 1.0);
    is("keywheel_control_ring_entries{ring=\"production\",state=\"retiring\"}", 1.0);
    is("keywheel_control_ring_active_versions_of_age{ring=\"production\",days=\"0\"}", 1.0);
    for (days, count) in [(30, 1.0), (90, 1.0), (180, 0.0), (365, 0.0)] {
        is(
            &format!("keywheel_control_ring_active_versions_of_age{{ring=\"production\",days=\"{days}\"}}"),
            count,
        );
    }
    let oldest = sample(&metrics, "keywheel_control_ring_oldest_active_version_seconds{ring=\"production\"}");
    assert!((100.0 * 86_400.0..100.1 * 86_400.0).contains(&oldest), "{oldest}");
    is("keywheel_control_rotations{state=\"overlapping\"}", 1.0);
    is("keywheel_control_ring_usage{ring=\"production\",state=\"reports\"}", 0.0);
    let head = serving.plane.store().audit_head().await.unwrap();
    is("keywheel_control_audit_records", head.seq as f64);
    let version = env!("CARGO_PKG_VERSION");
    is(&format!("keywheel_control_build_info{{version=\"{version}\"}}"), 1.0);
    serving.stop().await;
}

#[tokio::test]
async fn they_time_a_change_until_each_proxy_enforces_it() {
    let serving = Serving::plain(plane().await).await;
    let key = serving.plane.key().await;
    let client = http().build().unwrap();
    let epoch = serving.plane.epoch();
    let report = async |instance: &str, enforced: u64| {
        let proxy = format!(
            "node=edge&instance={instance}&filter=0.1.0&vms=1&epoch={epoch}&stored={enforced}&enforced={enforced}&age=0"
        );
        let url = format!("http://{}/v1/rings/production/snapshot", serving.ring);
        let answer = client.get(url).header("keywheel-proxy", proxy).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    };
    let count = "keywheel_control_propagation_seconds_count{ring=\"production\"}";
    let before = serving.plane.head();
    report("0a", before).await;
    report("0b", before).await;
    assert!(!serving.metrics().await.contains(count), "a proxy that is new took no change");

    serving.plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let after = serving.plane.head();
    report("0a", before).await;
    report("0a", after).await;
    report("0a", after).await;
    assert_eq!(sample(&serving.metrics().await, count), 1.0, "once for each proxy");
    report("0b", after).await;
    let metrics = serving.metrics().await;
    assert_eq!(sample(&metrics, count), 2.0);
    assert_eq!(sample(&metrics, "keywheel_control_ring_proxies{ring=\"production\"}"), 2.0);
    drop(client);
    serving.stop().await;
}

#[tokio::test]
async fn nothing_that_a_client_sends_becomes_a_label() {
    let serving = Serving::plain(plane().await).await;
    let client = http().build().unwrap();
    for listener in [serving.admin, serving.ring] {
        for path in
            ["/CANARY", "/v1/keys/CANARY", "/v1/rings/CANARY/snapshot?x=CANARY", "/v1/clients/CANARY/revoke"]
        {
            for method in ["GET", "POST", "CANARY"] {
                let method = method.parse().unwrap();
                let request = client.request(method, format!("http://{listener}{path}"));
                let request = request.bearer_auth(&serving.plane.token).header("x-request-id", "CANARY");
                request.header("user-agent", "CANARY").send().await.unwrap();
            }
        }
    }
    let metrics = serving.metrics().await;
    assert!(!metrics.contains("CANARY"), "{metrics}");
    let of = |label: &str| -> BTreeSet<&str> {
        let value = |line: &'_ str| {
            let at = line.find(&format!("{label}=\""))? + label.len() + 2;
            Some((at, at + line[at..].find('"')?))
        };
        metrics.lines().filter_map(|line| value(line).map(|(from, to)| &line[from..to])).collect()
    };
    assert_eq!(of("method"), BTreeSet::from(["GET", "POST", "other"]));
    assert!(of("route").contains("none") && of("route").contains("/v1/keys/{key}"), "{:?}", of("route"));
    let not_found = "keywheel_control_http_requests_total{listener=\"admin\",method=\"GET\",route=\"/v1/keys/{key}\",status=\"404\"}";
    assert_eq!(sample(&metrics, not_found), 1.0);
    assert!(metrics.contains(
        "keywheel_control_http_request_seconds_bucket{le=\"0.001\",listener=\"admin\",route=\"none\"}"
    ));
    drop(client);
    serving.stop().await;
}

#[tokio::test]
async fn they_count_what_waits_in_a_canary() {
    let plane = plane().await;
    for new in [json!({ "name": "staging" }), json!({ "name": "ahead", "canary_of": "production" })] {
        plane.post("/v1/rings", new).await.json::<RingSummary>(StatusCode::CREATED);
    }
    plane.key().await;
    plane.key().await;
    let serving = Serving::plain(plane).await;
    let metrics = serving.metrics().await;
    assert_eq!(sample(&metrics, "keywheel_control_ring_waiting_versions{ring=\"production\"}"), 2.0);
    for other in ["staging", "ahead"] {
        let series = format!("keywheel_control_ring_waiting_versions{{ring=\"{other}\"}}");
        assert!(!metrics.contains(&series), "{other} has no canary");
    }
    serving.stop().await;
}
