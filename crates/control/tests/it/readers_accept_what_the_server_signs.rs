//! The rules of keyring, which the filter applies, take every document that the server cuts.

use keywheel_control::clock;
use keywheel_keyring::merge::{Ending, Plan};
use keywheel_keyring::{Document, Generation, PublicKey};
use serde_json::json;

use crate::support::plane;

fn install(held: &Generation, document: Document, signer: &PublicKey) -> Generation {
    match held.judge("production", document, signer.id(), clock::now(), Ending::LastPage).unwrap() {
        Plan::Heartbeat(next) => *next,
        Plan::Write(write) => write.finish(0),
    }
}

#[tokio::test]
async fn a_reader_follows_a_snapshot_changes_and_a_heartbeat() {
    let plane = plane().await;
    let signer = plane.trust().await.remove(0);
    let key = plane.key().await;

    let page = plane.ring("snapshot").await.document(&plane.trust().await);
    let held = install(&Generation::default(), page, &signer);
    assert_eq!(held.complete.unwrap().revision, 1);
    assert_eq!(held.key_prefix, "kw_live_");

    let mut held = install(&held, plane.changes(1).await, &signer);
    for _ in 0..2 {
        plane.rotate(&key, 0).await;
        let since = held.complete.unwrap().revision;
        held = install(&held, plane.changes(since).await, &signer);
        assert_eq!(held.complete.unwrap().revision, plane.head());
    }
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let held = install(&held, plane.changes(1).await, &signer);
    assert_eq!(held.complete.unwrap().revision, plane.head());

    let plane = plane.restart().await;
    let held = install(&held, plane.changes(plane.head()).await, &signer);
    assert_eq!(held.signers, [signer.id()], "the signing key outlives a restart");
}
