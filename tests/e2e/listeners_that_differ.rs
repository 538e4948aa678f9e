//! Two listeners with one VM and different filter configurations: each request is decided by its own
//! listener's, also when they come in turn.

use std::net::SocketAddr;

use keywheel_testkit::upstream::seen_header;
use keywheel_testkit::{Connection, port};
use serde_json::json;

use crate::scene::{Scene, on_every_worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_decides_by_its_own_configuration() {
    let second = port::free();
    let scene = Scene::with(|config| {
        config.with_another_listener("second", second, |config| {
            config.with_plugin(|plugin| {
                plugin["sources"] = json!([{"header": "authorization", "scheme": "Bearer"}]);
                plugin["identity"] = json!({"key": "x-api-key-id"});
            })
        })
    })
    .await;
    // One for each thread and configuration.
    scene.until_vms(6).await;
    let (key, doomed) = (scene.key().await, scene.key().await);
    let first = scene.envoy.listener();
    let mut firsts = on_every_worker(&scene.envoy, first).await;
    let mut seconds = on_every_worker(&scene.envoy, second).await;

    // All at once, so that requests of both are under way in one VM.
    let mut tasks = tokio::task::JoinSet::new();
    let open = |target: SocketAddr| async move { Connection::open(target).await.unwrap() };
    for _ in 0..4 {
        let (mut first, mut second) = (open(first).await, open(second).await);
        let (secret, id) = (key.secret.clone(), key.key.clone());
        tasks.spawn(async move {
            for _ in 0..25 {
                in_the_header(&mut first, &secret).await;
            }
        });
        let secret = key.secret.clone();
        tasks.spawn(async move {
            for _ in 0..25 {
                as_a_bearer(&mut second, &secret, &id).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // And in turn.
    for (first, second) in firsts.iter_mut().zip(&mut seconds) {
        in_the_header(first, &key.secret).await;
        as_a_bearer(second, &key.secret, &key.key).await;
    }

    scene.admin.revoke(&doomed.key).await.unwrap();
    scene.settle().await;
    let bearer = format!("Bearer {}", doomed.secret);
    for (first, second) in firsts.iter_mut().zip(&mut seconds) {
        assert_eq!(first.get("/", &[("x-api-key", &doomed.secret)]).await.unwrap().status, 401);
        assert_eq!(second.get("/", &[("authorization", &bearer)]).await.unwrap().status, 401);
    }
}

/// The first listener takes `x-api-key` alone, and tells the upstream the client.
async fn in_the_header(connection: &mut Connection, key: &str) {
    let reply = connection.get("/", &[("x-api-key", key)]).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(seen_header(&reply, "x-client-id"), ["acme"]);
    assert_eq!(seen_header(&reply, "x-api-key-id"), Vec::<String>::new());
    let reply = connection.get("/", &[("authorization", &format!("Bearer {key}"))]).await.unwrap();
    assert_eq!((reply.status, &reply.json()["code"]), (401, &"missing_key".into()));
    assert!(reply.header("www-authenticate").contains("x-api-key"));
}

/// The second takes `authorization: Bearer` alone, and tells the upstream the key's id.
async fn as_a_bearer(connection: &mut Connection, key: &str, id: &str) {
    let bearer = format!("Bearer {key}");
    let reply = connection.get("/", &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(seen_header(&reply, "x-api-key-id"), [id]);
    assert_eq!(seen_header(&reply, "x-client-id"), Vec::<String>::new());
    let reply = connection.get("/", &[("x-api-key", key)]).await.unwrap();
    assert_eq!((reply.status, &reply.json()["code"]), (401, &"missing_key".into()));
    assert!(reply.header("www-authenticate").starts_with("Bearer"));
}
