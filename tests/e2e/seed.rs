//! A proxy that starts while its control plane is away begins with the seed of its configuration.

use keywheel_testkit::{ControlPlane, Envoy, Upstream, http, until};

use crate::command_line::keywheel;
use crate::scene::{config, paths};

#[tokio::test]
async fn a_seed_is_enforced_until_the_control_plane_answers_and_then_followed() {
    let mut control = ControlPlane::start(&paths()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    let seed = keywheel(&control, &["ring", "export", "--seed"]).await;
    control.kill();

    let config = config(&control, &upstream).with_plugin(|plugin| plugin["seed"] = seed);
    let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
    let status =
        async |key: &str| http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap().status;
    until("the seed is enforced", async || (status(&key.secret).await == 200).then_some(())).await.unwrap();
    assert_eq!(status("nobody").await, 401);

    control.restart().await.unwrap();
    let later = admin.create_key("acme", &[]).await.unwrap();
    admin.revoke(&key.key).await.unwrap();
    until("the change arrives", async || {
        (status(&later.secret).await == 200 && status(&key.secret).await == 401).then_some(())
    })
    .await
    .unwrap();
}
