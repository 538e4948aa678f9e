use axum::http::StatusCode;
use keywheel_api::{Key, Problem};
use serde_json::json;

use crate::support::{Plane, new_version, plane};

async fn refused(plane: &Plane, key: &Key, slug: &str) -> Problem {
    let head = plane.head();
    let body = json!({ "overlap_seconds": 60, "version": new_version() });
    let answer = plane.post(&format!("/v1/keys/{}/rotations", key.id), body).await;
    assert_eq!(plane.head(), head, "nothing changed");
    assert_eq!(answer.status, StatusCode::CONFLICT);
    answer.problem(slug)
}

#[tokio::test]
async fn a_second_rotation_is_refused_with_the_open_ones_id() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    assert_eq!(refused(&plane, &key, "rotation-open").await.rotation, Some(rotation.id.clone()));
    assert_eq!(plane.show(&key).await.open_rotation, Some(rotation.id));
}

#[tokio::test]
async fn a_revoked_key_is_not_rotated() {
    let plane = plane().await;
    let key = plane.key().await;
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    refused(&plane, &key, "key-revoked").await;

    let key = plane.key().await;
    let only = &key.versions[0].id;
    plane.post(&format!("/v1/keys/{}/versions/{only}/revoke", key.id), json!({})).await;
    refused(&plane, &key, "key-revoked").await;
}
