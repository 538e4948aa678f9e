//! Metrics, with labels, as Prometheus scrapes them.

use keywheel_testkit::{http, until};

use crate::scene::Scene;

#[tokio::test]
async fn requests_and_the_ring_are_measured_with_labels() {
    let scene = Scene::start().await;
    let key = scene.key().await;
    let _ = scene.get_with_key(&key.secret).await;
    let _ = scene.get_with_key("unknown").await;
    let revision = scene.admin.ring("production").await.unwrap().revision;
    for wanted in [
        r#"keywheel_requests{ring="production",outcome="valid"} 1"#.to_owned(),
        r#"keywheel_requests{ring="production",outcome="unknown_key"} 1"#.to_owned(),
        format!(r#"keywheel_ring_revision{{ring="production"}} {revision}"#),
        r#"keywheel_ring_entries{ring="production"} 1"#.to_owned(),
        r#"keywheel_ring_age_seconds{ring="production"} "#.to_owned(),
    ] {
        until(&format!("/stats/prometheus holds {wanted}"), async || {
            let reply = http::get(scene.envoy.admin(), "/stats/prometheus", &[]).await.ok()?;
            String::from_utf8_lossy(&reply.body)
                .lines()
                .any(|line| sorted(line).contains(&sorted(&wanted)))
                .then_some(())
        })
        .await
        .unwrap();
    }
}

/// A line with its labels in order: Envoy promises none.
fn sorted(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else {
        return line.into();
    };
    let Some((labels, value)) = rest.split_once('}') else {
        return line.into();
    };
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}{value}", labels.join(","))
}
