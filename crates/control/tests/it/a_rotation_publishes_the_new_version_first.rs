use keywheel_api::{RotationState, State};
use keywheel_keyring::document::Kind;

use crate::support::plane;

#[tokio::test]
async fn a_rotation_publishes_the_new_version_before_it_touches_the_old() {
    let plane = plane().await;
    let key = plane.key().await;
    let since = plane.head();
    let rotation = plane.rotate(&key, 60).await;

    let document = plane.changes(since).await;
    assert_eq!(document.kind, Kind::Changes { since });
    let entries: Vec<_> =
        document.entries.iter().map(|e| (e.version.as_str(), e.revision, e.state, e.successor)).collect();
    assert_eq!(
        entries,
        [
            (rotation.new_version.as_str(), since + 1, State::Active, false),
            (rotation.old_version.as_str(), since + 2, State::Retiring, true),
        ],
        "in the order of revisions, one each"
    );
    let ends_at = keywheel_api::time::millis(rotation.overlap_ends_at);
    assert_eq!(document.entries[1].expires_at, ends_at);
    assert_eq!(document.revision, plane.head());
}

#[tokio::test]
async fn an_old_version_never_outlives_its_own_expiry() {
    let plane = plane().await;
    plane.client("acme").await;
    let soon =
        keywheel_api::time::timestamp(keywheel_keyring::Millis(keywheel_control::clock::now().0 + 30_000));
    let body = serde_json::json!({ "client": "acme", "expires_at": soon });
    let key: keywheel_api::KeyWithSecret =
        plane.post("/v1/keys", body).await.json(axum::http::StatusCode::CREATED);
    plane.rotate(&key.key, 60).await;
    let old = &plane.show(&key.key).await.versions[0];
    assert_eq!((old.state, old.expires_at), (State::Retiring, Some(soon)));
}

#[tokio::test]
async fn without_an_overlap_the_old_version_retires_in_the_same_commit() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    assert_eq!(rotation.state, RotationState::Completed);
    let states: Vec<_> = plane.show(&key).await.versions.iter().map(|version| version.state).collect();
    assert!(states.contains(&State::Retired) && states.contains(&State::Active));
    let document = plane.changes(1).await;
    assert_eq!(document.entries[0].version, rotation.new_version);
    assert_eq!(document.entries[1].state, State::Retired);
}
