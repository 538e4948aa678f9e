//! Istio's and Envoy Gateway's kinds, against the CustomResourceDefinitions that those projects publish.
//!
//! They are not part of this repository: `cargo xtask test --schemas DIR` names a directory with their YAML files, in
//! `KEYWHEEL_SCHEMAS`. Without it nothing is checked here, which xtask says at its end.

use std::collections::BTreeMap;
use std::path::Path;

use jsonschema::Validator;
use keywheel_manifests::Object;
use serde_json::{Value, json};

/// What an API server does with a field that its schema does not name is to drop it without a word, unless it is asked to
/// be strict. Here it is an error, since nobody writes a field to have it dropped.
struct Schemas(BTreeMap<(String, String), Validator>);

impl Schemas {
    fn read(dir: &Path) -> Self {
        let mut schemas = BTreeMap::new();
        let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for file in entries.map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            for definition in keywheel_manifests::parse(&file, &text).unwrap() {
                schemas.extend(versions(&definition));
            }
        }
        assert!(!schemas.is_empty(), "there is no CustomResourceDefinition in {}", dir.display());
        Self(schemas)
    }

    /// What is wrong with an object; none where its kind is not among them.
    fn errors(&self, object: &Object) -> Option<Vec<String>> {
        let validator = self.0.get(&(object.api_version().into(), object.kind().into()))?;
        let said = validator.iter_errors(&object.value);
        Some(said.map(|error| format!("{object}: {}: {error}", error.instance_path())).collect())
    }
}

/// The versions of a definition that are served, by `apiVersion` and kind.
fn versions(definition: &Object) -> Vec<((String, String), Validator)> {
    let group = definition.text("/spec/group");
    let kind = definition.text("/spec/names/kind");
    let versions = definition.at("/spec/versions").as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"] == true)
        .map(|version| {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            for field in ["apiVersion", "kind"] {
                schema["properties"][field] = json!({"type": "string"});
            }
            // An API server knows these by itself.
            schema["properties"]["metadata"] = json!({"type": "object"});
            close(&mut schema);
            let name = version["name"].as_str().unwrap_or_default();
            let validator = jsonschema::draft4::new(&schema);
            let validator = validator.unwrap_or_else(|error| panic!("{group}/{name} {kind}: {error}"));
            ((format!("{group}/{name}"), kind.to_owned()), validator)
        })
        .collect()
}

/// Allows no field that is not named, down to where a definition says that it keeps all. The branches of `anyOf` and its
/// kin name only the fields that they speak of, so they stay as they are.
fn close(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let keeps_all = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if schema.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        schema.remove("type");
    }
    if schema.get("nullable") == Some(&json!(true))
        && let Some(kind) = schema.remove("type")
    {
        schema.insert("type".into(), json!([kind, "null"]));
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
        if !keeps_all && !schema.contains_key("additionalProperties") {
            schema.insert("additionalProperties".into(), json!(false));
        }
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = schema.get_mut(below) {
            close(below);
        }
    }
}

/// Kinds for which no definition is asked for, and why.
const WITHOUT: [(&str, &str); 2] = [
    ("EnvoyProxy", "its definition holds those of a whole pod and is half a megabyte"),
    ("Kustomization", "it is read by kubectl: kustomizations.rs"),
];

fn schemas() -> Option<Schemas> {
    let dir = std::env::var_os("KEYWHEEL_SCHEMAS")?;
    Some(Schemas::read(Path::new(&dir)))
}

#[test]
fn every_custom_resource_is_as_its_definition_says() {
    let Some(schemas) = schemas() else {
        eprintln!("not checked: KEYWHEEL_SCHEMAS names no directory");
        return;
    };
    let mut checked = 0;
    for object in keywheel_manifests::all().unwrap() {
        if super::kinds_of_kubernetes::is_built_in(&object)
            || WITHOUT.iter().any(|(kind, _)| *kind == object.kind())
        {
            continue;
        }
        let errors = schemas.errors(&object);
        let errors = errors.unwrap_or_else(|| panic!("{object}: no definition of {}", object.api_version()));
        assert!(errors.is_empty(), "{}", errors.join("\n"));
        checked += 1;
    }
    assert!(checked >= 9, "only {checked} objects were found");
}

/// A check that finds nothing proves nothing.
#[test]
fn a_wrong_custom_resource_is_found() {
    let Some(schemas) = schemas() else { return };
    let plugin = keywheel_manifests::read("istio/gateway.yaml").unwrap().remove(0);
    let wrong = |change: &dyn Fn(&mut Value), said: &str| {
        let mut wrong = plugin.clone();
        change(&mut wrong.value);
        let errors = schemas.errors(&wrong).unwrap().join("\n");
        assert!(errors.contains(said), "{errors:?} does not say {said:?}");
    };
    wrong(&|plugin| plugin["spec"]["failStrategy"] = json!("FAIL_CLOSED"), "/spec/failStrategy");
    wrong(&|plugin| plugin["spec"]["plugin_config"] = json!({}), "plugin_config");
    wrong(&|plugin| plugin["spec"]["match"] = json!([{"ports": [8080]}]), "/spec/match/0/ports/0");
    wrong(&|plugin| plugin["spec"] = json!({}), "url");
}
