//! `keywheel doctor` on a deployment that is well, and on ones that are not.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{Scene, paths};

/// Its exit code, and what it found that is not good.
async fn doctor(scene: &Scene, envoy: SocketAddr) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(paths().keywheel)
        .args(["--output", "json", "doctor", "--envoy", &format!("http://{envoy}")])
        .env("KEYWHEEL_URL", scene.control.url())
        .env("KEYWHEEL_RING_URL", format!("http://{}", scene.control.ring()))
        .env("KEYWHEEL_TOKEN_FILE", scene.control.token_file().unwrap())
        .env("KEYWHEEL_RING_TOKEN_FILE", scene.control.token_file().unwrap())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(findings.iter().any(|finding| finding["about"] == "ring listener"), "{findings:?}");
    (output.status.code(), findings.into_iter().filter(|finding| finding["level"] != "good").collect())
}

#[tokio::test]
async fn a_deployment_that_is_well_is_found_well() {
    let scene = Scene::start().await;
    scene.key().await;
    assert_eq!(doctor(&scene, scene.envoy.admin()).await, (Some(0), Vec::new()));
}

#[tokio::test]
async fn what_is_unsafe_in_a_running_envoy_is_found() {
    let scene = Scene::with(|config| {
        let open = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/failure_policy";
        config.with(open, json!("FAIL_OPEN")).with_plugin(|plugin| plugin["mode"] = json!("observe"))
    })
    .await;
    scene.key().await;
    let (code, found) = doctor(&scene, scene.envoy.admin()).await;
    assert_eq!(code, Some(1));
    let levels: Vec<_> = found.iter().map(|finding| finding["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["problem", "warning"], "{found:?}");
    assert!(found[0]["what"].as_str().unwrap().contains("FAIL_OPEN"));
    assert!(found[1]["what"].as_str().unwrap().contains("observes"));

    let (code, found) = doctor(&scene, scene.control.ring()).await;
    assert_eq!(code, Some(1));
    assert!(found[0]["what"].as_str().unwrap().contains("admin interface"), "{found:?}");
}
