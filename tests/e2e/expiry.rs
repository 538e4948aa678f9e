//! A key's own expiry is enforced by the proxy's clock, with nobody there to tell it.

use keywheel_api::{CreateKey, Timestamp};

use crate::refusal::assert_refused;
use crate::scene::Scene;

#[tokio::test]
async fn a_key_expires_by_the_proxys_own_clock_while_the_control_plane_is_dead() {
    let mut scene = Scene::start().await;
    let expires_at = Timestamp::from_millisecond(Timestamp::now().as_millisecond() + 3_000).unwrap();
    let request = CreateKey { client: "acme".into(), expires_at: Some(expires_at), ..CreateKey::default() };
    let brief = scene.admin.create(&request).await.unwrap();
    let lasting = scene.key().await;
    assert_eq!(scene.get_with_key(&brief.secret).await.status, 200);
    scene.control.kill();
    let refused = scene.until_status(&brief.secret, 401).await;
    assert_refused(&refused, "key_expired", "The API key has expired");
    assert_eq!(scene.get_with_key(&lasting.secret).await.status, 200);
}
