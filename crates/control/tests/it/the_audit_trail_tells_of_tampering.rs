//! Whoever edits the database behind the control plane's back is found by verifying the trail as it is served.

use axum::http::StatusCode;
use keywheel_api::audit::{Fault, Verified, verify};
use keywheel_api::{AuditRecord, Checkpoint, Checkpoints, List};
use serde_json::{Value, json};

use crate::support::{Plane, on_postgres, plane};

async fn records(plane: &Plane) -> Vec<AuditRecord> {
    let (mut records, mut after) = (Vec::new(), String::new());
    loop {
        let answer = plane.get(&format!("/v1/audit?limit=3&after={after}")).await;
        let page: List<AuditRecord> = answer.json(StatusCode::OK);
        records.extend(page.items);
        match page.next {
            Some(next) => after = next,
            None => return records,
        }
    }
}

async fn checkpoints(plane: &Plane) -> Checkpoints {
    plane.get("/v1/audit/checkpoints").await.json(StatusCode::OK)
}

async fn sign(plane: &Plane) -> Checkpoint {
    plane.post("/v1/audit/checkpoints", json!({})).await.json(StatusCode::OK)
}

async fn check(plane: &Plane) -> Result<Verified, Fault> {
    let checkpoints = checkpoints(plane).await;
    let trust: Vec<_> = checkpoints.trust.iter().map(|key| key.parse().unwrap()).collect();
    verify(&records(plane).await, &checkpoints.page.items, &trust)
}

/// A plane with six records, of which the first five are covered by a checkpoint.
async fn trail() -> Plane {
    let plane = plane().await;
    let key = plane.key().await;
    plane.rotate(&key, 60).await;
    assert_eq!(sign(&plane).await.seq, 5);
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    plane
}

async fn sql(plane: &Plane, sql: &'static str) {
    let database = plane.database().await;
    let done = sqlx::raw_sql(sql).execute(&database).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
    database.close().await;
}

#[tokio::test]
async fn an_untouched_trail_holds_and_outlives_a_restart() {
    let plane = trail().await;
    let verified = check(&plane).await.unwrap();
    assert_eq!((verified.head.seq, verified.checkpoints, verified.covered), (6, 1, 5));
    let plane = plane.restart().await;
    assert_eq!(check(&plane).await, Ok(verified));
    assert_eq!(sign(&plane).await.seq, 6);
    assert_eq!(sign(&plane).await, sign(&plane).await, "nothing is signed twice");
    assert_eq!(check(&plane).await.unwrap().covered, 6);
    assert_eq!(checkpoints(&plane).await.trust, [plane.trust().await[0].to_string()]);
}

#[tokio::test]
async fn an_edited_record_is_named() {
    let zeros = if on_postgres() { "decode(repeat('00', 32), 'hex')" } else { "zeroblob(32)" };
    for (column, value) in [
        ("at", "at + 1"),
        ("actor", "'token_x'"),
        ("action", "'key.show'"),
        ("resource", "'key_x'"),
        ("before", "'{}'"),
        ("after", "NULL"),
        ("after", "replace(after, ':', ': ')"),
        ("request_id", "NULL"),
        ("client_address", "'192.0.2.1'"),
        ("previous", zeros),
        ("hash", zeros),
    ] {
        let plane = trail().await;
        let update = format!("UPDATE audit SET {column} = {value} WHERE seq = 4");
        let database = plane.database().await;
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&database).await.unwrap();
        assert_eq!(check(&plane).await, Err(Fault::Altered { seq: 4 }), "{column}");
    }
}

#[tokio::test]
async fn dropped_records_are_named() {
    let plane = trail().await;
    sql(&plane, "DELETE FROM audit WHERE seq = 3").await;
    assert_eq!(check(&plane).await, Err(Fault::Missing { from: 3, to: 3 }));
    sql(&plane, "UPDATE audit SET seq = seq - 1 WHERE seq > 3").await;
    assert_eq!(check(&plane).await, Err(Fault::Altered { seq: 3 }), "closing the gap does not hide it");
}

