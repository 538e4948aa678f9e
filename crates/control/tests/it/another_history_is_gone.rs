use axum::http::StatusCode;

use crate::support::plane;

#[tokio::test]
async fn another_epoch_or_a_revision_that_never_was_is_gone() {
    let plane = plane().await;
    plane.key().await;
    let (epoch, other) = (plane.epoch(), "0199a3b4-0000-7000-8000-000000000001");
    for ask in [
        format!("changes?epoch={other}&since=0"),
        format!("changes?epoch={other}&since=0&wait=60"),
        format!("changes?epoch={epoch}&since=2&wait=60"),
        format!("snapshot?epoch={other}"),
        format!("snapshot?epoch={epoch}&at_least=2"),
    ] {
        let answer = plane.ring(&ask).await;
        assert_eq!(answer.status, StatusCode::GONE, "{ask}");
        answer.problem("revision-gone");
    }
    assert_eq!(plane.ring(&format!("changes?epoch={epoch}&since=0")).await.status, StatusCode::OK);
    assert_eq!(plane.ring(&format!("snapshot?epoch={epoch}&at_least=1")).await.status, StatusCode::OK);
}
