use keywheel_control::store::{ImportedVersion, Refusal, StoreError};
use keywheel_keyring::Digest;

use crate::support::{context, plane};

fn imported(range: std::ops::Range<u32>) -> Vec<ImportedVersion> {
    let version = |n: u32| ImportedVersion {
        digest: Digest::of(&n.to_be_bytes()),
        scopes: vec!["trade".into()],
        expires_at: None,
    };
    range.map(version).collect()
}

#[tokio::test]
async fn an_import_is_one_run_of_revisions_and_all_or_nothing() {
    let plane = plane().await;
    plane.client("acme").await;
    let last = plane.store().import(&context(), "production", "acme", imported(0..1203)).await.unwrap();
    assert_eq!((last, plane.head()), (1203, 1203));

    let again = plane.store().import(&context(), "production", "acme", imported(1200..2000)).await;
    assert!(matches!(again, Err(StoreError::Refused(Refusal::DigestTaken))));
    assert_eq!(plane.head(), 1203);

    // A run of changes ends early and is followed from where it ended.
    let mut since = 0;
    let mut seen = Vec::new();
    while since < plane.head() {
        let document = plane.changes(since).await;
        assert!(document.entries.len() <= 500);
        assert_eq!(document.revision, document.entries.last().unwrap().revision);
        seen.extend(document.entries.iter().map(|entry| entry.revision));
        since = document.revision;
    }
    assert_eq!(seen, (1..=1203).collect::<Vec<_>>());
}
