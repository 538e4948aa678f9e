//! A wrong plugin configuration is refused with the field's path and what is allowed there, and the
//! listener that runs stays.

use keywheel_testkit::{ControlPlane, Envoy, EnvoyConfig, Upstream, http, port, until};
use serde_json::{Value, json};

use crate::scene::{Scene, config, paths};

#[tokio::test]
async fn a_wrong_configuration_is_refused_and_the_running_listener_stays() {
    let paths = paths();
    let control = ControlPlane::start(&paths).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("listener.json");
    let (listener, envoy_admin) = (port::free(), port::free());
    let good = config(&control, &upstream).with_listener(listener).with_admin(envoy_admin);
    let write = |config: EnvoyConfig| {
        let (bootstrap, listener) = config.with_listener_in(&file);
        listener.write(&file).unwrap();
        bootstrap
    };
    let bootstrap = write(good.clone());
    let envoy = Envoy::start_at(&paths, &bootstrap, 2, listener, envoy_admin).await.unwrap();
    let served = async || {
        let reply = http::get(listener, "/", &[("x-api-key", &key.secret)]).await;
        reply.ok().map(|reply| reply.status)
    };
    until("the listener serves", async || (served().await == Some(200)).then_some(())).await.unwrap();

    // Each wrong value, and a part of what is said about it.
    let wrong: [(&str, Value, &str); 5] = [
        ("ring", json!("no spaces here"), "ring: must be 1 to 64 letters, digits"),
        ("hide_credential", json!("yes"), "hide_credential: must be true or false"),
        ("max_credential_bytes", json!(7), "max_credential_bytes: must be a whole number from 16 to 4096"),
        (
            "sources",
            json!([{"header": "x-api-key"}, {"heder": "x"}]),
            "sources[1]: must be one of {header: x-api-key}",
        ),
        (
            "identity",
            json!({"klient": "x"}),
            "identity.klient: is not a field; allowed are client, key, scopes",
        ),
    ];
    for (at, (field, value, said)) in wrong.into_iter().enumerate() {
        write(good.clone().with_plugin(|plugin| plugin[field] = value));
        until(&format!("Envoy's log says `{said}`"), async || envoy.log().contains(said).then_some(()))
            .await
            .unwrap();
        until("the update is counted as refused", async || {
            let refused = envoy.stats("listener_manager.lds.update_rejected").await.ok()?;
            (refused.into_values().sum::<u64>() > at as u64).then_some(())
        })
        .await
        .unwrap();
        assert_eq!(served().await, Some(200), "after {field}");
    }

    // And a right one is taken afterwards.
    write(good.with_plugin(|plugin| plugin["hide_credential"] = json!(false)));
    until("the new configuration is in force", async || {
        let reply = http::get(listener, "/", &[("x-api-key", &key.secret)]).await.ok()?;
        String::from_utf8_lossy(&reply.body).contains(&key.secret).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_configuration_may_be_json_in_a_string() {
    let scene = Scene::with(EnvoyConfig::with_plugin_in_a_string).await;
    let key = scene.key().await;
    assert_eq!(scene.get_with_key(&key.secret).await.status, 200);
}
