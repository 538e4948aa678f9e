//! Three tiers, each killed in turn: control plane, relay, Envoys.

use std::time::Duration;

use keywheel_testkit::admin::Issued;
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::upstream::Upstream;
use keywheel_testkit::{Admin, ControlPlane, Envoy, EnvoyConfig, Relay, http, until};
use serde_json::Value;

use crate::command_line::keywheel;
use crate::scene::{paths, settle};

struct Tiers {
    envoys: Vec<Envoy>,
    relay: Relay,
    control: ControlPlane,
    upstream: Upstream,
    admin: Admin,
}

impl Tiers {
    /// Two Envoys behind a relay, all of which hold the ring.
    async fn start() -> Self {
        let control = ControlPlane::start(&paths()).await.unwrap();
        let upstream = Upstream::start().await.unwrap();
        let admin = control.admin().unwrap();
        admin.create_client("acme").await.unwrap();
        let relay = Relay::start(&paths(), &[control.ring()], control.trust()).await.unwrap();
        let mut tiers = Self { envoys: Vec::new(), relay, control, upstream, admin };
        for _ in 0..2 {
            let envoy = tiers.envoy().await;
            tiers.envoys.push(envoy);
        }
        until("the relay and both proxies are known", async || {
            (tiers.admin.ring(RING).await.ok()?.proxies.len() == 3).then_some(())
        })
        .await
        .unwrap();
        settle(&tiers.admin, RING).await;
        tiers
    }

    async fn envoy(&self) -> Envoy {
        let config = EnvoyConfig::shipped().unwrap().with_wasm(&paths().wasm);
        let config = config.with_cluster("keywheel", self.relay.ring());
        let config =
            config.with_cluster("upstream", self.upstream.address()).with_trust(self.control.trust());
        Envoy::start(&paths(), config, 2).await.unwrap()
    }

    async fn key(&self) -> Issued {
        let key = self.admin.create_key("acme", &[]).await.unwrap();
        settle(&self.admin, RING).await;
        key
    }

    async fn until_status(&self, envoy: &Envoy, key: &Issued, status: u16) {
        until(&format!("the key is answered with {status}"), async || {
            for _ in 0..8 {
                let reply = http::get(envoy.listener(), "/", &[("x-api-key", &key.secret)]).await.ok()?;
                if reply.status != status {
                    return None;
                }
            }
            Some(())
        })
        .await
        .unwrap();
    }
}

/// How often a key was let in, as the control plane has it.
async fn counted(control: &ControlPlane, key: &Issued) -> u64 {
    let usage = keywheel(control, &["key", "usage", &key.key]).await;
    let rows = usage["hours"].as_array().cloned().unwrap_or_default();
    let valid = rows.iter().filter(|row: &&Value| row["outcome"] == "valid");
    valid.filter_map(|row| row["count"].as_u64()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_through_a_relay_is_proved_by_every_proxy_behind_it() {
    let tiers = Tiers::start().await;
    for _ in 0..3 {
        let key = tiers.key().await;
        for envoy in &tiers.envoys {
            tiers.until_status(envoy, &key, 200).await;
        }
        let applied = tiers.admin.revoke_and_wait(&key.key, Duration::from_secs(30)).await.unwrap();
        assert!(applied.complete, "{applied:?}");
        assert_eq!((applied.rings[0].enforced, applied.rings[0].of), (3, 3), "the relay is one of them");
        let relay = format!("relay@{}", tiers.relay.ring());
        for proxy in tiers.admin.ring(RING).await.unwrap().proxies {
            assert_eq!(proxy.via, (proxy.node != relay).then(|| relay.clone()), "{}", proxy.node);
        }
        for envoy in &tiers.envoys {
            for _ in 0..8 {
                let reply = http::get(envoy.listener(), "/", &[("x-api-key", &key.secret)]).await.unwrap();
                assert_eq!(reply.status, 401);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_behind_a_relay_that_does_not_answer_is_named() {
    let mut tiers = Tiers::start().await;
    let key = tiers.key().await;
    drop(tiers.envoys.pop());
    let applied = tiers.admin.revoke_and_wait(&key.key, Duration::from_secs(2)).await.unwrap();
    assert!(!applied.complete, "{applied:?}");
    let proof = &applied.rings[0];
    assert_eq!((proof.enforced, proof.of), (2, 3), "{proof:?}");
    assert_eq!(proof.laggards.len() + proof.unproven.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tier_may_be_killed_and_nothing_is_lost() {
    let mut tiers = Tiers::start().await;
    let (key, revoked) = (tiers.key().await, tiers.key().await);
    tiers.admin.revoke(&revoked.key).await.unwrap();
    settle(&tiers.admin, RING).await;
    let sent = std::cell::Cell::new(0_u64);
    let send = async |envoy: &Envoy| {
        for _ in 0..5 {
            let reply = http::get(envoy.listener(), "/", &[("x-api-key", &key.secret)]).await.unwrap();
            assert_eq!(reply.status, 200);
            sent.set(sent.get() + 1);
        }
    };
    send(&tiers.envoys[0]).await;

    // Without the control plane the keys go on, and a new proxy has them from the relay, with what was revoked.
    tiers.control.kill();
    send(&tiers.envoys[1]).await;
    let third = tiers.envoy().await;
    until("the new proxy has its ring", async || {
        (http::get(third.listener(), "/", &[]).await.ok()?.status == 401).then_some(())
    })
    .await
    .unwrap();
    tiers.until_status(&third, &revoked, 401).await;
    send(&third).await;

    // The relay comes back without its upstream, from its disk.
    tiers.relay.kill();
    send(&tiers.envoys[0]).await;
    tiers.relay.restart().await.unwrap();
    let fourth = tiers.envoy().await;
    until("another new proxy has its ring", async || {
        (http::get(fourth.listener(), "/", &[]).await.ok()?.status == 401).then_some(())
    })
    .await
    .unwrap();
    tiers.until_status(&fourth, &revoked, 401).await;
    send(&fourth).await;
    tiers.envoys.extend([third, fourth]);

    // With the control plane back everybody catches up, and is known.
    tiers.control.restart().await.unwrap();
    let other = tiers.admin.create_key("acme", &[]).await.unwrap();
    for envoy in &tiers.envoys {
        tiers.until_status(envoy, &other, 200).await;
    }
    until("all four proxies and the relay are known", async || {
        (tiers.admin.ring(RING).await.ok()?.proxies.len() == 5).then_some(())
    })
    .await
    .unwrap();
    let applied = tiers.admin.revoke_and_wait(&other.key, Duration::from_secs(60)).await.unwrap();
    assert!(applied.complete, "{applied:?}");
    until("every request is counted once", async || {
        let counted = counted(&tiers.control, &key).await;
        assert!(counted <= sent.get(), "counted twice: {counted} of {}", sent.get());
        (counted == sent.get()).then_some(())
    })
    .await
    .unwrap();

    // An Envoy that is gone holds the proof back, by name, until somebody says that it is gone for good.
    let gone = tiers.envoys.pop();
    drop(gone);
    let applied = tiers.admin.revoke_and_wait(&key.key, Duration::from_secs(2)).await.unwrap();
    assert!(!applied.complete, "{applied:?}");
}
