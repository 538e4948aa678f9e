use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::TokenWithSecret;
use keywheel_control::{RingAuth, app};
use serde_json::json;

use crate::support::{Plane, call, plane_with};

async fn ring(plane: &Plane, authorization: &str) -> StatusCode {
    let request = Request::builder().uri("/v1/rings/production/snapshot");
    let request = request.header("authorization", authorization).body(Body::empty()).unwrap();
    call(app::ring(plane.control.clone()), request).await.status
}

async fn admin(plane: &Plane, authorization: &[u8]) -> crate::support::Answer {
    let request = Request::builder().uri("/v1/keys").header("authorization", authorization);
    call(app::admin(plane.control.clone()), request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_proxy_token_reads_rings_and_nothing_else() {
    let plane = plane_with(RingAuth::Token).await;
    let token: TokenWithSecret =
        plane.post("/v1/tokens", json!({ "role": "proxy" })).await.json(StatusCode::CREATED);
    let proxy = format!("Bearer {}", token.token.as_deref().unwrap());
    assert_eq!(ring(&plane, &proxy).await, StatusCode::OK);
    admin(&plane, proxy.as_bytes()).await.problem("forbidden");
    assert_eq!(ring(&plane, &format!("bearer {}", plane.token)).await, StatusCode::OK, "an admin may too");

    assert_eq!(plane.ring("snapshot").await.status, StatusCode::UNAUTHORIZED);
    for bad in [&b"Bearer kwt_0"[..], b"Bearer", b"Basic abc", b"\xff", b""] {
        let answer = admin(&plane, bad).await;
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"keywheel\"");
        answer.problem("unauthorized");
    }
}

#[tokio::test]
async fn health_needs_no_token() {
    let plane = plane_with(RingAuth::Token).await;
    for app in [app::admin(plane.control.clone()), app::ring(plane.control.clone())] {
        for path in ["/healthz", "/readyz"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(call(app.clone(), request).await.status, StatusCode::OK, "{path}");
        }
    }
}
