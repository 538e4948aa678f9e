//! Two listeners that enforce two rings in one process: neither knows the other's keys, and neither
//! waits for the other's control plane.

use keywheel_testkit::{ControlPlane, http, port};

use crate::scene::{Scene, on_every_worker, paths, settle};

const STAGING: &str = "staging";

#[tokio::test]
async fn each_listener_enforces_its_own_ring() {
    let mut staging = ControlPlane::start_ring(&paths(), STAGING).await.unwrap();
    let admin = staging.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let second = port::free();
    let scene = Scene::with(|config| {
        let config = config.with_another_cluster("keywheel-staging", "keywheel", staging.ring());
        config.with_another_listener("staging", second, |config| {
            config.with_trust(staging.trust()).with_plugin(|plugin| {
                plugin["ring"] = STAGING.into();
                plugin["control"]["clusters"] = serde_json::json!(["keywheel-staging"]);
            })
        })
    })
    .await;
    let first = scene.envoy.listener();
    let (live, doomed) = (scene.key().await, scene.key().await);
    let test = admin.create_key("acme", &[]).await.unwrap();
    settle(&admin, STAGING).await;

    let mut firsts = on_every_worker(&scene.envoy, first).await;
    let mut seconds = on_every_worker(&scene.envoy, second).await;
    for (first, second) in firsts.iter_mut().zip(&mut seconds) {
        assert_eq!(first.get("/", &[("x-api-key", &live.secret)]).await.unwrap().status, 200);
        assert_eq!(second.get("/", &[("x-api-key", &test.secret)]).await.unwrap().status, 200);
        for (connection, key) in [(&mut *first, &test), (&mut *second, &live)] {
            let reply = connection.get("/", &[("x-api-key", &key.secret)]).await.unwrap();
            assert_eq!((reply.status, &reply.json()["code"]), (401, &"unknown_key".into()));
        }
    }

    // One control plane is gone: its ring stays as it is, and the other moves on.
    staging.kill();
    scene.admin.revoke(&doomed.key).await.unwrap();
    scene.settle().await;
    for (first, second) in firsts.iter_mut().zip(&mut seconds) {
        assert_eq!(first.get("/", &[("x-api-key", &doomed.secret)]).await.unwrap().status, 401);
        assert_eq!(second.get("/", &[("x-api-key", &test.secret)]).await.unwrap().status, 200);
    }
    assert_eq!(http::get(second, "/", &[]).await.unwrap().status, 401);
}
