use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use keywheel_keyring::PlainKey;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{Server, keywheel};

/// A control plane for consumers, whose client `acme` has a key that may rotate itself.
fn serve() -> (Server, String) {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &["--consumer-listen", "127.0.0.1:0"]);
    server.human(&["policy", "create", "own", "--self-rotation", "true", "--overlap", "1d"]);
    server.human(&["client", "create", "acme", "--policy", "own"]);
    let made = server.json(&["key", "create", "--client", "acme", "--scope", "trade"]);
    (server, made["secret"].as_str().unwrap().to_owned())
}

/// Without a token: only with the key.
fn holder(url: &str, key: &str, args: &[&str]) -> Output {
    let mut command = keywheel();
    command.env("KEYWHEEL_CONSUMER_URL", url).env("KEYWHEEL_API_KEY", key).arg("self").args(args);
    command.output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim_end().to_owned()
}

#[test]
fn a_client_rotates_its_key_into_a_file_of_its_own() {
    let (mut server, first) = serve();
    let url = server.ready["consumer_url"].as_str().unwrap().to_owned();
    let out = server.dir.path().join("key.new");
    let arguments = ["rotate", "--out", out.to_str().unwrap(), "--overlap", "2h", "--output", "json"];
    let rotated = json(&holder(&url, &first, &arguments));
    assert_eq!((&rotated["secret"], &rotated["out"]), (&Value::Null, &json!(out)));
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let second = text(&out);

    let shown = holder(&url, "", &["show", "--key-file", out.to_str().unwrap(), "--output", "json"]);
    let shown = json(&shown);
    assert_eq!(
        (&shown["version"]["id"], &shown["version"]["state"]),
        (&rotated["new_version"], &json!("active"))
    );
    assert_eq!(shown["other_versions"][0]["state"], "retiring");
    let human = holder(&url, &first, &["show", "--bearer"]);
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(
        human.contains("may rotate itself, with an overlap of 1h to 1d") && human.contains("this one"),
        "{human}"
    );

    // Whoever runs it again with the same file finds what the first run started.
    assert_eq!(json(&holder(&url, &first, &arguments))["id"], rotated["id"]);
    assert_eq!(text(&out), second);
    // An older version renews nothing.
    let refused = holder(&url, &first, &["rotate"]);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("version-superseded"), "{refused:?}");

    server.kill();
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("rotates itself") && log.contains("sqlx::query"), "the log is a talkative one");
    for secret in [first, second] {
        assert!(!log.contains(&secret[secret.len() - 40..]), "a secret is in the log");
    }
}

#[test]
fn without_a_file_the_new_key_is_printed_once() {
    let (server, first) = serve();
    let url = server.ready["consumer_url"].as_str().unwrap();
    let rotated = holder(url, &first, &["rotate"]);
    let rotated = String::from_utf8(rotated.stdout).unwrap();
    let second = rotated.split_whitespace().find(|word| word.starts_with("kw_live_")).unwrap();
    let shown = json(&holder(url, second, &["show", "--output", "json"]));
    assert_eq!(shown["version"]["state"], "active");
}

