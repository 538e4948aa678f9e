use std::time::{Duration, Instant};

use keywheel_control::RingAuth;
use keywheel_control::serve::Limits;
use keywheel_control::serve::tls::{TlsFiles, WithoutCertificate};
use reqwest::{StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::pki::Authority;
use crate::serving::{Certificates, Serving, connect, https, identity, impatient, sample, tls, until};
use crate::support::{plane, plane_with};

fn with_client_ca(files: TlsFiles, dir: &std::path::Path, authority: &Authority) -> TlsFiles {
    let client_ca = dir.join("client-ca.pem");
    std::fs::write(&client_ca, &authority.pem).unwrap();
    TlsFiles { client_ca: Some(client_ca), ..files }
}

#[tokio::test]
async fn on_the_admin_listener_a_certificate_is_needed_beside_the_token() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let plane = plane().await;
    let dir = plane.dir.clone();
    let files = with_client_ca(authority.server().write(dir.path()), dir.path(), &authority);
    let admin = tls(files, WithoutCertificate::Refused);
    let serving = Serving::with(plane, Certificates { admin: Some(admin), ..Certificates::default() }).await;
    let url = format!("https://{}/v1/keys", serving.admin);
    let token = serving.plane.token.clone();

    let nobody = https(&[&authority.pem]).build().unwrap();
    assert!(nobody.get(&url).bearer_auth(&token).send().await.is_err(), "no certificate");
    let other = https(&[&authority.pem]).identity(identity(&stranger.client())).build().unwrap();
    assert!(other.get(&url).bearer_auth(&token).send().await.is_err(), "a stranger's certificate");
    let server = https(&[&authority.pem]).identity(identity(&authority.server())).build().unwrap();
    assert!(server.get(&url).bearer_auth(&token).send().await.is_err(), "a certificate for servers");

    let known = https(&[&authority.pem]).identity(identity(&authority.client())).build().unwrap();
    assert_eq!(known.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "no token");
    let answer = known.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
    let http1 = https(&[&authority.pem]).identity(identity(&authority.client())).http1_only();
    let answer = http1.build().unwrap().get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_11));

    let metrics = serving.metrics().await;
    let failed = "keywheel_control_tls_handshakes_total{listener=\"admin\",result=\"failed\"}";
    assert!(sample(&metrics, failed) >= 3.0);
    drop((known, nobody, other, server));
    serving.stop().await;
}

#[tokio::test]
async fn on_the_ring_listener_a_certificate_stands_in_for_a_token() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let plane = plane_with(RingAuth::Token).await;
    let dir = plane.dir.clone();
    let files = with_client_ca(authority.server().write(dir.path()), dir.path(), &authority);
    let ring = tls(files, WithoutCertificate::NeedsToken);
    let serving = Serving::with(plane, Certificates { ring: Some(ring), ..Certificates::default() }).await;
    let url = format!("https://{}/v1/rings/production/snapshot", serving.ring);

    let known = https(&[&authority.pem]).identity(identity(&authority.client())).build().unwrap();
    assert_eq!(known.get(&url).send().await.unwrap().status(), StatusCode::OK);
    let nobody = https(&[&authority.pem]).build().unwrap();
    assert_eq!(nobody.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let bearer = nobody.get(&url).bearer_auth(&serving.plane.token).send().await.unwrap();
    assert_eq!(bearer.status(), StatusCode::OK);
    let other = https(&[&authority.pem]).identity(identity(&stranger.client())).build().unwrap();
    assert!(other.get(&url).send().await.is_err(), "a stranger's certificate");
    drop((known, nobody, other));
    serving.stop().await;
}

#[tokio::test]
async fn who_waits_over_tls_is_answered_when_the_control_plane_stops() {
    let authority = Authority::new();
    let plane = plane().await;
    let dir = plane.dir.clone();
    let ring = tls(authority.server().write(dir.path()), WithoutCertificate::NeedsToken);
    let serving = Serving::with(plane, Certificates { ring: Some(ring), ..Certificates::default() }).await;
    let client = https(&[&authority.pem]).build().unwrap();
    let waiter = client.get(format!("https://{}{}", serving.ring, serving.long_poll())).send();
    let waiter = tokio::spawn(waiter);
    let waiters = "keywheel_control_ring_waiters{ring=\"production\"}";
    until("it waits", async || sample(&serving.metrics().await, waiters) == 1.0).await;

    let start = Instant::now();
    serving.stop().await;
    assert_eq!(waiter.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn plain_http_on_a_tls_listener_is_told_so() {
    let authority = Authority::new();
    let plane = plane().await;
    let dir = plane.dir.clone();
    let ring = tls(authority.server().write(dir.path()), WithoutCertificate::NeedsToken);
    let serving = Serving::with(plane, Certificates { ring: Some(ring), ..Certificates::default() }).await;
    let mut stream = connect(serving.ring).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("use https://"), "{answer}");
    drop(stream);
    serving.stop().await;
}

#[tokio::test]
async fn a_stalled_handshake_delays_nobody_and_is_ended() {
    let authority = Authority::new();
    let limits = Limits { handshake: Duration::from_secs(2), ..Limits::default() };
    let plane = impatient(plane().await, limits);
    let dir = plane.dir.clone();
    let ring = tls(authority.server().write(dir.path()), WithoutCertificate::NeedsToken);
    let serving = Serving::with(plane, Certificates { ring: Some(ring), ..Certificates::default() }).await;

    // Nothing at all, and the beginning of a record whose rest never comes.
    let mut stalled = Vec::new();
    for n in 0..50 {
        let mut stream = connect(serving.ring).await;
        if n % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        stalled.push(stream);
    }
    let start = Instant::now();
    let client = https(&[&authority.pem]).build().unwrap();
    let url = format!("https://{}/healthz", serving.ring);
    assert_eq!(client.get(url).send().await.unwrap().status(), StatusCode::OK);
    assert!(start.elapsed() < limits.handshake, "nobody waited for the stalled ones: {:?}", start.elapsed());

    for mut stream in stalled {
        let mut rest = Vec::new();
        // An end, in order or not: whatever it is, the server let go.
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap();
    }
    let timed_out = "keywheel_control_tls_handshakes_total{listener=\"ring\",result=\"timed_out\"}";
    assert_eq!(sample(&serving.metrics().await, timed_out), 50.0);
    drop(client);
    serving.stop().await;
}
