use axum::http::StatusCode;
use keywheel_api::{KeyUsage, Ring, RingSummary, Rotation, RotationState, WaitsFor, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_control::store::NewUsage;
use keywheel_keyring::usage::{Batch, Count};
use keywheel_keyring::{Digest, Millis};
use serde_json::json;

use crate::support::{Plane, new_version, plane, policy_of_acme};

const MAIN: &str = "production";
const CANARY: &str = "production-canary";
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

#[tokio::test]
async fn what_belongs_to_the_main_ring_is_refused_with_its_name() {
    let plane = plane().await;
    plane.client("acme").await;
    let new = json!({ "name": CANARY, "canary_of": MAIN, "pause_seconds": 60 });
    let made: RingSummary = plane.post("/v1/rings", new.clone()).await.json(StatusCode::CREATED);
    let again: RingSummary = plane.post("/v1/rings", new).await.json(StatusCode::OK);
    assert_eq!((made.epoch, made.key_prefix.as_str()), (again.epoch, "kw_live_"));
    plane.post("/v1/rings", json!({ "name": CANARY })).await.problem("ring-exists");

    let item = json!({ "digest": Digest::of(b"x"), "client": "acme", "scopes": [] });
    let policy = json!({ "name": "ours", "terms": {} });
    assert_eq!(plane.post("/v1/policies", policy).await.status, StatusCode::CREATED);
    let campaign =
        json!({ "name": "q4", "ring": CANARY, "select": {}, "wave": { "keys": 10 }, "pause_seconds": 60 });
    for (method, path, body, named) in [
        ("POST", "/v1/keys", json!({ "client": "acme", "ring": CANARY, "version": new_version() }), MAIN),
        ("POST", "/v1/rings/production-canary/import", json!({ "items": [item] }), MAIN),
        ("PUT", "/v1/rings/production-canary/policy", json!({ "policy": "ours" }), MAIN),
        ("POST", "/v1/rings/production-canary/promote", json!(null), MAIN),
        ("POST", "/v1/rings", json!({ "name": "another", "canary_of": MAIN }), CANARY),
        ("POST", "/v1/rings", json!({ "name": "another", "canary_of": CANARY }), MAIN),
        ("PATCH", "/v1/rings/production", json!({ "pause_seconds": 60 }), MAIN),
        ("POST", "/v1/campaigns", campaign, MAIN),
    ] {
        let problem = plane.admin(method, path, body.to_string()).await.problem("canary-ring");
        assert!(problem.detail.contains(&format!("`{named}`")), "{path}: {}", problem.detail);
    }
    for (body, field) in [
        (json!({ "name": "another", "pause_seconds": 60 }), "pause_seconds"),
        (json!({ "name": "another", "promote": "after_pause" }), "promote"),
        (json!({ "name": "another", "canary_of": MAIN, "pause_seconds": 2_592_001 }), "pause_seconds"),
        (json!({ "name": "another", "canary_of": MAIN, "key_prefix": "kw_test_" }), "key_prefix"),
    ] {
        let problem = plane.post("/v1/rings", body).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, field);
    }
    plane.post("/v1/rings", json!({ "name": "another", "canary_of": "none" })).await.problem("not-found");
    let staging = plane.post("/v1/rings", json!({ "name": "staging" })).await;
    assert_eq!(staging.status, StatusCode::CREATED);
    plane.post("/v1/rings/staging/promote", json!(null)).await.problem("canary-ring");
    assert_eq!(plane.head(), 0, "nothing of it came to be");
}

#[tokio::test]
async fn an_import_goes_to_both_rings_at_once() {
    let plane = plane().await;
    plane.post("/v1/rings", json!({ "name": CANARY, "canary_of": MAIN })).await;
    plane.import((0..10_u32).map(|n| Digest::of(&n.to_be_bytes()))).await;
    for name in [MAIN, CANARY] {
        assert_eq!(plane.control.ring(name).unwrap().head(), 10);
        let ring: Ring = plane.get(&format!("/v1/rings/{name}")).await.json(StatusCode::OK);
        assert_eq!(ring.entries, 10, "{name}");
    }
}

async fn report(plane: &Plane, ring: &str, number: u64, to: u64, used: Option<&str>) {
    let count = |version: &str| Count {
        version: version.into(),
        outcome: "valid".into(),
        minute: Millis(to - to % MINUTE),
        count: 1,
    };
    let batch = Batch {
        node: ring.into(),
        instance: "0a".into(),
        vm: "1".into(),
        batch: number,
        from: Millis(to - MINUTE),
        to: Millis(to),
        counts: used.map(count).into_iter().collect(),
    };
    let ring = plane.control.ring(ring).unwrap().record.id;
    let report = NewUsage { ring, batches: vec![batch], now: Millis(to) };
    plane.store().record_usage(report).await.unwrap();
}

#[tokio::test]
async fn what_its_proxies_count_is_counted_for_the_main_rings_keys() {
    let plane = plane().await;
    let terms = json!({
        "overlap_seconds": 24 * 3600, "retire": "when_unused", "quiet_period_seconds": 2 * 3600,
    });
    policy_of_acme(&plane, terms).await;
    let key = plane.key().await;
    let made =
        plane.post("/v1/rings", json!({ "name": CANARY, "canary_of": MAIN, "pause_seconds": 0 })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let body = json!({ "version": new_version() });
    let path = format!("/v1/keys/{}/rotations", key.id);
    let rotation: Rotation = plane.post(&path, body).await.json(StatusCode::CREATED);
    let show = async || -> Rotation {
        plane.get(&format!("/v1/rotations/{}", rotation.id)).await.json(StatusCode::OK)
    };
    let begun = time::millis(rotation.begins_at).unwrap().0;
    let old = Some(rotation.old_version.as_str());
    report(&plane, MAIN, 1, begun + 10 * MINUTE, None).await;
    report(&plane, CANARY, 1, begun + 2 * HOUR, old).await;
    report(&plane, MAIN, 2, begun + 3 * HOUR, None).await;
    report(&plane, CANARY, 2, begun + 3 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 3 * HOUR)).await.unwrap();
    let waiting = show().await;
    assert_eq!(waiting.state, RotationState::Overlapping);
    assert!(matches!(waiting.waits_for[..], [WaitsFor::Used { .. }]), "{:?}", waiting.waits_for);
    assert!(plane.show(&key).await.versions[0].last_used_at.is_some());

    // The canary falls silent: it may still see the old version.
    report(&plane, MAIN, 3, begun + 6 * HOUR, None).await;
    catch_up(plane.store(), Millis(begun + 6 * HOUR)).await.unwrap();
    let waiting = show().await;
    assert!(matches!(waiting.waits_for[..], [WaitsFor::Silent { .. }]), "{:?}", waiting.waits_for);
    report(&plane, CANARY, 3, begun + 6 * HOUR + MINUTE, None).await;
    report(&plane, MAIN, 4, begun + 6 * HOUR + MINUTE, None).await;
    catch_up(plane.store(), Millis(begun + 6 * HOUR + 2 * MINUTE)).await.unwrap();
    assert_eq!(show().await.state, RotationState::Draining);
    let usage: KeyUsage = plane.get(&format!("/v1/keys/{}/usage", key.id)).await.json(StatusCode::OK);
    assert_eq!((usage.vms, usage.reporting.len()), (2, 2));
    let tally: Ring = plane.get(&format!("/v1/rings/{CANARY}")).await.json(StatusCode::OK);
    assert_eq!((tally.usage.reports, tally.usage.unknown_counts), (3, 0));
}
