use keywheel_api::{Problem, TokenWithSecret};
use keywheel_control::RingAuth;
use reqwest::StatusCode;
use serde_json::json;

use crate::serving::{Serving, http, sample};
use crate::support::plane_with;

#[tokio::test]
async fn after_ten_bad_tokens_the_next_is_told_to_wait_and_a_good_one_is_let_in() {
    let serving = Serving::plain(plane_with(RingAuth::Token).await).await;
    let client = http().build().unwrap();
    let keys = format!("http://{}/v1/keys", serving.admin);
    let ring = format!("http://{}/v1/rings/production/snapshot", serving.ring);
    let ask = async |url: &str, token: &str| client.get(url).bearer_auth(token).send().await.unwrap();

    for n in 0..5 {
        assert_eq!(ask(&keys, "kwt_0").await.status(), StatusCode::UNAUTHORIZED, "{n}");
        assert_eq!(ask(&ring, &format!("kwt_{n}")).await.status(), StatusCode::UNAUTHORIZED, "{n}");
    }
    for url in [&keys, &ring] {
        let answer = ask(url, "kwt_0").await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.known_kind().unwrap().slug(), "too-many-failures");
        assert_eq!(ask(url, &serving.plane.token).await.status(), StatusCode::OK, "a good one");
    }
    // No token is no guess.
    assert_eq!(client.get(&keys).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let metrics = serving.metrics().await;
    let refused = |listener, reason| {
        let labels = format!("listener=\"{listener}\",reason=\"{reason}\"");
        sample(&metrics, &format!("keywheel_control_refused_logins_total{{{labels}}}"))
    };
    assert_eq!((refused("admin", "unknown"), refused("ring", "unknown")), (5.0, 5.0));
    assert_eq!((refused("admin", "too_many"), refused("ring", "too_many")), (1.0, 1.0));
    assert_eq!(refused("admin", "missing"), 1.0);
    drop(client);
    serving.stop().await;
}

#[tokio::test]
async fn a_token_that_ended_is_a_bad_one() {
    let plane = plane_with(RingAuth::Token).await;
    let made: TokenWithSecret =
        plane.post("/v1/tokens", json!({ "role": "proxy" })).await.json(StatusCode::CREATED);
    let revoke = format!("/v1/tokens/{}/revoke", made.about.id);
    assert_eq!(plane.post(&revoke, json!({})).await.status, StatusCode::OK);
    let serving = Serving::plain(plane).await;
    let client = http().build().unwrap();
    let ring = format!("http://{}/v1/rings/production/snapshot", serving.ring);
    let ask =
        async || client.get(&ring).bearer_auth(made.token.as_deref().unwrap()).send().await.unwrap().status();
    for n in 0..10 {
        assert_eq!(ask().await, StatusCode::UNAUTHORIZED, "{n}");
    }
    assert_eq!(ask().await, StatusCode::TOO_MANY_REQUESTS);
    let metrics = serving.metrics().await;
    let refused = "keywheel_control_refused_logins_total{listener=\"ring\",reason=\"ended\"}";
    assert_eq!(sample(&metrics, refused), 10.0);
    drop(client);
    serving.stop().await;
}
