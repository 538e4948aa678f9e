//! A document that is unsigned, altered, older, truncated or no document changes nothing but a counter
//! and a line in the log. A fake control plane says what no real one would.

use keywheel_keyring::{Digest, Entry, Kind, Millis, State};
use keywheel_testkit::fake_control::{Canned, document};
use keywheel_testkit::{Envoy, EnvoyConfig, FakeControl, Upstream, http, until};

use crate::scene::paths;

const GOOD: &str = "good-key";
const DENIED: &str = "denied-key";

#[tokio::test]
async fn an_unsigned_document_changes_nothing() {
    check("unsigned", |fake| Canned { signer: None, signature: None, ..fake.changes(2, 3, vec![flip(3)]) })
        .await;
}

#[tokio::test]
async fn an_altered_document_changes_nothing() {
    check("bad_signature", |fake| {
        let mut canned = fake.changes(2, 3, vec![flip(3)]);
        let body = String::from_utf8(canned.body).unwrap().replace("revoked", "retired");
        canned.body = body.into_bytes();
        canned
    })
    .await;
}

#[tokio::test]
async fn a_document_signed_by_a_stranger_changes_nothing() {
    check("untrusted_signer", |fake| {
        let canned = fake.changes(2, 3, vec![flip(3)]);
        let stranger = keywheel_keyring::SigningKey::from_seed([8; 32]);
        let signer = Some(stranger.public().id().to_string());
        Canned { signer, signature: Some(stranger.sign(&canned.body)), ..canned }
    })
    .await;
}

#[tokio::test]
async fn a_truncated_document_changes_nothing() {
    check("bad_signature", |fake| {
        let mut canned = fake.changes(2, 3, vec![flip(3)]);
        canned.body.truncate(canned.body.len() / 2);
        canned
    })
    .await;
}

#[tokio::test]
async fn a_signed_body_that_is_not_json_changes_nothing() {
    check("unreadable", |fake| fake.sign_bytes(b"<html>502 Bad Gateway</html>".to_vec())).await;
}

#[tokio::test]
async fn an_older_document_changes_nothing() {
    check("older", |fake| fake.changes(0, 1, vec![flip(1)])).await;
}

#[tokio::test]
async fn a_document_that_starts_after_where_the_proxy_is_changes_nothing() {
    check("gap", |fake| fake.changes(3, 4, vec![flip(4)])).await;
}

#[tokio::test]
async fn a_document_of_another_ring_changes_nothing() {
    check("wrong_ring", |fake| {
        let mut foreign = document(Kind::Changes { since: 2 }, 3, vec![flip(3)]);
        foreign.ring = "staging".into();
        fake.sign(&foreign)
    })
    .await;
}

#[tokio::test]
async fn an_expired_document_changes_nothing() {
    check("expired", |fake| {
        let mut old = document(Kind::Changes { since: 2 }, 3, vec![flip(3)]);
        old.issued_at = Millis(1_000_000);
        old.expires_at = Millis(2_000_000);
        fake.sign(&old)
    })
    .await;
}

/// A proxy holds revision 2. Then comes a bad document, which would flip both keys: it is counted and
/// logged, and both keys are as before. Then comes a good one, and is taken.
async fn check(reason: &str, bad: impl FnOnce(&FakeControl) -> Canned) {
    let paths = paths();
    let (fake, upstream) = (FakeControl::start().await.unwrap(), Upstream::start().await.unwrap());
    fake.serve_snapshot(fake.snapshot(2, ring()));
    let config =
        EnvoyConfig::shipped().unwrap().with_wasm(&paths.wasm).with_cluster("keywheel", fake.address());
    let config = config.with_cluster("upstream", upstream.address()).with_trust(&fake.trust());
    let envoy = Envoy::start(&paths, config, 2).await.unwrap();
    let status = async |key| http::get(envoy.listener(), "/", &[("x-api-key", key)]).await.unwrap().status;
    until("every worker holds the first ring", async || {
        for _ in 0..8 {
            if status(GOOD).await != 200 {
                return None;
            }
        }
        Some(())
    })
    .await
    .unwrap();
    assert_eq!(status(DENIED).await, 401);
    envoy.wait_for_revision(2).await.unwrap();

    fake.answer_poll(bad(&fake));
    until("the document is counted as rejected", async || {
        let rejected = envoy.stats("keywheel_ring_rejected").await.ok()?;
        rejected.values().any(|count| *count > 0).then_some(())
    })
    .await
    .unwrap();
    let rejected = envoy.stats("keywheel_ring_rejected").await.unwrap();
    let name = format!("wasmcustom.keywheel_ring_rejected.ring.production.reason.{reason}");
    assert_eq!(rejected.get(&name), Some(&1), "{rejected:?}");
    assert!(envoy.log().contains("ring production:"), "the log says nothing of it");
    for _ in 0..4 {
        assert_eq!((status(GOOD).await, status(DENIED).await), (200, 401));
    }
    assert_eq!(envoy.metric("keywheel_ring_revision").await.unwrap(), 2);

    fake.answer_poll(fake.changes(2, 3, vec![flip(3)]));
    until("a good document is taken", async || (status(GOOD).await == 401).then_some(())).await.unwrap();
    envoy.wait_for_revision(3).await.unwrap();
}

fn ring() -> Vec<Entry> {
    let mut entries = vec![entry(GOOD, 1, State::Active), entry(DENIED, 2, State::Revoked)];
    entries.sort_by_key(|entry| entry.digest);
    entries
}

/// The good key is revoked.
fn flip(revision: u64) -> Entry {
    entry(GOOD, revision, State::Revoked)
}

fn entry(key: &str, revision: u64, state: State) -> Entry {
    Entry::new(Digest::of(key.as_bytes()), &format!("kv_{key}"), "key_1", "acme", revision, state)
}