#[tokio::test]
async fn the_newest_records_are_missed_if_a_checkpoint_covers_them() {
    let plane = trail().await;
    sql(&plane, "DELETE FROM audit WHERE seq = 6").await;
    assert!(check(&plane).await.is_ok(), "no checkpoint covers it");
    sql(&plane, "DELETE FROM audit WHERE seq = 5").await;
    assert_eq!(check(&plane).await, Err(Fault::CutOff { from: 5, to: 5 }));

    // Neither what comes in their place nor a new signature hides it.
    plane.client("other").await;
    let rewritten = Err(Fault::Rewritten { from: 1, to: 5 });
    assert_eq!(check(&plane).await, rewritten);
    plane.client("another").await;
    sign(&plane).await;
    assert_eq!(check(&plane).await, rewritten);
}

#[tokio::test]
async fn a_checkpoint_kept_elsewhere_finds_what_no_stored_one_can() {
    let plane = trail().await;
    let kept = sign(&plane).await;
    sql(&plane, "DELETE FROM audit WHERE seq > 4; DELETE FROM audit_checkpoints").await;
    assert!(check(&plane).await.is_ok(), "no trace is left in the database");
    let found = verify(&records(&plane).await, &[kept], &plane.trust().await);
    assert_eq!(found, Err(Fault::CutOff { from: 5, to: 6 }));
}

#[tokio::test]
async fn swapped_records_are_found_and_the_first_named() {
    let plane = trail().await;
    sql(
        &plane,
        "UPDATE audit SET seq = 99 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 5;
         UPDATE audit SET seq = 5 WHERE seq = 99",
    )
    .await;
    assert_eq!(check(&plane).await, Err(Fault::Altered { seq: 3 }));
}

#[tokio::test]
async fn a_forged_checkpoint_is_named() {
    let plane = trail().await;
    sql(&plane, "UPDATE audit_checkpoints SET seq = 4").await;
    assert!(matches!(check(&plane).await, Err(Fault::Checkpoint { seq: 4, .. })));
}

#[tokio::test]
async fn a_record_says_who_did_what_and_what_became_of_it() {
    let plane = plane().await;
    let key = plane.key().await;
    let old = &key.versions[0].id;
    let rotation = plane.rotate(&key, 60).await;
    let answer = plane.post(&format!("/v1/keys/{}/versions/{old}/revoke", key.id), json!({})).await;

    let records = records(&plane).await;
    let actions: Vec<_> = records.iter().map(|record| record.event.action.as_str()).collect();
    assert_eq!(
        actions,
        ["ring.create", "token.create", "client.create", "key.create", "rotation.start", "version.revoke"]
    );
    assert_eq!(records[0].event.actor, "system");
    assert_eq!(records[5].event.actor, records[1].event.resource, "the token that asked");
    assert_eq!(records[5].event.request_id.as_deref(), answer.headers["x-request-id"].to_str().ok());

    let read = |text: &Option<String>| -> Value { serde_json::from_str(text.as_deref().unwrap()).unwrap() };
    assert_eq!(records[3].event.before, None);
    assert_eq!(read(&records[3].event.after), json!(key));
    let (before, after) = (read(&records[4].event.before), read(&records[4].event.after));
    assert_eq!((&before["open_rotation"], &after["open_rotation"]), (&Value::Null, &json!(rotation.id)));
    assert_eq!(
        (&before["versions"][0]["state"], &after["versions"][0]["state"]),
        (&json!("active"), &json!("retiring"))
    );
    let (before, after) = (read(&records[5].event.before), read(&records[5].event.after));
    assert_eq!(before["versions"].as_array().unwrap().len(), 1, "only what changed");
    assert_eq!(
        (&after["versions"][0]["id"], &after["versions"][0]["state"]),
        (&json!(old), &json!("revoked"))
    );

    for record in &records {
        for text in [&record.event.before, &record.event.after].into_iter().flatten() {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(value.to_string(), *text, "canonical: sorted, without spaces");
        }
    }
    let names = records[3].event.after.as_deref().unwrap();
    assert!(
        names.find("\"client\"") < names.find("\"created_at\"")
            && names.find("\"ring\"") < names.find("\"scopes\"")
    );
}

