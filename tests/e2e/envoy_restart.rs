//! A restarted Envoy has an empty memory, and fetches the ring anew.

use keywheel_testkit::{http, until};

use crate::scene::Scene;

#[tokio::test]
async fn a_restarted_envoy_enforces_the_ring_again() {
    let mut scene = Scene::start().await;
    let (kept, revoked) = (scene.key().await, scene.key().await);
    scene.admin.revoke(&revoked.key).await.unwrap();
    scene.until_status(&revoked.secret, 401).await;

    scene.envoy.restart().await.unwrap();
    until("the key is accepted again", async || {
        let reply = http::get(scene.envoy.listener(), "/", &[("x-api-key", &kept.secret)]).await.ok()?;
        assert_ne!(reply.status, 401, "a good key was refused: {}", reply.json()["code"]);
        let ended = http::get(scene.envoy.listener(), "/", &[("x-api-key", &revoked.secret)]).await.ok()?;
        assert_ne!(ended.status, 200, "a revoked key was accepted");
        (reply.status == 200).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(scene.get_with_key(&revoked.secret).await.json()["code"], "key_revoked");
}
