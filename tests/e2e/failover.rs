//! Several clusters serve the ring: the next one is asked when one does not answer, and the first again
//! when it is back.

use keywheel_testkit::upstream::Upstream;
use keywheel_testkit::{ControlPlane, Envoy, FakeControl, http, port, until};
use serde_json::json;

use crate::scene::{config, paths};

#[tokio::test]
async fn a_ring_comes_from_the_next_cluster_when_the_first_does_not_answer() {
    let control = ControlPlane::start(&paths()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    // Nobody listens at the first, and the second is no ring at all.
    let config = config(&control, &upstream)
        .with_another_cluster("dead", "keywheel", port::free())
        .with_another_cluster("other", "upstream", upstream.address())
        .with_plugin(|plugin| plugin["control"]["clusters"] = json!(["dead", "other", "keywheel"]));
    let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
    let status =
        async |key: &str| http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap().status;
    until("the ring", async || (status(&key.secret).await == 200).then_some(())).await.unwrap();
    admin.revoke(&key.key).await.unwrap();
    until("the change", async || (status(&key.secret).await == 401).then_some(())).await.unwrap();
    assert!(envoy.stats("keywheel_refresh_failures").await.unwrap().values().sum::<u64>() > 0);
}

#[tokio::test]
async fn a_cluster_that_is_not_configured_in_envoy_stops_nobody() {
    let fake = FakeControl::start().await.unwrap();
    fake.serve_snapshot(fake.snapshot(1, vec![]));
    let upstream = Upstream::start().await.unwrap();
    let config = crate::stage::config(&fake, &upstream)
        .with_plugin(|plugin| plugin["control"]["clusters"] = json!(["no-such-cluster", "keywheel"]));
    let envoy = Envoy::start(&paths(), config, 1).await.unwrap();
    until("the ring", async || {
        (http::get(envoy.listener(), "/", &[]).await.ok()?.status == 401).then_some(())
    })
    .await
    .unwrap();
}
