use std::fs;

use crate::support::Server;

#[test]
fn not_even_the_most_talkative_log_holds_a_key_or_a_token() {
    let mut server = Server::start();
    server.human(&["client", "create", "acme"]);
    let made = server.json(&["key", "create", "--client", "acme"]);
    let rotated = server.json(&["key", "rotate", made["id"].as_str().unwrap(), "--overlap", "1h"]);
    let token = server.json(&["token", "create", "--role", "proxy"]);
    server.run(&["key", "show", "key_none"]);
    server.kill();

    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("Created key") && log.contains("sqlx::query"), "the log is a talkative one");
    let secrets = [&made["secret"], &rotated["secret"], &token["token"]].map(|text| text.as_str().unwrap());
    for secret in secrets.into_iter().chain([server.token.as_str()]) {
        assert!(!log.contains(&secret[secret.len() - 40..]), "a secret is in the log");
    }
}
