use axum::http::StatusCode;
use keywheel_api::{Key, KeyWithSecret, Rotation, State};
use serde_json::json;

use crate::support::{new_version, plane, policy_of_acme};

#[tokio::test]
async fn as_many_versions_are_accepted_as_the_policy_allows() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "max_versions": 3, "overlap_seconds": 3600 })).await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}/versions", key.id);
    let second = json!({ "version": new_version() });
    let head = plane.head();
    let made: KeyWithSecret = plane.post(&path, second.clone()).await.json(StatusCode::CREATED);
    assert_eq!(made.key.versions.iter().map(|v| v.state).collect::<Vec<_>>(), [State::Active; 2]);
    assert_eq!(plane.head(), head + 1, "the first stays as it is");
    assert_eq!(plane.post(&path, second.clone()).await.status, StatusCode::OK, "twice is once");

    // One of them is rotated, and the other stays.
    let rotations = format!("/v1/keys/{}/rotations", key.id);
    let old = &key.versions[0].id;
    let body = json!({ "version": new_version(), "replaces": old });
    let rotation: Rotation = plane.post(&rotations, body).await.json(StatusCode::CREATED);
    assert_eq!(&rotation.old_version, old);
    let shown = plane.show(&key).await;
    let state = |id: &str| shown.versions.iter().find(|version| version.id == id).unwrap().state;
    assert_eq!(state(old), State::Retiring);
    assert_eq!(state(second["version"]["id"].as_str().unwrap()), State::Active);
    assert_eq!(state(&rotation.new_version), State::Active);

    plane.post(&path, json!({})).await.problem("not-by-policy");
    let body = json!({ "version": new_version(), "supersede": true });
    assert_eq!(plane.post(&rotations, body).await.status, StatusCode::CREATED, "an emergency does not wait");
}

#[tokio::test]
async fn without_a_word_of_the_policy_there_is_one_version_and_its_successor() {
    let plane = plane().await;
    let key: Key = plane.key().await;
    plane.post(&format!("/v1/keys/{}/versions", key.id), json!({})).await.problem("not-by-policy");
    let body = json!({ "version": new_version(), "overlap_seconds": 60, "replaces": "kv_none" });
    plane.post(&format!("/v1/keys/{}/rotations", key.id), body).await.problem("not-found");
}
