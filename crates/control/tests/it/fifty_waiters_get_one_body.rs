use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::plane;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_waiters_get_one_body_and_one_signature_at_once() {
    let plane = Arc::new(plane().await);
    let key = plane.key().await;
    let ask = format!("changes?epoch={}&since={}&wait=30", plane.epoch(), plane.head());
    let wait = |_| {
        let (plane, ask) = (plane.clone(), ask.clone());
        tokio::spawn(async move { plane.ring(&ask).await })
    };
    let waiters: Vec<_> = (0..50).map(wait).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let changed = Instant::now();
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let mut answers = BTreeSet::new();
    for waiter in waiters {
        let answer = waiter.await.unwrap();
        assert_eq!(answer.document(&plane.trust().await).entries[0].key, key.id);
        answers.insert((answer.body, answer.headers["keywheel-signature"].as_bytes().to_vec()));
    }
    assert_eq!(answers.len(), 1);
    assert!(changed.elapsed() < Duration::from_secs(5), "nobody waited for the end of the wait");
}
