//! Rules: what a request needs, by where it goes.

use serde_json::{Value, json};

use crate::stage::{Stage, outcome, seen, with_fields, with_raw_paths};

fn rules() -> Value {
    json!({
        "identity": {"client": "x-client-id", "key": "x-api-key-id", "scopes": "x-api-key-scopes"},
        "rules": [
            {"match": {"path_prefix": "/public"}, "access": "open"},
            {"match": {"path_prefix": "/quotes"}, "access": "optional"},
            {"match": {"path_prefix": "/orders", "methods": ["POST"]}, "access": {"scopes": ["trade"]}},
            {"match": {"path_template": "/orders/{id}"}, "access": {"any_scope": ["market:read", "audit"]}},
            {"match": {"host": "*.desk.example.com"}, "access": {"clients": ["desk"]}},
        ],
        "default": "any_key",
    })
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let stage = Stage::with(rules()).await;
    let good = ("x-api-key", "good");
    assert_eq!(stage.outcome("/public/x", &[]).await, "200");
    assert_eq!(stage.outcome("/publicity", &[]).await, "401 missing_key");
    assert_eq!(stage.outcome("/quotes", &[]).await, "200");
    assert_eq!(stage.outcome("/quotes", &[("x-api-key", "nobody")]).await, "401 unknown_key");
    assert_eq!(stage.outcome("/orders", &[good]).await, "200");
    assert_eq!(outcome(&stage.send("POST", "/orders", &[good]).await), "403 insufficient_scope");
    assert_eq!(outcome(&stage.send("POST", "/orders", &[("x-api-key", "trader")]).await), "200");
    assert_eq!(stage.outcome("/orders/7", &[good]).await, "403 insufficient_scope");
    assert_eq!(stage.outcome("/orders/7", &[("x-api-key", "reader")]).await, "200");
    assert_eq!(stage.outcome("/orders/7/fills", &[good]).await, "200");
    for (key, answer) in [("good", 403), ("trader", 200)] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: EU.desk.example.com:80\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
        );
        let reply = keywheel_testkit::http::raw(stage.envoy.listener(), request.as_bytes()).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {answer}")), "{key}: {reply}");
    }
}

/// DESIGN §3.9
#[tokio::test]
async fn a_forged_identity_reaches_the_upstream_on_no_route() {
    let stage = Stage::with(rules()).await;
    let forged = [
        ("x-client-id", "root"),
        ("x-client-id", "root"),
        ("x-api-key-id", "root"),
        ("x-api-key-scopes", "all"),
    ];
    let names = ["x-client-id", "x-api-key-id", "x-api-key-scopes"];
    for (path, key, expected) in [
        ("/public/x", "", ["-", "-", "-"]),
        ("/public/x", "trader", ["-", "-", "-"]),
        ("/quotes", "", ["-", "-", "-"]),
        ("/quotes", "trader", ["desk", "key_1", "market:read trade"]),
        ("/", "trader", ["desk", "key_1", "market:read trade"]),
        ("/", "good", ["acme", "key_1", "-"]),
    ] {
        let mut headers = forged.to_vec();
        if !key.is_empty() {
            headers.push(("x-api-key", key));
        }
        let reply = stage.get(path, &headers).await;
        assert_eq!(names.map(|name| seen(&reply, name)), expected, "{path} with {key}");
        assert_eq!(seen(&reply, "x-api-key"), "-", "{path} with {key}");
    }
}

#[tokio::test]
async fn no_scope_is_skipped_by_spelling_a_path_differently() {
    let stage = Stage::of(|config| with_raw_paths(with_fields(config, &rules()))).await;
    let good = [("x-api-key", "good")];
    // Envoy lets HTTP/1 methods in upper case only; with HTTP/2 any spelling comes through.
    for (host, answer) in [
        ("x.desk.example.com:80:80", "400"),
        ("x.desk.example.com,b", "400"),
        ("u@x.desk.example.com", "400"),
        ("%78.desk.example.com", "400"),
        ("x.DESK.example.com.", "403"),
    ] {
        let request =
            format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-api-key: good\r\nconnection: close\r\n\r\n");
        let reply = keywheel_testkit::http::raw(stage.envoy.listener(), request.as_bytes()).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {answer}")), "{host}: {reply}");
    }
    for path in ["/%6Frders", "/orders/", "/orders?x", "/%6frders/%37"] {
        let reply = stage.send("POST", path, &good).await;
        assert_eq!(outcome(&reply), "403 insufficient_scope", "{path}");
    }
    for path in [
        "//orders",
        "/public/../orders",
        "/public/%2e%2E/orders",
        "/./orders",
        "/orders;v=1",
        "/public%2f..%2forders",
        "/a%5corders",
        "/public/%252e%252e/orders",
        "/a%c0%afb",
        "/orders%3fx",
        "/orders%23x",
    ] {
        let reply = stage.send("POST", path, &good).await;
        assert_eq!(outcome(&reply), "400 path_not_canonical", "{path}");
    }
}
