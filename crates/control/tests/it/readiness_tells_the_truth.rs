use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_control::app;
use serde_json::{Value, json};

use crate::support::{Answer, Plane, call, on_postgres, plane};

async fn ask(plane: &Plane, path: &str) -> Answer {
    // What was said a moment ago is said again.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    call(app::ring(plane.control.clone()), request).await
}

async fn checks(plane: &Plane, status: StatusCode) -> Value {
    let body: Value = ask(plane, "/readyz").await.json(status);
    assert_eq!(body["ready"], status == StatusCode::OK, "{body}");
    assert_eq!(ask(plane, "/healthz").await.status, StatusCode::OK, "the process is alive all the same");
    body["checks"].clone()
}

#[tokio::test]
async fn each_check_is_named_with_its_state() {
    let plane = plane().await;
    let well = json!({ "database": "ok", "database_writable": "ok", "signing": "ok", "rings": "ok", "running": "ok" });
    assert_eq!(checks(&plane, StatusCode::OK).await, well);
    let head = plane.head();

    plane.control.stop();
    let mut stopping = well.clone();
    stopping["running"] = json!("stopping");
    assert_eq!(checks(&plane, StatusCode::SERVICE_UNAVAILABLE).await, stopping);
    assert_eq!(plane.head(), head, "looking changed nothing");
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_not_ready() {
    let plane = plane().await;
    plane.control.store.close().await;
    let checks = checks(&plane, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!((&checks["database"], &checks["signing"]), (&json!("failed"), &json!("failed")));
}

#[tokio::test]
async fn a_database_that_takes_no_write_is_not_ready() {
    let plane = plane().await;
    // Another process holds the lock, as a backup gone wrong would.
    let mut other = plane.database().await.acquire().await.unwrap();
    let lock = if on_postgres() { "BEGIN; LOCK TABLE rings" } else { "BEGIN IMMEDIATE" };
    sqlx::raw_sql(lock).execute(&mut *other).await.unwrap();
    let found = checks(&plane, StatusCode::SERVICE_UNAVAILABLE).await;
    // PostgreSQL's lock keeps readers out, too.
    let database = if on_postgres() { "timed_out" } else { "ok" };
    assert_eq!((&found["database"], &found["database_writable"]), (&json!(database), &json!("timed_out")));
    sqlx::query("ROLLBACK").execute(&mut *other).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(checks(&plane, StatusCode::OK).await["database_writable"], "ok");
}
