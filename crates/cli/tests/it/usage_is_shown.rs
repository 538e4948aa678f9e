use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::Server;

async fn report(server: &Server, batches: Value) {
    let url = format!("{}/v1/rings/production/usage", server.ready["ring_url"].as_str().unwrap());
    let answer = reqwest::Client::new().post(url).json(&json!({ "batches": batches })).send().await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn a_keys_use_is_shown_with_who_says_so() {
    let server = Server::start();
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    let (id, version) = (key["id"].as_str().unwrap(), key["versions"][0]["id"].as_str().unwrap());
    let unused = server.human(&["key", "show", id]);
    assert!(unused.contains("LAST USED") && unused.contains("never"), "{unused}");
    assert!(server.human(&["key", "usage", id]).contains("No proxy has reported"));

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let count = |outcome: &str, count: u64| json!({ "version": version, "outcome": outcome, "minute": now - now % 60_000, "count": count });
    let batch = |number: u64, counts: Value| {
        let (from, to) = (now - 1000, now);
        json!({
            "node": "edge-1", "instance": "0a1b", "vm": "7", "batch": number, "from": from, "to": to,
            "counts": counts,
        })
    };
    report(&server, json!([batch(1, json!([count("valid", 41), count("key_expired", 3)]))])).await;
    report(&server, json!([batch(3, json!([count("valid", 1)])), { "vm": "bad" }])).await;

    let shown = server.human(&["key", "usage", id]);
    for part in ["valid", "42", "key_expired", "edge-1", "0a1b", "MISSING"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = server.json(&["key", "usage", id, "--last", "24h"]);
    assert_eq!((&json["vms"], &json["reporting"][0]["missing"]), (&1.into(), &1.into()));
    assert_eq!(
        json["hours"].as_array().unwrap().iter().map(|hour| hour["count"].as_u64().unwrap()).sum::<u64>(),
        45
    );
    assert!(!server.human(&["key", "show", id]).contains("never  "), "it was used");
    assert!(server.json(&["key", "show", id])["versions"][0]["last_used_at"].is_string());
    let ring = server.human(&["ring", "show"]);
    assert!(ring.contains("left out: 1 batch that breaks a rule"), "{ring}");
    assert_eq!(server.run(&["key", "usage", id, "--last", "91d"]).status.code(), Some(1));
}
