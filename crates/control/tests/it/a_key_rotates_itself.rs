use axum::http::StatusCode;
use keywheel_api::{AuditRecord, List, SelfKey, SelfRotation, SelfRotationWithSecret, State};
use keywheel_control::secret::random;
use keywheel_keyring::{PlainKey, VersionId};
use serde_json::{Value, json};

use crate::support::{Plane, new_version, plane, policy_of_acme};

const ROTATIONS: &str = "/v1/self/rotations";

async fn allowed() -> Plane {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "self_rotation": true, "overlap_seconds": 86_400 })).await;
    plane
}

/// A version as a client makes it, and its text.
fn made_by_the_client() -> (Value, String) {
    let id = VersionId::from_random(random().unwrap());
    let secret = PlainKey::generate(&"kw_live_".parse().unwrap(), &id, random().unwrap());
    (json!({ "id": id.as_str(), "digest": secret.digest() }), secret.expose().to_owned())
}

async fn show(plane: &Plane, secret: &str) -> SelfKey {
    plane.as_holder(secret, "GET", "/v1/self", Value::Null).await.json(StatusCode::OK)
}

async fn rotate(plane: &Plane, secret: &str, body: Value) -> SelfRotationWithSecret {
    plane.as_holder(secret, "POST", ROTATIONS, body).await.json(StatusCode::CREATED)
}

async fn refused(plane: &Plane, secret: &str, body: Value, slug: &str) -> keywheel_api::Problem {
    plane.as_holder(secret, "POST", ROTATIONS, body).await.problem(slug)
}

#[tokio::test]
async fn a_key_sees_itself_and_what_it_may_do() {
    let plane = allowed().await;
    let (key, secret) = plane.key_with_secret().await;
    let answer = plane.as_holder(&secret, "GET", "/v1/self", Value::Null).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    let seen: SelfKey = answer.json(StatusCode::OK);
    assert_eq!((seen.client.as_str(), &seen.key, &seen.scopes), ("acme", &key.id, &key.scopes));
    assert_eq!((&seen.version.id, seen.version.state), (&key.versions[0].id, State::Active));
    assert_eq!(
        (seen.other_versions.len(), seen.open_rotation, seen.key_prefix.as_str()),
        (0, None, "kw_live_")
    );
    let policy = seen.policy.unwrap();
    assert_eq!((policy.name.as_str(), policy.self_rotation), ("ours", true));
    assert_eq!((policy.shortest_overlap_seconds, policy.overlap_seconds), (3600, 86_400));

    plane.admin("PATCH", "/v1/clients/acme", json!({ "policy": null }).to_string()).await;
    assert_eq!(show(&plane, &secret).await.policy, None);
}

#[tokio::test]
async fn the_newest_version_rotates_the_key_and_the_retiring_one_may_not() {
    let plane = allowed().await;
    let (key, first) = plane.key_with_secret().await;
    let rotation = rotate(&plane, &first, Value::Null).await;
    let second = rotation.secret.unwrap();
    let rotation = rotation.rotation;
    assert_eq!((&rotation.key, &rotation.old_version), (&key.id, &key.versions[0].id));
    assert_eq!(rotation.overlap_ends_at.as_second() - rotation.begins_at.as_second(), 86_400);

    // Whoever holds a leaked old key sees, and renews nothing.
    let seen = show(&plane, &first).await;
    assert_eq!(
        (seen.version.state, seen.version.expires_at),
        (State::Retiring, Some(rotation.overlap_ends_at))
    );
    assert_eq!(seen.open_rotation.as_ref(), Some(&rotation));
    refused(&plane, &first, json!({}), "version-superseded").await;
    // The new one waits for the end of the rotation that made it.
    let problem = refused(&plane, &second, json!({}), "rotation-open").await;
    assert_eq!(problem.rotation.as_ref(), Some(&rotation.id));
    let seen = show(&plane, &second).await;
    assert_eq!((&seen.version.id, seen.other_versions.len()), (&rotation.new_version, 1));
    assert_eq!(plane.show(&key).await.versions.len(), 2, "what was refused made nothing");

    // An operator ends the old version, and so the rotation. The new one may go on, the old one is no key.
    let path = format!("/v1/keys/{}/versions/{}/revoke", key.id, rotation.old_version);
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK);
    refused(&plane, &first, json!({}), "key-not-accepted").await;
    rotate(&plane, &second, json!({ "version": new_version() })).await;
}

