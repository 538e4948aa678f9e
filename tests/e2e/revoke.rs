//! A revoked key is refused everywhere, for good, while others go on.

use std::time::Duration;

use keywheel_testkit::load::{Ask, Credential, Load, Plan};
use keywheel_testkit::until;

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_key_is_refused_on_every_worker() {
    let scene = Scene::start().await;
    let (doomed, other) = (scene.key().await, scene.key().await);
    let plan = |connections| Plan {
        target: scene.envoy.listener(),
        asks: vec![Ask::get("/v1/ticker")],
        connections,
        rate: Some(400.0),
        bound: Duration::from_secs(120),
    };
    let load = Load::start(&plan(16), Credential { label: "doomed", key: doomed.secret.as_str().into() });
    let bystander = Load::start(&plan(4), Credential { label: "other", key: other.secret.as_str().into() });

    // Each worker has some of the connections.
    until("every worker serves", async || {
        let connections = scene.envoy.metrics().connections_by_worker("downstream_cx_active").await.ok()?;
        (connections.len() == scene.envoy.workers() && connections.iter().all(|count| *count > 0))
            .then_some(())
    })
    .await
    .unwrap();
    let before = load.drain();
    assert!(before.iter().all(|sample| sample.status == Some(200)), "{before:?}");

    scene.admin.revoke(&doomed.key).await.unwrap();
    until("every connection is refused", async || {
        let samples = load.drain();
        let refused = |connection| {
            samples
                .iter()
                .rfind(|sample| sample.connection == connection)?
                .status
                .filter(|status| *status == 401)
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        (0..16).all(|connection| refused(connection).is_some()).then_some(())
    })
    .await
    .unwrap();

    // From then on there is no way back: what follows is refused without exception.
    let _ = load.drain();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = load.stop().await;
    assert!(!after.is_empty() && after.iter().all(|sample| sample.status == Some(401)), "{after:?}");
    assert_refused(&scene.get_with_key(&doomed.secret).await, "key_revoked", "The API key was revoked");
    let others = bystander.stop().await;
    assert!(others.iter().all(|sample| sample.status == Some(200)), "another key was disturbed");
}

#[tokio::test]
async fn a_revoked_version_leaves_its_successor_alone() {
    let scene = Scene::start().await;
    let old = scene.key().await;
    let new = scene.admin.rotate(&old.key, 3600).await.unwrap();
    scene.settle().await;
    scene.admin.revoke_version(&old.key, &old.version).await.unwrap();
    scene.until_status(&old.secret, 401).await;
    assert_eq!(scene.get_with_key(&new.secret).await.status, 200);
}
