use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use keywheel_api::Key;
use keywheel_api::audit::verify;
use keywheel_control::Options;
use keywheel_control::store::{Location, PostgresUrl};
use keywheel_testkit::postgres::Postgres;
use serde_json::json;

use crate::support::{Plane, first_start, new_version, on_sqlite};

async fn plane_on(server: &Postgres) -> (Plane, PostgresUrl) {
    let dir = tempfile::tempdir().unwrap();
    let database: PostgresUrl = server.database().unwrap().parse().unwrap();
    let options = Options { database: Some(database.clone()), ..on_sqlite(dir.path()) };
    (first_start(dir, &options).await, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_server_that_is_killed_under_load() {
    let mut server = Postgres::start().unwrap();
    let plane = Arc::new(plane_on(&server).await.0);
    plane.client("acme").await;
    let stop = Arc::new(AtomicBool::new(false));
    let (made, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (plane, stop) = (plane.clone(), stop.clone());
            let (made, refused) = (made.clone(), refused.clone());
            tokio::spawn(async move {
                let mut answered = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let body = json!({ "client": "acme", "version": new_version() });
                    let answer = plane.post("/v1/keys", body).await;
                    if answer.status == StatusCode::CREATED {
                        answered.push(answer.json::<Key>(StatusCode::CREATED).id);
                        made.fetch_add(1, Ordering::Relaxed);
                    } else {
                        answer.problem("unavailable");
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                answered
            })
        })
        .collect();
    let more = async |than: u64| {
        while made.load(Ordering::Relaxed) < than {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for end in [Postgres::kill, Postgres::stop] {
        more(made.load(Ordering::Relaxed) + 50).await;
        end(&mut server);
        let before = refused.load(Ordering::Relaxed);
        while refused.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.resume().unwrap();
    }
    more(made.load(Ordering::Relaxed) + 50).await;
    stop.store(true, Ordering::Relaxed);

    let mut answered = 0;
    for writer in writers {
        for key in writer.await.unwrap() {
            let found: Key = plane.get(&format!("/v1/keys/{key}")).await.json(StatusCode::OK);
            assert_eq!(found.versions.len(), 1);
            answered += 1;
        }
    }
    assert!(answered >= 150);
    let mut records = Vec::new();
    while let page = plane.store().audit_records(records.len() as u64, 500).await.unwrap()
        && !page.is_empty()
    {
        records.extend(page);
    }
    verify(&records, &[], &[]).unwrap();
    assert!(records.len() as u64 >= answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_answers_503_and_is_used_again_when_it_does() {
    let server = Postgres::start().unwrap();
    let (plane, database) = plane_on(&server).await;
    let key = plane.key().await;
    let database = Location::Postgres(database).pool().await.unwrap();
    // As on a standby after a failover. Open sessions keep what they began with.
    let read_only = async |on: &str| {
        let sql = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {on}',
             current_database()); END $$"
        );
        let mut tx = database.begin().await.unwrap();
        sqlx::raw_sql("SET TRANSACTION READ WRITE").execute(&mut *tx).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    let end_sessions = async || {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(&database).await.unwrap();
    };
    read_only("on").await;
    end_sessions().await;
    let revoke = format!("/v1/keys/{}/revoke", key.id);
    let refused = plane.post(&revoke, json!({})).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    refused.problem("unavailable");
    assert_eq!(plane.show(&key).await, key, "reading goes on");
    read_only("off").await;
    assert_eq!(plane.post(&revoke, json!({})).await.status, StatusCode::OK);
}
