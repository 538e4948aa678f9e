use crate::support::Server;

#[test]
fn a_rotation_is_rolled_back_or_cancelled_and_a_key_reinstated() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let key = key["id"].as_str().unwrap();
    let rotation = server.json(&["key", "rotate", key, "--overlap", "1h"]);
    let id = rotation["id"].as_str().unwrap();
    assert_eq!(server.run(&["rotation", "cancel", id]).status.code(), Some(1), "it has begun");
    assert!(server.human(&["rotation", "rollback", id, "--overlap", "30m"]).contains("is active again"));
    assert!(server.human(&["key", "show", key]).contains("retiring"));

    let later = server.human(&["key", "rotate", key, "--overlap", "1h", "--begins-in", "1h"]);
    let cancel = later.lines().find_map(|line| line.split_once("keywheel rotation cancel ")).unwrap().1;
    assert!(server.human(&["rotation", "cancel", cancel]).contains("is cancelled"));

    server.human(&["key", "rotate", key, "--overlap", "1h"]);
    server.human(&["key", "rotate", key, "--overlap", "1h", "--supersede"]);
    server.human(&["key", "revoke", key]);
    assert!(server.human(&["key", "reinstate", key]).contains("is reinstated"));
    server.human(&["key", "revoke", key, "--compromised"]);
    assert_eq!(server.run(&["key", "reinstate", key]).status.code(), Some(1), "for ever");
}
