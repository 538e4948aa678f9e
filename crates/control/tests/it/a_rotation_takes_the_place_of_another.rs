use axum::http::StatusCode;
use keywheel_api::{Rotation, RotationEnd, RotationState, State};
use serde_json::json;

use crate::support::{new_version, plane};

#[tokio::test]
async fn a_rotation_that_supersedes_shortens_nobodys_overlap() {
    let plane = plane().await;
    let key = plane.key().await;
    let first = plane.rotate(&key, 60).await;
    let since = plane.head();
    let body = json!({ "overlap_seconds": 30, "supersede": true, "version": new_version() });
    let path = format!("/v1/keys/{}/rotations", key.id);
    let second: Rotation = plane.post(&path, body.clone()).await.json(StatusCode::CREATED);
    assert_eq!((&second.old_version, second.state), (&first.new_version, RotationState::Overlapping));
    let superseded = plane.store().rotation(&first.id).await.unwrap();
    assert_eq!(superseded.ended_by, Some(RotationEnd::Superseded));

    let entries = plane.changes(since).await.entries;
    let states: Vec<_> = entries.iter().map(|e| (e.version.as_str(), e.state)).collect();
    let (new, old) = (second.new_version.as_str(), first.new_version.as_str());
    assert_eq!(states, [(new, State::Active), (old, State::Retiring)], "the oldest keeps its deadline");
    let again: Rotation = plane.post(&path, body).await.json(StatusCode::OK);
    assert_eq!(again, second, "twice is once");
}

#[tokio::test]
async fn a_version_that_nobody_could_use_ends_with_its_rotation() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}/rotations", key.id);
    let later = json!({
        "overlap_seconds": 60, "not_before": "2999-01-01T00:00:00Z", "version": new_version(),
    });
    plane.post(&path, later).await.problem("invalid-request");
    let at = keywheel_control::clock::now().0 + 3_600_000;
    let at = keywheel_api::time::timestamp(keywheel_keyring::Millis(at));
    let later = json!({ "overlap_seconds": 60, "not_before": at, "version": new_version() });
    let first: Rotation = plane.post(&path, later).await.json(StatusCode::CREATED);
    let body = json!({ "overlap_seconds": 30, "supersede": true, "version": new_version() });
    let second: Rotation = plane.post(&path, body).await.json(StatusCode::CREATED);
    assert_eq!(second.old_version, first.old_version);
    let versions = plane.show(&key).await.versions;
    let unused = versions.iter().find(|version| version.id == first.new_version).unwrap();
    assert_eq!(unused.state, State::Revoked);
}
