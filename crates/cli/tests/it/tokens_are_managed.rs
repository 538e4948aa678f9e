use crate::support::{Server, keywheel};

#[test]
fn a_token_is_made_listed_rotated_and_revoked() {
    let server = Server::start();
    let made = server.json(&["token", "create", "--role", "auditor", "--name", "ci", "--ring", "production"]);
    let id = made["id"].as_str().unwrap();
    let text = made["token"].as_str().unwrap();
    let works = |token: &str| server.run(&["key", "list", "--token", token]).status.code();
    assert_eq!(works(text), Some(0));
    let list = server.human(&["token", "list"]);
    assert!(list.contains(id) && list.contains("auditor") && !list.contains(text), "{list}");

    let rotated = server.json(&["token", "rotate", id, "--overlap", "0s"]);
    assert_eq!(works(text), Some(4));
    let text = rotated["token"].as_str().unwrap();
    assert_eq!(works(text), Some(0));
    server.human(&["token", "revoke", id]);
    assert_eq!(works(text), Some(4));
}

#[test]
fn a_lost_admin_token_is_replaced_while_nothing_runs() {
    let mut server = Server::start();
    let data = server.dir.path().join("data");
    let recover =
        || keywheel().args(["admin-token", "--output", "json", "--data"]).arg(&data).output().unwrap();
    let running = recover();
    assert_eq!(running.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&running.stderr).contains("stop it first"));

    server.stop();
    let made: serde_json::Value = serde_json::from_slice(&recover().stdout).unwrap();
    server.start_again();
    server.token = made["token"].as_str().unwrap().to_owned();
    let audit = server.human(&["audit", "list"]);
    assert!(audit.matches("token.create").count() == 2, "{audit}");
    server.human(&["audit", "verify"]);

    let empty = tempfile::tempdir().unwrap();
    let nothing = keywheel().args(["admin-token", "--data"]).arg(empty.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("there is no control plane in"));
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing was made");
}
