//! A change that waits is answered when every VM of every proxy enforces it, and not before.

use std::time::Duration;

use keywheel_api::Applied;
use keywheel_testkit::Connection;
use serde_json::json;

use crate::refusal::assert_refused;
use crate::scene::{Scene, on_every_worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_revocation_is_applied_no_worker_lets_the_key_in() {
    let scene = Scene::start().await;
    scene.until_vms(3).await;
    for _ in 0..5 {
        let key = scene.key().await;
        let mut workers = on_every_worker(&scene.envoy, scene.envoy.listener()).await;
        let applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(30)).await.unwrap();
        assert!(applied.complete, "{applied:?}");
        assert_eq!((applied.rings[0].enforced, applied.rings[0].of), (1, 1));
        for worker in &mut workers {
            let reply = worker.get("/v1/ticker", &[("x-api-key", &key.secret)]).await.unwrap();
            assert_refused(&reply, "key_revoked", "The API key was revoked");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_blocked_holds_the_proof_back() {
    // Longer than the change waits, and shorter than it takes to strike a silent VM off.
    let busy = "function envoy_on_request(handle)
        if handle:headers():get(':path') == '/busy' then
          local done = os.clock() + 3
          while os.clock() < done do end
        end
      end";
    let lua = json!({
        "name": "busy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": { "inline_string": busy },
        },
    });
    let scene = Scene::with(|config| config.with_filter_before(lua)).await;
    scene.until_vms(3).await;
    let key = scene.key().await;
    let listener = scene.envoy.listener();
    let blocking = tokio::spawn(async move {
        let mut connection = Connection::open(listener).await.unwrap();
        connection.get("/busy", &[]).await.unwrap()
    });
    tokio::time::sleep(Duration::from_millis(500)).await;

    let applied: Applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(1)).await.unwrap();
    assert!(!applied.complete, "a worker has not adopted it: {applied:?}");
    assert_eq!((applied.rings[0].enforced, applied.rings[0].of), (0, 1));
    assert_eq!(applied.rings[0].laggards.len(), 1);

    let reply = blocking.await.unwrap();
    assert_eq!(reply.status, 401, "there was no key on it");
    let applied = scene.admin.revoke_and_wait(&key.key, Duration::from_secs(30)).await.unwrap();
    assert!(applied.complete, "{applied:?}");
}
