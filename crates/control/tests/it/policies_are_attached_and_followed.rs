use axum::http::StatusCode;
use keywheel_api::{Key, List, Policy, Ring, RotationWithSecret, ScheduleState, Timestamp, time};
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_keyring::{Digest, Millis};
use serde_json::{Value, json};

use crate::support::{Answer, Plane, context, new_version, plane};

const DAY: u64 = 24 * 60 * 60;

async fn make(plane: &Plane, name: &str, terms: Value) -> Policy {
    let new = json!({ "name": name, "terms": terms });
    plane.post("/v1/policies", new).await.json(StatusCode::CREATED)
}

async fn set(plane: &Plane, key: &Key, policy: Value) -> Answer {
    plane.admin("PATCH", &format!("/v1/keys/{}", key.id), json!({ "policy": policy }).to_string()).await
}

fn days_after(at: Timestamp, days: u64) -> Timestamp {
    time::timestamp(Millis(time::millis(at).unwrap().0 + days * DAY * 1000))
}

#[tokio::test]
async fn a_keys_own_policy_goes_before_its_clients_and_that_before_its_rings() {
    let plane = plane().await;
    let key = plane.key().await;
    assert_eq!(key.schedule, None);
    for (name, days) in [("a", 10), ("b", 20), ("c", 30)] {
        make(&plane, name, json!({ "rotate_every_seconds": days * DAY })).await;
    }
    let created = key.versions[0].created_at;
    let followed = async |policy: &str, days: u64| {
        // A policy of many keys is taken up by the scheduler.
        catch_up(plane.store(), context().now).await.unwrap();
        let schedule = plane.show(&key).await.schedule.unwrap();
        assert_eq!((schedule.policy.as_str(), schedule.due_at), (policy, Some(days_after(created, days))));
        assert_eq!(schedule.state, ScheduleState::Scheduled);
    };
    let ring = json!({ "policy": "c" }).to_string();
    let ring: Ring = plane.admin("PUT", "/v1/rings/production/policy", ring).await.json(StatusCode::OK);
    assert_eq!(ring.policy.as_deref(), Some("c"));
    followed("c", 30).await;
    plane.admin("PATCH", "/v1/clients/acme", json!({ "policy": "b" }).to_string()).await;
    followed("b", 20).await;
    let own: Key = set(&plane, &key, json!("a")).await.json(StatusCode::OK);
    assert_eq!(own.schedule.unwrap().due_at, Some(days_after(created, 10)), "at once for a single key");
    followed("a", 10).await;

    plane.admin("DELETE", "/v1/policies/a", String::new()).await.problem("policy-in-use");
    let terms = json!({ "rotate_every_seconds": 5 * DAY }).to_string();
    let updated: Policy = plane.admin("PUT", "/v1/policies/a", terms).await.json(StatusCode::OK);
    assert_eq!(updated.terms.rotate_every_seconds, Some(5 * DAY));
    followed("a", 5).await;
    set(&plane, &key, Value::Null).await;
    followed("b", 20).await;
    let gone = plane.admin("DELETE", "/v1/policies/a", String::new()).await;
    assert_eq!(gone.status, StatusCode::OK);
    plane.get("/v1/policies/a").await.problem("not-found");
    set(&plane, &key, json!("a")).await.problem("not-found");
}