#[tokio::test]
async fn a_version_that_was_reinstated_beside_a_newer_one_may_not() {
    let plane = allowed().await;
    let (key, first) = plane.key_with_secret().await;
    let rotation = plane.rotate(&key, 0).await;
    let path = format!("/v1/keys/{}/versions/{}/reinstate", key.id, rotation.old_version);
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK);
    assert_eq!(show(&plane, &first).await.version.state, State::Active);
    refused(&plane, &first, json!({}), "version-superseded").await;
}

#[tokio::test]
async fn without_leave_of_the_policy_nothing_is_rotated() {
    let plane = plane().await;
    plane.client("acme").await;
    let (key, secret) = plane.key_with_secret().await;
    refused(&plane, &secret, json!({}), "not-by-policy").await;
    plane.post("/v1/policies", json!({ "name": "theirs", "terms": {} })).await;
    let policy = json!({ "policy": "theirs" }).to_string();
    plane.admin("PATCH", &format!("/v1/keys/{}", key.id), policy).await;
    refused(&plane, &secret, json!({ "version": new_version() }), "not-by-policy").await;
    assert!(!show(&plane, &secret).await.policy.unwrap().self_rotation);
    let allow = json!({ "self_rotation": true }).to_string();
    assert_eq!(plane.admin("PUT", "/v1/policies/theirs", allow).await.status, StatusCode::OK);
    rotate(&plane, &secret, json!({})).await;
}

#[tokio::test]
async fn the_overlap_is_what_the_policy_allows() {
    let plane = allowed().await;
    let (_, secret) = plane.key_with_secret().await;
    for seconds in [0, 3599, 86_401] {
        let body = json!({ "overlap_seconds": seconds });
        let problem = refused(&plane, &secret, body, "invalid-request").await;
        assert_eq!(problem.errors[0].field, "overlap_seconds");
        assert!(problem.detail.contains("3600 to 86400"), "{problem:?}");
    }
    for field in ["supersede", "not_before", "replaces"] {
        let problem = refused(&plane, &secret, json!({ (field): null }), "invalid-request").await;
        assert_eq!(problem.errors[0].field, field, "only operators choose that");
    }
    let rotation = rotate(&plane, &secret, json!({ "overlap_seconds": 3600 })).await.rotation;
    assert_eq!(rotation.overlap_ends_at.as_second() - rotation.begins_at.as_second(), 3600);
}

#[tokio::test]
async fn a_repeated_request_finds_what_the_first_one_made() {
    let plane = allowed().await;
    let (key, first) = plane.key_with_secret().await;
    let (version, second) = made_by_the_client();
    let body = json!({ "version": version });
    let made = rotate(&plane, &first, body.clone()).await;
    assert_eq!(made.secret, None, "the client has it");
    // With either key: the client may have gone over to the new one.
    for secret in [&first, &second] {
        let again: SelfRotationWithSecret =
            plane.as_holder(secret, "POST", ROTATIONS, body.clone()).await.json(StatusCode::OK);
        assert_eq!(again, made);
        let path = format!("{ROTATIONS}/{}", made.rotation.id);
        let shown: SelfRotation =
            plane.as_holder(secret, "GET", &path, Value::Null).await.json(StatusCode::OK);
        assert_eq!(shown, made.rotation);
    }
    let other = json!({ "version": { "id": version["id"], "digest": "ab".repeat(32) } });
    refused(&plane, &first, other, "version-conflict").await;
    assert_eq!(plane.show(&key).await.versions.len(), 2);

    // Another key learns nothing of it, nor may it take the version.
    let (_, stranger) = plane.key_with_secret().await;
    let path = format!("{ROTATIONS}/{}", made.rotation.id);
    plane.as_holder(&stranger, "GET", &path, Value::Null).await.problem("not-found");
    refused(&plane, &stranger, body, "version-conflict").await;
    let leaked = json!({ "version": { "id": new_version()["id"], "digest": version["digest"] } });
    refused(&plane, &stranger, leaked, "version-conflict").await;
}

#[tokio::test]
async fn of_two_requests_at_once_one_rotates() {
    let plane = allowed().await;
    let (key, secret) = plane.key_with_secret().await;
    let ask = async || plane.as_holder(&secret, "POST", ROTATIONS, json!({ "version": new_version() })).await;
    let (one, other) = tokio::join!(ask(), ask());
    let (made, refused) = if one.status == StatusCode::CREATED { (one, other) } else { (other, one) };
    made.json::<SelfRotationWithSecret>(StatusCode::CREATED);
    // The other one's version was the newest when it was let in, and is retiring by the time that it is judged.
    refused.problem("version-superseded");
    assert_eq!(plane.show(&key).await.versions.len(), 2);
}

