//! No credential, or an empty one.

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test]
async fn a_request_without_a_key_is_refused_and_never_reaches_the_upstream() {
    let scene = Scene::start().await;
    let before = scene.upstream.seen();
    let title = "An API key is required";
    assert_refused(&scene.get("/v1/ticker", &[]).await, "missing_key", title);
    assert_refused(&scene.get_with_key("").await, "missing_key", title);
    assert_eq!(scene.upstream.seen(), before);
}
