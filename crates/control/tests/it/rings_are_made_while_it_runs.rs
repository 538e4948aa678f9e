use axum::http::StatusCode;
use keywheel_api::{AuditRecord, Key, KeyWithSecret, List, Ring, RingSigningKey, RingSummary};
use keywheel_control::app;
use keywheel_control::store::MAX_RINGS;
use serde_json::{Value, json};

use crate::support::{Plane, new_version, plane};

async fn make(plane: &Plane, name: &str, prefix: &str) -> RingSummary {
    let body = json!({ "name": name, "key_prefix": prefix });
    plane.post("/v1/rings", body).await.json(StatusCode::CREATED)
}

async fn names(plane: &Plane, token: &str) -> Vec<String> {
    let admin = app::admin(plane.control.clone());
    let rings: List<RingSummary> =
        plane.ask(admin, Some(token), "GET", "/v1/rings", "").await.json(StatusCode::OK);
    rings.items.into_iter().map(|ring| ring.name).collect()
}

#[tokio::test]
async fn a_ring_is_served_at_once_and_after_a_restart_with_keys_of_its_own() {
    let plane = plane().await;
    let production = plane.key().await;
    let made = make(&plane, "staging", "kw_test_").await;
    assert_eq!((made.revision, made.key_prefix.as_str(), made.of), (0, "kw_test_", 0));
    let key = json!({ "client": "acme", "ring": "staging" });
    let key: KeyWithSecret = plane.post("/v1/keys", key).await.json(StatusCode::CREATED);
    assert!(key.secret.unwrap().starts_with("kw_test_"));
    assert_eq!(plane.head(), 1, "the other ring did not change");

    let plane = plane.restart().await;
    for _ in 0..2 {
        let ring = plane.control.ring("staging").unwrap();
        let path = "/v1/rings/staging/snapshot";
        let answer = plane.ask(app::ring(plane.control.clone()), None, "GET", path, "").await;
        let page = answer.document(&plane.control.trust(&ring).await.unwrap());
        let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, [key.key.id.as_str()], "and nothing of {}", production.id);
    }
    let shown: Ring = plane.get("/v1/rings/staging").await.json(StatusCode::OK);
    assert_eq!((shown.entries, shown.trust.len(), shown.epoch), (1, 1, made.epoch));
    let production: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
    assert_ne!(shown.trust, production.trust, "who signs one signs nothing of the other");
    let signing: List<RingSigningKey> =
        plane.get("/v1/rings/staging/signing-keys").await.json(StatusCode::OK);
    assert_eq!(signing.items.len(), 1);
    let trail: List<AuditRecord> = plane.get("/v1/audit").await.json(StatusCode::OK);
    let created = trail.items.iter().filter(|record| record.event.action == "ring.create");
    assert_eq!(
        created.map(|record| record.event.resource.as_str()).collect::<Vec<_>>(),
        ["production", "staging"]
    );
}

#[tokio::test]
async fn the_same_ring_twice_is_one_ring_and_another_of_its_name_is_refused() {
    let plane = plane().await;
    let made = make(&plane, "staging", "kw_test_").await;
    let again = plane.post("/v1/rings", json!({ "name": "staging", "key_prefix": "kw_test_" })).await;
    assert_eq!(again.json::<RingSummary>(StatusCode::OK), made);
    plane.post("/v1/rings", json!({ "name": "staging" })).await.problem("ring-exists");
    for (name, prefix, field) in [
        ("", "kw_test_", "name"),
        ("a b", "kw_test_", "name"),
        (&"x".repeat(65), "kw_test_", "name"),
        ("other", "kw", "key_prefix"),
        ("other", "KW_TEST_", "key_prefix"),
    ] {
        let problem = plane.post("/v1/rings", json!({ "name": name, "key_prefix": prefix })).await;
        assert_eq!(problem.problem("invalid-request").errors[0].field, field, "{name} {prefix}");
    }
    let same: RingSummary =
        plane.post("/v1/rings", json!({ "name": "other" })).await.json(StatusCode::CREATED);
    assert_eq!(same.key_prefix, "kw_live_", "as the first ring");
    assert_eq!(names(&plane, &plane.token).await, ["other", "production", "staging"]);
}

#[tokio::test]
async fn a_request_that_is_carried_out_once_makes_a_ring_that_is_served() {
    let plane = plane().await;
    let admin = || app::admin(plane.control.clone());
    let request = || {
        axum::http::Request::post("/v1/rings")
            .header("authorization", format!("Bearer {}", plane.token))
            .header("idempotency-key", "once")
            .body(json!({ "name": "staging" }).to_string().into())
            .unwrap()
    };
    let first: Value = crate::support::call(admin(), request()).await.json(StatusCode::CREATED);
    assert!(plane.control.ring("staging").is_some());
    let again: Value = crate::support::call(admin(), request()).await.json(StatusCode::CREATED);
    assert_eq!(first, again);
}

#[tokio::test]
async fn who_is_limited_to_a_ring_makes_none_and_sees_that_one() {
    let plane = plane().await;
    make(&plane, "staging", "kw_test_").await;
    let limited = plane.token_of(json!({ "role": "operator", "rings": ["staging"] })).await;
    assert_eq!(names(&plane, &limited).await, ["staging"]);
    for role in ["operator", "auditor", "admin"] {
        let token = match role {
            "admin" => plane.token_of(json!({ "role": role, "rings": ["staging"] })).await,
            role => plane.token_of(json!({ "role": role })).await,
        };
        let admin = app::admin(plane.control.clone());
        plane.ask(admin, Some(&token), "POST", "/v1/rings", r#"{"name":"mine"}"#).await.problem("forbidden");
    }
    let body = json!({ "client": "acme", "ring": "staging", "version": new_version() }).to_string();
    plane.client("acme").await;
    let admin = app::admin(plane.control.clone());
    let key: Key =
        plane.ask(admin, Some(&limited), "POST", "/v1/keys", &body).await.json(StatusCode::CREATED);
    assert_eq!(key.ring, "staging");
}

#[tokio::test]
async fn there_are_not_more_rings_than_memory_is_kept_for() {
    let plane = plane().await;
    for number in 1..MAX_RINGS {
        make(&plane, &format!("ring-{number}"), "kw_test_").await;
    }
    plane.post("/v1/rings", json!({ "name": "one-more" })).await.problem("too-many-rings");
    assert!(plane.control.ring("one-more").is_none());
}
