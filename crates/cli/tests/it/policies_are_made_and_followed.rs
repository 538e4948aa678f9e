use crate::support::Server;

#[test]
fn a_policy_is_made_attached_followed_changed_and_deleted() {
    let server = Server::start();
    let made = server.human(&[
        "policy",
        "create",
        "quarterly",
        "--rotate-every",
        "90d",
        "--jitter",
        "7d",
        "--window",
        "mon,tue 09:00-17:00",
        "--overlap",
        "2d",
        "--retire",
        "when-unused",
        "--quiet-period",
        "1d",
        "--notice",
        "7d",
        "--brownout-share",
        "0.1",
        "--brownout-before",
        "1h",
    ]);
    for part in ["90d", "mon,tue 09:00-17:00 UTC", "when unused for 1d", "10 %", "ring set-policy"] {
        assert!(made.contains(part), "{part}: {made}");
    }
    server.human(&["client", "create", "acme", "--label", "team=payments"]);
    let key =
        server.json(&["key", "create", "--client", "acme", "--policy", "quarterly", "--label", "env=prod"]);
    let key = key["id"].as_str().unwrap();
    let show = server.human(&["key", "show", key]);
    assert!(
        show.contains("Policy   quarterly, next rotation scheduled") && show.contains("env=prod"),
        "{show}"
    );
    assert!(server.human(&["key", "list", "--label", "env", "--schedule", "scheduled"]).contains(key));
    assert!(!server.human(&["key", "list", "--schedule", "overdue"]).contains(key));
    let deposited = server.json(&["key", "deposit", key]);
    assert!(deposited["secret"].as_str().unwrap().starts_with("kw_live_"));
    assert!(server.human(&["key", "show", key]).contains("is deposited"));
    server.human(&["key", "withdraw", key]);

    let rotation = server.json(&["key", "rotate", key]);
    let id = rotation["id"].as_str().unwrap();
    assert_eq!(rotation["quiet_period_seconds"], 86_400);
    assert!(server.human(&["rotation", "show", id]).contains("when unused for 1d"));
    let refused = server.human(&["rotation", "brownout", id, "--share", "0.5", "--for", "5m"]);
    assert!(refused.contains("50 %"), "{refused}");
    assert!(server.human(&["rotation", "brownout", id, "--share", "0"]).contains("any more"));

    assert_eq!(server.run(&["policy", "delete", "quarterly"]).status.code(), Some(1), "it is in use");
    let updated = server.json(&["policy", "update", "quarterly", "--unset", "window", "--unset", "brownout"]);
    assert_eq!(updated["terms"]["window"], serde_json::Value::Null);
    assert_eq!(updated["terms"]["rotate_every_seconds"], 7_776_000, "what is not named stays");
    server.human(&["key", "set-policy", key, "none"]);
    assert!(
        server.human(&["ring", "set-policy", "production", "quarterly"]).contains("follow policy quarterly")
    );
    server.human(&["ring", "set-policy", "production", "none"]);
    let client = server.human(&["client", "update", "acme", "--unlabel", "team", "--owner", "ops"]);
    assert!(client.contains("ops") && !client.contains("payments"), "{client}");
    assert!(server.human(&["policy", "delete", "quarterly"]).contains("is deleted"));
    assert!(server.human(&["policy", "list"]).contains("No policies"));
    assert!(server.human(&["notice", "list"]).contains("No notices"));
}

#[test]
fn what_was_changed_meanwhile_is_not_changed_unseen() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let shown = server.json(&["client", "show", "acme"]);
    let tag = shown["etag"].as_str().unwrap();
    assert!(server.human(&["client", "show", "acme"]).contains(tag));
    server.human(&["client", "update", "acme", "--owner", "payments", "--if-match", tag]);
    let late = server.run(&["client", "update", "acme", "--owner", "billing", "--if-match", tag]);
    assert_eq!(late.status.code(), Some(1));
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(said.contains("changed meanwhile") && said.contains("precondition-failed"), "{said}");
    assert_eq!(server.json(&["client", "show", "acme"])["owner"], "payments");
    // What has no ETag is not changed as if it had.
    let refused = server.run(&["client", "create", "other", "--if-match", "*"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
}
