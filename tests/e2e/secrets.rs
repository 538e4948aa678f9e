//! A plaintext key exists where it is handed over and where it is sent, and nowhere else.

use std::fs;
use std::path::Path;

use keywheel_testkit::http;

use crate::scene::Scene;

#[tokio::test]
async fn no_log_database_metric_or_dump_holds_a_key() {
    let scene = Scene::start().await;
    let old = scene.key().await;
    let new = scene.admin.rotate(&old.key, 3600).await.unwrap();
    scene.settle().await;
    for secret in [&old.secret, &new.secret] {
        let _ = scene.get_with_key(secret).await;
        // Where a key does not belong, and where it is refused.
        let _ = scene.get(&format!("/v1/ticker?key={secret}"), &[]).await;
        let _ = scene.get("/", &[("x-api-key", secret), ("x-api-key", secret)]).await;
        let _ = scene.get("/", &[("x-api-key", &format!("{secret}x"))]).await;
    }
    scene.admin.revoke(&old.key).await.unwrap();
    scene.until_status(&new.secret, 401).await;
    scene.get("/last", &[]).await;
    scene.logged("/last").await;

    let mut places = vec![
        ("Envoy's log".to_owned(), scene.envoy.log().into_bytes()),
        ("the access log".to_owned(), scene.envoy.access_log().into_bytes()),
        ("the control plane's log".to_owned(), scene.control.log().into_bytes()),
    ];
    for path in ["/stats", "/config_dump?include_eds", "/clusters", "/stats/prometheus"] {
        let body = http::get(scene.envoy.admin(), path, &[]).await.unwrap().body;
        places.push((format!("Envoy's {path}"), body.to_vec()));
    }
    read_all(&scene.control.data(), &mut places);
    assert!(
        places.iter().filter(|(_, bytes)| !bytes.is_empty()).count() > 6,
        "there is too little to look at"
    );
    for secret in [&old.secret, &new.secret] {
        // The random part alone: cut out of the rest it would be as bad.
        let random = &secret[secret.len() - 40..];
        for (place, bytes) in &places {
            let found = bytes.windows(random.len()).any(|window| window == random.as_bytes());
            assert!(!found, "{place} holds a key");
        }
    }
}

fn read_all(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            into.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}