#[tokio::test]
async fn a_page_that_cannot_be_is_refused() {
    let plane = plane().await;
    for (query, field) in
        [("after=x", "after"), ("after=-1", "after"), ("limit=0", "limit"), ("limit=501", "limit")]
    {
        for path in ["/v1/audit", "/v1/audit/checkpoints"] {
            let problem = plane.get(&format!("{path}?{query}")).await.problem("invalid-request");
            assert_eq!(problem.errors[0].field, field, "{path}?{query}");
        }
    }
    let beyond: List<AuditRecord> = plane.get("/v1/audit?after=99").await.json(StatusCode::OK);
    assert_eq!((beyond.items.len(), beyond.next), (0, None));
}

#[tokio::test]
async fn records_are_found_by_who_what_whom_and_when() {
    let plane = trail().await;
    let all = records(&plane).await;
    let find = async |query: &str| -> Vec<u64> {
        let page: List<AuditRecord> = plane.get(&format!("/v1/audit?{query}")).await.json(StatusCode::OK);
        assert_eq!(page.next, None, "{query}");
        page.items.into_iter().map(|record| record.seq).collect()
    };
    let where_ = |holds: &dyn Fn(&AuditRecord) -> bool| -> Vec<u64> {
        all.iter().filter(|record| holds(record)).map(|record| record.seq).collect()
    };
    let last = all.last().unwrap();
    let (actor, resource, at) = (&last.event.actor, &last.event.resource, last.event.at);
    assert_eq!(find(&format!("actor={actor}")).await, where_(&|record| record.event.actor == *actor));
    assert_eq!(
        find(&format!("resource={resource}")).await,
        where_(&|record| record.event.resource == *resource)
    );
    assert_eq!(find("action=key.create").await, where_(&|record| record.event.action == "key.create"));
    let of_keys = where_(&|record| record.event.action.starts_with("key."));
    assert!(of_keys.len() > 1 && of_keys.len() < all.len(), "{of_keys:?}");
    assert_eq!(find("action=key.").await, of_keys);
    assert_eq!(find("action=key").await, [0; 0]);
    assert_eq!(find(&format!("since={at}")).await, where_(&|record| record.event.at >= at));
    assert_eq!(find("since=2999-01-01T00:00:00Z").await, [0; 0]);
    assert_eq!(find(&format!("action=key.&resource={resource}&actor=nobody")).await, [0; 0]);

    // One after the other, and no record is missed.
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/audit?action=key.&limit=1&after={after}");
        let page: List<AuditRecord> = plane.get(&path).await.json(StatusCode::OK);
        found.extend(page.items.into_iter().map(|record| record.seq));
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(found, of_keys);
    let long = format!("/v1/audit?actor={}", "a".repeat(257));
    plane.get(&long).await.problem("invalid-request");
}

#[tokio::test]
async fn a_look_for_records_ends_though_nothing_is_found() {
    let plane = plane().await;
    // As if there were very many: numbers that are missing are passed as records are.
    let many = "UPDATE audit SET seq = seq + 50000";
    sqlx::query(many).execute(&plane.database().await).await.unwrap();
    let page: List<AuditRecord> = plane.get("/v1/audit?actor=nobody").await.json(StatusCode::OK);
    assert_eq!((page.items.len(), page.next.as_deref()), (0, Some("20000")));
    let page: List<AuditRecord> = plane.get("/v1/audit?actor=nobody&after=40000").await.json(StatusCode::OK);
    assert_eq!((page.items.len(), page.next), (0, None));
}
