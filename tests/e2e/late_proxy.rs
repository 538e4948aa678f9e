//! A relay's pages may be hours old. A proxy that starts behind it enforces nothing before it has the changes since.

use keywheel_testkit::upstream::Upstream;
use keywheel_testkit::{ControlPlane, Envoy, EnvoyConfig, Relay, http};

use crate::scene::paths;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_revoked_after_the_pages_were_cut_is_never_let_in() {
    let control = ControlPlane::start(&paths()).await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let admin = control.admin().unwrap();
    admin.create_client("acme").await.unwrap();
    let (key, revoked) =
        (admin.create_key("acme", &[]).await.unwrap(), admin.create_key("acme", &[]).await.unwrap());
    let mut relay = Relay::start(&paths(), &[control.ring()], control.trust()).await.unwrap();
    // One run of changes for each, behind pages that say that the key is good.
    for _ in 0..3 {
        let other = admin.create_key("acme", &[]).await.unwrap();
        admin.revoke_and_wait(&other.key, std::time::Duration::from_secs(30)).await.unwrap();
    }
    admin.revoke_and_wait(&revoked.key, std::time::Duration::from_secs(30)).await.unwrap();

    for is_restarted in [false, true] {
        if is_restarted {
            relay.kill();
            relay.restart().await.unwrap();
        }
        let config = EnvoyConfig::shipped().unwrap().with_wasm(&paths().wasm);
        let config = config.with_cluster("keywheel", relay.ring());
        let config = config.with_cluster("upstream", upstream.address()).with_trust(control.trust());
        let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let reply = http::get(envoy.listener(), "/", &[("x-api-key", &revoked.secret)]).await.unwrap();
            assert!([401, 503].contains(&reply.status), "{reply:?}");
            if reply.status == 401 {
                assert_eq!(reply.json()["code"], "key_revoked");
                break;
            }
            assert!(std::time::Instant::now() < deadline, "no ring came");
        }
        let reply = http::get(envoy.listener(), "/", &[("x-api-key", &key.secret)]).await.unwrap();
        assert_eq!(reply.status, 200);
    }
}
