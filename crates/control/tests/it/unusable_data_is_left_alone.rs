use std::fs;
use std::path::Path;

use keywheel_control::{Control, Options};

use crate::support::{first_start, on_postgres, on_sqlite, options, plane};

#[track_caller]
fn says(found: Result<impl Sized, keywheel_control::StartError>, what: &str) {
    let error = found.err().unwrap().to_string();
    assert!(error.contains(what), "{error}");
    assert!(!error.contains('\n'), "one sentence: {error}");
}

async fn open(dir: &Path) -> Result<(), keywheel_control::StartError> {
    Control::open(&options(dir)).await.map(drop)
}

#[tokio::test]
async fn a_second_control_plane_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = on_sqlite(dir.path());
    let _first = first_start(dir, &options).await;
    says(Control::open(&options).await, "another keywheel serves");
}

#[tokio::test]
async fn a_database_of_another_version_is_left_alone() {
    let plane = plane().await;
    let key = plane.key().await;
    let database = plane.database().await;
    let dir = plane.dir.clone();
    plane.store().close().await;
    drop(plane);

    let run = async |sql: String| {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&database).await.unwrap();
    };
    let zero = if on_postgres() { "'\\x00'" } else { "x'00'" };
    run(format!("UPDATE _sqlx_migrations SET checksum = {zero}")).await;
    says(open(dir.path()).await, "is not the one that this keywheel knows");
    run(format!("INSERT INTO _sqlx_migrations VALUES (99, 'later', '2030-01-01', true, {zero}, 0)")).await;
    run("UPDATE _sqlx_migrations SET version = 98 WHERE version = 4".into()).await;
    says(open(dir.path()).await, "newer keywheel (schema 9");
    let keys: Vec<String> = sqlx::query_scalar("SELECT id FROM keys").fetch_all(&database).await.unwrap();
    assert_eq!(keys, [key.id]);
}

#[tokio::test]
async fn a_missing_or_wrong_master_key_is_not_replaced() {
    let plane = plane().await;
    let dir = plane.dir.clone();
    plane.store().close().await;
    drop(plane);
    let master = dir.path().join("data/master.key");
    let right = fs::read(&master).unwrap();

    fs::remove_file(&master).unwrap();
    says(open(dir.path()).await, "restore the file that belongs to this database");
    assert!(!master.exists());
    fs::write(&master, "00".repeat(32)).unwrap();
    says(open(dir.path()).await, "does not open this database's signing key");
    fs::write(&master, "nonsense").unwrap();
    says(open(dir.path()).await, "64 hexadecimal digits");
    fs::write(&master, right).unwrap();
    open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    says(open(&file).await, "cannot use the data directory");

    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let junk = "this is not SQLite".repeat(1000);
    fs::write(data.join("keywheel.db"), &junk).unwrap();
    says(Control::open(&on_sqlite(dir.path())).await, "is not a keywheel database");
    assert_eq!(fs::read_to_string(data.join("keywheel.db")).unwrap(), junk);
}

#[tokio::test]
async fn a_first_start_that_cannot_hand_over_its_token_starts_anew_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere/token");
    let first = Options { admin_token_file: Some(nowhere.clone()), ..options(dir.path()) };
    says(Control::open(&first).await, "cannot write the admin token");
    fs::create_dir(dir.path().join("nowhere")).unwrap();
    let (control, token) = Control::open(&first).await.unwrap();
    assert!(token.is_none(), "the file has it");
    assert!(fs::read_to_string(nowhere).unwrap().starts_with("kwt_"));
    assert_eq!(control.ring("production").unwrap().head(), 0);

    let bad = Options { ring_name: "a/b".into(), ..options(&dir.path().join("other")) };
    says(Control::open(&bad).await, "cannot name a ring");
}
