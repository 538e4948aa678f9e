use axum::http::StatusCode;
use keywheel_api::{KeyWithSecret, RotationWithSecret};
use keywheel_keyring::Digest;
use serde_json::json;

use crate::support::{new_version, plane};

#[tokio::test]
async fn a_repeated_create_returns_the_same_key() {
    let plane = plane().await;
    plane.client("acme").await;
    plane.client("other").await;
    let body = json!({ "client": "acme", "scopes": ["trade"], "version": new_version() });
    let first: KeyWithSecret = plane.post("/v1/keys", body.clone()).await.json(StatusCode::CREATED);
    let head = plane.head();
    let second: KeyWithSecret = plane.post("/v1/keys", body.clone()).await.json(StatusCode::OK);
    assert_eq!(first, second);
    assert_eq!(plane.head(), head, "nothing changed");

    // Even after the key moved on.
    plane.rotate(&first.key, 60).await;
    let third: KeyWithSecret = plane.post("/v1/keys", body.clone()).await.json(StatusCode::OK);
    assert_eq!(third.key.id, first.key.id);

    let mut another_digest = body.clone();
    another_digest["version"]["digest"] = json!(Digest::of(b"another"));
    plane.post("/v1/keys", another_digest).await.problem("version-conflict");
    let mut another_client = body.clone();
    another_client["client"] = json!("other");
    plane.post("/v1/keys", another_client).await.problem("version-conflict");
    let mut another_id = body;
    another_id["version"]["id"] = new_version()["id"].clone();
    plane.post("/v1/keys", another_id).await.problem("version-conflict");
}

#[tokio::test]
async fn a_repeated_rotation_returns_the_same_rotation() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}/rotations", key.id);
    let body = json!({ "overlap_seconds": 60, "version": new_version() });
    let first: RotationWithSecret = plane.post(&path, body.clone()).await.json(StatusCode::CREATED);
    let second: RotationWithSecret = plane.post(&path, body.clone()).await.json(StatusCode::OK);
    assert_eq!(first, second);
    assert_eq!(plane.head(), 3);

    let mut another_overlap = body.clone();
    another_overlap["overlap_seconds"] = json!(5);
    plane.post(&path, another_overlap).await.problem("version-conflict");

    let mut another_digest = body;
    another_digest["version"]["digest"] = json!(Digest::of(b"another"));
    plane.post(&path, another_digest).await.problem("version-conflict");
}

#[tokio::test]
async fn a_repeated_client_is_the_same_only_with_the_same_owner() {
    let plane = plane().await;
    plane.client("acme").await;
    assert_eq!(plane.post("/v1/clients", json!({ "name": "acme" })).await.status, StatusCode::OK);
    plane.post("/v1/clients", json!({ "name": "acme", "owner": "x" })).await.problem("client-exists");
}
