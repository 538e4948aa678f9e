use std::time::Duration;

use keywheel_keyring::PlainKey;

use crate::support::Server;

#[test]
fn a_key_is_created_rotated_retired_and_revoked() {
    let server = Server::start();
    assert!(server.human(&["client", "create", "acme", "--owner", "trading"]).contains("key create"));
    assert_eq!(server.json(&["client", "show", "acme"])["owner"], "trading");
    let made = server.json(&["key", "create", "--client", "acme", "--scope", "trade", "--expires-in", "90d"]);
    let (key, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let version = made["versions"][0]["id"].as_str().unwrap();
    assert!(secret.starts_with(&format!("kw_live_{}_", &version[3..])), "the key's text names its version");

    let rotated = server.json(&["key", "rotate", key, "--overlap", "1s"]);
    let second = PlainKey::from(rotated["secret"].as_str().unwrap().to_owned());
    assert_ne!(second.expose(), secret);
    let show = server.human(&["key", "show", key]);
    assert!(show.contains("retiring") && show.contains("is open"), "{show}");

    std::thread::sleep(Duration::from_millis(1500));
    let show = server.human(&["key", "show", key]);
    assert!(show.contains("retired") && !show.contains("is open"), "{show}");
    let list = server.human(&["key", "list", "--client", "acme"]);
    assert!(list.contains(key) && list.contains("trade"), "{list}");

    assert!(server.human(&["key", "revoke", key]).contains("is revoked"));
    let ring = server.json(&["ring", "show"]);
    assert_eq!((&ring["revision"], &ring["entries"]), (&5.into(), &2.into()));
    let trust = server.human(&["ring", "show", "--trust"]);
    assert_eq!(trust.trim_end(), server.ready["trust"][0]);
}

#[test]
fn one_version_is_revoked_and_the_rotation_rolls_back() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let key = key["id"].as_str().unwrap();
    let rotation = server.json(&["key", "rotate", key, "--overlap", "1h"]);
    let new = rotation["new_version"].as_str().unwrap();
    let after = server.json(&["key", "revoke", key, "--version", new]);
    assert_eq!(after["open_rotation"], serde_json::Value::Null);
    let states: Vec<_> = after["versions"].as_array().unwrap().iter().map(|v| v["state"].clone()).collect();
    assert!(states.contains(&"active".into()) && states.contains(&"revoked".into()), "{states:?}");
}
