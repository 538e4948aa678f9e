use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::{Key, KeyWithSecret, TokenWithSecret};
use keywheel_control::clock;
use keywheel_control::jobs::purge::forget_answers;
use keywheel_control::{RingAuth, app};
use keywheel_keyring::Millis;
use serde_json::{Value, json};
use sqlx::Row as _;

use crate::support::{Answer, Plane, call, new_version, plane, plane_with};

const DAY: u64 = 24 * 60 * 60 * 1000;

async fn post(plane: &Plane, key: &str, path: &str, body: &Value) -> Answer {
    post_as(plane, &plane.token, key, path, &body.to_string()).await
}

async fn post_as(plane: &Plane, token: &str, key: &str, path: &str, body: &str) -> Answer {
    let request = Request::builder().method("POST").uri(path);
    let request = request.header("authorization", format!("Bearer {token}")).header("idempotency-key", key);
    call(app::admin(plane.control.clone()), request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_without_the_secret_and_changes_nothing() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme", "scopes": ["trade"] });
    let first: KeyWithSecret = post(&plane, "one", "/v1/keys", &body).await.json(StatusCode::CREATED);
    assert!(first.secret.is_some());
    let (head, records) = (plane.head(), plane.store().audit_records(0, 500).await.unwrap().len());

    let again: KeyWithSecret = post(&plane, "one", "/v1/keys", &body).await.json(StatusCode::CREATED);
    assert_eq!((&again.key, again.secret), (&first.key, None));
    // Whatever became of it since, and after a restart.
    plane.post(&format!("/v1/keys/{}/revoke", first.key.id), json!({})).await;
    let plane = plane.restart().await;
    let again: KeyWithSecret = post(&plane, "one", "/v1/keys", &body).await.json(StatusCode::CREATED);
    assert_eq!(again.key, first.key);
    assert_eq!(plane.head(), head + 1, "the revocation alone");
    assert_eq!(plane.store().audit_records(0, 500).await.unwrap().len(), records + 1);

    let other: KeyWithSecret = post(&plane, "two", "/v1/keys", &body).await.json(StatusCode::CREATED);
    assert_ne!(other.key.id, first.key.id);
}

#[tokio::test]
async fn tokens_are_made_once_and_no_secret_is_kept() {
    let plane = plane().await;
    let body = json!({ "role": "proxy" });
    let first: TokenWithSecret = post(&plane, "a", "/v1/tokens", &body).await.json(StatusCode::CREATED);
    let again: TokenWithSecret = post(&plane, "a", "/v1/tokens", &body).await.json(StatusCode::CREATED);
    assert_eq!((&again.about, again.token), (&first.about, None));
    let path = format!("/v1/tokens/{}/rotate", first.about.id);
    let rotated: TokenWithSecret = post(&plane, "b", &path, &json!({})).await.json(StatusCode::OK);
    let again: TokenWithSecret = post(&plane, "b", &path, &json!({})).await.json(StatusCode::OK);
    assert_eq!((&again.about, again.token), (&rotated.about, None));
    let rows = sqlx::query("SELECT answer FROM repeats").fetch_all(&plane.database().await).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(!row.get::<String, _>("answer").contains("kwt_"));
    }
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme" });
    assert_eq!(post(&plane, "k", "/v1/keys", &body).await.status, StatusCode::CREATED);
    let head = plane.head();
    let another = json!({ "client": "acme", "scopes": ["trade"] });
    let refused = post(&plane, "k", "/v1/keys", &another).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.problem("idempotency-key-reused").detail.contains("POST /v1/keys"));
    post(&plane, "k", "/v1/clients", &body).await.problem("idempotency-key-reused");
    assert_eq!(plane.head(), head);
    // Another caller's key is another key.
    let operator = plane.token_of(json!({ "role": "operator" })).await;
    let answer = post_as(&plane, &operator, "k", "/v1/keys", &another.to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    for bad in ["", "a b", &"x".repeat(129)] {
        let answer = post(&plane, bad, "/v1/keys", &body).await;
        assert_eq!(answer.problem("invalid-request").errors[0].field, "idempotency-key", "{bad}");
    }
}

