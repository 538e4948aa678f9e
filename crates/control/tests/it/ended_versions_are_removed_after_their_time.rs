use std::time::Duration;

use keywheel_control::jobs::purge::{KEEP_ENDED, purge};
use keywheel_keyring::{Digest, Millis};
use serde_json::json;

use crate::support::{context, plane};

#[tokio::test]
async fn ended_versions_are_removed_from_the_ring_after_their_time() {
    let plane = plane().await;
    let (gone, stays) = (plane.key().await, plane.key().await);
    plane.post(&format!("/v1/keys/{}/revoke", gone.id), json!({})).await;
    let since = plane.head();
    let digest = plane.changes(0).await.entries.last().unwrap().digest;
    let day = Duration::from_secs(24 * 60 * 60).as_millis() as u64;

    let early = Millis(context().now.0 + 29 * day);
    assert_eq!(purge(plane.store(), early, KEEP_ENDED).await.unwrap(), 0);
    assert_eq!(plane.head(), since, "denied for thirty days");

    let late = Millis(context().now.0 + 31 * day);
    assert_eq!(purge(plane.store(), late, KEEP_ENDED).await.unwrap(), 1);
    assert_eq!(purge(plane.store(), late, KEEP_ENDED).await.unwrap(), 0);
    assert_eq!(plane.head(), since + 1);
    let document = plane.changes(since).await;
    assert_eq!((document.entries.len(), document.removed), (0, vec![digest]));

    let page = plane.ring("snapshot").await.document(&plane.trust().await);
    let left: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(left, [stays.id.as_str()]);
    assert_eq!(plane.show(&gone).await.versions.len(), 1, "the record stays");
    assert_ne!(digest, Digest::MAX);
}
