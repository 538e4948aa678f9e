//! One ring, and two listeners that trust different signers: what the one has stored, the other does
//! not serve.

use std::net::SocketAddr;

use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::{ControlPlane, Envoy, Upstream, http, port, until};

use crate::scene::{Scene, config, on_every_worker, paths, settle, settle_under_some_name};

/// The public key of RFC 8032's first test, which signs nothing here.
const STRANGER: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

#[tokio::test]
async fn two_signers_of_one_ring_are_kept_apart() {
    // Two control planes that know nothing of each other publish a ring of one name.
    let other = ControlPlane::start(&paths()).await.unwrap();
    let admin = other.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let second = port::free();
    let scene = Scene::with(|config| {
        let config = config.with_another_cluster("keywheel-other", "keywheel", other.ring());
        config.with_another_listener("second", second, |config| {
            config.with_trust(other.trust()).with_plugin(|plugin| {
                plugin["control"]["clusters"] = serde_json::json!(["keywheel-other"]);
            })
        })
    })
    .await;
    let mut firsts = on_every_worker(&scene.envoy, scene.envoy.listener()).await;
    let mut seconds = on_every_worker(&scene.envoy, second).await;
    for _ in 0..2 {
        let mine = scene.key().await;
        let theirs = admin.create_key("acme", &[]).await.unwrap();
        settle(&admin, RING).await;
        for (connections, accepted, refused) in
            [(&mut firsts, &mine, &theirs), (&mut seconds, &theirs, &mine)]
        {
            for connection in connections {
                assert_eq!(
                    connection.get("/", &[("x-api-key", &accepted.secret)]).await.unwrap().status,
                    200
                );
                let reply = connection.get("/", &[("x-api-key", &refused.secret)]).await.unwrap();
                assert_eq!((reply.status, &reply.json()["code"]), (401, &"unknown_key".into()));
            }
        }
        // A revocation reaches the one, and changes nothing for the other.
        admin.revoke(&theirs.key).await.unwrap();
        settle(&admin, RING).await;
        for (first, second) in firsts.iter_mut().zip(&mut seconds) {
            assert_eq!(first.get("/", &[("x-api-key", &mine.secret)]).await.unwrap().status, 200);
            assert_eq!(second.get("/", &[("x-api-key", &theirs.secret)]).await.unwrap().status, 401);
        }
    }
}

#[tokio::test]
async fn a_listener_that_trusts_another_serves_nothing_that_was_stored() {
    let (control, upstream) = parts().await;
    let (trusting, stranger) = (port::free(), port::free());
    let admin_address = port::free();
    let config = config(&control, &upstream).with_listener(trusting).with_admin(admin_address);
    let config = config
        .with_another_listener("stranger", stranger, |config| config.with_trust(&[STRANGER.to_owned()]));
    let envoy = Envoy::start_at(&paths(), &config, 2, trusting, admin_address).await.unwrap();
    assert_apart(&control, &upstream, &envoy, trusting, stranger).await;
}

async fn parts() -> (ControlPlane, Upstream) {
    let control = ControlPlane::start(&paths()).await.unwrap();
    control.admin().unwrap().create_client("acme").await.unwrap();
    (control, Upstream::start().await.unwrap())
}

async fn assert_apart(
    control: &ControlPlane,
    upstream: &Upstream,
    envoy: &Envoy,
    trusting: SocketAddr,
    stranger: SocketAddr,
) {
    let admin = control.admin().unwrap();
    let (key, doomed) =
        (admin.create_key("acme", &[]).await.unwrap(), admin.create_key("acme", &[]).await.unwrap());
    until("the listener that trusts the control plane serves", async || {
        let reply = http::get(trusting, "/", &[("x-api-key", &key.secret)]).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await
    .unwrap();
    // The copy of the one that does not is another proxy to the control plane, and never enforces.
    settle_under_some_name(&admin, RING).await;
    let served = upstream.seen();
    for connection in &mut on_every_worker(envoy, stranger).await {
        for headers in [&[][..], &[("x-api-key", key.secret.as_str())], &[("x-api-key", "unknown")]] {
            let reply = connection.get("/", headers).await.unwrap();
            assert_eq!((reply.status, &reply.json()["code"]), (503, &"ring_unavailable".into()));
        }
    }
    assert_eq!(upstream.seen(), served);

    admin.revoke(&doomed.key).await.unwrap();
    settle_under_some_name(&admin, RING).await;
    for connection in &mut on_every_worker(envoy, trusting).await {
        assert_eq!(connection.get("/", &[("x-api-key", &doomed.secret)]).await.unwrap().status, 401);
        assert_eq!(connection.get("/", &[("x-api-key", &key.secret)]).await.unwrap().status, 200);
    }
}