#[tokio::test]
async fn what_was_refused_may_be_mended_under_the_same_key() {
    let plane = plane().await;
    let body = json!({ "client": "acme" });
    post(&plane, "k", "/v1/keys", &body).await.problem("not-found");
    post(&plane, "k", "/v1/keys", &json!({ "client": "" })).await.problem("not-found");
    plane.client("acme").await;
    assert_eq!(post(&plane, "k", "/v1/keys", &body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn what_changed_nothing_the_first_time_changes_nothing_the_second() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}", key.id);
    let revoke = format!("{path}/revoke");
    plane.post(&revoke, json!({})).await;
    let first: Key = post(&plane, "k", &revoke, &json!({})).await.json(StatusCode::OK);
    assert_eq!(plane.post(&format!("{path}/reinstate"), json!(null)).await.status, StatusCode::OK);
    let head = plane.head();
    let again: Key = post(&plane, "k", &revoke, &json!({})).await.json(StatusCode::OK);
    assert_eq!(again, first, "as it was answered");
    assert_eq!(plane.head(), head);
    assert!(
        plane.show(&key).await.revoked_at.is_none(),
        "a repeat does not revoke what was reinstated since"
    );
}

#[tokio::test]
async fn many_at_once_are_carried_out_once() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme" });
    let asked = (0..8).map(|_| {
        let (plane, body) = (plane.clone(), body.clone());
        tokio::spawn(async move { post(&plane, "k", "/v1/keys", &body).await })
    });
    let (mut ids, mut secrets) = (Vec::new(), 0);
    for asked in asked.collect::<Vec<_>>() {
        let made: KeyWithSecret = asked.await.unwrap().json(StatusCode::CREATED);
        secrets += usize::from(made.secret.is_some());
        ids.push(made.key.id);
    }
    ids.dedup();
    assert_eq!((ids.len(), secrets, plane.head()), (1, 1, 1));
}

#[tokio::test]
async fn a_repeat_may_wait_for_the_proxies_too() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme" });
    for _ in 0..2 {
        let answer: Value = post(&plane, "k", "/v1/keys?wait=applied", &body).await.json(StatusCode::CREATED);
        assert_eq!(answer["applied"]["complete"], true, "{answer}");
        assert_eq!(answer["applied"]["rings"][0]["revision"], 1, "{answer}");
    }
    let kept = sqlx::query("SELECT answer FROM repeats").fetch_one(&plane.database().await).await.unwrap();
    assert!(!kept.get::<String, _>("answer").contains("applied"), "that is for each to wait for");
}

#[tokio::test]
async fn answers_are_forgotten_after_a_day() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme" });
    post(&plane, "old", "/v1/keys", &body).await;
    post(&plane, "new", "/v1/keys", &body).await;
    let database = plane.database().await;
    sqlx::query("UPDATE repeats SET at = at - $1 WHERE key = 'old'")
        .bind(i64::try_from(DAY).unwrap())
        .execute(&database)
        .await
        .unwrap();
    // Even before it is purged.
    assert_eq!(post(&plane, "old", "/v1/keys", &json!({ "client": "acme", "scopes": [] })).await.status, 201);
    assert_eq!(plane.head(), 3);
    assert_eq!(forget_answers(plane.store(), clock::now()).await.unwrap(), 0);
    let later = Millis(clock::now().0 + DAY);
    assert_eq!(forget_answers(plane.store(), later).await.unwrap(), 2);
}

/// No handler may need to know of keys: each changes once, or in parts that may be repeated.
#[tokio::test]
async fn every_post_takes_a_key() {
    let plane = plane_with(RingAuth::Token).await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 600).await;
    let admin = app::admin(plane.control.clone());
    let document: Value = plane.ask(admin, None, "GET", "/openapi.json", "").await.json(StatusCode::OK);
    plane.post("/v1/policies", json!({ "name": "quarterly", "terms": {} })).await;
    let mut good = 0;
    for (template, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().unwrap();
            let takes = parameters.iter().any(|parameter| parameter["name"] == "idempotency-key");
            assert_eq!(takes, method == "post", "{method} {template}");
            if !takes {
                continue;
            }
            let signing_keys = plane.control.store.signers().await.unwrap();
            let id = if template.contains("signing-keys") {
                &signing_keys.last().unwrap().key.id
            } else {
                &key.id
            };
            let path = template
                .replace("{client}", "acme")
                .replace("{key}", id)
                .replace("{ring}", "production")
                .replace("{rotation}", &rotation.id)
                .replace("{version}", &key.versions[0].id);
            let mut body = operation["requestBody"]["content"]["application/json"]["example"].clone();
            if body.get("version").is_some() {
                body["version"] = new_version();
            }
            let first = post(&plane, template, &path, &body).await;
            assert!(first.status.as_u16() < 500, "{path}: {}", String::from_utf8_lossy(&first.body));
            if !first.status.is_success() {
                continue;
            }
            let again = post(&plane, template, &path, &body).await;
            let read = |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).unwrap();
            let (mut first, again) = (read(&first), read(&again));
            for secret in ["secret", "token"] {
                if let Some(secret) = first.get_mut(secret) {
                    *secret = Value::Null;
                }
            }
            assert_eq!(first, again, "{path}");
            good += 1;
        }
    }
    assert!(good >= 12, "{good}");
}
