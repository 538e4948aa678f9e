use axum::http::StatusCode;
use keywheel_keyring::Document;

use crate::support::{Plane, plane};

/// What a reader sees between a writer's commit and its word that it committed: the database is one
/// revision further than the head that is known.
async fn commit_unannounced(plane: &Plane) -> u64 {
    let database = plane.database().await;
    for sql in [
        "UPDATE rings SET revision = revision + 1",
        "UPDATE versions SET state = 'revoked', ended_at = 0, revision = (SELECT revision FROM rings)",
    ] {
        sqlx::query(sql).execute(&database).await.unwrap();
    }
    plane.head() + 1
}

async fn follows(plane: &Plane, document: Document, head: u64) {
    assert_eq!(document.revision, head);
    let answer = plane.ring(&format!("changes?epoch={}&since={head}", plane.epoch())).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(plane.head(), head);
}

#[tokio::test]
async fn who_got_changes_up_to_an_early_commit_may_follow_from_it() {
    let plane = plane().await;
    plane.key().await;
    let head = commit_unannounced(&plane).await;
    let document = plane.changes(0).await;
    follows(&plane, document, head).await;
}

#[tokio::test]
async fn who_got_a_page_of_an_early_commit_may_follow_from_it() {
    let plane = plane().await;
    plane.key().await;
    let head = commit_unannounced(&plane).await;
    let document = plane.ring("snapshot").await.document(&plane.trust().await);
    follows(&plane, document, head).await;
}
