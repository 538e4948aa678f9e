use std::time::Duration;

use axum::http::StatusCode;
use keywheel_api::{Key, State};
use keywheel_control::jobs::purge::{KEEP_ENDED, purge};
use keywheel_keyring::Millis;
use serde_json::json;

use crate::support::{Answer, Plane, context, new_version, plane};

async fn reinstate(plane: &Plane, key: &Key, version: &str) -> Answer {
    plane.post(&format!("/v1/keys/{}/versions/{version}/reinstate", key.id), json!({})).await
}

#[tokio::test]
async fn a_retired_version_is_accepted_again_and_its_entry_names_the_epoch() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    let since = plane.head();
    assert_eq!(reinstate(&plane, &key, &rotation.old_version).await.status, StatusCode::OK);
    let entry = plane.changes(since).await.entries.remove(0);
    assert_eq!((entry.state, entry.expires_at), (State::Active, None));
    assert_eq!(entry.reinstated_in.unwrap().to_string(), plane.epoch());

    let head = plane.head();
    assert_eq!(reinstate(&plane, &key, &rotation.old_version).await.status, StatusCode::OK, "twice is once");
    reinstate(&plane, &key, &rotation.new_version).await.problem("not-ended");
    assert_eq!(plane.head(), head);

    // The next rotation gives both of them its deadline.
    plane.rotate(&key, 60).await;
    let states: Vec<_> = plane.show(&key).await.versions.iter().map(|version| version.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Retiring).count(), 2, "{states:?}");
    let late = Millis(context().now.0 + 61_000);
    keywheel_control::jobs::scheduler::catch_up(plane.store(), late).await.unwrap();
    let states: Vec<_> = plane.show(&key).await.versions.iter().map(|version| version.state).collect();
    assert_eq!(states.iter().filter(|state| **state == State::Retired).count(), 2, "{states:?}");
}

#[tokio::test]
async fn a_keys_revocation_is_taken_back_and_nothing_else_is() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    let path = format!("/v1/keys/{}/reinstate", key.id);
    plane.post(&path, json!({})).await.problem("not-ended");
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let key: Key = plane.post(&path, json!({})).await.json(StatusCode::OK);
    assert_eq!(key.revoked_at, None);
    let state = |id: &str| key.versions.iter().find(|version| version.id == id).unwrap().state;
    assert_eq!(state(&rotation.new_version), State::Active);
    assert_eq!(state(&rotation.old_version), State::Retired, "it ended before");
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK, "twice is once");
}

#[tokio::test]
async fn a_revocation_that_is_taken_back_gives_nothing_a_longer_life() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 1800).await;
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await.json::<Key>(StatusCode::OK);
    let key: Key =
        plane.post(&format!("/v1/keys/{}/reinstate", key.id), json!({})).await.json(StatusCode::OK);
    let find = |id: &str| key.versions.iter().find(|version| version.id == id).unwrap();
    let (old, new) = (find(&rotation.old_version), find(&rotation.new_version));
    assert_eq!((old.state, old.expires_at), (State::Retiring, Some(rotation.overlap_ends_at)));
    assert_eq!((new.state, new.expires_at), (State::Active, None));
    let late = Millis(context().now.0 + 1_801_000);
    keywheel_control::jobs::scheduler::catch_up(plane.store(), late).await.unwrap();
    let states: Vec<_> = plane.show(&key).await.versions.iter().map(|version| version.state).collect();
    assert_eq!(states, [State::Retired, State::Active]);
}

#[tokio::test]
async fn what_was_not_accepted_yet_is_pending_again_and_begins_at_its_time() {
    let plane = plane().await;
    plane.client("acme").await;
    let begins = keywheel_api::time::timestamp(Millis(context().now.0 + 3_600_000));
    let new = || json!({ "client": "acme", "not_before": begins, "version": new_version() });
    for whole in [true, false] {
        let key: Key = plane.post("/v1/keys", new()).await.json(StatusCode::CREATED);
        let version = key.versions[0].id.clone();
        let path = if whole {
            format!("/v1/keys/{}", key.id)
        } else {
            format!("/v1/keys/{}/versions/{version}", key.id)
        };
        let since = plane.head();
        plane.post(&format!("{path}/revoke"), json!({})).await.json::<Key>(StatusCode::OK);
        for _ in 0..2 {
            let key: Key = plane.post(&format!("{path}/reinstate"), json!({})).await.json(StatusCode::OK);
            assert_eq!((key.versions[0].state, key.versions[0].not_before), (State::Pending, Some(begins)));
        }
        let entry = plane.changes(since).await.entries.remove(0);
        assert_eq!(entry.state, State::Pending);
        assert!(entry.reinstated_in.is_some() && entry.not_before.is_some());
        let rotation = json!({ "overlap_seconds": 60, "version": new_version() });
        plane.post(&format!("/v1/keys/{}/rotations", key.id), rotation).await.problem("key-pending");

        let late = Millis(context().now.0 + 3_601_000);
        keywheel_control::jobs::scheduler::catch_up(plane.store(), late).await.unwrap();
        assert_eq!(plane.show(&key).await.versions[0].state, State::Active);
    }
}

#[tokio::test]
async fn no_overlap_is_longer_than_the_old_version_lives() {
    let plane = plane().await;
    plane.client("acme").await;
    let ends = keywheel_api::time::timestamp(Millis(context().now.0 + 600_000));
    let key: keywheel_api::KeyWithSecret = plane
        .post("/v1/keys", json!({ "client": "acme", "expires_at": ends, "version": new_version() }))
        .await
        .json(StatusCode::CREATED);
    let rotation = plane.rotate(&key.key, 3600).await;
    assert_eq!((rotation.deadline, rotation.overlap_ends_at), (ends, ends));
}

#[tokio::test]
async fn what_proxies_have_forgotten_is_not_reinstated() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 0).await;
    let late = Millis(context().now.0 + Duration::from_secs(31 * 24 * 60 * 60).as_millis() as u64);
    assert_eq!(purge(plane.store(), late, KEEP_ENDED).await.unwrap(), 1);
    reinstate(&plane, &key, &rotation.old_version).await.problem("version-removed");
}