#[test]
fn what_is_wrong_is_told_apart() {
    let (server, key) = serve();
    let url = server.ready["consumer_url"].as_str().unwrap();
    let code = |output: Output| output.status.code().unwrap();
    let message = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let nothing = holder(url, "", &["show"]);
    assert!(message(&nothing).contains("KEYWHEEL_API_KEY"), "{nothing:?}");
    assert_eq!(code(nothing), 4);
    assert_eq!(code(holder(url, "two words", &["show"])), 4);
    assert_eq!(code(holder(url, "kw_live_none", &["show"])), 4);
    assert_eq!(code(holder("http://127.0.0.1:1", &key, &["show"])), 3);
    assert_eq!(code(holder("ftp://x", &key, &["show"])), 2);
    assert_eq!(code(holder(url, "", &["show", "--key-file", "/none"])), 4);
    let admin = holder(server.ready["admin_url"].as_str().unwrap(), &key, &["show"]);
    assert_eq!(code(admin), 1);

    // No file is written over, least of all the one with the key.
    for holds in [key.as_str(), "something else"] {
        let out = server.dir.path().join("taken");
        fs::write(&out, holds).unwrap();
        let taken = holder(url, &key, &["rotate", "--out", out.to_str().unwrap()]);
        assert!(message(&taken).contains("is there already"), "{taken:?}");
        assert_eq!(code(taken), 1);
        assert_eq!(text(&out), holds);
    }
    assert_eq!(json(&holder(url, &key, &["show", "--output", "json"]))["open_rotation"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_filter_on_the_way_refuses_is_told_as_it_says() {
    let refusal = json!({ "type": "https://example.com/key_expired", "title": "The key has expired", "status": 401,
                          "code": "key_expired" });
    let app =
        Router::new().route("/v1/self", get(async move || (StatusCode::UNAUTHORIZED, axum::Json(refusal))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let refused = holder(&url, "sk_own", &["show"]);
    assert_eq!(refused.status.code(), Some(4));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("The key has expired (key_expired)"), "{message}");
    server.abort();
}

/// Answers who asks, and never whether it rotated. Keeps the versions that it was sent.
async fn never_says(State(sent): State<Arc<Mutex<Vec<Value>>>>, body: String) -> (StatusCode, &'static str) {
    let body: Value = serde_json::from_str(&body).unwrap();
    sent.lock().unwrap().push(body["version"].clone());
    (StatusCode::BAD_GATEWAY, "no upstream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_outlives_an_answer_that_is_lost() {
    let version = json!({ "id": "kv_1", "state": "active", "not_before": null, "expires_at": null });
    let seen = json!({ "client": "acme", "key": "key_1", "scopes": [], "expires_at": null, "version": version,
                       "other_versions": [], "open_rotation": null, "policy": null, "rotation_due_at": null,
                       "key_prefix": "kw_live_" });
    let sent = Arc::new(Mutex::new(Vec::new()));
    let app = Router::new()
        .route("/v1/self", get(async move || axum::Json(seen)))
        .route("/v1/self/rotations", post(never_says))
        .with_state(sent.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("key.new");
    let digest = |key: &str| json!(PlainKey::from(key.to_owned()).digest());
    for run in 1..=2 {
        let lost = holder(&url, "sk_own", &["rotate", "--out", out.to_str().unwrap()]);
        assert_eq!(lost.status.code(), Some(1), "{lost:?}");
        assert!(String::from_utf8_lossy(&lost.stderr).contains("Run this again"), "{lost:?}");
        let sent = sent.lock().unwrap();
        assert_eq!(sent.len(), run);
        assert!(sent.iter().all(|version| version["digest"] == digest(&text(&out))), "the same each time");
    }
    let lost = holder(&url, "sk_own", &["rotate", "--output", "json"]);
    assert_eq!(lost.status.code(), Some(1));
    let shown: Value = serde_json::from_slice(&lost.stdout).unwrap();
    let last = sent.lock().unwrap().last().unwrap().clone();
    assert_eq!(
        (&shown["new_version"], digest(shown["secret"].as_str().unwrap())),
        (&last["id"], last["digest"].clone())
    );
    server.abort();
}

#[test]
fn while_a_canary_alone_has_the_new_key_the_old_one_is_not_replaced() {
    let (server, first) = serve();
    server.human(&["ring", "create", "ahead", "--canary-of", "production", "--pause", "1h"]);
    let made = server.human(&["ring", "list"]);
    assert!(made.contains("ahead (canary of production)"), "{made}");
    let url = server.ready["consumer_url"].as_str().unwrap().to_owned();
    let out = server.dir.path().join("key.new");
    let arguments = ["rotate", "--out", out.to_str().unwrap(), "--output", "json"];
    let early = holder(&url, &first, &arguments);
    assert_eq!(early.status.code(), Some(6), "{}", String::from_utf8_lossy(&early.stderr));
    assert!(String::from_utf8_lossy(&early.stderr).contains("go on with the old one"));
    let rotation: Value = serde_json::from_slice(&early.stdout).unwrap();
    let (id, key) = (rotation["id"].as_str().unwrap(), rotation["key"].as_str().unwrap());
    let second = text(&out);

    let shown = server.human(&["rotation", "show", id]);
    assert!(shown.contains("the proxies of its canary ahead"), "{shown}");
    let shown = server.human(&["key", "show", key]);
    assert!(shown.contains("in the canary, until"), "{shown}");
    let shown = server.human(&["ring", "show", "ahead"]);
    assert!(
        shown.contains("of production: what is new goes to production once") && shown.contains("waiting: 1")
    );
    let set = server.human(&["ring", "set-canary", "ahead", "--promote", "after-pause"]);
    assert_eq!(set, "Ring ahead: what is new goes to production after 1h\n");
    let promoted = server.human(&["rotation", "promote", id]);
    assert!(promoted.contains("waits for no canary"), "{promoted}");
    assert_eq!(json(&holder(&url, &first, &arguments))["state"], "overlapping");
    assert_eq!(text(&out), second);
    let nothing = server.human(&["ring", "promote"]);
    assert!(nothing.starts_with("Ring production has all that ahead has: nothing waited."), "{nothing}");
}
