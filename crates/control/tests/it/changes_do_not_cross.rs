use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::{Client, Key, Policy};
use keywheel_control::app;
use serde_json::{Value, json};
use tokio::join;

use crate::support::{Answer, Plane, call, plane};

async fn change(plane: &Plane, method: &str, path: &str, tag: &str, body: Value) -> Answer {
    let request = Request::builder().method(method).uri(path).header("if-match", tag);
    let request = request.header("authorization", format!("Bearer {}", plane.token));
    call(app::admin(plane.control.clone()), request.body(Body::from(body.to_string())).unwrap()).await
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().unwrap().to_owned()
}

fn labels(team: &str) -> Value {
    json!({ "labels": { "team": team } })
}

#[tokio::test]
async fn a_change_is_made_only_to_what_the_caller_saw() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}", key.id);
    let seen = tag(&plane.get(&path).await);
    assert_eq!(tag(&plane.get(&path).await), seen, "it is the same as long as nothing changes");
    assert_eq!(tag(&plane.admin("HEAD", &path, String::new()).await), seen);

    let answer = change(&plane, "PATCH", &path, &seen, labels("one")).await;
    let now = tag(&answer);
    let _: Key = answer.json(StatusCode::OK);
    assert_ne!(now, seen);
    assert_eq!(tag(&plane.get(&path).await), now);

    for stale in [seen.as_str(), seen.trim_matches('"'), "W/\"weak\"", &format!("W/{now}"), "\"\", \"other\""]
    {
        let refused = change(&plane, "PATCH", &path, stale, labels("two")).await;
        assert_eq!(refused.status, StatusCode::PRECONDITION_FAILED);
        let detail = refused.problem("precondition-failed").detail;
        assert!(detail.contains(&now), "{detail}");
    }
    let revoke = format!("{path}/revoke");
    change(&plane, "POST", &revoke, &seen, json!({})).await.problem("precondition-failed");
    let key: Key = plane.get(&path).await.json(StatusCode::OK);
    assert_eq!((key.labels["team"].as_str(), key.revoked_at), ("one", None));

    for good in ["*", &format!("{seen}, {now}"), now.trim_matches('"')] {
        assert_eq!(
            change(&plane, "PATCH", &path, good, labels("one")).await.status,
            StatusCode::OK,
            "{good}"
        );
    }
    assert_eq!(change(&plane, "POST", &revoke, &now, json!({})).await.status, StatusCode::OK);
}

#[tokio::test]
async fn clients_and_policies_have_tags_too() {
    let plane = plane().await;
    plane.client("acme").await;
    plane.post("/v1/policies", json!({ "name": "ours", "terms": {} })).await;
    let (client, policy) = ("/v1/clients/acme", "/v1/policies/ours");
    let (of_client, of_policy) = (tag(&plane.get(client).await), tag(&plane.get(policy).await));

    let _: Client =
        change(&plane, "PATCH", client, &of_client, json!({ "owner": "me" })).await.json(StatusCode::OK);
    change(&plane, "PATCH", client, &of_client, json!({ "owner": "you" }))
        .await
        .problem("precondition-failed");

    let terms = json!({ "overlap_seconds": 60 });
    change(&plane, "PUT", policy, &of_client, terms.clone()).await.problem("precondition-failed");
    let changed = change(&plane, "PUT", policy, &of_policy, terms).await;
    let now = tag(&changed);
    let _: Policy = changed.json(StatusCode::OK);
    change(&plane, "DELETE", policy, &of_policy, json!(null)).await.problem("precondition-failed");
    assert_eq!(change(&plane, "DELETE", policy, &now, json!(null)).await.status, StatusCode::OK);
    change(&plane, "DELETE", policy, "*", json!(null)).await.problem("not-found");
}

#[tokio::test]
async fn of_two_changes_to_the_same_one_is_made() {
    let plane = plane().await;
    let path = format!("/v1/keys/{}", plane.key().await.id);
    for turn in 0..10 {
        let seen = tag(&plane.get(&path).await);
        let to = |who: &str| labels(&format!("{who}-{turn}"));
        let (one, two) = join!(
            change(&plane, "PATCH", &path, &seen, to("one")),
            change(&plane, "PATCH", &path, &seen, to("two"))
        );
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412]);
    }
}

#[tokio::test]
async fn a_repeat_is_answered_though_the_first_changed_the_tag() {
    let plane = plane().await;
    let key = plane.key().await;
    let path = format!("/v1/keys/{}", key.id);
    let seen = tag(&plane.get(&path).await);
    for _ in 0..2 {
        let request =
            Request::builder().method("POST").uri(format!("{path}/revoke")).header("if-match", &seen);
        let request = request.header("idempotency-key", "once");
        let request = request.header("authorization", format!("Bearer {}", plane.token));
        let answer = call(app::admin(plane.control.clone()), request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_condition_that_means_nothing_is_refused() {
    let plane = plane().await;
    plane.client("acme").await;
    for (method, path, tag) in [
        ("POST", "/v1/clients", "*"),
        ("POST", "/v1/tokens", "\"a\""),
        ("PATCH", "/v1/clients/acme", "zz"),
        ("PATCH", "/v1/clients/acme", ""),
        ("PATCH", "/v1/clients/nobody", "zz"),
        ("PATCH", "/v1/clients/acme", "*, \"a\""),
    ] {
        let problem = change(&plane, method, path, tag, labels("one")).await.problem("invalid-request");
        assert_eq!(problem.errors[0].field, "if-match", "{method} {path} {tag}");
    }
    // A request that changes nothing has no condition, whatever its headers say.
    assert_eq!(change(&plane, "GET", "/v1/clients/acme", "zz", json!(null)).await.status, StatusCode::OK);
}
