//! The control plane is killed and comes back: the proxy serves on, and then catches up.

use crate::scene::Scene;

#[tokio::test]
async fn a_proxy_serves_on_without_a_control_plane_and_catches_up_when_it_is_back() {
    let mut scene = Scene::start().await;
    let (kept, doomed) = (scene.key().await, scene.key().await);
    scene.control.kill();
    for _ in 0..8 {
        assert_eq!(scene.get_with_key(&kept.secret).await.status, 200);
        assert_eq!(scene.get_with_key("unknown").await.status, 401);
    }
    scene.control.restart().await.unwrap();
    // What was answered before the kill is still so, and what comes after it arrives.
    scene.admin.revoke(&doomed.key).await.unwrap();
    let new = scene.admin.create_key("acme", &[]).await.unwrap();
    scene.until_status(&doomed.secret, 401).await;
    scene.until_status(&new.secret, 200).await;
    assert_eq!(scene.get_with_key(&kept.secret).await.status, 200);
}

#[tokio::test]
async fn what_was_answered_before_a_kill_is_so_after_it() {
    let mut scene = Scene::start().await;
    let key = scene.key().await;
    scene.admin.revoke(&key.key).await.unwrap();
    scene.control.kill();
    scene.control.restart().await.unwrap();
    scene.until_status(&key.secret, 401).await;
    let versions = scene.admin.key(&key.key).await.unwrap().versions;
    assert!(versions.iter().all(|version| version.state == keywheel_api::State::Revoked), "{versions:?}");
}
