//! `keywheel doctor` on a deployment that is well, and on ones that are not.

use std::net::SocketAddr;

use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{ControlPlane, Envoy, Relay, Upstream, http, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{Scene, config, paths};

/// Its exit code, and what it found.
async fn findings(control: &ControlPlane, envoy: SocketAddr) -> (Option<i32>, Vec<Value>) {
    let output = Command::new(paths().keywheel)
        .args(["--output", "json", "doctor", "--envoy", &format!("http://{envoy}")])
        .env("KEYWHEEL_URL", control.url())
        .env("KEYWHEEL_RING_URL", format!("http://{}", control.ring()))
        .env("KEYWHEEL_TOKEN_FILE", control.token_file().unwrap())
        .env("KEYWHEEL_RING_TOKEN_FILE", control.token_file().unwrap())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(findings.iter().any(|finding| finding["about"] == "ring listener"), "{findings:?}");
    (output.status.code(), findings)
}

/// As [`findings`], without what is good.
async fn doctor(control: &ControlPlane, envoy: SocketAddr) -> (Option<i32>, Vec<Value>) {
    let (code, findings) = findings(control, envoy).await;
    (code, findings.into_iter().filter(|finding| finding["level"] != "good").collect())
}

#[tokio::test]
async fn a_deployment_that_is_well_is_found_well() {
    let scene = Scene::start().await;
    scene.key().await;
    assert_eq!(doctor(&scene.control, scene.envoy.admin()).await, (Some(0), Vec::new()));
}

#[tokio::test]
async fn what_is_unsafe_in_a_running_envoy_is_found() {
    let scene = Scene::with(|config| {
        let open = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/failure_policy";
        config.with(open, json!("FAIL_OPEN")).with_plugin(|plugin| plugin["mode"] = json!("observe"))
    })
    .await;
    scene.key().await;
    let (code, found) = doctor(&scene.control, scene.envoy.admin()).await;
    assert_eq!(code, Some(1));
    let levels: Vec<_> = found.iter().map(|finding| finding["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["problem", "warning"], "{found:?}");
    assert!(found[0]["what"].as_str().unwrap().contains("FAIL_OPEN"));
    assert!(found[1]["what"].as_str().unwrap().contains("observes"));

    let (code, found) = doctor(&scene.control, scene.control.ring()).await;
    assert_eq!(code, Some(1));
    assert!(found[0]["what"].as_str().unwrap().contains("admin interface"), "{found:?}");
}

/// What it finds of an Envoy that has no ring, which is all that is amiss with it.
async fn without_ring(control: &ControlPlane, envoy: &Envoy) -> Value {
    assert_eq!(http::get(envoy.listener(), "/", &[]).await.unwrap().status, 503);
    let (code, found) = doctor(control, envoy.admin()).await;
    assert_eq!(code, Some(1));
    let about = format!("http://{}", envoy.admin());
    let mut found = found.into_iter().filter(|finding| finding["about"] == about.as_str());
    let finding = found.next().unwrap_or_else(|| panic!("{about} is called good"));
    assert_eq!((&finding["level"], found.next()), (&json!("problem"), None), "{finding}");
    let what = finding["what"].as_str().unwrap();
    assert!(what.contains("it has no ring, and answers each request with 503"), "{what}");
    finding
}

/// Waits until calls for the ring failed.
async fn until_failed(envoy: &Envoy) {
    until("the filter's calls failed", async || {
        (envoy.metric("keywheel_refresh_failures").await.ok()? > 0).then_some(())
    })
    .await
    .unwrap();
}

fn holds(finding: &Value, what: &str, todo: &str) {
    assert!(finding["what"].as_str().unwrap().contains(what), "{finding}");
    assert!(finding["todo"].as_str().unwrap().contains(todo), "{finding}");
}

#[tokio::test]
async fn an_envoy_that_reaches_nobody_for_the_ring_is_not_called_good() {
    let paths = paths();
    let control = ControlPlane::start(&paths).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let mut relay = Relay::start(&paths, &[control.ring()], control.trust()).await.unwrap();
    relay.kill();
    let config = config(&control, &upstream).with_cluster("keywheel", relay.ring());
    let envoy = Envoy::start(&paths, config, 1).await.unwrap();
    until_failed(&envoy).await;
    holds(&without_ring(&control, &envoy).await, "to cluster `keywheel` failed", "start what listens there");

    // What failed at first is no fault any more, once the proxy has said that it enforces the ring.
    relay.restart().await.unwrap();
    until("doctor finds nothing amiss", async || {
        (doctor(&control, envoy.admin()).await == (Some(0), Vec::new())).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_envoy_that_the_ring_listener_refuses_is_not_called_good() {
    let paths = paths();
    let control = ControlPlane::start_guarded(&paths, Vec::new()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let envoy = Envoy::start(&paths, config(&control, &upstream), 1).await.unwrap();
    until_failed(&envoy).await;
    holds(&without_ring(&control, &envoy).await, "with 401", "a token of role `proxy`");
}

#[tokio::test]
async fn an_envoy_without_a_ring_is_told_by_what_is_answered_to_it() {
    let paths = paths();
    let control = ControlPlane::start(&paths).await.unwrap();
    let upstream = Upstream::start().await.unwrap();

    let other = ControlPlane::start_ring(&paths, "staging").await.unwrap();
    let elsewhere = config(&control, &upstream).with_cluster("keywheel", other.ring());
    let envoy = Envoy::start(&paths, elsewhere, 1).await.unwrap();
    until_failed(&envoy).await;
    holds(&without_ring(&control, &envoy).await, "with 404", "no such ring");
    drop(envoy);

    // A control plane of the same ring that was made anew, and signs with another key.
    let anew = ControlPlane::start(&paths).await.unwrap();
    let elsewhere = config(&control, &upstream).with_cluster("keywheel", anew.ring());
    let envoy = Envoy::start(&paths, elsewhere, 1).await.unwrap();
    until("a document was refused", async || {
        let stats = envoy.stats("keywheel_ring_rejected").await.ok()?;
        stats.iter().any(|(name, count)| name.ends_with("untrusted_signer") && *count > 0).then_some(())
    })
    .await
    .unwrap();
    holds(&without_ring(&control, &envoy).await, "refused as `untrusted_signer`", "keywheel ring trust");
}

#[tokio::test]
async fn what_an_envoy_enforces_is_said_with_its_revision() {
    let scene = Scene::start().await;
    scene.key().await;
    let revision = scene.admin.ring(RING).await.unwrap().revision;
    scene.envoy.wait_for_revision(revision).await.unwrap();
    let (_, findings) = findings(&scene.control, scene.envoy.admin()).await;
    let about = format!("http://{}", scene.envoy.admin());
    let finding = findings.iter().find(|finding| finding["about"] == about.as_str()).unwrap();
    let enforces = format!("enforces ring production at revision {revision}");
    assert!(finding["what"].as_str().unwrap().ends_with(&enforces), "{finding}");
}
