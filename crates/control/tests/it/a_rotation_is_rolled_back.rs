use axum::http::StatusCode;
use keywheel_api::{Rotation, RotationEnd, RotationState, State};
use serde_json::{Value, json};

use crate::support::{Answer, Plane, context, plane};

async fn roll_back(plane: &Plane, rotation: &Rotation, how: Value) -> Answer {
    plane.post(&format!("/v1/rotations/{}/rollback", rotation.id), how).await
}

#[tokio::test]
async fn the_old_version_is_active_before_the_new_one_is_given_a_deadline() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 60).await;
    let since = plane.head();
    let rolled: Rotation =
        roll_back(&plane, &rotation, json!({ "overlap_seconds": 30 })).await.json(StatusCode::OK);
    assert_eq!((rolled.state, rolled.ended_by), (RotationState::RolledBack, Some(RotationEnd::RolledBack)));

    let document = plane.changes(since).await;
    let entries: Vec<_> = document.entries.iter().map(|e| (e.version.as_str(), e.state)).collect();
    let (old, new) = (rotation.old_version.as_str(), rotation.new_version.as_str());
    assert_eq!(entries, [(old, State::Active), (new, State::Retiring)]);
    assert_eq!(document.entries[0].expires_at, None);
    assert!(document.entries[1].expires_at.is_some());

    let head = plane.head();
    let again: Rotation = roll_back(&plane, &rotation, json!({})).await.json(StatusCode::OK);
    assert_eq!((again, plane.head()), (rolled, head), "twice is once");

    let mut later = context();
    later.now.0 += 31_000;
    keywheel_control::jobs::scheduler::catch_up(plane.store(), later.now).await.unwrap();
    let states: Vec<_> = plane.show(&key).await.versions.into_iter().map(|v| (v.id, v.state)).collect();
    assert!(states.contains(&(rotation.old_version.clone(), State::Active)), "{states:?}");
    assert!(states.contains(&(rotation.new_version.clone(), State::Retired)), "{states:?}");
    plane.rotate(&key, 60).await;
}

#[tokio::test]
async fn without_an_answer_to_how_long_it_is_the_rotations_own_overlap() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 3600).await;
    let path = format!("/v1/rotations/{}/rollback", rotation.id);
    let answer = plane.admin("POST", &path, String::new()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let new = plane.changes(0).await.entries.into_iter().find(|e| e.version == rotation.new_version).unwrap();
    let end = keywheel_api::time::millis(rotation.overlap_ends_at).unwrap();
    assert!(new.expires_at.unwrap() >= end);
}

#[tokio::test]
async fn the_new_version_can_be_ended_at_once_or_later() {
    let plane = plane().await;
    for first in [json!({ "revoke_new": true }), json!({})] {
        let key = plane.key().await;
        let rotation = plane.rotate(&key, 60).await;
        roll_back(&plane, &rotation, first).await;
        roll_back(&plane, &rotation, json!({ "revoke_new": true })).await;
        let versions = plane.show(&key).await.versions;
        let state = |id: &str| versions.iter().find(|version| version.id == id).unwrap().state;
        assert_eq!(state(&rotation.old_version), State::Active);
        assert_eq!(state(&rotation.new_version), State::Revoked);
    }
}

#[tokio::test]
async fn what_is_over_is_not_rolled_back() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    let head = plane.head();
    let problem = roll_back(&plane, &rotation, json!({})).await.problem("rotation-ended");
    assert_eq!(problem.rotation, Some(rotation.id.clone()));
    let both = json!({ "revoke_new": true, "overlap_seconds": 5 });
    roll_back(&plane, &rotation, both).await.problem("invalid-request");
    assert_eq!(plane.head(), head);
}
