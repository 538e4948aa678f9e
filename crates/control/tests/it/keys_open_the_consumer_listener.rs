use axum::http::{Request, StatusCode};
use keywheel_api::{Key, Problem, State};
use keywheel_control::serve::tls::{TlsFiles, WithoutCertificate};
use keywheel_control::{RingAuth, app};
use serde_json::{Value, json};

use crate::pki::Authority;
use crate::serving::{Certificates, Serving, http, https, identity, sample, tls};
use crate::support::{Plane, call, plane, plane_with};

async fn with_key() -> (Plane, Key, String) {
    let plane = plane_with(RingAuth::Token).await;
    plane.client("acme").await;
    let (key, secret) = plane.key_with_secret().await;
    (plane, key, secret)
}

async fn run(plane: &Plane, sql: &str) {
    let database = plane.database().await;
    assert!(
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&database).await.unwrap().rows_affected()
            > 0
    );
}

/// A refusal's detail, or nothing for a key that is let in.
async fn ask(plane: &Plane, secret: &str) -> Option<String> {
    let answer = plane.as_holder(secret, "GET", "/v1/self", Value::Null).await;
    (answer.status != StatusCode::OK).then(|| {
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"keywheel\"");
        let problem = answer.problem("key-not-accepted");
        assert!(!String::from_utf8_lossy(&answer.body).contains(secret));
        problem.detail
    })
}

#[tokio::test]
async fn a_key_is_let_in_as_proxies_accept_it() {
    let past = 1_000_000_000_000_u64;
    let future = 10_000_000_000_000_u64;
    for (sets, why) in [
        ("state = 'active'".to_owned(), None),
        ("state = 'pending'".to_owned(), None),
        (format!("state = 'pending', not_before = {past}"), None),
        (format!("state = 'pending', not_before = {future}"), Some("not accepted before")),
        (format!("state = 'active', not_before = {future}"), Some("not accepted before")),
        (format!("state = 'retiring', retire_at = {future}"), None),
        (format!("state = 'retiring', retire_at = {past}"), Some("retired")),
        (format!("state = 'active', expires_at = {past}"), Some("expired")),
        (format!("state = 'active', expires_at = {future}"), None),
        (format!("state = 'retired', ended_at = {past}"), Some("retired")),
        (format!("state = 'revoked', ended_at = {past}"), Some("revoked")),
        (format!("state = 'compromised', ended_at = {past}"), Some("revoked")),
    ] {
        let (plane, _, secret) = with_key().await;
        run(&plane, &format!("UPDATE versions SET {sets}")).await;
        let refused = ask(&plane, &secret).await;
        match why {
            None => assert_eq!(refused, None, "{sets}"),
            Some(why) => {
                assert!(refused.as_ref().is_some_and(|detail| detail.contains(why)), "{sets}: {refused:?}")
            }
        }
    }
}

#[tokio::test]
async fn what_ended_elsewhere_is_not_let_in_here() {
    let (plane, key, secret) = with_key().await;
    assert_eq!(plane.post("/v1/clients/acme/revoke", json!({})).await.status, StatusCode::OK);
    assert!(ask(&plane, &secret).await.unwrap().contains("revoked"));
    plane.post(&format!("/v1/keys/{}/reinstate", key.id), json!({})).await;
    assert_eq!(ask(&plane, &secret).await, None);

    // The same secret in another ring: nothing says which key is meant, and where one ended neither is good.
    for sql in [
        "INSERT INTO rings (id, name, epoch, revision, key_prefix, created_at)
         SELECT 2, 'staging', epoch, 1, key_prefix, created_at FROM rings",
        "INSERT INTO keys (id, ring_id, client_id, scopes, created_at, labels)
         SELECT 'key_2', 2, client_id, scopes, created_at, labels FROM keys",
        "INSERT INTO versions (id, key_id, ring_id, digest, state, revision, created_at)
         SELECT 'kv_2', 'key_2', 2, digest, state, 1, created_at FROM versions",
    ] {
        run(&plane, sql).await;
    }
    assert!(ask(&plane, &secret).await.unwrap().contains("several rings"));
    run(&plane, "UPDATE versions SET state = 'revoked' WHERE id = 'kv_2'").await;
    assert!(ask(&plane, &secret).await.unwrap().contains("revoked"));
    run(&plane, "DELETE FROM versions WHERE id = 'kv_2'").await;
    assert_eq!(ask(&plane, &secret).await, None);

    // A digest that is known to have leaked, whatever the version says.
    run(&plane, "INSERT INTO compromised_digests (digest, at) SELECT digest, 1 FROM versions").await;
    assert!(ask(&plane, &secret).await.unwrap().contains("revoked"));
}

#[tokio::test]
async fn a_restored_copy_that_is_held_back_lets_no_key_in() {
    let (plane, _, secret) = with_key().await;
    run(
        &plane,
        "INSERT INTO restores (ring_id, at, from_epoch, from_revision, audit_seq, audit_hash)
         SELECT r.id, 1, r.epoch, r.revision, 1, v.digest FROM rings r JOIN versions v ON v.ring_id = r.id",
    )
    .await;
    let plane = plane.restart().await;
    let answer = plane.as_holder(&secret, "GET", "/v1/self", Value::Null).await;
    answer.problem("ring-held");
    let answer = plane.as_holder(&secret, "POST", "/v1/self/rotations", json!({})).await;
    answer.problem("ring-held");
}

