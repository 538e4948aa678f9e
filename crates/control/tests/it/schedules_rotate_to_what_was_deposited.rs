use axum::http::StatusCode;
use keywheel_api::{Key, List, Rotation, RotationState, ScheduleState, State, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_control::store::AUTOMATIC_STARTS_A_MINUTE;
use keywheel_keyring::Millis;
use serde_json::{Value, json};

use crate::support::{Plane, context, new_version, plane, policy_of_acme};

const DAY: u64 = 24 * 60 * 60 * 1000;
const MINUTE: u64 = 60 * 1000;

async fn deposit(plane: &Plane, key: &Key, version: &Value) -> Key {
    let body = json!({ "version": version });
    plane.post(&format!("/v1/keys/{}/next", key.id), body).await.json(StatusCode::OK)
}

async fn run(plane: &Plane, at: u64) {
    catch_up(plane.store(), Millis(at)).await.unwrap();
}

async fn rotation(plane: &Plane, key: &Key) -> Option<Rotation> {
    let id = plane.show(key).await.open_rotation?;
    Some(plane.get(&format!("/v1/rotations/{id}")).await.json(StatusCode::OK))
}

async fn started(plane: &Plane) -> usize {
    let keys: List<Key> = plane.get("/v1/keys").await.json(StatusCode::OK);
    keys.items.iter().filter(|key| key.open_rotation.is_some()).count()
}

#[tokio::test]
async fn with_a_deposit_a_rotation_starts_by_itself_and_once() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "rotate_every_seconds": 30 * DAY / 1000, "overlap_seconds": 3600 })).await;
    let key = plane.key().await;
    let next = new_version();
    let head = plane.head();
    let shown = deposit(&plane, &key, &next).await;
    assert_eq!(shown.schedule.unwrap().next_version.as_deref(), next["id"].as_str());
    assert_eq!(plane.head(), head, "no proxy knows it before");
    let due = time::millis(shown.versions[0].created_at).unwrap().0 + 30 * DAY;

    run(&plane, due - 1).await;
    assert_eq!(rotation(&plane, &key).await, None);
    run(&plane, due).await;
    let begun = rotation(&plane, &key).await.unwrap();
    assert_eq!((begun.state, begun.automatic), (RotationState::Overlapping, true));
    assert_eq!(begun.new_version, next["id"].as_str().unwrap());
    let head = plane.head();
    let plane = plane.restart().await;
    run(&plane, due).await;
    run(&plane, due + 1).await;
    assert_eq!((rotation(&plane, &key).await, plane.head()), (Some(begun), head));
    let schedule = plane.show(&key).await.schedule.unwrap();
    assert_eq!((schedule.next_version, schedule.due_at), (None, None), "it was used");
}

#[tokio::test]
async fn without_a_deposit_a_key_is_due_then_overdue_and_never_cut_off() {
    let plane = plane().await;
    let terms = json!({ "rotate_every_seconds": 30 * DAY / 1000, "longest_age_seconds": 40 * DAY / 1000 });
    policy_of_acme(&plane, terms).await;
    let key = plane.key().await;
    let made = time::millis(key.versions[0].created_at).unwrap().0;
    for (days, state) in
        [(29, ScheduleState::Scheduled), (30, ScheduleState::Due), (41, ScheduleState::Overdue)]
    {
        run(&plane, made + days * DAY).await;
        let shown = plane.show(&key).await;
        assert_eq!((shown.schedule.unwrap().state, shown.versions[0].state), (state, State::Active));
    }
    let due: List<Key> = plane.get("/v1/keys?schedule=overdue").await.json(StatusCode::OK);
    assert_eq!(due.items.len(), 1);
    let due: List<Key> = plane.get("/v1/keys?schedule=due").await.json(StatusCode::OK);
    assert_eq!(due.items.len(), 0);
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_at_a_steady_pace_and_oldest_first() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "rotate_every_seconds": 30 * DAY / 1000, "overlap_seconds": 86_400 }))
        .await;
    let most = usize::try_from(AUTOMATIC_STARTS_A_MINUTE).unwrap();
    let mut keys = Vec::new();
    for _ in 0..most + 2 {
        let key = plane.key().await;
        deposit(&plane, &key, &new_version()).await;
        keys.push(key);
    }
    let late = context().now.0 + 60 * DAY;
    run(&plane, late).await;
    run(&plane, late + MINUTE - 1).await;
    assert_eq!(started(&plane).await, most);
    let youngest = keys.iter().map(|key| key.versions[0].created_at).max().unwrap();
    for key in keys.iter().filter(|key| key.versions[0].created_at == youngest) {
        assert_eq!(rotation(&plane, key).await, None, "it comes last");
    }
    assert_eq!(plane.store().next_deadline(Millis(late + 1)).await.unwrap(), Some(Millis(late + MINUTE)));
    run(&plane, late + MINUTE).await;
    assert_eq!(started(&plane).await, most + 2);
}

