//! A group of proxies follows a canary: it accepts a new key before the others do, holds that up while it lags, and a
//! revocation reaches both at once.

use std::process::Command;
use std::time::Duration;

use keywheel_api::{CreateRing, Promote, RotationState};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{Envoy, http, until};

use crate::scene::{Scene, config, paths, settle};

const CANARY: &str = "production-canary";

/// A scene whose proxy follows the main ring, and another proxy that follows its canary.
async fn two_groups(promote: Promote, pause_seconds: u64) -> (Scene, Envoy) {
    let scene = Scene::start().await;
    let new = CreateRing {
        name: CANARY.into(),
        key_prefix: None,
        canary_of: Some(RING.into()),
        pause_seconds: Some(pause_seconds),
        promote: Some(promote),
    };
    scene.admin.create_ring(&new).await.unwrap();
    let trust = scene.admin.ring(CANARY).await.unwrap().trust;
    let config = config(&scene.control, &scene.upstream)
        .with_trust(&trust)
        .with_plugin(|plugin| plugin["ring"] = CANARY.into());
    let ahead = Envoy::start(&paths(), config, 2).await.unwrap();
    settle(&scene.admin, CANARY).await;
    (scene, ahead)
}

async fn status(envoy: &Envoy, key: &str) -> u16 {
    http::get(envoy.listener(), "/v1/ticker", &[("x-api-key", key)]).await.unwrap().status
}

async fn until_status(envoy: &Envoy, key: &str, status: u16) {
    until(&format!("the key is answered with {status}"), async || {
        for _ in 0..8 {
            if self::status(envoy, key).await != status {
                return None;
            }
        }
        Some(())
    })
    .await
    .unwrap();
}

/// Stops a process, or lets it go on.
fn signal(envoy: &Envoy, signal: &str) {
    let done = Command::new("kill").arg(signal).arg(envoy.pid().to_string()).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_accepted_by_the_canary_first_and_a_revocation_reaches_both_at_once() {
    let (scene, ahead) = two_groups(Promote::AfterPause, 3600).await;
    let key = scene.admin.create_key("acme", &[]).await.unwrap();
    until_status(&ahead, &key.secret, 200).await;
    assert_eq!(status(&scene.envoy, &key.secret).await, 401, "it waits");
    scene.admin.promote_ring(RING).await.unwrap();
    scene.settle().await;
    scene.until_status(&key.secret, 200).await;

    let rotation = scene.admin.start_rotation(&key.key, 600).await.unwrap();
    let (new, rotation) = (rotation.secret.unwrap(), rotation.rotation.id);
    until_status(&ahead, &new, 200).await;
    scene.settle().await;
    for (envoy, expected) in [(&ahead, [200, 200]), (&scene.envoy, [200, 401])] {
        assert_eq!([status(envoy, &key.secret).await, status(envoy, &new).await], expected);
    }
    let old = http::get(ahead.listener(), "/v1/ticker", &[("x-api-key", &key.secret)]).await.unwrap();
    assert_eq!(old.header("api-key-status"), "", "the old version is as it was");
    scene.admin.promote_rotation(&rotation).await.unwrap();
    for (admin, ring) in [(&scene.admin, RING), (&scene.admin, CANARY)] {
        settle(admin, ring).await;
    }
    for envoy in [&ahead, &scene.envoy] {
        until_status(envoy, &new, 200).await;
        let old = http::get(envoy.listener(), "/v1/ticker", &[("x-api-key", &key.secret)]).await.unwrap();
        assert_eq!((old.status, old.header("api-key-status")), (200, "retiring"));
    }

    let applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(30)).await.unwrap();
    assert!(applied.complete && applied.rings.len() == 2, "{applied:?}");
    for envoy in [&ahead, &scene.envoy] {
        for key in [&key.secret, &new] {
            assert_eq!(status(envoy, key).await, 401);
        }
    }
    // What the main ring never accepted is denied there as well.
    let waiting = scene.admin.create_key("acme", &[]).await.unwrap();
    until_status(&ahead, &waiting.secret, 200).await;
    let applied = scene.admin.revoke_and_wait(&waiting.key, Duration::from_secs(30)).await.unwrap();
    assert!(applied.complete && applied.rings.len() == 2, "{applied:?}");
    for envoy in [&ahead, &scene.envoy] {
        let reply = http::get(envoy.listener(), "/", &[("x-api-key", &waiting.secret)]).await.unwrap();
        assert_eq!((reply.status, &reply.json()["code"]), (401, &"key_revoked".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_follow_when_the_canary_enforces_it_and_a_laggard_holds_it_up_until_the_pause_is_over() {
    let (scene, ahead) = two_groups(Promote::WhenEnforced, 8).await;
    let key = scene.admin.create_key("acme", &[]).await.unwrap();
    scene.until_status(&key.secret, 200).await;
    let version = scene.admin.key(&key.key).await.unwrap().versions.remove(0);
    assert!(version.waits_until.is_none() && version.revision > 0, "{version:?}");
    assert_eq!(status(&ahead, &key.secret).await, 200);

    signal(&ahead, "-STOP");
    let made = scene.admin.start_rotation(&key.key, 600).await.unwrap();
    let (new, id) = (made.secret.unwrap(), made.rotation.id.clone());
    let begins_at = made.rotation.begins_at;
    // It is judged again whenever a proxy speaks, and each time the laggard is missing.
    let rotation = until("the main ring follows", async || {
        let before = status(&scene.envoy, &new).await;
        let rotation = scene.admin.rotation(&id).await.ok()?;
        if rotation.state == RotationState::Distributing {
            assert_eq!(before, 401, "nobody but the canary may know it");
            return None;
        }
        Some(rotation)
    })
    .await
    .unwrap();
    signal(&ahead, "-CONT");
    assert!(rotation.begins_at >= begins_at, "not before the pause was over: {rotation:?}");
    scene.until_status(&new, 200).await;
    until_status(&ahead, &new, 200).await;
}
