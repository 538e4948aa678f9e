//! A key that nobody issued here.

use keywheel_testkit::http;

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test]
async fn an_unknown_key_is_refused_and_does_not_trouble_a_known_one() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    let title = "The API key is not known";
    assert_refused(&scene.get_with_key("made-elsewhere-and-never-imported").await, "unknown_key", title);
    assert_eq!(scene.get_with_key(&key.secret).await.status, 200);

    // The same on one connection, so in one worker: what it remembers of one key is not the other's.
    let mut connection = http::Connection::open(scene.envoy.listener()).await.unwrap();
    for (key, status) in [(key.secret.as_str(), 200), ("made-elsewhere", 401), (key.secret.as_str(), 200)] {
        assert_eq!(connection.get("/", &[("x-api-key", key)]).await.unwrap().status, status);
    }
}
