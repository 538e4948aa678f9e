use axum::http::StatusCode;
use keywheel_api::{Campaign, Key, List, Notice};
use keywheel_control::{RingAuth, app};
use serde_json::{Value, json};

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

    let campaign = json!({ "name": "q4", "wave": { "keys": 1 }, "overlap_seconds": 60 });
    plane.post("/v1/campaigns", campaign.clone()).await.json::<Campaign>(StatusCode::CREATED);
    let list: List<Campaign> = ask(&mine, "GET", "/v1/campaigns", "").await.json(StatusCode::OK);
    assert_eq!(list.items.len(), 1);
    let list: List<Campaign> = ask(&other, "GET", "/v1/campaigns", "").await.json(StatusCode::OK);
    assert_eq!(list.items, []);
    for path in ["/v1/campaigns", "/v1/campaigns/preview"] {
        ask(&other, "POST", path, &campaign.to_string()).await.problem("forbidden");
    }

    // Every operation on something that belongs to a ring, with the body of its example.
    let (version, id) = (&key.versions[0].id, &key.id);
    let document: Value = ask(&other, "GET", "/openapi.json", "").await.json(StatusCode::OK);
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let belongs = ["{key}", "{ring}", "{rotation}", "{campaign}"].iter().any(|name| path.contains(name));
        for (method, operation) in operations.as_object().unwrap().iter().filter(|_| belongs) {
            let of_all_rings = operation["x-keywheel-all-rings"] == true;
            let refusal = if path.contains("{ring}") || of_all_rings { "forbidden" } else { "not-found" };
            let path = path
                .replace("{key}", id)
                .replace("{version}", version)
                .replace("{rotation}", &rotation.id)
                .replace("{campaign}", "q4")
                .replace("{ring}", "production");
            let body = &operation["requestBody"]["content"]["application/json"]["example"];
            let body = if body.is_null() { String::new() } else { body.to_string() };
            ask(&other, &method.to_uppercase(), &path, &body).await.problem(refusal);
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    ask(&other, "POST", "/v1/keys", r#"{"client":"acme","ring":"production"}"#).await.problem("forbidden");
    ask(&other, "POST", "/v1/keys", r#"{"client":"acme"}"#).await.problem("forbidden");
    ask(&other, "GET", "/v1/rings/none", "").await.problem("forbidden");
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
