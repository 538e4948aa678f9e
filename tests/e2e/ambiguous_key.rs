//! Two credentials in one request: which of them the upstream would believe is anyone's guess.

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test]
async fn two_keys_in_one_request_are_refused_even_when_both_are_valid() {
    let scene = Scene::start().await;
    let key = scene.key().await.secret;
    let title = "The request carries several API keys";
    for other in [key.as_str(), "another"] {
        let reply = scene.get("/", &[("x-api-key", &key), ("x-api-key", other)]).await;
        assert_refused(&reply, "ambiguous_key", title);
        let reply = scene.get("/", &[("x-api-key", other), ("X-Api-Key", &key)]).await;
        assert_refused(&reply, "ambiguous_key", title);
    }
    assert_eq!(scene.get_with_key(&key).await.status, 200);
}
