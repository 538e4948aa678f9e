use axum::http::StatusCode;
use keywheel_api::{KeyWithSecret, RotationWithSecret, SelfRotationWithSecret, TokenWithSecret};
use keywheel_keyring::PlainKey;
use serde_json::json;

use crate::support::plane;

#[tokio::test]
async fn no_plaintext_key_or_token_is_stored() {
    let plane = plane().await;
    plane.client("acme").await;
    let made: KeyWithSecret =
        plane.post("/v1/keys", json!({ "client": "acme" })).await.json(StatusCode::CREATED);
    let rotations = format!("/v1/keys/{}/rotations", made.key.id);
    let rotated: RotationWithSecret =
        plane.post(&rotations, json!({ "overlap_seconds": 60 })).await.json(StatusCode::CREATED);
    let token: TokenWithSecret =
        plane.post("/v1/tokens", json!({ "role": "proxy" })).await.json(StatusCode::CREATED);
    let terms = json!({ "self_rotation": true });
    plane.post("/v1/policies", json!({ "name": "own", "terms": terms })).await;
    let new = json!({ "client": "acme", "policy": "own" });
    let own: KeyWithSecret = plane.post("/v1/keys", new).await.json(StatusCode::CREATED);
    let own = own.secret.unwrap();
    let rotated_by_itself = plane.as_holder(&own, "POST", "/v1/self/rotations", json!({})).await;
    let rotated_by_itself: SelfRotationWithSecret = rotated_by_itself.json(StatusCode::CREATED);
    let not_ours = format!("kw_live_0123456789abcdef_{}", "Z".repeat(49));
    plane.as_holder(&not_ours, "GET", "/v1/self", json!(null)).await.problem("key-not-accepted");
    let secrets = [
        made.secret.unwrap(),
        rotated.secret.unwrap(),
        token.token.unwrap(),
        plane.token.clone(),
        own,
        rotated_by_itself.secret.unwrap(),
        not_ours,
    ];

    let digest = PlainKey::from(secrets[0].clone()).digest();
    assert!(plane.changes(0).await.entries.iter().any(|entry| entry.digest == digest));
    // Neither the write-ahead log nor, once it is folded in, the database.
    for round in ["open", "closed"] {
        for file in std::fs::read_dir(plane.dir.path().join("data")).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for secret in &secrets {
                // Not even a part of it: what follows the public id.
                let secret = &secret.as_bytes()[secret.len() - 40..];
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "{} while {round}", path.display());
            }
        }
        plane.store().close().await;
    }
}

#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;

    let plane = plane().await;
    plane.key().await;
    let data = plane.dir.path().join("data");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in std::fs::read_dir(&data).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
