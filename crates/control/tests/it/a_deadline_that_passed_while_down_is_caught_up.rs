use std::time::Duration;

use keywheel_api::{RotationEnd, RotationState, State};

use crate::support::plane;

#[tokio::test]
async fn a_deadline_that_passed_while_down_is_caught_up_before_anybody_is_served() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 1).await;
    let head = plane.head();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(plane.store().rotation(&rotation.id).await.unwrap().state, RotationState::Overlapping);

    let plane = plane.restart().await;
    let caught_up = plane.store().rotation(&rotation.id).await.unwrap();
    assert_eq!(caught_up.state, RotationState::Completed);
    assert_eq!(caught_up.ended_by, Some(RotationEnd::Deadline));
    assert_eq!(plane.show(&key).await.versions[0].state, State::Retired);
    assert_eq!(plane.head(), head + 1, "carried out once, with one revision");

    let plane = plane.restart().await;
    assert_eq!(plane.head(), head + 1, "and not again");
}
