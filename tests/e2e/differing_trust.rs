//! One ring, and two listeners that trust different signers: what the one has stored, the other does
//! not serve.

use std::net::SocketAddr;

use keywheel_keyring::{Digest, Entry, SigningKey, State};
use keywheel_testkit::envoy_admin::RING;
use keywheel_testkit::fake_control::Canned;
use keywheel_testkit::{ControlPlane, Envoy, EnvoyConfig, FakeControl, Upstream, http, port, until};

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

/// The same the other way round, so that the one that will never get a ring is there first.
#[tokio::test]
async fn a_listener_that_trusts_another_keeps_nobody_from_the_ring() {
    let (control, upstream) = parts().await;
    let (trusting, stranger) = (port::free(), port::free());
    let admin_address = port::free();
    let config = config(&control, &upstream).with_listener(stranger).with_admin(admin_address);
    let trust = control.trust().to_vec();
    let config = config.with_another_listener("trusting", trusting, |config| config.with_trust(&trust));
    let config = config.with_trust(&[STRANGER.to_owned()]);
    let envoy = Envoy::start_at(&paths(), &config, 2, stranger, admin_address).await.unwrap();
    assert_apart(&control, &upstream, &envoy, trusting, stranger).await;
}

/// The control plane's signing key moves. One listener trusts the new one already, the other does not.
#[tokio::test]
async fn a_listener_that_does_not_trust_the_next_signer_keeps_nobody_from_it() {
    let (fake, upstream) = (FakeControl::start().await.unwrap(), Upstream::start().await.unwrap());
    fake.serve_snapshot(fake.snapshot(1, vec![entry(1, State::Active)]));
    let next = SigningKey::from_seed([8; 32]);
    let (moved, behind, admin_address) = (port::free(), port::free(), port::free());
    let mut trust = fake.trust();
    let config = EnvoyConfig::shipped().unwrap().with_wasm(&paths().wasm).with_trust(&trust);
    let config = config.with_cluster("keywheel", fake.address()).with_cluster("upstream", upstream.address());
    let config = config.with_listener(behind).with_admin(admin_address);
    trust.push(next.public().to_string());
    let config = config.with_another_listener("moved", moved, |config| config.with_trust(&trust));
    let envoy = Envoy::start_at(&paths(), &config, 2, behind, admin_address).await.unwrap();
    for listener in [moved, behind] {
        until_all(&envoy, listener, 200).await;
    }

    let signed = |canned: Canned| Canned {
        signer: Some(next.public().id().to_string()),
        signature: Some(next.sign(&canned.body)),
        ..canned
    };
    fake.serve_snapshot(signed(fake.snapshot(2, vec![entry(2, State::Revoked)])));
    // To every poll, whoever's it is.
    for _ in 0..100 {
        fake.answer_poll(signed(fake.changes(1, 2, vec![entry(2, State::Revoked)])));
    }
    until_all(&envoy, moved, 401).await;
}

async fn until_all(envoy: &Envoy, listener: SocketAddr, status: u16) {
    let mut connections = on_every_worker(envoy, listener).await;
    until(&format!("every worker answers with {status}"), async || {
        let mut all = true;
        for connection in &mut connections {
            all &= connection.get("/", &[("x-api-key", "a-key")]).await.unwrap().status == status;
        }
        all.then_some(())
    })
    .await
    .unwrap();
}

fn entry(revision: u64, state: State) -> Entry {
    Entry::new(Digest::of(b"a-key"), "kv_1", "key_1", "acme", revision, state)
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
