use axum::http::StatusCode;
use keywheel_api::{Key, RotationEnd, RotationState, State};
use serde_json::json;

use crate::support::{Answer, Plane, plane};

async fn revoke(plane: &Plane, key: &Key, version: &str) -> Answer {
    plane.post(&format!("/v1/keys/{}/versions/{version}/revoke", key.id), json!({})).await
}

async fn state(plane: &Plane, key: &Key, version: &str) -> State {
    let key = plane.show(key).await;
    key.versions.into_iter().find(|v| v.id == version).unwrap().state
}

#[tokio::test]
async fn revoking_the_old_version_completes_its_rotation() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    assert_eq!(revoke(&plane, &key, &rotation.old_version).await.status, StatusCode::OK);
    let rotation = plane.store().rotation(&rotation.id).await.unwrap();
    assert_eq!(rotation.state, RotationState::Completed);
    assert_eq!(rotation.ended_by, Some(RotationEnd::OldVersionRevoked));
    assert_eq!(state(&plane, &key, &rotation.old_version).await, State::Revoked);
    assert_eq!(state(&plane, &key, &rotation.new_version).await, State::Active);
    plane.rotate(&key, 60).await;
}

#[tokio::test]
async fn revoking_the_new_version_makes_the_old_one_active_again() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    let since = plane.head();
    assert_eq!(revoke(&plane, &key, &rotation.new_version).await.status, StatusCode::OK);
    let rotation = plane.store().rotation(&rotation.id).await.unwrap();
    assert_eq!(rotation.state, RotationState::RolledBack);
    assert_eq!(rotation.ended_by, Some(RotationEnd::NewVersionRevoked));

    let document = plane.changes(since).await;
    let entries: Vec<_> =
        document.entries.iter().map(|e| (e.version.clone(), e.state, e.expires_at)).collect();
    let new = (rotation.new_version.clone(), State::Revoked, None);
    let old = (rotation.old_version.clone(), State::Active, None);
    assert_eq!(entries, [new, old], "its deadline is gone with the rotation");
    plane.rotate(&key, 60).await;
}

#[tokio::test]
async fn an_old_version_whose_deadline_passed_unseen_is_not_brought_back() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 1).await;
    // No scheduler runs here.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(revoke(&plane, &key, &rotation.new_version).await.status, StatusCode::OK);
    assert_eq!(state(&plane, &key, &rotation.old_version).await, State::Retired);
}

#[tokio::test]
async fn revoking_a_key_ends_every_version_that_has_not_ended() {
    let plane = plane().await;
    let key = plane.key().await;
    let first = plane.rotate(&key, 0).await;
    let second = plane.rotate(&key, 60).await;
    let path = format!("/v1/keys/{}/revoke", key.id);
    let revoked: Key = plane.post(&path, json!({})).await.json(StatusCode::OK);
    assert!(revoked.revoked_at.is_some() && revoked.open_rotation.is_none());
    assert_eq!(state(&plane, &key, &first.old_version).await, State::Retired, "ended before, and stays so");
    assert_eq!(state(&plane, &key, &second.old_version).await, State::Revoked);
    assert_eq!(state(&plane, &key, &second.new_version).await, State::Revoked);
    let rotation = plane.store().rotation(&second.id).await.unwrap();
    assert_eq!(rotation.state, RotationState::RolledBack);
    assert_eq!(rotation.ended_by, Some(RotationEnd::KeyRevoked));

    let head = plane.head();
    let again: Key = plane.post(&path, json!({})).await.json(StatusCode::OK);
    assert_eq!((again, plane.head()), (revoked, head), "twice is once");
}

#[tokio::test]
async fn a_version_that_ended_is_not_revoked_again() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    revoke(&plane, &key, &rotation.old_version).await.problem("version-ended");

    revoke(&plane, &key, &rotation.new_version).await;
    let head = plane.head();
    assert_eq!(revoke(&plane, &key, &rotation.new_version).await.status, StatusCode::OK, "twice is once");
    assert_eq!(plane.head(), head);
}
