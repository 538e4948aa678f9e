use axum::http::StatusCode;
use keywheel_api::{Rotation, State, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_keyring::{Brownout, Millis};
use serde_json::json;

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const HOUR: u64 = 60 * 60 * 1000;

async fn of_old(plane: &Plane, since: u64) -> Option<Brownout> {
    let entries = plane.changes(since).await.entries;
    assert_eq!((entries.len(), entries[0].state), (1, State::Retiring), "one revision, of the old version");
    entries[0].brownout
}

#[tokio::test]
async fn a_share_of_the_old_versions_requests_is_refused_until_a_time() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 3600).await;
    let path = format!("/v1/rotations/{}/brownout", rotation.id);
    let head = plane.head();
    let before = context().now.0;
    let shown: Rotation =
        plane.post(&path, json!({ "share": 0.25, "seconds": 60 })).await.json(StatusCode::OK);
    assert_eq!(shown.id, rotation.id);
    let brownout = of_old(&plane, head).await.unwrap();
    assert!(brownout.until.0 >= before + 60_000 && brownout.until.0 <= context().now.0 + 60_000);
    assert!((brownout.share - 0.25).abs() < 1e-9);
    assert!(plane.show(&key).await.versions[0].brownout.is_some());

    let head = plane.head();
    plane.post(&path, json!({ "share": 1, "seconds": 86_400 })).await;
    assert_eq!(of_old(&plane, head).await.unwrap().until, time::millis(rotation.overlap_ends_at).unwrap());
    let head = plane.head();
    plane.post(&path, json!({ "share": 0, "seconds": 0 })).await;
    assert_eq!(of_old(&plane, head).await, None);

    for (body, field) in
        [(json!({ "share": 1.1, "seconds": 1 }), "share"), (json!({ "share": 1, "seconds": 0 }), "seconds")]
    {
        assert_eq!(plane.post(&path, body).await.problem("invalid-request").errors[0].field, field);
    }
    plane.post(&path, json!({ "share": 1, "seconds": 60 })).await;
    plane.post(&format!("/v1/rotations/{}/rollback", rotation.id), json!({})).await;
    assert!(plane.show(&key).await.versions.iter().all(|version| version.brownout.is_none()));
    plane.post(&path, json!({ "share": 1, "seconds": 60 })).await.problem("rotation-ended");
}

#[tokio::test]
async fn a_policy_plans_one_before_the_deadline_of_each_rotation() {
    let plane = plane().await;
    let brownout = json!({ "share": 0.1, "before_seconds": 3600 });
    policy_of_acme(&plane, json!({ "overlap_seconds": 24 * 3600, "brownout": brownout })).await;
    let key = plane.key().await;
    let begins_in = time::timestamp(Millis(context().now.0 + HOUR));
    let body = json!({ "version": new_version(), "not_before": begins_in });
    let path = format!("/v1/keys/{}/rotations", key.id);
    let rotation: Rotation = plane.post(&path, body).await.json(StatusCode::CREATED);
    let early = format!("/v1/rotations/{}/brownout", rotation.id);
    plane.post(&early, json!({ "share": 1, "seconds": 60 })).await.problem("rotation-not-begun");

    let begins = time::millis(rotation.begins_at).unwrap().0;
    catch_up(plane.store(), Millis(begins)).await.unwrap();
    let head = plane.head();
    catch_up(plane.store(), Millis(begins + 23 * HOUR - 1)).await.unwrap();
    assert_eq!(plane.head(), head);
    for _ in 0..2 {
        catch_up(plane.store(), Millis(begins + 23 * HOUR)).await.unwrap();
    }
    assert_eq!(plane.head(), head + 1);
    let brownout = of_old(&plane, head).await.unwrap();
    assert_eq!(brownout.until, Millis(begins + 24 * HOUR), "its deadline");
    assert!((brownout.share - 0.1).abs() < 1e-9);
}
