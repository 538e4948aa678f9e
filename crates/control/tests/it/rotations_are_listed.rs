use axum::http::StatusCode;
use keywheel_api::{List, Rotation};
use keywheel_control::app;
use serde_json::json;

use crate::support::{Plane, new_version, plane};

async fn ids(plane: &Plane, token: &str, query: &str) -> Vec<String> {
    let path = format!("/v1/rotations{query}");
    let answer = plane.ask(app::admin(plane.control.clone()), Some(token), "GET", &path, "").await;
    let list: List<Rotation> = answer.json(StatusCode::OK);
    list.items.into_iter().map(|rotation| rotation.id).collect()
}

#[tokio::test]
async fn rotations_are_listed_by_key_client_and_whether_they_go_on() {
    let plane = plane().await;
    let (first, second) = (plane.key().await, plane.key().await);
    let ended = plane.rotate(&first, 0).await.id;
    let open = plane.rotate(&first, 60).await.id;
    let other = plane.rotate(&second, 60).await.id;
    plane.post("/v1/rings", json!({ "name": "staging" })).await;
    plane.client("other").await;
    let new = json!({ "client": "other", "ring": "staging", "version": new_version() });
    let elsewhere = plane.post("/v1/keys", new).await.json(StatusCode::CREATED);
    let staging = plane.rotate(&elsewhere, 60).await.id;

    // Ids sort by the second in which they were made.
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    let all = sorted(&[&ended, &open, &other, &staging]);
    let token = &plane.token;
    assert_eq!(ids(&plane, token, "").await, all);
    assert_eq!(ids(&plane, token, &format!("?after={}", all[1])).await, all[2..]);
    assert_eq!(ids(&plane, token, &format!("?key={}", first.id)).await, sorted(&[&ended, &open]));
    assert_eq!(ids(&plane, token, "?open=false").await, [ended]);
    assert_eq!(ids(&plane, token, &format!("?open=true&key={}", first.id)).await, [open]);
    assert_eq!(ids(&plane, token, "?client=other").await, std::slice::from_ref(&staging));
    assert_eq!(ids(&plane, token, "?client=nobody").await, [""; 0]);
    let limited = plane.token_of(json!({ "role": "auditor", "rings": ["staging"] })).await;
    assert_eq!(ids(&plane, &limited, "").await, [staging]);
    assert_eq!(ids(&plane, &limited, "?client=acme").await, [""; 0]);
}
