use axum::http::StatusCode;
use keywheel_api::{AuditRecord, Key, List, State, time};
use keywheel_control::clock;
use serde_json::{Value, json};

use crate::support::{Answer, Plane, plane};

const DAY: u64 = 24 * 60 * 60 * 1000;

async fn update(plane: &Plane, key: &Key, body: Value) -> Answer {
    plane.admin("PATCH", &format!("/v1/keys/{}", key.id), body.to_string()).await
}

fn in_days(days: u64) -> Value {
    json!(time::timestamp(keywheel_keyring::Millis(clock::now().0 + days * DAY)))
}

#[tokio::test]
async fn proxies_learn_of_other_scopes_for_every_version_at_once() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 3600).await;
    let since = plane.head();
    let key: Key =
        update(&plane, &key, json!({ "scopes": ["trade", "market:read"] })).await.json(StatusCode::OK);
    assert_eq!(key.scopes, ["trade", "market:read"]);
    let run = plane.changes(since).await;
    let told: Vec<_> = run.entries.iter().map(|entry| (entry.version.as_str(), entry.state)).collect();
    let want = [(&*rotation.old_version, State::Retiring), (&*rotation.new_version, State::Active)];
    assert_eq!(told, want);
    assert!(run.entries.iter().all(|entry| entry.scopes == ["trade", "market:read"]));
    let retires = run.entries[0].expires_at.map(time::timestamp);
    assert_eq!(retires, Some(rotation.overlap_ends_at), "the overlap goes on");

    let head = plane.head();
    update(&plane, &key, json!({ "scopes": ["trade", "market:read"], "labels": { "a": "b" } })).await;
    assert_eq!(plane.head(), head, "labels are none of a proxy's business");
    let key: Key = update(&plane, &key, json!({ "scopes": null })).await.json(StatusCode::OK);
    assert_eq!((key.scopes.len(), plane.head()), (0, head + 2));
    let trail: List<AuditRecord> = plane.get("/v1/audit").await.json(StatusCode::OK);
    let last = &trail.items.last().unwrap().event;
    assert_eq!(last.action, "key.update");
    assert!(last.before.as_ref().unwrap().contains(r#""scopes":["trade","market:read"]"#), "{last:?}");
}

#[tokio::test]
async fn a_key_gets_another_end_and_none_again() {
    let plane = plane().await;
    let key = plane.key().await;
    let at = in_days(3);
    let changed: Key = update(&plane, &key, json!({ "expires_at": at })).await.json(StatusCode::OK);
    assert_eq!((json!(changed.expires_at), json!(changed.versions[0].expires_at)), (at.clone(), at));
    assert!(plane.changes(1).await.entries[0].expires_at.is_some());
    let changed: Key = update(&plane, &key, json!({ "expires_at": null })).await.json(StatusCode::OK);
    assert_eq!((changed.expires_at, changed.versions[0].expires_at), (None, None));
    assert_eq!(plane.changes(2).await.entries[0].expires_at, None);
    for (body, field) in [
        (json!({ "expires_at": "2001-01-01T00:00:00Z" }), "expires_at"),
        (json!({ "expires_at": in_days(40_000) }), "expires_at"),
        (json!({ "scopes": ["a b"] }), "scopes"),
        (json!({ "scopes": "trade" }), "scopes"),
    ] {
        let problem = update(&plane, &key, body.clone()).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, field, "{body}");
    }
    assert_eq!(plane.head(), 3, "what was refused told nobody");
}

#[tokio::test]
async fn no_version_ends_before_it_begins_and_what_ended_stays() {
    let plane = plane().await;
    plane.client("acme").await;
    let new = json!({ "client": "acme", "not_before": in_days(5) });
    let pending: Key = plane.post("/v1/keys", new).await.json(StatusCode::CREATED);
    let head = plane.head();
    let problem =
        update(&plane, &pending, json!({ "expires_at": in_days(4) })).await.problem("invalid-request");
    assert!(problem.detail.contains(&pending.versions[0].id), "{problem:?}");
    assert_eq!((plane.show(&pending).await.expires_at, plane.head()), (None, head));
    update(&plane, &pending, json!({ "expires_at": in_days(6) })).await.json::<Key>(StatusCode::OK);

    let key = plane.key().await;
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    update(&plane, &key, json!({ "scopes": ["trade"] })).await.problem("key-revoked");
    let labelled = update(&plane, &key, json!({ "labels": { "why": "left" } })).await;
    assert_eq!(labelled.status, StatusCode::OK, "labels are for people");
}