#[tokio::test]
async fn a_clock_that_is_set_back_starts_nothing_twice_and_holds_nothing_up() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "rotate_every_seconds": 30 * DAY / 1000, "overlap_seconds": 86_400 }))
        .await;
    let (first, second) = (plane.key().await, plane.key().await);
    deposit(&plane, &first, &new_version()).await;
    let due = context().now.0 + 31 * DAY;
    run(&plane, due).await;
    let begun = rotation(&plane, &first).await.unwrap();
    deposit(&plane, &second, &new_version()).await;
    run(&plane, due - DAY / 2).await;
    assert_eq!(rotation(&plane, &first).await, Some(begun));
    assert!(rotation(&plane, &second).await.is_some(), "starts of a time to come do not count");
}

#[tokio::test]
async fn nothing_starts_outside_of_its_window() {
    let plane = plane().await;
    let window = json!({ "days": ["wed"], "from": "10:00", "to": "12:00" });
    let terms = json!({ "rotate_every_seconds": 7 * DAY / 1000, "window": window, "overlap_seconds": 3600 });
    policy_of_acme(&plane, terms).await;
    let key = plane.key().await;
    let shown = deposit(&plane, &key, &new_version()).await;
    let due = time::millis(shown.schedule.unwrap().due_at.unwrap()).unwrap().0;
    // 1970-01-07 was a Wednesday.
    let into_week = (due + DAY) % (7 * DAY);
    assert!((10 * 60 * MINUTE..12 * 60 * MINUTE).contains(&into_week), "{into_week}");
    run(&plane, due + DAY).await;
    assert_eq!(rotation(&plane, &key).await, None, "nothing ran while the window was open");
    run(&plane, due + 9 * DAY).await;
    assert_eq!(rotation(&plane, &key).await, None);
    let opens = due - into_week % DAY + 10 * 60 * MINUTE + 14 * DAY;
    run(&plane, opens + 2 * 60 * MINUTE - 1).await;
    assert!(rotation(&plane, &key).await.is_some());
}

#[tokio::test]
async fn a_deposit_keeps_its_rules_and_a_spoilt_one_is_told() {
    let plane = plane().await;
    let plain = plane.key().await;
    let next = |key: &Key| format!("/v1/keys/{}/next", key.id);
    let body = || json!({ "version": new_version() });
    plane.post(&next(&plain), body()).await.problem("not-by-policy");
    let terms = json!({ "name": "p", "terms": { "rotate_every_seconds": DAY / 1000 } });
    plane.post("/v1/policies", terms).await;
    let new = json!({ "client": "acme", "policy": "p", "version": new_version() });
    let key: Key = plane.post("/v1/keys", new.clone()).await.json(StatusCode::CREATED);
    let taken = json!({ "version": { "id": new_version()["id"], "digest": new["version"]["digest"] } });
    plane.post(&next(&key), taken).await.problem("version-conflict");

    let version = new_version();
    deposit(&plane, &key, &version).await;
    let withdrawn: Key = plane.admin("DELETE", &next(&key), String::new()).await.json(StatusCode::OK);
    assert_eq!(withdrawn.schedule.unwrap().next_version, None);
    deposit(&plane, &key, &version).await;
    plane.post("/v1/compromised", json!({ "digests": [version["digest"]] })).await;
    run(&plane, context().now.0 + 2 * DAY).await;
    assert_eq!(rotation(&plane, &key).await, None);
    let schedule = plane.show(&key).await.schedule.unwrap();
    assert_eq!((schedule.state, schedule.next_version), (ScheduleState::Due, None));
    let notices: Value = plane.get("/v1/notices").await.json(StatusCode::OK);
    let kinds: Vec<_> = notices["items"].as_array().unwrap().iter().map(|n| n["kind"].clone()).collect();
    assert!(kinds.contains(&json!("deposit_refused")), "{kinds:?}");
}