#[tokio::test]
async fn a_policy_keeps_its_rules_and_is_made_once() {
    let plane = plane().await;
    let policy = make(&plane, "p", json!({ "overlap_seconds": 60 })).await;
    let again = json!({ "name": "p", "terms": { "overlap_seconds": 60 } });
    assert_eq!(plane.post("/v1/policies", again).await.json::<Policy>(StatusCode::OK), policy);
    plane.post("/v1/policies", json!({ "name": "p", "terms": {} })).await.problem("policy-exists");
    for (terms, field) in [
        (json!({ "overlap_seconds": 7_776_001 }), "overlap_seconds"),
        (json!({ "retire": "when_unused" }), "quiet_period_seconds"),
        (json!({ "retire": "never" }), "retire"),
        (json!({ "window": { "days": [], "from": "09:00", "to": "17:00" } }), "window.days"),
        (json!({ "window": { "days": ["mon"], "from": "9", "to": "17:00" } }), "window.from"),
        (json!({ "brownout": { "share": 2, "before_seconds": 1 } }), "brownout.share"),
        (json!({ "rotate_every": 1 }), "rotate_every"),
    ] {
        let body = json!({ "name": "q", "terms": terms });
        let problem = plane.post("/v1/policies", body).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, format!("terms.{field}"), "{problem:?}");
        let problem = plane.admin("PUT", "/v1/policies/p", terms.to_string()).await;
        assert_eq!(problem.problem("invalid-request").errors[0].field, field);
    }
    let body = json!({ "name": "a/b", "terms": {} });
    assert_eq!(plane.post("/v1/policies", body).await.problem("invalid-request").errors[0].field, "name");
}

#[tokio::test]
async fn a_rotation_has_the_overlap_of_the_policy_or_its_own() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}/rotations", key.id);
    let problem = plane.post(&path, json!({ "version": new_version() })).await.problem("invalid-request");
    assert_eq!(problem.errors[0].field, "overlap_seconds");
    make(&plane, "p", json!({ "overlap_seconds": 600, "rotate_every_seconds": DAY })).await;
    set(&plane, &key, json!("p")).await;
    let body = json!({ "version": new_version() });
    let made: RotationWithSecret = plane.post(&path, body.clone()).await.json(StatusCode::CREATED);
    let length = made.rotation.overlap_ends_at.as_second() - made.rotation.begins_at.as_second();
    assert_eq!((length, made.rotation.deadline), (600, made.rotation.overlap_ends_at));
    assert_eq!(plane.post(&path, body).await.status, StatusCode::OK, "twice is once");
    let schedule = plane.show(&key).await.schedule.unwrap();
    assert_eq!((schedule.state, schedule.due_at), (ScheduleState::Scheduled, None), "it rotates already");
}

#[tokio::test]
async fn many_keys_are_planned_a_part_at_a_time_and_none_is_left_out() {
    const KEYS: u16 = 2_500;
    let plane = plane().await;
    plane.import((0..KEYS).map(|number| Digest::of(&number.to_be_bytes()))).await;
    make(&plane, "yearly", json!({ "rotate_every_seconds": 365 * DAY })).await;
    let ring = json!({ "policy": "yearly" }).to_string();
    plane.admin("PUT", "/v1/rings/production/policy", ring).await.json::<Ring>(StatusCode::OK);
    let context = context();
    // Whoever changes something meanwhile waits for one part of it.
    plane.store().carry_out_one_due(&context).await.unwrap().unwrap();
    assert_eq!(scheduled(&plane).await, []);
    let terms = json!({ "rotate_every_seconds": 90 * DAY }).to_string();
    plane.admin("PUT", "/v1/policies/yearly", terms).await.json::<Policy>(StatusCode::OK);
    catch_up(plane.store(), context.now).await.unwrap();
    let keys = scheduled(&plane).await;
    assert_eq!(keys.len(), usize::from(KEYS));
    for key in keys {
        assert_eq!(key.schedule.unwrap().due_at, Some(days_after(key.created_at, 90)));
    }
    assert_eq!(plane.store().carry_out_one_due(&context).await.unwrap().map(|_| ()), None, "it is over");
}

async fn scheduled(plane: &Plane) -> Vec<Key> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let page = plane.get(&format!("/v1/keys?schedule=scheduled&after={after}")).await;
        let page: List<Key> = page.json(StatusCode::OK);
        keys.extend(page.items);
        match page.next {
            Some(next) => after = next,
            None => return keys,
        }
    }
}
