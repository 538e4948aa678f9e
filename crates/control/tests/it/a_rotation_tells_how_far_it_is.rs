use axum::http::StatusCode;
use keywheel_api::{RotationProgress, State, Step};
use keywheel_control::clock;
use serde_json::{Value, json};

use crate::support::{Plane, plane};

async fn progress(plane: &Plane, rotation: &str) -> RotationProgress {
    plane.get(&format!("/v1/rotations/{rotation}/progress")).await.json(StatusCode::OK)
}

/// A report of VM `vm` that each version was used so often, so many minutes ago.
async fn report(plane: &Plane, batch: u64, counts: &[(&str, u64, u64)]) {
    let now = clock::now().0;
    let minute = |ago: u64| (now - ago * 60_000) / 60_000 * 60_000;
    let counts: Vec<Value> = counts
        .iter()
        .map(|(version, ago, count)| {
            json!({ "version": version, "outcome": "valid", "minute": minute(*ago), "count": count })
        })
        .collect();
    let batch = json!({
        "node": "edge", "instance": "a1", "vm": "1", "batch": batch, "from": now - 60_000, "to": now, "counts": counts,
    });
    assert_eq!(plane.report(json!([batch])).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn who_uses_which_version_and_what_comes_next() {
    let plane = plane().await;
    let key = plane.key().await;
    let rotation = plane.rotate(&key, 3600).await;
    let (old, new) = (rotation.old_version.as_str(), rotation.new_version.as_str());
    let fresh = progress(&plane, &rotation.id).await;
    assert_eq!(fresh.versions[0].share, None);
    assert_eq!((fresh.proxies.of, fresh.proxies.revision), (0, plane.head()));

    report(&plane, 1, &[(old, 0, 5), (old, 10, 20), (old, 90, 1000), (new, 0, 75), ("kv_other", 0, 9)]).await;
    report(&plane, 1, &[(old, 0, 500)]).await;
    let found = progress(&plane, &rotation.id).await;
    let [was, is] = &found.versions[..] else { panic!("{found:?}") };
    assert_eq!(
        (was.version.as_str(), was.state, was.requests.minute, was.requests.hour),
        (old, State::Retiring, 5, 25)
    );
    assert_eq!((is.state, is.requests.minute, is.requests.hour), (State::Active, 75, 75));
    assert_eq!((was.share, is.share), (Some(0.25), Some(0.75)));
    assert_eq!((was.requests.day, is.requests.day), (1025, 75));
    let next = found.next.unwrap();
    assert_eq!((next.step, next.at), (Step::Retire, rotation.overlap_ends_at));

    let epoch = plane.epoch();
    let says = format!(
        "node=edge&instance=a1&filter=0.1.0&vms=1&epoch={epoch}&stored=9&enforced={}&age=0",
        plane.head()
    );
    plane.ring_as(&format!("changes?epoch={epoch}&since=0"), &says).await;
    let proxies = progress(&plane, &rotation.id).await.proxies;
    assert_eq!((proxies.enforced, proxies.of), (1, 1));
    plane.post(&format!("/v1/keys/{}/revoke", key.id), json!({})).await;
    assert_eq!(progress(&plane, &rotation.id).await.next, None);
    plane.get("/v1/rotations/rot_none/progress").await.problem("not-found");
}
