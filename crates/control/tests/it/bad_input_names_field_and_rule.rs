use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Plane, plane};

async fn check(plane: &Plane, path: &str, body: Value, field: &str) {
    let answer = plane.post(path, body.clone()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
    let problem = answer.problem("invalid-request");
    assert_eq!(problem.errors.len(), 1, "{problem:?}");
    assert_eq!(problem.errors[0].field, field, "{problem:?}");
    assert!(!problem.errors[0].rule.is_empty());
}

#[tokio::test]
async fn bad_input_names_field_and_rule() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotations = format!("/v1/keys/{}/rotations", key.id);
    let head = plane.head();

    check(&plane, "/v1/clients", json!({}), "name").await;
    check(&plane, "/v1/clients", json!({ "name": "a b" }), "name").await;
    for nowhere in [".", ".."] {
        check(&plane, "/v1/clients", json!({ "name": nowhere }), "name").await;
        check(&plane, "/v1/rings", json!({ "name": nowhere }), "name").await;
        check(&plane, "/v1/policies", json!({ "name": nowhere, "terms": {} }), "name").await;
        check(&plane, "/v1/campaigns", json!({ "name": nowhere, "wave": { "keys": 1 } }), "name").await;
    }
    let none = json!({ "name": "c", "wave": { "keys": 1 }, "select": { "clients": [] } });
    check(&plane, "/v1/campaigns", none, "select.clients").await;
    check(&plane, "/v1/clients", json!({ "name": "x".repeat(129) }), "name").await;
    check(&plane, "/v1/clients", json!({ "name": "x", "owner": "a\nb" }), "owner").await;
    check(&plane, "/v1/clients", json!({ "name": "x", "colour": 1 }), "colour").await;
    check(&plane, "/v1/keys", json!({ "client": "acme", "scopes": ["a b"] }), "scopes").await;
    check(&plane, "/v1/keys", json!({ "client": "acme", "scopes": "trade" }), "scopes").await;
    check(&plane, "/v1/keys", json!({ "client": "acme", "scopes": vec!["s"; 33] }), "scopes").await;
    for at in ["2001-01-01T00:00:00Z", "9998-01-01T00:00:00Z", "1900-01-01T00:00:00Z", "soon", "-5"] {
        check(&plane, "/v1/keys", json!({ "client": "acme", "expires_at": at }), "expires_at").await;
    }
    let version = json!({ "id": "kv_short", "digest": "ab".repeat(32) });
    check(&plane, "/v1/keys", json!({ "client": "acme", "version": version }), "version.id").await;
    let version = json!({ "id": "kv_0123456789abcdef", "digest": "ab" });
    check(&plane, "/v1/keys", json!({ "client": "acme", "version": version }), "version.digest").await;
    check(&plane, &rotations, json!({ "overlap_seconds": 7_776_001 }), "overlap_seconds").await;
    check(&plane, &rotations, json!({ "overlap_seconds": -1 }), "overlap_seconds").await;
    check(&plane, &rotations, json!({ "overlap_seconds": 1.5 }), "overlap_seconds").await;
    check(&plane, "/v1/tokens", json!({ "role": "root" }), "role").await;
    assert_eq!(plane.head(), head, "nothing changed");

    for broken in ["", "{", "[]", "[\"acme\"]", "{} {}", "\u{0}"] {
        let answer = plane.admin("POST", "/v1/keys", broken.into()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{broken:?}");
        answer.problem("invalid-request");
    }
    for ask in ["changes", "changes?epoch=x&since=0", "changes?since=-1", "snapshot?after=xyz"] {
        assert_eq!(plane.ring(ask).await.status, StatusCode::BAD_REQUEST, "{ask}");
    }
    let long = format!("changes?epoch={}&since=0&wait=61", plane.epoch());
    assert_eq!(plane.ring(&long).await.problem("invalid-request").errors[0].field, "wait");
    let big = json!({ "name": "x".repeat(70_000) });
    plane.post("/v1/clients", big).await.problem("body-too-large");
}

#[tokio::test]
async fn what_does_not_exist_is_a_problem_too() {
    let plane = plane().await;
    let key = plane.key().await;
    plane.get("/v1/keys/key_none").await.problem("not-found");
    plane.get("/v1/rotations/rot_none").await.problem("not-found");
    plane.get("/v1/rings/none").await.problem("not-found");
    plane.get("/nowhere").await.problem("not-found");
    plane.get("/v1/keys/%ff").await.problem("invalid-request");
    plane.admin("DELETE", "/v1/keys", String::new()).await.problem("method-not-allowed");
    plane.post("/v1/keys", json!({ "client": "nobody" })).await.problem("not-found");
    plane.post("/v1/keys", json!({ "client": "acme", "ring": "none" })).await.problem("not-found");
    let version = format!("/v1/keys/{}/versions/kv_none/revoke", key.id);
    plane.post(&version, json!({})).await.problem("not-found");
    // A version of another key.
    let other = plane.key().await;
    let version = format!("/v1/keys/{}/versions/{}/revoke", key.id, other.versions[0].id);
    plane.post(&version, json!({})).await.problem("not-found");
}

#[tokio::test]
async fn a_parameter_that_an_operation_does_not_have_is_refused() {
    let plane = plane().await;
    let key = plane.key().await;
    for (method, path, field) in [
        ("GET", "/v1/keys?clinet=acme".to_owned(), "clinet"),
        ("GET", format!("/v1/keys/{}?verbose=1", key.id), "verbose"),
        ("POST", format!("/v1/keys/{}/revoke?wait=applied&time_out=5", key.id), "time_out"),
        ("POST", format!("/v1/keys/{}/revoke?compromised=true", key.id), "compromised"),
        ("POST", format!("/v1/keys/{}/revoke?wait", key.id), "wait"),
    ] {
        let problem = plane.admin(method, &path, String::new()).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, field, "{path}");
    }
    assert!(plane.show(&key).await.revoked_at.is_none());
    assert_eq!(plane.get("/metrics?collect=all").await.status, StatusCode::OK, "scrapers add some");
    assert_eq!(plane.ring("snapshot?newer=1").await.status, StatusCode::OK, "so may a newer proxy");
}
