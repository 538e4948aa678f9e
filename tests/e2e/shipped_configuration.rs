//! `envoy/envoy.yaml` as a user takes it: two lines edited, nothing else.

use keywheel_testkit::envoy::validate;
use keywheel_testkit::envoy_config::SHIPPED;

use crate::scene::paths;

/// RFC 8032's first test key.
const SOME_KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

#[test]
fn the_shipped_file_is_valid_once_it_names_a_key_and_the_module() {
    let paths = paths();
    let wasm = paths.wasm.display().to_string();
    let edited = edit(
        &edit(SHIPPED, "[REPLACE_WITH_TRUST_KEY]", &format!("[{SOME_KEY}]")),
        "/etc/envoy/keywheel_filter.wasm",
        &wasm,
    );
    let (valid, said) = validate(&paths, &edited, "yaml").unwrap();
    assert!(valid, "{said}");
}

#[test]
fn the_shipped_file_is_refused_while_its_placeholder_stands() {
    let paths = paths();
    let wasm = paths.wasm.display().to_string();
    let (valid, said) =
        validate(&paths, &edit(SHIPPED, "/etc/envoy/keywheel_filter.wasm", &wasm), "yaml").unwrap();
    assert!(!valid && said.contains("control.trust[0]: must be a base64 Ed25519 public key"), "{said}");
}

#[test]
fn no_shipped_configuration_lets_requests_through_a_failed_module() {
    let settings: Vec<&str> =
        SHIPPED.lines().filter(|line| line.trim().starts_with("failure_policy:")).collect();
    assert_eq!(settings, ["                failure_policy: FAIL_RELOAD"]);
}

fn edit(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "envoy.yaml names `{from}` once");
    text.replace(from, to)
}
