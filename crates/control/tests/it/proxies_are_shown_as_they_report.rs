use axum::body::Body;
use axum::http::{Request, StatusCode};
use keywheel_api::Ring;
use keywheel_control::app;
use keywheel_keyring::Millis;
use serde_json::json;

use crate::support::{Plane, call, plane};

async fn report(plane: &Plane, header: &[u8]) {
    let uri = format!("/v1/rings/production/changes?epoch={}&since=0", plane.epoch());
    let request = Request::builder().uri(uri).header("keywheel-proxy", header).body(Body::empty()).unwrap();
    assert_eq!(call(app::ring(plane.control.clone()), request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn proxies_are_shown_as_they_report_and_nonsense_is_ignored() {
    let plane = plane().await;
    plane.key().await;
    plane.key().await;
    report(&plane, b"node=edge&instance=0a&filter=0.1.0&vms=3&epoch=&stored=0&enforced=0&age=0").await;
    let epoch = plane.epoch();
    let second = format!("node=edge&instance=0a&filter=0.1.0&vms=3&epoch={epoch}&stored=2&enforced=1&age=1");
    report(&plane, second.as_bytes()).await;
    for nonsense in [&b"\xff\xfe"[..], b"", b"node=edge", b"node=edge&instance=zz&vms=-1"] {
        report(&plane, nonsense).await;
    }

    let ring: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
    assert_eq!(ring.proxies.len(), 1);
    let proxy = &ring.proxies[0];
    assert_eq!((proxy.node.as_str(), proxy.stored, proxy.enforced, proxy.vms), ("edge", 2, 1, 3));
    assert_eq!(proxy.epoch, Some(epoch));
}

#[tokio::test]
async fn a_proxy_is_shown_with_the_relay_that_it_asks_until_it_asks_by_itself() {
    let plane = plane().await;
    let said = "node=edge&instance=0a&filter=0.1.0&vms=3&epoch=&stored=0&enforced=0&age=0";
    let shown = async || {
        let ring: Ring = plane.get("/v1/rings/production").await.json(StatusCode::OK);
        let stored = plane.control.store.proxies(1, Millis(0)).await.unwrap();
        (ring.proxies[0].via.clone(), stored[0].report.via.clone())
    };
    let relay = async |via: &str| {
        let body = json!({ "proxies": [{ "proxy": format!("{said}{via}"), "ago_ms": 0 }] });
        let request =
            Request::post("/v1/rings/production/proxies").header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        assert_eq!(call(app::ring(plane.control.clone()), request).await.status, StatusCode::NO_CONTENT);
    };
    let named = |name: &str| Some(name.to_owned());
    relay("&via=relay%40eu").await;
    assert_eq!(shown().await, (named("relay@eu"), named("relay@eu")));
    relay("&via=relay-us").await;
    assert_eq!(shown().await.0, named("relay-us"));
    relay("").await;
    assert_eq!(shown().await.0, None, "an older relay does not say");
    relay("&via=%00").await;
    assert_eq!(shown().await.0, None, "nonsense costs nobody its row");
    relay("&via=relay-us").await;
    report(&plane, format!("{said}&via=somebody").as_bytes()).await;
    assert_eq!(shown().await.0, None);
}
