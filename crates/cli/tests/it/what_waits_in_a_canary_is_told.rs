use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::Value;

use crate::support::Server;

const AHEAD: &str = "ahead";

fn with_canary(promote: &str) -> Server {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let create =
        ["ring", "create", AHEAD, "--canary-of", "production", "--pause", "1h", "--promote", promote];
    server.human(&create);
    server
}

fn holds(text: &str, all: &[&str]) {
    for what in all {
        assert!(text.contains(what), "`{what}` is not in:\n{text}");
    }
}

/// A proxy of the canary says that it enforces all of it.
fn canary_enforces(server: &Server) {
    let ring = server.json(&["ring", "show", AHEAD]);
    let (epoch, revision) = (ring["epoch"].as_str().unwrap(), &ring["revision"]);
    let address = server.ready["ring_url"].as_str().unwrap().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /v1/rings/{AHEAD}/changes?epoch={epoch}&since=0 HTTP/1.1\r\nhost: ring\r\nconnection: close\r\n\
         keywheel-proxy: node=edge&instance=a1&filter=0.1.0&vms=3&epoch={epoch}&stored={revision}\
         &enforced={revision}&age=0\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Runs a command that waits, while the canary's proxy enforces what comes.
fn enforced_meanwhile(server: &Server, args: &[&str]) -> String {
    let mut command = server.command(args);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while process.try_wait().unwrap().is_none() {
        canary_enforces(server);
    }
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn whoever_makes_a_version_learns_where_it_waits_until_when_and_what_to_do() {
    let server = with_canary("when-enforced");
    let made = server.human(&["key", "create", "--client", "acme"]);
    assert!(!made.contains("is active"), "{made}");
    holds(
        &made,
        &[
            "not active everywhere yet",
            "It waits in canary ahead: the proxies of production get it once every proxy of the canary enforces it, and at ",
            "unknown_key",
            "keywheel ring promote production",
        ],
    );
    let shown = server.human(&["ring", "show"]);
    holds(
        &shown,
        &[
            "ahead gets what is new first, and this ring once every proxy enforces it, and after 1h at the latest",
            "waiting: 1, the next until ",
        ],
    );
    assert!(server.human(&["ring", "promote"]).contains("1 version waited"));
    assert!(server.human(&["ring", "promote"]).contains("nothing waited"));
    assert!(server.human(&["ring", "show"]).ends_with("No proxy has asked for it.\n"));
    holds(&server.human(&["ring", "show"]), &["waiting: 0\n"]);

    let keys = server.json(&["key", "list"]);
    let key = keys[0]["id"].as_str().unwrap();
    let rotated = server.human(&["key", "rotate", key, "--overlap", "30m"]);
    let rotation = server.json(&["rotation", "list"])[0]["id"].as_str().unwrap().to_owned();
    holds(
        &rotated,
        &[
            "It waits in canary ahead: the other proxies get it once every proxy of the canary enforces it",
            "is accepted as before; the overlap of 30m begins then",
            &format!("keywheel rotation promote {rotation}"),
            &format!("keywheel rotation cancel {rotation}"),
        ],
    );
    server.human(&["rotation", "cancel", &rotation]);

    // One that begins after the pause is accepted at its time.
    let later = server.human(&["key", "rotate", key, "--overlap", "30m", "--begins-in", "2h"]);
    let rotation = server.json(&["rotation", "list", "--open"]);
    let begins = rotation[0]["begins_at"].as_str().unwrap().get(..13).unwrap().replace('T', " ");
    holds(&later, &[&format!("the overlap of 30m begins at {begins}")]);
    server.human(&["rotation", "cancel", rotation[0]["id"].as_str().unwrap()]);

    server.human(&["policy", "create", "beside", "--max-versions", "3"]);
    server.human(&["key", "set-policy", key, "beside"]);
    let added = server.human(&["key", "add-version", key]);
    holds(&added, &["Another version:", "It waits in canary ahead: the proxies of production get it once"]);
    server.human(&["ring", "set-canary", AHEAD, "--pause", "0s"]);
    assert!(server.human(&["key", "create", "--client", "acme"]).contains("is active."));
    let rotated = server.human(&["key", "rotate", key, "--overlap", "30m"]);
    assert!(!rotated.contains("canary"), "{rotated}");
}

#[test]
fn a_rotation_says_whether_it_waits_for_proxies_or_for_the_time() {
    let server = with_canary("after-pause");
    let made = server.human(&["key", "create", "--client", "acme"]);
    let until = server.json(&["key", "list"])[0]["versions"][0]["waits_until"].as_str().unwrap().to_owned();
    let until = until.get(..19).unwrap().replace('T', " ");
    holds(&made, &[&format!("the proxies of production get it at {until} UTC, and not before")]);
    server.human(&["ring", "promote"]);
    let key = server.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    let rotated = server.human(&["key", "rotate", &key, "--overlap", "30m"]);
    assert!(rotated.contains(", and not before") && !rotated.contains("enforces it"), "{rotated}");
    let rotation = server.json(&["rotation", "list"])[0]["id"].as_str().unwrap().to_owned();
    let shown = server.human(&["rotation", "show", &rotation]);
    holds(&shown, &["Waits for    the end of its canary's pause (ahead), at ", "keywheel rotation promote"]);
    assert!(!shown.contains("the proxies of its canary"), "{shown}");
    server.human(&["ring", "set-canary", AHEAD, "--promote", "when-enforced"]);
    let shown = server.human(&["rotation", "show", &rotation]);
    holds(&shown, &["Waits for    the proxies of its canary ahead, until "]);
}

#[test]
fn what_came_to_all_proxies_meanwhile_does_not_wait_any_more() {
    let server = with_canary("when-enforced");
    canary_enforces(&server);
    let made = enforced_meanwhile(&server, &["key", "create", "--client", "acme", "--wait"]);
    assert!(made.contains("is active.") && !made.contains("canary"), "{made}");
    let key = server.json(&["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    let rotated = enforced_meanwhile(&server, &["key", "rotate", &key, "--overlap", "30m", "--wait"]);
    assert!(rotated.contains("is accepted for 30m from now on") && !rotated.contains("canary"), "{rotated}");
}

#[test]
fn doctor_says_what_waits_and_for_whom() {
    let server = with_canary("when-enforced");
    let canary = |server: &Server| -> Value {
        let output = server.run(&["doctor", "--output", "json"]);
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        findings.into_iter().find(|finding| finding["about"] == "canary").unwrap()
    };
    assert_eq!(canary(&server)["what"], "nothing waits in ahead");
    server.human(&["key", "create", "--client", "acme"]);
    let waits = canary(&server);
    assert_eq!(waits["level"], "warning", "{waits}");
    holds(waits["what"].as_str().unwrap(), &["1 version waits in ahead", "none of its proxies is there"]);
    holds(waits["todo"].as_str().unwrap(), &["keywheel ring promote production"]);
}
