//! A relay's pages may be hours old. A proxy that starts behind it enforces nothing before it has the changes since.

use keywheel_keyring::{Digest, Entry, State};
use keywheel_testkit::upstream::Upstream;
use keywheel_testkit::{ControlPlane, Envoy, EnvoyConfig, FakeControl, Relay, http, until};

use crate::scene::paths;
use crate::stage;

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

/// An upstream that is gone right after a change has told a relay nothing of what comes behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_lost_its_upstream_right_after_a_change_serves_new_proxies_and_relays() {
    let entry = |key: &str, revision, state| {
        Entry::new(Digest::of(key.as_bytes()), &format!("kv_{key}"), "key_1", "acme", revision, state)
    };
    let fake = FakeControl::start().await.unwrap();
    let mut ring = vec![entry("good", 19, State::Active), entry("revoked", 20, State::Active)];
    ring.sort_by_key(|entry| entry.digest);
    fake.serve_snapshot(fake.snapshot(20, ring));
    let upstream = Upstream::start().await.unwrap();
    let relay = Relay::start(&paths(), &[fake.address()], &fake.trust()).await.unwrap();
    fake.answer_last_poll(fake.changes(20, 21, vec![entry("revoked", 21, State::Revoked)]));
    until("the relay asks in vain", async || (fake.withheld() > 0).then_some(())).await.unwrap();

    let second = Relay::start(&paths(), &[relay.ring()], &fake.trust()).await.unwrap();
    for relay in [&relay, &second] {
        let config = stage::config_of(relay.ring(), &fake.trust(), &upstream);
        let envoy = Envoy::start(&paths(), config, 2).await.unwrap();
        let outcome = async |key: &str| {
            stage::outcome(&http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap())
        };
        until("the proxy has its ring", async || {
            let revoked = outcome("revoked").await;
            assert!(["401 key_revoked", "503 ring_unavailable"].contains(&revoked.as_str()), "{revoked}");
            (revoked.starts_with("401") && outcome("good").await == "200").then_some(())
        })
        .await
        .unwrap();
    }
}
