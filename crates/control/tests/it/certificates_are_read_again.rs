use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keywheel_control::serve::tls::{Tls, TlsError, TlsFiles, WithoutCertificate};
use reqwest::StatusCode;

use crate::pki::{Authority, Pair};
use crate::serving::{Certificates, Serving, https, identity, tls, until};
use crate::support::{plane, plane_with};

/// Whether a new connection finds a server that `authority` vouches for.
async fn is_vouched_for(serving: &Serving, authority: &Authority) -> bool {
    let client = https(&[&authority.pem]).build().unwrap();
    let answer = client.get(format!("https://{}/healthz", serving.ring)).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_is_shown_and_no_request_fails() {
    let (old, new) = (Authority::new(), Authority::new());
    let plane = plane().await;
    let dir = plane.dir.clone();
    let ring = tls(old.server().write(dir.path()), WithoutCertificate::NeedsToken);
    let serving = Serving::with(plane, Certificates { ring: Some(ring), ..Certificates::default() }).await;
    assert!(is_vouched_for(&serving, &old).await && !is_vouched_for(&serving, &new).await);

    // A connection of its own for each request, and one that is kept over the change.
    let url = format!("https://{}/healthz", serving.ring);
    let over = Arc::new(AtomicBool::new(false));
    let load = |client: reqwest::Client| {
        let (url, over) = (url.clone(), over.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = client.get(&url).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                answered += 1;
            }
            answered
        })
    };
    let each_anew =
        load(https(&[&old.pem, &new.pem]).pool_max_idle_per_host(0).http1_only().build().unwrap());
    let kept = load(https(&[&old.pem]).http2_prior_knowledge().build().unwrap());

    new.server().write(dir.path());
    until("the new certificate is shown", async || is_vouched_for(&serving, &new).await).await;
    assert!(!is_vouched_for(&serving, &old).await);
    over.store(true, Ordering::Relaxed);
    assert!(each_anew.await.unwrap() > 0 && kept.await.unwrap() > 0);
    serving.stop().await;
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_old_certificate() {
    let (old, new) = (Authority::new(), Authority::new());
    let plane = plane().await;
    let dir = plane.dir.clone();
    let files = old.server().write(dir.path());
    let ring = tls(files.clone(), WithoutCertificate::NeedsToken);
    let serving =
        Serving::with(plane, Certificates { ring: Some(ring.clone()), ..Certificates::default() }).await;

    let pair = new.server();
    for broken in [
        Pair { cert: "no certificate".into(), key: pair.key.clone() },
        Pair { cert: pair.cert.clone(), key: "no key".into() },
        Pair { cert: pair.cert.clone(), key: new.server().key },
    ] {
        broken.write(dir.path());
        ring.reload();
        assert!(is_vouched_for(&serving, &old).await);
    }
    std::fs::remove_file(&files.key).unwrap();
    ring.reload();
    assert!(is_vouched_for(&serving, &old).await);

    pair.write(dir.path());
    ring.look();
    assert!(is_vouched_for(&serving, &new).await && !is_vouched_for(&serving, &old).await);
    serving.stop().await;
}

#[tokio::test]
async fn a_client_ca_that_is_replaced_admits_its_own_and_no_others() {
    let (authority, next) = (Authority::new(), Authority::new());
    let plane = plane_with(keywheel_control::RingAuth::Token).await;
    let dir = plane.dir.clone();
    let client_ca = dir.path().join("client-ca.pem");
    std::fs::write(&client_ca, &authority.pem).unwrap();
    let files = authority.server().write(dir.path());
    let files = TlsFiles { client_ca: Some(client_ca.clone()), ..files };
    let ring = tls(files, WithoutCertificate::NeedsToken);
    let serving =
        Serving::with(plane, Certificates { ring: Some(ring.clone()), ..Certificates::default() }).await;
    let url = format!("https://{}/v1/rings/production/snapshot", serving.ring);
    let fetch = async |pair: &Pair| {
        let client = https(&[&authority.pem]).identity(identity(pair)).build().unwrap();
        client.get(&url).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
    };

    let (first, second) = (authority.client(), next.client());
    assert!(fetch(&first).await && !fetch(&second).await);
    std::fs::write(&client_ca, &next.pem).unwrap();
    ring.look();
    assert!(!fetch(&first).await && fetch(&second).await);
    serving.stop().await;
}

#[test]
fn what_cannot_be_used_at_the_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let good = authority.server();
    let open = |files: TlsFiles| Tls::open("test", files, WithoutCertificate::Refused);

    let files = good.write(dir.path());
    let missing = TlsFiles { cert: dir.path().join("none.pem"), ..files.clone() };
    assert!(matches!(open(missing), Err(TlsError::Read { path, .. }) if path.ends_with("none.pem")));
    let other = Pair { cert: good.cert.clone(), key: authority.server().key };
    assert!(matches!(open(other.write(dir.path())), Err(TlsError::Pair { .. })));
    let swapped = Pair { cert: good.key.clone(), key: good.cert.clone() };
    assert!(matches!(open(swapped.write(dir.path())), Err(TlsError::NoCertificate { .. })));
    let files = good.write(dir.path());
    let no_ca = TlsFiles { client_ca: Some(files.key.clone()), ..files };
    assert!(matches!(open(no_ca), Err(TlsError::NoCertificate { path }) if path.ends_with("key.pem")));
}