#[tokio::test]
async fn where_versions_stand_beside_each_other_the_others_stay() {
    let plane = plane().await;
    let terms = json!({ "self_rotation": true, "max_versions": 3 });
    policy_of_acme(&plane, terms).await;
    let (key, first) = plane.key_with_secret().await;
    let (version, second) = made_by_the_client();
    let added = plane.post(&format!("/v1/keys/{}/versions", key.id), json!({ "version": version })).await;
    assert_eq!(added.status, StatusCode::CREATED);
    refused(&plane, &first, json!({}), "version-superseded").await;
    let rotation = rotate(&plane, &second, json!({})).await.rotation;
    assert_eq!(rotation.old_version, version["id"]);
    assert_eq!(show(&plane, &first).await.version.state, State::Active);
    assert_eq!(show(&plane, &second).await.version.state, State::Retiring);
}

#[tokio::test]
async fn the_seventh_rotation_within_an_hour_waits() {
    let plane = plane().await;
    policy_of_acme(&plane, json!({ "self_rotation": true, "overlap_seconds": 0 })).await;
    let (key, mut secret) = plane.key_with_secret().await;
    for _ in 0..6 {
        secret = rotate(&plane, &secret, json!({})).await.secret.unwrap();
    }
    let answer = plane.as_holder(&secret, "POST", ROTATIONS, json!({})).await;
    answer.problem("too-many-rotations");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    assert_eq!(plane.show(&key).await.versions.len(), 7);
    let (_, other) = plane.key_with_secret().await;
    rotate(&plane, &other, json!({})).await;

    // Of an hour ago, by the rows that every replica reads.
    let database = plane.database().await;
    let older = "UPDATE rotations SET created_at = created_at - 3600000
                 WHERE id = (SELECT min(id) FROM rotations WHERE key_id = $1)";
    sqlx::query(older).bind(&key.id).execute(&database).await.unwrap();
    rotate(&plane, &secret, json!({})).await;
}

#[tokio::test]
async fn the_audit_trail_names_the_key_and_its_version() {
    let plane = allowed().await;
    let (key, secret) = plane.key_with_secret().await;
    let answer = plane.as_holder(&secret, "POST", ROTATIONS, json!({})).await;
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let made: SelfRotationWithSecret = answer.json(StatusCode::CREATED);
    let trail: List<AuditRecord> = plane.get("/v1/audit").await.json(StatusCode::OK);
    let record = trail.items.last().unwrap();
    assert_eq!(record.event.actor, format!("key:{}/{}", key.id, key.versions[0].id));
    assert_eq!((record.event.action.as_str(), &record.event.resource), ("rotation.start", &made.rotation.id));
    assert_eq!(record.event.request_id.as_ref(), Some(&request));
}

#[tokio::test]
async fn it_may_wait_until_its_new_version_is_accepted_everywhere_and_learns_no_proxys_name() {
    let plane = allowed().await;
    let (_, secret) = plane.key_with_secret().await;
    let report =
        format!("node=edge&instance=0a&filter=0.1.0&vms=1&epoch={}&stored=1&enforced=1&age=0", plane.epoch());
    plane.ring_as(&format!("changes?epoch={}&since=0", plane.epoch()), &report).await;
    let path = format!("{ROTATIONS}?wait=applied&timeout=1");
    let answer: Value = plane.as_holder(&secret, "POST", &path, json!({})).await.json(StatusCode::CREATED);
    assert_eq!(answer["applied"]["complete"], false, "the proxy did not say so: {answer}");
    assert_eq!(answer["applied"]["rings"], json!([]));
    assert!(!answer.to_string().contains("edge"));
}

#[tokio::test]
async fn with_an_idempotency_key_it_rotates_once_and_what_changes_nothing_leaves_nothing() {
    let plane = allowed().await;
    let (_, secret) = plane.key_with_secret().await;
    let send = async |name: &str, body: Value| {
        let request = axum::http::Request::post(ROTATIONS)
            .header("x-api-key", &secret)
            .header("idempotency-key", name)
            .body(body.to_string().into())
            .unwrap();
        crate::support::call(keywheel_control::app::consumer(plane.control.clone()), request).await
    };
    let body = json!({ "version": new_version() });
    let first: SelfRotationWithSecret = send("once", body.clone()).await.json(StatusCode::CREATED);
    let again: SelfRotationWithSecret = send("once", body.clone()).await.json(StatusCode::CREATED);
    assert_eq!(first.rotation, again.rotation);
    send("once", json!({})).await.problem("idempotency-key-reused");
    for name in ["a", "b", "c"] {
        assert_eq!(send(name, body.clone()).await.status, StatusCode::OK, "a repeat by its version");
    }
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM repeats WHERE caller LIKE 'key:%'")
        .fetch_one(&plane.database().await)
        .await
        .unwrap();
    assert_eq!(kept, 1);
}
