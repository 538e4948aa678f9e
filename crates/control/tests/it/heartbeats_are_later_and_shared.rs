use std::sync::Arc;
use std::time::Instant;

use keywheel_keyring::document::Kind;

use crate::support::plane;

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_a_signed_heartbeat_that_all_share() {
    let plane = Arc::new(plane().await);
    plane.key().await;
    let ask = format!("changes?epoch={}&since=1&wait=1", plane.epoch());
    let start = Instant::now();
    let first = plane.ring(&ask).await.document(&plane.trust().await);
    assert!(start.elapsed().as_millis() >= 1000);
    assert_eq!((first.kind, first.revision), (Kind::Changes { since: 1 }, 1));
    assert!(first.entries.is_empty() && first.removed.is_empty());

    let wait = |_| {
        let (plane, ask) = (plane.clone(), ask.clone());
        tokio::spawn(async move { plane.ring(&ask).await })
    };
    let mut bodies = Vec::new();
    for waiter in (0..20).map(wait).collect::<Vec<_>>() {
        let answer = waiter.await.unwrap();
        assert!(
            answer.document(&plane.trust().await).issued_at > first.issued_at,
            "or no proxy would take it"
        );
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}
