//! What a client puts into trailers is no way around the filter: some servers read them as headers.

use std::sync::{Arc, Mutex};

use keywheel_testkit::{Envoy, FakeControl, Upstream, http, port, until};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::scene::paths;
use crate::stage::config;

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

#[tokio::test]
async fn identity_and_credentials_in_trailers_do_not_reach_the_upstream() {
    let address = port::free();
    let listener = TcpListener::bind(address).await.unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let upstream = tokio::spawn(serve(listener, Arc::clone(&seen)));

    let fake = FakeControl::start().await.unwrap();
    let key = keywheel_keyring::Entry::new(
        keywheel_keyring::Digest::of(b"good"),
        "kv_1",
        "key_1",
        "acme",
        1,
        keywheel_keyring::State::Active,
    );
    fake.serve_snapshot(fake.snapshot(1, vec![key]));
    let enable = json!({"enable_trailers": true});
    let options = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": enable},
    }});
    let echo = Upstream::start().await.unwrap();
    let config = config(&fake, &echo)
        .with_cluster("upstream", address)
        .with_field(MANAGER, "http_protocol_options", enable)
        .with_field("/static_resources/clusters/1", "typed_extension_protocol_options", options);
    let envoy = Envoy::start(&paths(), config, 1).await.unwrap();
    until("the ring", async || fake.is_enforced(1, 2).then_some(())).await.unwrap();

    let request = "POST / HTTP/1.1\r\nhost: a\r\nx-api-key: good\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
                   2\r\nhi\r\n0\r\nx-client-id: root\r\nx-api-key: good\r\nx-other: kept\r\n\r\n";
    let answer = http::raw(envoy.listener(), request.as_bytes()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = seen.lock().unwrap().clone();
    // Not just at a `0`: a request id may end with one.
    let (head, trailers) = seen.split_once("\r\n0\r\n").expect("a chunked body with trailers");
    assert!(head.contains("x-client-id: acme") && !head.contains("x-api-key"), "{seen}");
    assert!(trailers.contains("x-other: kept"), "trailers come through: {seen}");
    assert!(!trailers.contains("x-client-id") && !trailers.contains("x-api-key"), "{seen}");
    upstream.abort();
}

/// Keeps what one request brings, and answers it.
async fn serve(listener: TcpListener, seen: Arc<Mutex<String>>) {
    let Ok((mut stream, _)) = listener.accept().await else { return };
    let mut bytes = Vec::new();
    while !(bytes.ends_with(b"\r\n\r\n") && bytes.windows(5).any(|part| part == b"\r\n0\r\n")) {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(len @ 1..) => bytes.extend_from_slice(&piece[..len]),
            _ => break,
        }
    }
    *seen.lock().unwrap() = String::from_utf8_lossy(&bytes).into_owned();
    // The answer is the test's only witness that all of it came.
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
}
