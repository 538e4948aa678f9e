//! Every state change, its audit record and its ring revisions commit together, or not at all.

use keywheel_api::State;
use serde_json::json;
use sqlx::AnyPool;

use crate::support::{new_version, on_postgres, plane};

async fn audit(database: &AnyPool) -> Vec<String> {
    sqlx::query_scalar("SELECT action FROM audit ORDER BY seq").fetch_all(database).await.unwrap()
}

#[tokio::test]
async fn every_change_leaves_its_audit_record_and_one_revision_for_each_changed_entry() {
    let plane = plane().await;
    let database = plane.database().await;
    assert_eq!(audit(&database).await, ["ring.create", "token.create"]);

    let key = plane.key().await;
    assert_eq!(plane.head(), 1);
    plane.rotate(&key, 60).await;
    assert_eq!(plane.head(), 3, "the new version and the old one");
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    assert_eq!(plane.head(), 5, "both versions");
    let actions = audit(&database).await;
    assert_eq!(actions[2..], ["client.create", "key.create", "rotation.start", "key.revoke"]);
    let revisions: Vec<i64> = sqlx::query_scalar("SELECT revision FROM versions ORDER BY revision")
        .fetch_all(&database)
        .await
        .unwrap();
    assert_eq!(revisions, [4, 5]);
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let plane = plane().await;
    let key = plane.key().await;
    let database = plane.database().await;
    let trigger = if on_postgres() {
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER no_audit BEFORE INSERT ON audit EXECUTE FUNCTION no()"
    } else {
        "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END"
    };
    sqlx::raw_sql(trigger).execute(&database).await.unwrap();

    let rotation = json!({ "overlap_seconds": 60, "version": new_version() });
    plane.post(&format!("/v1/keys/{}/rotations", key.id), rotation).await.problem("internal");
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await.problem("internal");
    plane.post("/v1/keys", json!({ "client": "acme" })).await.problem("internal");
    let answer = plane.post("/v1/clients", json!({ "name": "other" })).await;
    assert_eq!((answer.status.as_u16(), answer.problem("internal").status), (500, 500));
    plane.post("/v1/tokens", json!({ "role": "proxy" })).await.problem("internal");

    let stored: i64 = sqlx::query_scalar("SELECT revision FROM rings").fetch_one(&database).await.unwrap();
    assert_eq!((plane.head(), stored), (1, 1));
    let made =
        "SELECT (SELECT count(*) FROM clients), (SELECT count(*) FROM tokens), (SELECT count(*) FROM keys)";
    let made: (i64, i64, i64) = sqlx::query_as(made).fetch_one(&database).await.unwrap();
    assert_eq!(made, (1, 1, 1));
    let key = plane.show(&key).await;
    assert_eq!(key.versions.len(), 1);
    assert_eq!(key.versions[0].state, State::Active);
    assert_eq!(key.revoked_at, None);
}
