//! What the manifests hand to the filter is a configuration that the filter takes.

use keywheel_filter::config::Config;
use keywheel_manifests::Object;
use serde_json::{Value, json};

/// RFC 8032's first test key.
const SOME_KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// The filter's configurations, each with the object that holds it.
pub(crate) fn configurations() -> Vec<(Object, Value)> {
    let mut found = Vec::new();
    for object in keywheel_manifests::all().unwrap() {
        match object.kind() {
            "WasmPlugin" => found.push((object.clone(), object.at("/spec/pluginConfig").clone())),
            "EnvoyExtensionPolicy" => {
                let modules = object.at("/spec/wasm").as_array().unwrap().clone();
                found.extend(modules.into_iter().map(|module| (object.clone(), module["config"].clone())));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn the_filter_takes_them_once_they_name_a_key() {
    let configurations = configurations();
    assert_eq!(configurations.len(), 3);
    for (object, mut configuration) in configurations {
        let errors = Config::parse(configuration.to_string().as_bytes()).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["control.trust[0]"], "{object}, while its placeholder stands");
        configuration["control"]["trust"] = json!([SOME_KEY]);
        let taken = Config::parse(configuration.to_string().as_bytes());
        taken.unwrap_or_else(|errors| panic!("{object}: {errors:?}"));
        // What the filter takes has fields that must not be misspelt.
        configuration["sorces"] = json!([]);
        Config::parse(configuration.to_string().as_bytes()).unwrap_err();
    }
}

#[test]
fn none_lets_requests_through_a_failed_module() {
    for object in keywheel_manifests::all().unwrap() {
        match object.kind() {
            "WasmPlugin" => assert_eq!(object.text("/spec/failStrategy"), "FAIL_RELOAD", "{object}"),
            "EnvoyExtensionPolicy" => {
                assert_eq!(object.at("/spec/wasm/0/failOpen"), &json!(false), "{object}")
            }
            _ => {}
        }
    }
}
