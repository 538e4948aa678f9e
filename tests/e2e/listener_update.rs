//! A listener is updated while requests run and keys change: nobody is refused who has a valid key, and
//! nobody gets in without one, by the old configuration or by the new.

use std::net::SocketAddr;

use keywheel_testkit::admin::Issued;
use keywheel_testkit::upstream::seen_header;
use keywheel_testkit::{EnvoyConfig, http, until};
use serde_json::json;

use crate::replaceable::Replaceable;
use crate::scene::valid_and_revoked;
use crate::traffic::Traffic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_while_the_configuration_does_and_no_request_is_decided_wrongly() {
    let scene = Replaceable::start().await;
    let (key, revoked) = valid_and_revoked(&scene.admin).await;
    let traffic = Traffic::start(scene.listener(), &key).refusing("revoked", &revoked.secret);

    for identity in ["x-caller", "x-consumer", "x-client-id"] {
        let doomed = scene.key().await;
        scene.replace(|config| tell_client_in(config, identity));
        // In the midst of it.
        let new = scene.admin.create_key("acme", &[]).await.unwrap();
        scene.admin.revoke(&doomed.key).await.unwrap();
        until_told_in(scene.listener(), &key, identity).await;
        scene.settle().await;
        for _ in 0..8 {
            let reply = scene.get(&new.secret).await;
            assert_eq!(reply.status, 200);
            // The client's own header of that name is not what arrives.
            assert_eq!(seen_header(&reply, identity), ["acme"]);
            assert_eq!(scene.get(&doomed.secret).await.status, 401);
        }
    }
    traffic.assert_served().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_update_leaves_the_old_listener_at_work() {
    let scene = Replaceable::start().await;
    let (key, doomed) = (scene.key().await, scene.key().await);
    let traffic = Traffic::start(scene.listener(), &key);
    scene.replace(|config| config.with_plugin(|plugin| plugin["sources"] = json!([])));
    until("the update is counted as refused", async || {
        let refused = scene.envoy.stats("listener_manager.lds.update_rejected").await.ok()?;
        (refused.into_values().sum::<u64>() > 0).then_some(())
    })
    .await
    .unwrap();
    // The ring goes on changing under it.
    let new = scene.key().await;
    scene.admin.revoke(&doomed.key).await.unwrap();
    scene.settle().await;
    for _ in 0..8 {
        assert_eq!(scene.get(&new.secret).await.status, 200);
        assert_eq!(scene.get(&doomed.secret).await.status, 401);
    }
    // And a good update is taken afterwards.
    scene.replace(|config| tell_client_in(config, "x-caller"));
    until_told_in(scene.listener(), &key, "x-caller").await;
    traffic.assert_served().await;
}

fn tell_client_in(config: EnvoyConfig, header: &str) -> EnvoyConfig {
    config.with_plugin(|plugin| plugin["identity"] = json!({"client": header}))
}

/// Waits until each of many new connections is decided by the configuration that names this header.
pub(crate) async fn until_told_in(listener: SocketAddr, key: &Issued, header: &str) {
    until(&format!("the client is told in {header}"), async || {
        for _ in 0..8 {
            let headers = [("x-api-key", key.secret.as_str()), (header, "forged")];
            let reply = http::get(listener, "/", &headers).await.ok()?;
            assert_eq!(reply.status, 200, "{}", reply.json()["code"]);
            if seen_header(&reply, header) != ["acme"] {
                return None;
            }
        }
        Some(())
    })
    .await
    .unwrap();
}
