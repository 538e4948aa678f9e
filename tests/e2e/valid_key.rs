//! A valid key: the upstream learns who calls, from the proxy alone, and does not see the key.

use keywheel_testkit::upstream::seen_header;

use crate::scene::Scene;

#[tokio::test]
async fn the_upstream_sees_the_client_and_not_the_key() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    let reply = scene.get("/v1/ticker?symbol=BTC-USD", &[("x-api-key", &key.secret)]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["path"], "/v1/ticker?symbol=BTC-USD");
    assert_eq!(seen_header(&reply, "x-client-id"), ["acme"]);
    assert_eq!(seen_header(&reply, "x-api-key"), Vec::<String>::new());
    assert!(!String::from_utf8_lossy(&reply.body).contains(&key.secret));
}

#[tokio::test]
async fn forged_identity_headers_never_reach_the_upstream() {
    let scene = Scene::with(|config| {
        let identity =
            serde_json::json!({"client": "x-client-id", "key": "x-api-key-id", "scopes": "x-api-key-scopes"});
        config.with_plugin(|plugin| plugin["identity"] = identity)
    })
    .await;
    let key = scene.key().await;
    let reply = scene
        .get(
            "/",
            &[
                ("x-client-id", "root"),
                ("X-Client-Id", "admin"),
                ("x-api-key-id", "key_forged"),
                ("x-api-key-scopes", "trade withdraw"),
                ("x-api-key-scopes", "everything"),
                ("x-api-key", &key.secret),
            ],
        )
        .await;
    assert_eq!(seen_header(&reply, "x-client-id"), ["acme"]);
    assert_eq!(seen_header(&reply, "x-api-key-id"), [key.key.as_str()]);
    assert_eq!(seen_header(&reply, "x-api-key-scopes"), ["market:read"]);

    // A key without scopes leaves none to forge either.
    let plain = scene.admin.create_key("acme", &[]).await.unwrap();
    scene.settle().await;
    let reply = scene.get("/", &[("x-api-key-scopes", "everything"), ("x-api-key", &plain.secret)]).await;
    assert_eq!(reply.status, 200);
    assert!(seen_header(&reply, "x-api-key-scopes").iter().all(String::is_empty));
}

#[tokio::test]
async fn an_identity_header_in_another_spelling_is_refused() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    let reply = scene.get("/", &[("x_client_id", "root"), ("x-api-key", &key.secret)]).await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn a_new_key_works_without_anything_being_restarted() {
    let scene = Scene::start().await;
    for _ in 0..5 {
        let key = scene.admin.create_key("acme", &[]).await.unwrap();
        scene.until_status(&key.secret, 200).await;
    }
}
