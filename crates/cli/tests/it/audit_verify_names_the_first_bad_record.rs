use std::fs;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use crate::support::Server;

/// A server whose trail has four records; a checkpoint covers all of them.
fn trail() -> (Server, String) {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    server.json(&["key", "create", "--client", "acme"]);
    let checkpoint = server.human(&["audit", "checkpoint"]);
    (server, checkpoint)
}

/// Changes the database while the server runs, as an intruder would.
async fn tamper(server: &Server, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(server.dir.path().join("data/keywheel.db"));
    let database = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql(sql).execute(&database).await.unwrap();
    database.close().await;
}

#[track_caller]
fn fails(server: &Server, args: &[&str], code: i32, says: &str) {
    let output = server.run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(says), "{error}");
}

#[test]
fn a_whole_trail_is_listed_and_verified() {
    let (server, checkpoint) = trail();
    let checkpoint: Value = serde_json::from_str(&checkpoint).unwrap();
    let report = server.json(&["audit", "verify"]);
    assert_eq!((&report["records"], &report["covered"]), (&4.into(), &4.into()));
    assert_eq!(report["head"], checkpoint["hash"]);
    let human = server.human(&["audit", "verify", "--trust", server.ready["trust"][0].as_str().unwrap()]);
    assert!(human.starts_with("The audit trail is whole: 4 records"), "{human}");
    server.human(&["client", "create", "other"]);
    let human = server.human(&["audit", "verify"]);
    assert!(human.contains("No checkpoint covers the newest 1 record yet"), "{human}");

    let list = server.json(&["audit", "list", "--after", "2", "--limit", "2"]);
    let list = list.as_array().unwrap();
    assert_eq!((list.len(), &list[0]["seq"], &list[1]["action"]), (2, &3.into(), &"key.create".into()));
    assert_eq!(list[1]["client_address"], "127.0.0.1", "where the request came from");
    let of_client = server.json(&["audit", "list", "--action", "client.", "--since", "1h"]);
    assert!(of_client.as_array().unwrap().iter().all(|record| record["action"] == "client.create"));
    assert_eq!(of_client.as_array().unwrap().len(), 2);
    let human = server.human(&["audit", "list"]);
    for part in ["RECORD", "client.create", "acme", "127.0.0.1", list[1]["request_id"].as_str().unwrap()] {
        assert!(human.contains(part), "{part}: {human}");
    }
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains(list[1]["request_id"].as_str().unwrap()), "the log has the same request id");
}

#[tokio::test]
async fn an_edited_record_is_named() {
    let (server, _) = trail();
    tamper(&server, "UPDATE audit SET actor = 'token_x' WHERE seq = 3").await;
    fails(&server, &["audit", "verify"], 5, "record 3 was altered");
    let output = server.run(&["audit", "verify", "--output", "json"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["exit_code"], 5);
}

#[tokio::test]
async fn dropped_and_swapped_records_are_named() {
    let (server, _) = trail();
    tamper(&server, "DELETE FROM audit WHERE seq = 2").await;
    fails(&server, &["audit", "verify"], 5, "record 2 is missing");

    let (server, _) = trail();
    let swap = "UPDATE audit SET seq = 9 WHERE seq = 1; UPDATE audit SET seq = 1 WHERE seq = 2;
        UPDATE audit SET seq = 2 WHERE seq = 9";
    tamper(&server, swap).await;
    fails(&server, &["audit", "verify"], 5, "record 1 was altered");

    let (server, _) = trail();
    tamper(&server, "DELETE FROM audit WHERE seq = 4").await;
    fails(&server, &["audit", "verify"], 5, "record 4 is missing, which a checkpoint covers");
}

#[tokio::test]
async fn a_checkpoint_kept_elsewhere_finds_what_the_database_no_longer_shows() {
    let (server, checkpoint) = trail();
    let file = server.dir.path().join("checkpoint.json");
    fs::write(&file, checkpoint).unwrap();
    let verify = ["audit", "verify", "--checkpoint", file.to_str().unwrap()];
    assert!(server.human(&verify).contains("is whole"));
    tamper(&server, "DELETE FROM audit WHERE seq > 2; DELETE FROM audit_checkpoints WHERE seq > 2").await;
    assert!(server.human(&["audit", "verify"]).contains("2 records"), "no trace is left there");
    fails(&server, &verify, 5, "records 3 to 4 are missing");

    // Of another control plane.
    let other = Server::start();
    fails(&other, &verify, 5, "signed by a key that is not trusted");
    let trust = other.ready["trust"][0].as_str().unwrap();
    fails(&server, &["audit", "verify", "--trust", trust], 5, "signed by a key that is not trusted");
    fails(&server, &["audit", "verify", "--checkpoint", "nowhere"], 1, "cannot read the checkpoint nowhere");
}

#[test]
fn a_clean_stop_and_the_start_after_a_kill_sign_what_is_left() {
    let (mut server, _) = trail();
    server.human(&["client", "create", "other"]);
    server.stop();
    server.start_again();
    assert_eq!(server.json(&["audit", "verify"])["covered"], 5);

    server.human(&["client", "create", "third"]);
    server.kill();
    server.start_again();
    // It is signed as the listeners open.
    let mut covered = std::iter::repeat_with(|| server.json(&["audit", "verify"])["covered"].clone());
    assert!(covered.by_ref().take(200).any(|covered| covered == 6));
}
