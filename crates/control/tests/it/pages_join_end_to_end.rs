use std::time::{Duration, Instant};

use keywheel_keyring::document::{AHEAD_HEADER, Kind};
use keywheel_keyring::{Digest, Document};
use serde_json::json;

use crate::support::{Plane, plane};

async fn page(plane: &Plane, after: Option<Digest>, first: Option<&Document>) -> Document {
    let mut ask = "snapshot?".to_owned();
    if let Some(after) = after {
        ask += &format!("after={after}&");
    }
    if let Some(first) = first {
        ask += &format!("epoch={}&at_least={}", first.epoch, first.revision);
    }
    plane.ring(&ask).await.document(&plane.trust().await)
}

async fn fill(plane: &Plane, count: u32) {
    plane.import((0..count).map(|n| Digest::of(&n.to_be_bytes()))).await;
}

#[tokio::test]
async fn pages_join_end_to_end_over_1203_keys() {
    let plane = plane().await;
    fill(&plane, 1203).await;
    let first = page(&plane, None, None).await;
    let (mut document, mut digests, mut pages) = (first.clone(), Vec::new(), 1);
    let mut cursor = None;
    loop {
        let Kind::Snapshot { after, through } = document.kind else { panic!("a page is a snapshot") };
        assert_eq!(after, cursor);
        assert_eq!(document.revision, 1203);
        digests.extend(document.entries.iter().map(|entry| entry.digest));
        cursor = through;
        if through.is_none() {
            break;
        }
        pages += 1;
        document = page(&plane, through, Some(&first)).await;
    }
    let mut all: Vec<_> = (0..1203_u32).map(|n| Digest::of(&n.to_be_bytes())).collect();
    all.sort_unstable();
    assert_eq!(pages, 3);
    assert!(digests == all, "every digest once, in order");
}

#[tokio::test]
async fn a_page_tells_where_the_one_behind_it_ends() {
    let plane = plane().await;
    fill(&plane, 2100).await;
    let (mut after, mut said) = (String::new(), None);
    for number in 1..=5 {
        let answer = plane.ring(&format!("snapshot?{after}")).await;
        let ahead = answer.headers.get(AHEAD_HEADER).map(|ahead| ahead.to_str().unwrap().to_owned());
        let document = answer.document(&plane.trust().await);
        let Kind::Snapshot { through, .. } = document.kind else { panic!("a page is a snapshot") };
        let through = through.map(|through| through.to_string());
        assert!(number == 1 || said == through, "page {number}: {said:?}, {through:?}");
        after = format!("after={}&", through.unwrap_or_default());
        said = ahead;
    }
    assert_eq!(after, "after=&", "that was the last");
}

#[tokio::test]
async fn an_empty_ring_is_one_page() {
    let page = page(&plane().await, None, None).await;
    assert_eq!(page.kind, Kind::Snapshot { after: None, through: None });
    assert_eq!((page.revision, page.entries.len()), (0, 0));
}

#[tokio::test]
async fn exactly_one_document_full_is_one_page() {
    let plane = plane().await;
    fill(&plane, 500).await;
    let page = page(&plane, None, None).await;
    assert_eq!(page.kind, Kind::Snapshot { after: None, through: None });
    assert_eq!(page.entries.len(), 500);
}

#[tokio::test]
async fn a_first_page_is_never_behind_and_a_later_one_may_be() {
    let plane = plane().await;
    fill(&plane, 600).await;
    let key = plane.key().await;
    let first = page(&plane, None, None).await;
    let Kind::Snapshot { through, .. } = first.kind else { panic!("a page is a snapshot") };
    let asked = Instant::now();
    let second = page(&plane, through, Some(&first)).await;
    assert_eq!(page(&plane, None, None).await, first, "kept while nothing changes");

    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let again = page(&plane, through, Some(&first)).await;
    // A page that is behind serves for five seconds only.
    let slow = asked.elapsed() > Duration::from_secs(4);
    assert!(slow || again == second, "the changes after the first page mend it");
    // A proxy without a ring enforces it as it is, until the changes after it come.
    assert_eq!(page(&plane, None, None).await.revision, plane.head());
}

#[tokio::test]
async fn a_kept_page_is_never_older_than_asked_for() {
    let plane = plane().await;
    let key = plane.key().await;
    let first = page(&plane, None, None).await;
    assert_eq!(page(&plane, None, None).await, first, "kept");

    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    let asked = format!("snapshot?epoch={}&at_least={}", plane.epoch(), plane.head());
    let newer = plane.ring(&asked).await.document(&plane.trust().await);
    assert_eq!(newer.revision, plane.head());
    assert!(newer.entries[0].state.is_denied());
}
