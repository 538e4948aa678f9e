use axum::http::StatusCode;
use keywheel_api::{Key, List, Notice};
use keywheel_control::{RingAuth, app};
use serde_json::json;

use crate::support::plane_with;

#[tokio::test]
async fn a_token_sees_and_changes_its_rings_alone() {
    let plane = plane_with(RingAuth::Token).await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    let database = plane.database().await;
    for sql in [
        "INSERT INTO rings (id, name, epoch, revision, key_prefix, created_at)
         SELECT 2, 'staging', epoch, 0, key_prefix, created_at FROM rings",
        "INSERT INTO notices (at, key_id, kind, step_at, lead) SELECT 1, id, 'due', 2, 0 FROM keys",
    ] {
        sqlx::query(sql).execute(&database).await.unwrap();
    }
    let mine = plane.token_of(json!({ "role": "operator", "rings": ["production"] })).await;
    let other = plane.token_of(json!({ "role": "operator", "rings": ["staging"] })).await;
    let ask = async |token: &str, method: &str, path: &str, body: &str| {
        plane.ask(app::admin(plane.control.clone()), Some(token), method, path, body).await
    };

    let list: List<Key> = ask(&mine, "GET", "/v1/keys", "").await.json(StatusCode::OK);
    assert_eq!(list.items.len(), 1);
    let list: List<Key> = ask(&other, "GET", "/v1/keys", "").await.json(StatusCode::OK);
    assert_eq!(list.items, []);
    let list: List<Notice> = ask(&mine, "GET", "/v1/notices", "").await.json(StatusCode::OK);
    assert_eq!(list.items.iter().map(|notice| notice.key.as_str()).collect::<Vec<_>>(), [key.id.as_str()]);
    let list: List<Notice> = ask(&other, "GET", "/v1/notices", "").await.json(StatusCode::OK);
    assert_eq!(list.items, []);

    let (version, id) = (&key.versions[0].id, &key.id);
    for (method, path) in [
        ("GET", format!("/v1/keys/{id}")),
        ("GET", format!("/v1/keys/{id}/usage")),
        ("POST", format!("/v1/keys/{id}/revoke")),
        ("POST", format!("/v1/keys/{id}/reinstate")),
        ("POST", format!("/v1/keys/{id}/versions/{version}/revoke")),
        ("POST", format!("/v1/keys/{id}/versions/{version}/reinstate")),
        ("GET", format!("/v1/rotations/{}", rotation.id)),
        ("POST", format!("/v1/rotations/{}/cancel", rotation.id)),
        ("POST", format!("/v1/rotations/{}/rollback", rotation.id)),
    ] {
        ask(&other, method, &path, "").await.problem("not-found");
    }
    let deposit =
        json!({ "version": { "id": "kv_5HbNq0ZtWc3Rk8Lm", "digest": "ab".repeat(32) } }).to_string();
    for (method, path, body) in [
        ("POST", format!("/v1/keys/{id}/rotations"), r#"{"overlap_seconds":1}"#),
        ("PATCH", format!("/v1/keys/{id}"), r#"{"labels":{"team":"payments"}}"#),
        ("POST", format!("/v1/keys/{id}/next"), deposit.as_str()),
        ("DELETE", format!("/v1/keys/{id}/next"), ""),
        ("POST", format!("/v1/keys/{id}/versions"), ""),
        ("POST", format!("/v1/rotations/{}/brownout", rotation.id), r#"{"share":0.5,"seconds":60}"#),
    ] {
        ask(&other, method, &path, body).await.problem("not-found");
    }
    ask(&other, "POST", "/v1/keys", r#"{"client":"acme","ring":"production"}"#).await.problem("forbidden");
    ask(&other, "POST", "/v1/keys", r#"{"client":"acme"}"#).await.problem("forbidden");
    ask(&other, "GET", "/v1/rings/none", "").await.problem("forbidden");
    for (method, path, body) in [
        ("GET", "", ""),
        ("GET", "/export", ""),
        ("POST", "/import", r#"{"items":[]}"#),
        ("GET", "/proxies", ""),
        ("POST", "/proxies/forget", r#"{"silent_for_seconds":60}"#),
        ("PUT", "/policy", r#"{"policy":null}"#),
        ("GET", "/signing-keys", ""),
    ] {
        ask(&other, method, &format!("/v1/rings/production{path}"), body).await.problem("forbidden");
    }
    let seen = plane.show(&key).await;
    assert!(seen.revoked_at.is_none() && seen.open_rotation.is_some(), "nothing changed");
    assert_eq!(ask(&mine, "GET", "/v1/rings/production", "").await.status, StatusCode::OK);
    assert_eq!(ask(&mine, "POST", &format!("/v1/keys/{id}/revoke"), "").await.status, StatusCode::OK);

    for role in ["proxy", "operator"] {
        let limited = plane.token_of(json!({ "role": role, "rings": ["staging"] })).await;
        let ring = app::ring(plane.control.clone());
        plane
            .ask(ring, Some(&limited), "GET", "/v1/rings/production/snapshot", "")
            .await
            .problem("forbidden");
    }
}

#[tokio::test]
async fn what_reaches_over_all_rings_needs_a_token_that_does() {
    let plane = plane_with(RingAuth::Token).await;
    plane.client("acme").await;
    let digests = json!({ "digests": ["ab".repeat(32)] }).to_string();
    for role in ["admin", "operator", "auditor"] {
        let limited = plane.token_of(json!({ "role": role, "rings": ["production"] })).await;
        for (method, path, body) in [
            ("PATCH", "/v1/clients/acme", r#"{"owner":"me"}"#),
            ("POST", "/v1/clients/acme/revoke", ""),
            ("POST", "/v1/compromised", digests.as_str()),
            ("GET", "/v1/audit", ""),
            ("GET", "/v1/audit/checkpoints", ""),
            ("GET", "/v1/tokens", ""),
            ("POST", "/v1/tokens", r#"{"role":"admin"}"#),
            ("POST", "/v1/policies", r#"{"name":"slow","terms":{}}"#),
            ("PUT", "/v1/policies/slow", "{}"),
            ("DELETE", "/v1/policies/slow", ""),
            ("POST", "/v1/rings/production/signing-keys", ""),
            ("POST", "/v1/rings/production/signing-keys/none/activate", ""),
            ("GET", "/v1/backup", ""),
            ("GET", "/metrics", ""),
        ] {
            let admin = app::admin(plane.control.clone());
            plane.ask(admin, Some(&limited), method, path, body).await.problem("forbidden");
        }
    }
    plane.post("/v1/tokens", json!({ "role": "proxy", "rings": ["nowhere"] })).await.problem("not-found");
}
