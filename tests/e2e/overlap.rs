//! A rotation: both versions inside the overlap, the new one alone after it, and nobody notices.

use std::time::Duration;

use keywheel_testkit::load::{Ask, Credential, Load, Plan};
use keywheel_testkit::until;

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test]
async fn both_versions_are_accepted_in_the_overlap() {
    let scene = Scene::start().await;
    let old = scene.key().await;
    let new = scene.admin.rotate(&old.key, 3600).await.unwrap();
    scene.settle().await;
    assert_ne!(old.version, new.version);
    // On several connections, so on every worker.
    for _ in 0..8 {
        assert_eq!(scene.get_with_key(&old.secret).await.status, 200);
        assert_eq!(scene.get_with_key(&new.secret).await.status, 200);
    }
}

#[tokio::test]
async fn the_old_version_is_refused_after_the_overlap_and_the_new_one_stays() {
    let scene = Scene::start().await;
    let old = scene.key().await;
    let new = scene.admin.rotate(&old.key, 1).await.unwrap();
    let refused = scene.until_status(&old.secret, 401).await;
    // The proxy's clock ends it, or the control plane's word, whichever is first.
    let code = refused.json()["code"].clone();
    assert!(code == "key_expired" || code == "key_retired", "{code}");
    assert_eq!(scene.get_with_key(&new.secret).await.status, 200);

    // In the end the true reason: it was retired.
    let retired = until("the control plane retires the old version", async || {
        let reply = scene.get_with_key(&old.secret).await;
        (reply.json()["code"] == "key_retired").then_some(reply)
    });
    assert_refused(&retired.await.unwrap(), "key_retired", "The API key was retired; use its successor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_switches_in_the_overlap_sees_no_failure() {
    let scene = Scene::start().await;
    let old = scene.key().await;
    let load = Load::start(
        &Plan {
            target: scene.envoy.listener(),
            asks: vec![Ask::get("/v1/ticker")],
            connections: 8,
            rate: Some(200.0),
            bound: Duration::from_secs(60),
        },
        Credential { label: "old", key: old.secret.as_str().into() },
    );
    let new = scene.admin.rotate(&old.key, 2).await.unwrap();
    scene.settle().await;
    load.switch(Credential { label: "new", key: new.secret.as_str().into() });
    scene.until_status(&old.secret, 401).await;
    let samples = load.stop().await;
    let failed: Vec<_> = samples.iter().filter(|sample| sample.status != Some(200)).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for label in ["old", "new"] {
        assert!(samples.iter().any(|sample| sample.label == label), "no request with the {label} version");
    }
}
