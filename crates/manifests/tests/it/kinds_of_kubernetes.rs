//! Kubernetes' own kinds, read as its API types and written again: what was a typing error, of the wrong type, or in the
//! wrong place does not come back.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use keywheel_manifests::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is lost when it is read by Kubernetes, or why it cannot be; none for a kind that is not known here.
fn lost(object: &Object) -> Option<Vec<String>> {
    Some(match (object.api_version(), object.kind()) {
        ("apps/v1", "Deployment") => round::<Deployment>(object),
        ("apps/v1", "StatefulSet") => round::<StatefulSet>(object),
        ("v1", "ConfigMap") => round::<ConfigMap>(object),
        ("v1", "Namespace") => round::<Namespace>(object),
        ("v1", "PersistentVolumeClaim") => round::<PersistentVolumeClaim>(object),
        ("v1", "Service") => round::<Service>(object),
        ("v1", "ServiceAccount") => round::<ServiceAccount>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => round::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => round::<PodDisruptionBudget>(object),
        _ => return None,
    })
}

/// Whether Kubernetes knows the kind without a definition.
pub(crate) fn is_built_in(object: &Object) -> bool {
    lost(object).is_some()
}

fn round<T: DeserializeOwned + Serialize>(object: &Object) -> Vec<String> {
    match serde_json::from_value::<T>(object.value.clone()) {
        Ok(read) => {
            let mut lost = Vec::new();
            differences("", &object.value, &serde_json::to_value(read).unwrap(), &mut lost);
            lost
        }
        Err(error) => vec![error.to_string()],
    }
}

fn differences(at: &str, written: &Value, read: &Value, lost: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (name, value) in written {
                let at = format!("{at}/{name}");
                match read.get(name) {
                    Some(read) => differences(&at, value, read, lost),
                    None => lost.push(format!("{at} is no field")),
                }
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (number, (written, read)) in written.iter().zip(read).enumerate() {
                differences(&format!("{at}/{number}"), written, read, lost);
            }
        }
        (written, read) if written == read => {}
        (written, read) => lost.push(format!("{at}: {written} is read as {read}")),
    }
}

#[test]
fn nothing_of_them_is_lost_on_kubernetes() {
    let mut checked = 0;
    for object in keywheel_manifests::all().unwrap() {
        if let Some(lost) = lost(&object) {
            assert!(lost.is_empty(), "{object}: {}", lost.join("\n"));
            checked += 1;
        }
    }
    assert!(checked >= 15, "only {checked} objects were found");
}

/// A check that finds nothing proves nothing.
#[test]
fn a_typing_error_is_found() {
    let deployment = keywheel_manifests::read(super::CONTROL_PLANE[0]).unwrap().remove(0);
    let wrong = |change: &dyn Fn(&mut Value), said: &str| {
        let mut wrong = deployment.clone();
        change(&mut wrong.value["spec"]["template"]["spec"]);
        let lost = lost(&wrong).unwrap().join("\n");
        assert!(lost.contains(said), "{lost:?} does not say {said:?}");
    };
    wrong(&|pod| pod["containers"][0]["readinesProbe"] = json!({}), "readinesProbe is no field");
    wrong(&|pod| pod["containers"][0]["args"] = json!("serve"), "invalid type");
    wrong(&|pod| pod["volumes"][0]["secret"] = json!({"defaultMode": "0440"}), "invalid type");
}
