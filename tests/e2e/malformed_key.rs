//! Bytes that no key has, and more bytes than any key has. One such request once killed a VM.

use keywheel_testkit::http;

use crate::refusal::assert_refused;
use crate::scene::Scene;

const TITLE: &str = "This cannot be an API key";

#[tokio::test]
async fn bytes_that_are_not_text_are_refused_and_the_worker_lives() {
    let scene = Scene::start().await;
    let key = scene.key().await.secret;
    for bytes in [&b"\xff"[..], b"kw_live_\x80\xff", b"\xc3\x28", "schl\u{fc}ssel".as_bytes()] {
        let mut request = b"GET / HTTP/1.1\r\nhost: api\r\nconnection: close\r\nx-api-key: ".to_vec();
        request.extend_from_slice(bytes);
        request.extend_from_slice(b"\r\n\r\n");
        // More often than there are workers, so that each has had one.
        for _ in 0..8 {
            let answer = http::raw(scene.envoy.listener(), &request).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("malformed_key"), "{answer}");
        }
    }
    for _ in 0..8 {
        assert_eq!(scene.get_with_key(&key).await.status, 200);
    }
    assert!(!scene.envoy.log().contains("panicked"), "the filter panicked");
    assert_eq!(scene.envoy.stats("wasm.keywheel.vm_reload").await.unwrap().into_values().sum::<u64>(), 0);
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let scene = Scene::start().await;
    assert_refused(&scene.get_with_key(&"k".repeat(513)).await, "malformed_key", TITLE);
    assert_refused(&scene.get_with_key(&"k".repeat(30_000)).await, "malformed_key", TITLE);
    let unknown = scene.get_with_key(&"k".repeat(512)).await;
    assert_eq!(unknown.json()["code"], "unknown_key");
}

#[tokio::test]
async fn a_mistyped_key_is_told_from_an_unknown_one() {
    let scene = Scene::start().await;
    let mut key = scene.key().await.secret;
    let last = if key.pop() == Some('a') { 'b' } else { 'a' };
    key.push(last);
    assert_refused(&scene.get_with_key(&key).await, "malformed_key", TITLE);
}
