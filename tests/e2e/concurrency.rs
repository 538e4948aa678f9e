//! Envoy with one worker, with two and with eight: a new key is accepted and a revoked one refused on
//! each of them, as soon as the proxy says so.

use crate::scene::{Scene, on_every_worker};

#[tokio::test]
async fn one_worker_enforces_every_change() {
    check(1).await;
}

#[tokio::test]
async fn two_workers_enforce_every_change() {
    check(2).await;
}

#[tokio::test]
async fn eight_workers_enforce_every_change() {
    check(8).await;
}

async fn check(workers: usize) {
    let scene = Scene::with_workers(workers, |config| config).await;
    // The workers, and the VM on the main thread. It is one process, whoever of them fetches.
    scene.until_vms(workers + 1).await;
    let mut connections = on_every_worker(&scene.envoy, scene.envoy.listener()).await;

    for _ in 0..3 {
        // Both times the proxy has said that it enforces the change: from then on there is no other answer.
        let key = scene.key().await;
        for connection in &mut connections {
            let reply = connection.get("/", &[("x-api-key", &key.secret)]).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.json()["code"]);
        }
        scene.admin.revoke(&key.key).await.unwrap();
        scene.settle().await;
        for connection in &mut connections {
            let reply = connection.get("/", &[("x-api-key", &key.secret)]).await.unwrap();
            assert_eq!((reply.status, &reply.json()["code"]), (401, &"key_revoked".into()));
            assert_eq!(connection.get("/", &[]).await.unwrap().status, 401);
        }
    }
}
