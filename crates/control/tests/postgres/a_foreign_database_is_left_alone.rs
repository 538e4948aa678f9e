use keywheel_control::store::{Location, PostgresUrl};
use keywheel_control::{Control, Options};

use crate::support::{POSTGRES, database_of, first_start, on_sqlite};

#[tokio::test]
async fn what_others_made_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { database: Some(database_of(dir.path())), ..on_sqlite(dir.path()) };
    let database = Location::Postgres(database_of(dir.path())).pool().await.unwrap();
    sqlx::raw_sql("CREATE TABLE orders (id INTEGER)").execute(&database).await.unwrap();
    let error = Control::open(&options).await.err().unwrap().to_string();
    assert!(error.contains("holds tables that are not keywheel's"), "{error}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&database)
        .await
        .unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn in_a_schema_of_its_own_there_is_room_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let data = on_sqlite(dir.path());
    let url = format!("{}&options=-csearch_path=keywheel", POSTGRES.database().unwrap());
    let url: PostgresUrl = url.parse().unwrap();
    let database = Location::Postgres(url.clone()).pool().await.unwrap();
    let others = "CREATE SCHEMA keywheel; CREATE TABLE public.orders (id INTEGER)";
    sqlx::raw_sql(others).execute(&database).await.unwrap();
    first_start(dir, &Options { database: Some(url), ..data }).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("postgres://me:hunter2@localhost/ring?host={}", dir.path().display());
    let options = Options { database: Some(url.parse().unwrap()), ..on_sqlite(dir.path()) };
    let error = Control::open(&options).await.err().unwrap().to_string();
    assert!(error.contains("check that it runs") && error.contains("postgres://me@/"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
