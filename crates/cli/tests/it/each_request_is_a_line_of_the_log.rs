use std::fs;

use serde_json::Value;

use crate::support::Server;

#[test]
fn a_json_log_has_a_line_for_each_request_with_its_id_and_without_its_secrets() {
    let mut server = Server::start_in(tempfile::tempdir().unwrap(), &["--log-format", "json"]);
    server.human(&["client", "create", "acme"]);
    let key = server.json(&["key", "create", "--client", "acme"]);
    // A key where an id belongs, and in a query.
    let secret = key["secret"].as_str().unwrap();
    server.run(&["key", "show", secret]);
    server.run(&["key", "list", "--client", secret]);
    server.run(&["client", "list", "--token", "kwt_bad"]);
    server.stop();

    let log = fs::read_to_string(server.log()).unwrap();
    // Libraries say more at `trace`, which is not what runs in production.
    let ours: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .filter(|line: &Value| line["fields"]["message"] == "Answered")
        .collect();
    let line = |method: &str, route: &str, status: u16| {
        let found = ours.iter().find(|line| {
            let fields = &line["fields"];
            fields["method"] == method && fields["route"] == route && fields["status"] == status
        });
        found.unwrap_or_else(|| panic!("no {method} {route} {status} in {ours:#?}"))
    };
    for (method, route, status) in [
        ("POST", "/v1/clients", 201),
        ("POST", "/v1/keys", 201),
        ("GET", "/v1/keys/{key}", 404),
        ("GET", "/v1/keys", 200),
    ] {
        let line = line(method, route, status);
        let fields = &line["fields"];
        assert_eq!((&line["level"], &fields["listener"]), (&"INFO".into(), &"admin".into()));
        assert!(fields["elapsed_ms"].as_f64().unwrap() > 0.0);
        assert!(fields["actor"].as_str().unwrap().starts_with("token_"), "{fields}");
        assert!(!line["span"]["id"].as_str().unwrap().is_empty());
    }
    assert_eq!(line("GET", "/v1/clients", 401)["fields"]["actor"], Value::Null, "nobody is known");
    let said: String = ours.iter().map(Value::to_string).collect();
    for secret in [secret, server.token.as_str(), "kwt_bad"] {
        assert!(!said.contains(secret), "{said}");
    }
}
