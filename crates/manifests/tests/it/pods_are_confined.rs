//! What runs in the cluster may do what it needs and nothing else, and says how it is.

use serde_json::json;

#[test]
fn every_pod_is_confined_probed_and_sized() {
    let mut seen = 0;
    for object in keywheel_manifests::all().unwrap() {
        if !["Deployment", "StatefulSet"].contains(&object.kind()) {
            continue;
        }
        seen += 1;
        let pod = object.at("/spec/template/spec");
        let check = |pointer: &str, wanted: serde_json::Value| {
            assert_eq!(pod.pointer(pointer), Some(&wanted), "{object}: {pointer}");
        };
        check("/automountServiceAccountToken", json!(false));
        check("/securityContext/runAsNonRoot", json!(true));
        check("/securityContext/seccompProfile/type", json!("RuntimeDefault"));
        for container in pod["containers"].as_array().unwrap() {
            let check = |pointer: &str, wanted: serde_json::Value| {
                assert_eq!(container.pointer(pointer), Some(&wanted), "{object}: {pointer}");
            };
            check("/securityContext/allowPrivilegeEscalation", json!(false));
            check("/securityContext/readOnlyRootFilesystem", json!(true));
            check("/securityContext/capabilities/drop", json!(["ALL"]));
            check("/startupProbe/httpGet/path", json!("/healthz"));
            check("/livenessProbe/httpGet/path", json!("/healthz"));
            check("/readinessProbe/httpGet/path", json!("/readyz"));
            for size in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"]
            {
                assert!(container.pointer(size).is_some(), "{object}: {size}");
            }
        }
    }
    assert!(seen >= 2, "only {seen} were found");
}
