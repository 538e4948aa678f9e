//! `keywheel serve` on what it cannot serve from says so in one sentence, and exits non-zero.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use keywheel_testkit::control_plane::serve;
use keywheel_testkit::process::Process;
use keywheel_testkit::{ControlPlane, port, until};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::scene::paths;

#[tokio::test]
async fn a_busy_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(port::free()).unwrap();
    let busy = taken.local_addr().unwrap();
    assert_refused(dir.path(), Some(("--admin-listen", busy)), &busy.to_string()).await;
    assert_refused(dir.path(), Some(("--ring-listen", busy)), &busy.to_string()).await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // A directory below a file cannot be made by anybody, not even by root.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("data");
    assert_refused(&below, None, &below.display().to_string()).await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let control = stopped().await;
    let database = database(&control.data());
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&database)).await.unwrap();
    let next = "INSERT INTO _sqlx_migrations SELECT 999, description, installed_on, success, checksum, \
                execution_time FROM _sqlx_migrations LIMIT 1";
    sqlx::query(next).execute(&pool).await.unwrap();
    pool.close().await;
    assert_refused(&control.data(), None, "newer keywheel (schema 999)").await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let control = stopped().await;
    let database = database(&control.data());
    // With it goes its journal, from which SQLite would restore it.
    for entry in fs::read_dir(control.data()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(".db-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::write(&database, "a shopping list, by chance under this name").unwrap();
    assert_refused(&control.data(), None, &database.display().to_string()).await;
    assert_eq!(fs::read_to_string(&database).unwrap(), "a shopping list, by chance under this name");
}

/// A control plane that has run once.
async fn stopped() -> ControlPlane {
    let mut control = ControlPlane::start(&paths()).await.unwrap();
    control.kill();
    control
}

fn database(data: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(data).unwrap().flatten().map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|extension| extension == "db")).unwrap()
}

/// `serve` ends by itself, with one sentence on stderr that says what is wrong.
async fn assert_refused(data: &Path, listen: Option<(&str, std::net::SocketAddr)>, what: &str) {
    let mut addresses = (port::free(), port::free());
    match listen {
        Some(("--admin-listen", busy)) => addresses.0 = busy,
        Some((_, busy)) => addresses.1 = busy,
        None => {}
    }
    let logs = tempfile::tempdir().unwrap();
    let mut command = serve(&paths().keywheel, data, addresses.0, addresses.1);
    command.args(["--ring-auth", "open"]);
    let mut process = Process::spawn("keywheel", logs.path(), &mut command).unwrap();
    let ended = until("serve gives up", async || process.ended()).await.unwrap();
    let said = process.stderr();
    assert!(!ended.success(), "{ended}");
    assert_eq!(process.stdout(), "");
    let errors: Vec<&str> = said.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(what), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
