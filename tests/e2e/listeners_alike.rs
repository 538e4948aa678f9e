//! Two listeners with one and the same filter configuration share a VM and what it knows.

use keywheel_testkit::{http, port};

use crate::scene::{Scene, on_every_worker};

#[tokio::test]
async fn two_listeners_with_one_configuration_enforce_the_same_ring() {
    let second = port::free();
    let scene = Scene::with(|config| config.with_another_listener("second", second, |same| same)).await;
    // As with one listener: two workers and the main thread.
    scene.until_vms(3).await;
    let (kept, doomed) = (scene.key().await, scene.key().await);
    let mut connections = on_every_worker(&scene.envoy, scene.envoy.listener()).await;
    connections.extend(on_every_worker(&scene.envoy, second).await);
    for connection in &mut connections {
        for key in [&kept, &doomed] {
            assert_eq!(connection.get("/", &[("x-api-key", &key.secret)]).await.unwrap().status, 200);
        }
    }
    scene.admin.revoke(&doomed.key).await.unwrap();
    scene.settle().await;
    for connection in &mut connections {
        assert_eq!(connection.get("/", &[("x-api-key", &doomed.secret)]).await.unwrap().status, 401);
        assert_eq!(connection.get("/", &[("x-api-key", &kept.secret)]).await.unwrap().status, 200);
        assert_eq!(connection.get("/", &[]).await.unwrap().status, 401);
    }
    assert_eq!(http::get(second, "/", &[("x-api-key", "unknown")]).await.unwrap().status, 401);
}
