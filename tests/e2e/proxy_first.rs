//! A proxy that starts before its control plane answers 503 until it has a ring: never 200, and
//! never 401, which would tell a client that its good key is bad.

use keywheel_testkit::{ControlPlane, Envoy, Upstream, http, until};

use crate::scene::{config, paths};

#[tokio::test]
async fn envoy_before_the_control_plane_answers_503_and_then_recovers() {
    let paths = paths();
    let mut control = ControlPlane::start(&paths).await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let key = admin.create_key("acme", &[]).await.unwrap();
    control.kill();

    let upstream = Upstream::start().await.unwrap();
    let envoy = Envoy::start(&paths, config(&control, &upstream), 2).await.unwrap();
    for headers in [&[][..], &[("x-api-key", key.secret.as_str())], &[("x-api-key", "unknown")]] {
        for _ in 0..4 {
            let reply = http::get(envoy.listener(), "/", headers).await.unwrap();
            assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
            assert_eq!(reply.json()["code"], "ring_unavailable");
        }
    }
    assert_eq!(upstream.seen(), 0);

    control.restart().await.unwrap();
    until("the proxy recovers by itself", async || {
        let reply = http::get(envoy.listener(), "/", &[("x-api-key", &key.secret)]).await.ok()?;
        assert!(reply.status == 200 || reply.status == 503, "{reply:?}");
        (reply.status == 200).then_some(())
    })
    .await
    .unwrap();
}
