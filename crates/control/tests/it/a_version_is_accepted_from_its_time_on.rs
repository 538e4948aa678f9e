use axum::http::StatusCode;
use keywheel_api::{Key, Rotation, RotationEnd, RotationState, State, Timestamp, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_keyring::Millis;
use serde_json::json;

use crate::support::{Plane, context, new_version, plane};

const HOUR: u64 = 60 * 60 * 1000;

fn at(hours: u64) -> Timestamp {
    time::timestamp(Millis(context().now.0 + hours * HOUR))
}

async fn rotate_later(plane: &Plane, key: &Key) -> Rotation {
    let body = json!({ "overlap_seconds": 3600, "not_before": at(1), "version": new_version() });
    plane.post(&format!("/v1/keys/{}/rotations", key.id), body).await.json(StatusCode::CREATED)
}

#[tokio::test]
async fn a_key_is_published_before_it_is_accepted() {
    let plane = plane().await;
    plane.client("acme").await;
    let body = json!({ "client": "acme", "not_before": at(1), "version": new_version() });
    let key: Key = plane.post("/v1/keys", body.clone()).await.json(StatusCode::CREATED);
    assert_eq!(key.versions[0].state, State::Pending);
    assert_eq!(plane.post("/v1/keys", body).await.status, StatusCode::OK, "twice is once");
    let entry = plane.changes(0).await.entries.remove(0);
    assert_eq!(entry.state, State::Pending);
    assert!(entry.not_before.is_some());
    let rotation = json!({ "overlap_seconds": 60, "version": new_version() });
    plane.post(&format!("/v1/keys/{}/rotations", key.id), rotation).await.problem("key-pending");

    catch_up(plane.store(), context().now).await.unwrap();
    assert_eq!(plane.show(&key).await.versions[0].state, State::Pending);
    catch_up(plane.store(), Millis(context().now.0 + 2 * HOUR)).await.unwrap();
    assert_eq!(plane.show(&key).await.versions[0].state, State::Active);

    let never = json!({ "client": "acme", "not_before": at(2), "expires_at": at(1) });
    let problem = plane.post("/v1/keys", never).await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "not_before");
}

#[tokio::test]
async fn the_old_version_is_left_alone_until_the_new_one_is_accepted() {
    let plane = plane().await;
    let key = plane.key().await;
    let since = plane.head();
    let rotation = rotate_later(&plane, &key).await;
    assert_eq!(rotation.state, RotationState::Distributing);
    let document = plane.changes(since).await;
    assert_eq!(document.entries.len(), 1, "only the new version");
    assert_eq!(document.entries[0].state, State::Pending);

    let since = plane.head();
    let late = Millis(context().now.0 + 9 * HOUR);
    catch_up(plane.store(), late).await.unwrap();
    let entries = plane.changes(since).await.entries;
    let states: Vec<_> = entries.iter().map(|e| (e.version.as_str(), e.state)).collect();
    let (old, new) = (rotation.old_version.as_str(), rotation.new_version.as_str());
    assert_eq!(states, [(new, State::Active), (old, State::Retiring)]);
    assert_eq!(entries[1].expires_at, Some(Millis(late.0 + HOUR)), "being late does not shorten the overlap");
    let begun = plane.store().rotation(&rotation.id).await.unwrap();
    assert_eq!(begun.state, RotationState::Overlapping);

    catch_up(plane.store(), Millis(late.0 + HOUR)).await.unwrap();
    assert_eq!(plane.store().rotation(&rotation.id).await.unwrap().state, RotationState::Completed);
}

#[tokio::test]
async fn only_what_has_not_begun_is_cancelled() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = rotate_later(&plane, &key).await;
    let path = format!("/v1/rotations/{}/cancel", rotation.id);
    let cancelled: Rotation = plane.post(&path, json!({})).await.json(StatusCode::OK);
    assert_eq!(
        (cancelled.state, cancelled.ended_by),
        (RotationState::RolledBack, Some(RotationEnd::Cancelled))
    );
    let head = plane.head();
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK, "twice is once");
    assert_eq!(plane.head(), head);
    let versions = plane.show(&key).await.versions;
    let state = |id: &str| versions.iter().find(|version| version.id == id).unwrap().state;
    assert_eq!(state(&rotation.old_version), State::Active);
    assert_eq!(state(&rotation.new_version), State::Revoked);

    let begun = plane.rotate(&key, 60).await;
    let path = format!("/v1/rotations/{}/cancel", begun.id);
    plane.post(&path, json!({})).await.problem("rotation-begun");
    let done = plane.rotate(&plane.key().await, 0).await;
    plane.post(&format!("/v1/rotations/{}/cancel", done.id), json!({})).await.problem("rotation-ended");
}