#[tokio::test]
async fn one_key_is_sent_once_in_either_header() {
    let (plane, _, secret) = with_key().await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().uri("/v1/self");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        call(app::consumer(plane.control.clone()), request.body(axum::body::Body::empty()).unwrap()).await
    };
    let bearer = format!("Bearer {secret}");
    for good in [&[("x-api-key", secret.as_str())][..], &[("authorization", &bearer)]] {
        assert_eq!(ask(good).await.status, StatusCode::OK, "{}", good[0].0);
    }
    let long = "k".repeat(4097);
    let typo = format!("{secret}x");
    for (headers, why) in [
        (&[][..], "send the key"),
        (&[("x-api-key", "")], "send the key"),
        (&[("x-api-key", &secret), ("authorization", &bearer)], "once"),
        (&[("x-api-key", &secret), ("x-api-key", &secret)], "once"),
        (&[("authorization", &bearer), ("authorization", &bearer)], "once"),
        (&[("authorization", &secret)], "is no key"),
        (&[("x-api-key", "two words")], "is no key"),
        (&[("x-api-key", &long)], "is no key"),
        (&[("x-api-key", &typo)], "not one of"),
        (&[("x-api-key", &bearer)], "is no key"),
    ] {
        let answer = ask(headers).await;
        let problem = answer.problem("key-not-accepted");
        assert!(problem.detail.contains(why), "{problem:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&secret));
    }
}

#[tokio::test]
async fn a_key_is_no_token_and_a_token_is_no_key() {
    let (plane, _, secret) = with_key().await;
    for app in [app::admin(plane.control.clone()), app::ring(plane.control.clone())] {
        for path in ["/v1/keys", "/v1/rings/production/snapshot"] {
            let answer = plane.ask(app.clone(), Some(&secret), "GET", path, "").await;
            let slug = if answer.status == StatusCode::NOT_FOUND { "not-found" } else { "unauthorized" };
            answer.problem(slug);
        }
        plane.ask(app, Some(&secret), "GET", "/v1/self", "").await.problem("not-found");
    }
    assert!(ask(&plane, &plane.token).await.unwrap().contains("not one of"));
    // What operators ask for is not served here, whatever is sent.
    plane.as_holder(&secret, "GET", "/v1/keys", Value::Null).await.problem("not-found");
}

#[tokio::test]
async fn bad_keys_are_slowed_down_and_hide_nobody_behind_the_same_proxy() {
    let plane = plane().await;
    plane.client("acme").await;
    let (_, good) = plane.key_with_secret().await;
    let (ended, old) = plane.key_with_secret().await;
    plane.post(&format!("/v1/keys/{}/revoke", ended.id), json!({})).await;
    let serving = Serving::plain(plane).await;
    let client = http().build().unwrap();
    let url = format!("http://{}/v1/self", serving.consumer);
    let ask = async |key: &str| client.get(&url).header("x-api-key", key).send().await.unwrap();
    for n in 0..10 {
        assert_eq!(ask(&format!("guess-{n}")).await.status(), 401, "{n}");
    }
    let answer = ask("guess-11").await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!(problem.known_kind().unwrap().slug(), "too-many-failures");
    assert_eq!(ask(&good).await.status(), 200, "a good one");
    let answer = ask(&old).await;
    assert_eq!(answer.status(), 401, "who did not guess learns why");
    assert!(answer.json::<Problem>().await.unwrap().detail.contains("revoked"));

    // Operators have a count of their own.
    let admin = client.get(format!("http://{}/v1/keys", serving.admin)).bearer_auth("kwt_0");
    assert_eq!(admin.send().await.unwrap().status(), 401);
    let metrics = serving.metrics().await;
    let refused = |reason| {
        let labels = format!("listener=\"consumer\",reason=\"{reason}\"");
        sample(&metrics, &format!("keywheel_control_refused_logins_total{{{labels}}}"))
    };
    assert_eq!((refused("unknown"), refused("too_many"), refused("ended")), (10.0, 1.0, 1.0));
    drop(client);
    serving.stop().await;
}

#[tokio::test]
async fn over_tls_a_certificate_and_a_key_are_needed() {
    let authority = Authority::new();
    let (plane, key, secret) = with_key().await;
    let dir = plane.dir.clone();
    let client_ca = dir.path().join("client-ca.pem");
    std::fs::write(&client_ca, &authority.pem).unwrap();
    let files = TlsFiles { client_ca: Some(client_ca), ..authority.server().write(dir.path()) };
    let consumer = Some(tls(files, WithoutCertificate::Refused));
    let serving = Serving::with(plane, Certificates { consumer, ..Certificates::default() }).await;
    let url = format!("https://{}/v1/self", serving.consumer);
    let nobody = https(&[&authority.pem]).build().unwrap();
    assert!(nobody.get(&url).header("x-api-key", &secret).send().await.is_err(), "no certificate");
    let known = https(&[&authority.pem]).identity(identity(&authority.client())).build().unwrap();
    assert_eq!(known.get(&url).send().await.unwrap().status(), 401, "no key");
    let seen: keywheel_api::SelfKey =
        known.get(&url).header("x-api-key", &secret).send().await.unwrap().json().await.unwrap();
    assert_eq!((seen.key, seen.version.state), (key.id, State::Active));
    drop((nobody, known));
    serving.stop().await;
}
