//! The plugin configuration: what is taken, and how what is wrong is named.

mod support;

use keywheel_filter::config::{Config, Identity, Mode, Source, Then};
use keywheel_keyring::SigningKey;
use serde_json::Value;
use support::yaml_struct;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn trust() -> String {
    SigningKey::from_seed([1; 32]).public().to_string()
}

/// A good configuration with `from` replaced by `to`.
fn with(from: &str, to: &str) -> String {
    let good = format!(
        r#"{{"ring":"production","control":{{"clusters":["keywheel"],"trust":["{}"]}},"sources":[{{"header":"X-API-Key"}}]}}"#,
        trust()
    );
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

#[test]
fn a_small_configuration_has_safe_defaults() {
    let config = Config::parse(with("", "").as_bytes()).unwrap();
    assert_eq!(config.sources, [Source::Header { name: "x-api-key".into(), scheme: None }]);
    assert!(config.hide_credential);
    assert_eq!(config.max_credential_bytes, 512);
    assert_eq!(config.control.authority, "keywheel");
    assert_eq!(config.identity, Identity::default());
}

#[test]
fn a_full_configuration_is_taken_as_written() {
    let config = with(
        r#""sources":[{"header":"X-API-Key"}]"#,
        r#""sources":[{"header":"x-api-key"},{"header":"authorization","scheme":"Bearer"}],
           "hide_credential":false,"max_credential_bytes":64.0,
           "identity":{"client":"X-Client-Id","key":"x-api-key-id","scopes":"x-api-key-scopes"}"#,
    );
    let config = Config::parse(config.as_bytes()).unwrap();
    assert_eq!(
        config.sources[1],
        Source::Header { name: "authorization".into(), scheme: Some("Bearer".into()) }
    );
    assert!(!config.hide_credential);
    assert_eq!(config.max_credential_bytes, 64, "a YAML struct carries numbers as doubles");
    assert_eq!(config.identity.client.as_deref(), Some("x-client-id"));
}

#[test]
fn what_is_wrong_is_named_by_its_path_with_what_is_allowed() {
    let source = r#"{"header":"X-API-Key"}"#;
    let sources = r#","sources":[{"header":"X-API-Key"}]"#;
    let check = |from: &str, to: &str, path: &str, says: &str| {
        let errors = Config::parse(with(from, to).as_bytes()).unwrap_err();
        let error = errors.iter().find(|error| error.path == path);
        let error = error.unwrap_or_else(|| panic!("{to}: {path} is not in {errors:?}"));
        assert!(error.problem.contains(says), "{to}: {error}");
    };
    check(r#""ring":"production","#, "", "ring", "is required: 1 to 64 letters");
    check("production", "", "ring", "must be 1 to 64 letters");
    check("production", "a/b", "ring", "must be 1 to 64 letters");
    check(r#""production""#, "7", "ring", "must be 1 to 64 letters");
    check(
        r#"["keywheel"]"#,
        r#""keywheel""#,
        "control.clusters",
        "must be a list, each the name of an Envoy cluster",
    );
    check(r#"["keywheel"]"#, r#"["keywheel",""]"#, "control.clusters[1]", "the name of an Envoy cluster");
    check(&trust(), "AAAA", "control.trust[0]", "base64 Ed25519 public key");
    check(&format!(r#","trust":["{}"]"#, trust()), "", "control.trust", "is required");
    check(r#""clusters""#, r#""cluster""#, "control.cluster", "allowed are clusters, authority, trust");
    check(sources, "", "sources", "is required");
    check(
        source,
        r#"{"cooky":"a"}"#,
        "sources[0]",
        "one of {header: x-api-key}, {header: authorization, scheme: Bearer}",
    );
    check(source, r#"{"header":"x y"}"#, "sources[0]", "one of {header: x-api-key}");
    check(source, r#"{"header":"host"}"#, "sources[0]", "one of {header: x-api-key}");
    check(source, r#"{"header":"a","scheme":"b c"}"#, "sources[0]", "one of {header: x-api-key}");
    check(source, r#"{"header":"Cookie"}"#, "sources[0]", "{cookie: api_key}");
    check(sources, &format!(r#"{sources},"hide":true"#), "hide", "is not a field; allowed are ring, control");
    check(sources, &format!(r#"{sources},"hide_credential":1"#), "hide_credential", "true or false");
    for wrong in ["15", "4097", "1.5", "-1", "\"512\"", "1e300"] {
        let with = format!(r#"{sources},"max_credential_bytes":{wrong}"#);
        check(sources, &with, "max_credential_bytes", "a whole number from 16 to 4096");
    }
    let identity = |fields: &str| format!(r#"{sources},"identity":{fields}"#);
    check(sources, &identity(r#"{"client":"a b"}"#), "identity.client", "a header name");
    check(sources, &identity(r#"{"user":"a"}"#), "identity.user", "allowed are client, key, scopes");
    check(sources, &identity("7"), "identity", "an object");
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    let errors = Config::parse(br#"{"ring":"","control":{},"sorces":[]}"#).unwrap_err();
    let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["ring", "control.clusters", "control.trust", "sources", "sorces"]);
}

#[test]
fn what_is_no_json_object_is_refused() {
    for bytes in [&b"[]"[..], b"{", b"\xff", b"null", b"ring: production"] {
        let errors = Config::parse(bytes).unwrap_err();
        assert_eq!(errors[0].path, "configuration", "{bytes:?}");
    }
}

#[test]
fn a_yaml_struct_means_the_same_as_json() {
    let json = with(
        "production",
        r#"production","hide_credential":false,"max_credential_bytes":64,"identity":{"client":null,"key":"x-k"#,
    )
    .replace(r#"x-k","control""#, r#"x-k"},"control""#);
    let value: Value = serde_json::from_str(&json).unwrap();
    let encoded = yaml_struct(&value);
    assert_eq!(Config::parse(&encoded), Config::parse(json.as_bytes()));
    assert!(Config::parse(&encoded).is_ok());
    for len in 1..encoded.len() {
        assert!(Config::parse(&encoded[..len]).is_err(), "cut at {len}");
    }
    let deep = (0..40).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    let deep = Value::Object([("ring".to_owned(), deep)].into_iter().collect());
    assert_eq!(Config::parse(&yaml_struct(&deep)).unwrap_err()[0].path, "configuration");
}

#[test]
fn headers_that_would_cancel_each_other_out_are_refused() {
    let sources = r#","sources":[{"header":"X-API-Key"}]"#;
    let check = |to: &str, path: &str| {
        let errors = Config::parse(with(sources, to).as_bytes()).unwrap_err();
        assert_eq!(errors.first().map(|error| error.path.as_str()), Some(path), "{errors:?}");
    };
    check(&format!(r#"{sources},"identity":{{"client":"x-api-key"}}"#), "identity.client");
    check(&format!(r#"{sources},"identity":{{"client":"x-a","key":"X-A"}}"#), "identity.key");
    check(r#","sources":[{"header":"a"},{"header":"A"}]"#, "sources[1]");
}

#[test]
fn rules_are_read_and_what_is_wrong_in_one_is_named() {
    let sources = r#","sources":[{"header":"X-API-Key"}]"#;
    let rules = |rules: &str| with(sources, &format!(r#"{sources},"rules":{rules},"default":"any_key""#));
    let good = r#"[{"match":{"host":"*.example.com","path_template":"/a/{id}","methods":["GET"]},"access":{"scopes":["a"]}}]"#;
    assert_eq!(Config::parse(rules(good).as_bytes()).unwrap().policy.rules.len(), 1);
    let check = |text: &str, path: &str, says: &str| {
        let errors = Config::parse(rules(text).as_bytes()).unwrap_err();
        let error = errors.iter().find(|error| error.path == path);
        let error = error.unwrap_or_else(|| panic!("{text}: {path} is not in {errors:?}"));
        assert!(error.problem.contains(says), "{text}: {error}");
    };
    check("{}", "rules", "a list of objects");
    check("[7]", "rules[0]", "an object");
    check("[{}]", "rules[0].match", "is required");
    check("[{}]", "rules[0].access", "is required: open, optional, any_key, deny");
    let of = |matcher: &str, access: &str| format!(r#"[{{"match":{matcher},"access":{access}}}]"#);
    check(&of("{}", "\"opne\""), "rules[0].access", "open, optional, any_key, deny, or an object");
    for access in
        ["{}", r#"{"scope":["a"]}"#, r#"{"scopes":[]}"#, r#"{"scopes":["a b"]}"#, r#"{"clients":"a"}"#]
    {
        check(&of("{}", access), "rules[0].access", "or an object with scopes, any_scope or clients");
    }
    check(&of(r#"{"paht":"/a"}"#, "\"open\""), "rules[0].match.paht", "allowed are host, path");
    check(&of(r#"{"path":"/a","path_prefix":"/b"}"#, "\"open\""), "rules[0].match.path", "must be alone");
    for path in ["a", "/a/../b", "/a//b", "/a?b", "/a;b"] {
        check(
            &of(&format!(r#"{{"path_prefix":"{path}"}}"#), "\"open\""),
            "rules[0].match.path_prefix",
            "canonical",
        );
    }
    check(&of(r#"{"path_template":"/{a"}"#, "\"open\""), "rules[0].match.path_template", "{name}");
    check(&of(r#"{"methods":["get"]}"#, "\"open\""), "rules[0].match.methods", "such as POST");
    check(&of(r#"{"methods":[]}"#, "\"open\""), "rules[0].match.methods", "at least one");
    for host in ["", "*", "*.", "a:80", "a b", "*.*.b", "a.*"] {
        check(
            &of(&format!(r#"{{"host":"{host}"}}"#), "\"open\""),
            "rules[0].match.host",
            "such as api.example.com",
        );
    }
    let without_default = with(sources, &format!(r#"{sources},"rules":{good}"#));
    let errors = Config::parse(without_default.as_bytes()).unwrap_err();
    assert_eq!((errors[0].path.as_str(), errors.len()), ("default", 1));
}

#[test]
fn rules_by_route_and_changed_headers_must_be_reconciled() {
    let sources = r#","sources":[{"header":"X-API-Key"}]"#;
    let parse = |fields: &str| Config::parse(with(sources, &format!("{sources},{fields}")).as_bytes());
    let refused = |fields: &str| parse(fields).unwrap_err().iter().any(|error| error.path == "stable_routes");
    let by_route = r#""rules":[{"match":{"route":"a"},"access":"open"}],"default":"deny""#;
    assert!(refused(by_route));
    assert!(refused(r#""route_overrides":true"#));
    assert!(refused(&format!(r#"{by_route},"hide_credential":false,"identity":{{"client":"x-c"}}"#)));
    assert!(parse(&format!(r#"{by_route},"hide_credential":false"#)).is_ok());
    assert!(parse(&format!(r#"{by_route},"stable_routes":true"#)).is_ok());
    assert!(parse(r#""route_overrides":true,"hide_credential":false"#).is_ok());
}

#[test]
fn modes_ages_and_notices_are_read() {
    let sources = r#","sources":[{"header":"X-API-Key"}]"#;
    let parse = |fields: &str| Config::parse(with(sources, &format!("{sources},{fields}")).as_bytes());
    for (text, millis) in [("90s", 90_000), ("2m", 120_000), ("24h", 86_400_000), ("7d", 604_800_000)] {
        let config = parse(&format!(r#""stale":{{"after":"{text}","then":"refuse"}}"#)).unwrap();
        assert_eq!((config.stale.after, config.stale.then), (millis, Then::Refuse));
    }
    let check = |fields: &str, path: &str, says: &str| {
        let errors = parse(fields).unwrap_err();
        let error = errors.iter().find(|error| error.path == path);
        let error = error.unwrap_or_else(|| panic!("{fields}: {path} is not in {errors:?}"));
        assert!(error.problem.contains(says), "{fields}: {error}");
    };
    for text in ["", "24", "h", "24 h", "-1h", "1w", "59s", "366d", "99999999999999999999d", "1.5h"] {
        check(&format!(r#""stale":{{"after":"{text}"}}"#), "stale.after", "such as 90s, 30m, 24h or 7d");
    }
    check(r#""stale":{"after":"1h","then":"panic"}"#, "stale.then", "serve or refuse");
    check(r#""mode":"off""#, "mode", "enforce, observe or receive");
    check(r#""preflight":true"#, "preflight", "deny or allow");
    check(r#""readiness":{}"#, "readiness.path", "is required");
    check(r#""readiness":{"path":"/a?b"}"#, "readiness.path", "without a query");
    check(r#""notices":{"link":"javascript:x"}"#, "notices.link", "an http or https URL");
    check(r#""notices":{"link":"https://a\">b"}"#, "notices.link", "an http or https URL");
    assert_eq!(parse(r#""mode":"observe""#).unwrap().mode, Mode::Observe);
    let pushed = with(sources, r#","mode":"receive""#).replace(r#"["keywheel"]"#, "[]");
    assert_eq!(Config::parse(pushed.as_bytes()).unwrap().mode, Mode::Receive);
}
