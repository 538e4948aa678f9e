//! The VM that fetches the ring goes away with the listener that it belonged to. Those of the new
//! listener take over, and no request notices.

use keywheel_testkit::{EnvoyConfig, until};
use serde_json::json;

use crate::replaceable::Replaceable;
use crate::scene::valid_and_revoked;
use crate::traffic::Traffic;

/// The filter's contexts are made anew, in the same VM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_another_configuration_replaces_the_leaders() {
    check(|config, at| {
        config.with_plugin(|plugin| plugin["identity"] = json!({"client": format!("x-client-{at}")}))
    })
    .await;
}

/// The VM itself is made anew, and the old one ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ring_goes_on_when_the_leaders_vm_ends() {
    check(|config, at| {
        config.with_vm(|vm| {
            vm["configuration"] =
                json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": at.to_string()});
        })
    })
    .await;
}

async fn check(change: fn(EnvoyConfig, usize) -> EnvoyConfig) {
    let scene = Replaceable::start().await;
    let (key, revoked) = valid_and_revoked(&scene.admin).await;
    let traffic = Traffic::start(scene.listener(), &key).refusing("revoked", &revoked.secret);
    for at in 0..2 {
        let led = leaders(&scene);
        scene.replace(|config| change(config, at));
        until("another VM fetches the ring", async || (leaders(&scene) > led).then_some(())).await.unwrap();
        // The old VMs end, and are waited for no longer.
        scene.until_vms(3).await;
        let new = scene.key().await;
        scene.admin.revoke(&new.key).await.unwrap();
        scene.settle().await;
        for _ in 0..8 {
            assert_eq!(scene.get(&new.secret).await.status, 401);
            assert_eq!(scene.get(&key.secret).await.status, 200);
        }
    }
    traffic.assert_served().await;
    assert!(scene.upstream.seen() > 0);
}

/// How many times a VM began to fetch.
fn leaders(scene: &Replaceable) -> usize {
    scene.envoy.log().matches("this VM fetches the ring from now on").count()
}
