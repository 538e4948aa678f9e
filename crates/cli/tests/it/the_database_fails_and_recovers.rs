//! What goes wrong with a database while a real `keywheel serve` has it open.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keywheel_keyring::Digest;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::support::Server;

/// The admin API, without the command line's retries.
#[derive(Clone)]
struct Admin {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Admin {
    fn of(server: &Server) -> Self {
        let url = server.ready["admin_url"].as_str().unwrap().to_owned();
        Self { http: reqwest::Client::new(), url, token: server.token.clone() }
    }

    async fn get(&self, path: &str) -> reqwest::Result<reqwest::Response> {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await
    }

    /// Makes key version number `n`, which is the same one each time.
    async fn create(&self, n: usize) -> reqwest::Result<StatusCode> {
        let body = json!({ "client": "acme", "version": version(n) });
        let request = self.http.post(format!("{}/v1/keys", self.url)).bearer_auth(&self.token);
        Ok(request.json(&body).send().await?.status())
    }

    /// Waits until `/readyz` says so; its answer is kept for a moment.
    async fn until_ready_is(&self, status: StatusCode) {
        for _ in 0..600 {
            if self.get("/readyz").await.unwrap().status() == status {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let body = self.get("/readyz").await.unwrap().text().await.unwrap();
        panic!("/readyz never came to {status}: {body}");
    }

    /// Whether keys are made, once each of a few tries had the same answer.
    async fn until(&self, numbers: &mut std::ops::RangeFrom<usize>, status: StatusCode) -> usize {
        for _ in 0..600 {
            let n = numbers.next().unwrap();
            let found = self.create(n).await.unwrap();
            if found == status {
                return n;
            }
            assert!([StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE].contains(&found), "{found}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("it never came to {status}");
    }

    async fn versions(&self) -> BTreeSet<String> {
        let mut versions = BTreeSet::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/v1/keys?after={after}")).await.unwrap().bytes().await.unwrap();
            let page: Value = serde_json::from_slice(&page).unwrap();
            for key in page["items"].as_array().unwrap() {
                versions.insert(key["versions"][0]["id"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => return versions,
            }
        }
    }
}

fn id(n: usize) -> String {
    format!("kv_{n:016}")
}

fn version(n: usize) -> Value {
    json!({ "id": id(n), "digest": Digest::of(&n.to_be_bytes()) })
}

fn start() -> (Server, Admin) {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let admin = Admin::of(&server);
    (server, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_among_a_thousand_concurrent_writes_loses_none_that_was_answered() {
    let (mut server, admin) = start();
    let (next, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (admin, next, answered) = (admin.clone(), next.clone(), answered.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    match admin.create(n).await {
                        Ok(StatusCode::CREATED) => answered.lock().unwrap().push(n),
                        Ok(other) => panic!("{other}"),
                        Err(_) => return,
                    }
                }
            })
        })
        .collect();
    while answered.lock().unwrap().len() < 1000 {
        assert!(!writers.iter().any(tokio::task::JoinHandle::is_finished));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.kill();
    for writer in writers {
        writer.await.unwrap();
    }
    server.start_again();
    let admin = Admin::of(&server);
    let answered = answered.lock().unwrap().clone();
    let found = admin.versions().await;
    let lost: Vec<_> = answered.iter().filter(|n| !found.contains(&id(**n))).collect();
    assert!(lost.is_empty() && answered.len() >= 1000, "{} lost of {}: {lost:?}", lost.len(), answered.len());
    // Revisions and trail agree with what is there.
    assert_eq!(server.json(&["ring", "show"])["revision"], found.len());
    server.human(&["audit", "verify"]);
}

#[tokio::test]
async fn a_locked_database_answers_503_until_it_is_free() {
    let (server, admin) = start();
    let options = SqliteConnectOptions::new().filename(server.dir.path().join("data/keywheel.db"));
    let other = SqlitePool::connect_with(options).await.unwrap();
    let mut lock = other.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut *lock).await.unwrap();
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    // Whoever only reads is not held up.
    assert_eq!(admin.get("/v1/keys").await.unwrap().status(), StatusCode::OK);
    sqlx::raw_sql("ROLLBACK").execute(&mut *lock).await.unwrap();
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::CREATED);
    assert_eq!(admin.versions().await, BTreeSet::from([id(1)]));
}

#[tokio::test]
async fn a_full_disk_answers_503_until_there_is_space() {
    let (mut server, admin) = start();
    // No file of the process may grow beyond what it has by now and a little more; to SQLite that is a write that
    // fails, as on a full disk.
    let limit = |size: &str| {
        let done = Command::new("prlimit")
            .args([format!("--pid={}", server.id()), format!("--fsize={size}:unlimited")])
            .status();
        assert!(done.unwrap().success());
    };
    limit("1000000");
    let mut numbers = 0..;
    let refused = admin.until(&mut numbers, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(refused > 0, "some had space");
    assert_eq!(admin.get("/v1/keys").await.unwrap().status(), StatusCode::OK);
    limit("unlimited");
    let after = admin.until(&mut numbers, StatusCode::CREATED).await;
    // What was refused is not there, whatever became of the log's end.
    let made = admin.versions().await;
    assert!(made.contains(&id(after)) && !made.contains(&id(refused)));
    server.kill();
    server.start_again();
    assert_eq!(Admin::of(&server).versions().await, made);
    server.human(&["audit", "verify"]);
}

#[tokio::test]
async fn a_database_that_was_moved_away_answers_503_until_it_is_back() {
    let (mut server, admin) = start();
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::CREATED);
    let data = server.dir.path().join("data");
    for (from, to) in [
        (data.join("keywheel.db"), data.join("elsewhere.db")),
        (data.clone(), server.dir.path().join("moved")),
    ] {
        fs::rename(&from, &to).unwrap();
        assert_eq!(admin.create(2).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
        admin.until_ready_is(StatusCode::SERVICE_UNAVAILABLE).await;
        assert!(!from.exists(), "nothing takes its place");
        fs::rename(&to, &from).unwrap();
        admin.until_ready_is(StatusCode::OK).await;
    }
    assert_eq!(admin.create(2).await.unwrap(), StatusCode::CREATED);
    server.kill();
    server.start_again();
    assert_eq!(Admin::of(&server).versions().await, BTreeSet::from([id(1), id(2)]));
}

#[tokio::test]
async fn a_database_that_was_removed_answers_no_change_as_if_it_lasted() {
    let (server, admin) = start();
    let data = server.dir.path().join("data");
    fs::remove_file(data.join("keywheel.db")).unwrap();
    let answer = admin.get("/v1/keys").await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().contains("was removed or moved away"));
    admin.until_ready_is(StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    let ring = server.ready["ring_url"].as_str().unwrap();
    let ask = format!(
        "{ring}/v1/rings/production/changes?epoch={}&since=0",
        server.ready["epoch"].as_str().unwrap()
    );
    let answer = admin.http.get(ask).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "a heartbeat says that the ring is whole");
    assert!(!data.join("keywheel.db").exists(), "and no empty one takes its place");
    assert!(fs::read_to_string(server.log()).unwrap().contains("restore a backup"));
}

#[tokio::test]
async fn a_log_that_was_removed_is_noticed_with_the_first_change() {
    let (server, admin) = start();
    fs::remove_file(server.dir.path().join("data/keywheel.db-wal")).unwrap();
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(admin.create(1).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE, "the repeat too");
    admin.until_ready_is(StatusCode::SERVICE_UNAVAILABLE).await;
}
