use axum::http::StatusCode;
use keywheel_api::{List, Notice, NoticeKind, time};
use keywheel_control::jobs::purge::forget_notices;
use keywheel_control::jobs::scheduler::catch_up;
use keywheel_keyring::Millis;
use serde_json::json;

use crate::support::{Plane, plane, policy_of_acme};

const DAY: u64 = 24 * 60 * 60;

async fn notices(plane: &Plane) -> Vec<(NoticeKind, u64)> {
    let page: List<Notice> = plane.get("/v1/notices").await.json(StatusCode::OK);
    assert!(page.items.iter().all(|notice| notice.client == "acme"));
    page.items.iter().map(|notice| (notice.kind, notice.lead_seconds / DAY)).collect()
}

#[tokio::test]
async fn each_step_is_announced_once_however_often_anybody_looks() {
    let plane = plane().await;
    let terms = json!({
        "rotate_every_seconds": 30 * DAY, "overlap_seconds": 5 * DAY, "notices_seconds": [7 * DAY, 2 * DAY, DAY],
    });
    policy_of_acme(&plane, terms).await;
    let key = plane.key().await;
    let made = time::millis(key.versions[0].created_at).unwrap().0;
    let run = async |plane: &Plane, days: u64| {
        for _ in 0..2 {
            catch_up(plane.store(), Millis(made + days * DAY * 1000)).await.unwrap();
        }
    };
    run(&plane, 22).await;
    assert_eq!(notices(&plane).await, []);
    run(&plane, 23).await;
    let plane = plane.restart().await;
    run(&plane, 23).await;
    assert_eq!(notices(&plane).await, [(NoticeKind::Due, 7)]);
    run(&plane, 29).await;
    assert_eq!(notices(&plane).await[1..], [(NoticeKind::Due, 1)], "what was missed is not made up for");
    run(&plane, 31).await;
    run(&plane, 22).await;
    run(&plane, 31).await;
    assert_eq!(
        notices(&plane).await[2..],
        [(NoticeKind::Due, 0)],
        "a clock set back announces nothing again"
    );

    let rotation = plane.rotate(&key, 5 * DAY).await;
    let begun = time::millis(rotation.begins_at).unwrap().0;
    for days in [1, 3, 4] {
        catch_up(plane.store(), Millis(begun + days * DAY * 1000)).await.unwrap();
    }
    assert_eq!(notices(&plane).await[3..], [(NoticeKind::Retire, 2), (NoticeKind::Retire, 1)]);
    let page: List<Notice> = plane.get("/v1/notices?after=4&limit=1").await.json(StatusCode::OK);
    assert_eq!(page.items.len(), 1);

    // Kept for a year: those of the days 3 and 4 are gone then, and those of the days 23, 29 and 31 are not.
    let forget =
        async |days: u64| forget_notices(plane.store(), Millis(made + days * DAY * 1000)).await.unwrap();
    assert_eq!(forget(3 + 365).await, 0);
    assert_eq!((forget(23 + 365).await, notices(&plane).await.len()), (2, 3));
    assert_eq!(forget(23 + 365).await, 0);
}
