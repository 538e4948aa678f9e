use axum::http::StatusCode;
use keywheel_api::{AuditRecord, List, Token, TokenWithSecret};
use keywheel_control::secret::PlainToken;
use keywheel_control::store::{NewToken, TokenEnd};
use keywheel_control::{RingAuth, app, clock};
use keywheel_keyring::Millis;
use serde_json::json;

use crate::support::{Plane, context, plane, plane_with};

async fn works(plane: &Plane, token: &str) -> bool {
    let admin = app::admin(plane.control.clone());
    plane.ask(admin, Some(token), "GET", "/v1/keys", "").await.status == StatusCode::OK
}

async fn made(plane: &Plane) -> TokenWithSecret {
    plane.post("/v1/tokens", json!({ "role": "operator", "name": "ci" })).await.json(StatusCode::CREATED)
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_says_so() {
    let plane = plane().await;
    let token = made(&plane).await;
    assert!(works(&plane, token.token.as_deref().unwrap()).await);
    let path = format!("/v1/tokens/{}/revoke", token.about.id);
    let revoked: Token = plane.post(&path, json!(null)).await.json(StatusCode::OK);
    assert!(revoked.revoked_at.is_some());
    assert_eq!(plane.post(&path, json!(null)).await.json::<Token>(StatusCode::OK), revoked, "twice is once");
    let admin = app::admin(plane.control.clone());
    let answer = plane.ask(admin, Some(token.token.as_deref().unwrap()), "GET", "/v1/keys", "").await;
    assert!(answer.problem("unauthorized").detail.contains("revoked"));
    plane.post(&format!("/v1/tokens/{}/rotate", token.about.id), json!({})).await.problem("token-ended");
    plane.post("/v1/tokens/token_none/revoke", json!({})).await.problem("not-found");
}

#[tokio::test]
async fn a_rotated_token_is_valid_until_its_overlap_ends() {
    let plane = plane().await;
    let first = made(&plane).await;
    let path = format!("/v1/tokens/{}/rotate", first.about.id);
    let second: TokenWithSecret = plane.post(&path, json!(null)).await.json(StatusCode::OK);
    assert!(second.about.old_secret_expires_at.is_some());
    assert!(
        works(&plane, first.token.as_deref().unwrap()).await
            && works(&plane, second.token.as_deref().unwrap()).await
    );
    // An hour is the overlap of whoever names none.
    let hash = PlainToken::from(first.token.as_deref().unwrap()).hash();
    let later = |minutes: u64| Millis(clock::now().0 + minutes * 60_000);
    assert_eq!(plane.store().bearer(hash, later(59)).await.unwrap().unwrap().ended, None);
    assert_eq!(plane.store().bearer(hash, later(61)).await.unwrap().unwrap().ended, Some(TokenEnd::Rotated));

    let third: TokenWithSecret =
        plane.post(&path, json!({ "overlap_seconds": 0 })).await.json(StatusCode::OK);
    assert!(
        !works(&plane, first.token.as_deref().unwrap()).await
            && !works(&plane, second.token.as_deref().unwrap()).await
    );
    assert!(works(&plane, third.token.as_deref().unwrap()).await);
    for overlap in [json!(-1), json!(7_776_001), json!(1_000_000_000_000_000_000_u64)] {
        let answer = plane.post(&path, json!({ "overlap_seconds": overlap })).await;
        assert_eq!(answer.problem("invalid-request").errors[0].field, "overlap_seconds");
    }
}

#[tokio::test]
async fn a_token_expires() {
    let plane = plane().await;
    let secret = PlainToken::generate().unwrap();
    let now = clock::now();
    let new = NewToken { expires_at: Some(Millis(now.0 + 1000)), ..NewToken::admin("brief", secret.hash()) };
    plane.store().create_token(&context(), &new).await.unwrap();
    assert_eq!(plane.store().bearer(secret.hash(), now).await.unwrap().unwrap().ended, None);
    let then = plane.store().bearer(secret.hash(), Millis(now.0 + 1000)).await.unwrap().unwrap();
    assert_eq!(then.ended, Some(TokenEnd::Expired));
    for at in ["2001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9998-01-01T00:00:00Z"] {
        let answer = plane.post("/v1/tokens", json!({ "role": "proxy", "expires_at": at })).await;
        assert_eq!(answer.problem("invalid-request").errors[0].field, "expires_at");
    }
}

#[tokio::test]
async fn the_last_admin_token_stays() {
    let plane = plane().await;
    let list: List<Token> = plane.get("/v1/tokens").await.json(StatusCode::OK);
    let first = list.items[0].id.clone();
    // Neither outlasts it: one ends by itself, the other does not reach all rings.
    plane.token_of(json!({ "role": "admin", "expires_at": "2099-01-01T00:00:00Z" })).await;
    plane.token_of(json!({ "role": "admin", "rings": ["production"] })).await;
    let path = format!("/v1/tokens/{first}/revoke");
    let problem = plane.post(&path, json!({})).await.problem("last-admin");
    assert!(problem.detail.contains("make another such one first"));
    assert!(works(&plane, &plane.token).await);
    plane.token_of(json!({ "role": "admin" })).await;
    assert_eq!(plane.post(&path, json!({})).await.status, StatusCode::OK);
    assert!(!works(&plane, &plane.token).await);
}

#[tokio::test]
async fn tokens_are_audited_and_listed_without_their_secrets() {
    let plane = plane_with(RingAuth::Open).await;
    let token = made(&plane).await;
    let id = &token.about.id;
    let again: TokenWithSecret =
        plane.post(&format!("/v1/tokens/{id}/rotate"), json!({})).await.json(StatusCode::OK);
    plane.post(&format!("/v1/tokens/{id}/revoke"), json!({})).await;
    let audit = plane.get("/v1/audit").await;
    let records: List<AuditRecord> = audit.json(StatusCode::OK);
    let actions: Vec<_> = records
        .items
        .iter()
        .filter(|record| record.event.resource == *id)
        .map(|record| &*record.event.action)
        .collect();
    assert_eq!(actions, ["token.create", "token.rotate", "token.revoke"]);
    for answer in [audit, plane.get("/v1/tokens").await, plane.get(&format!("/v1/tokens/{id}")).await] {
        let text = String::from_utf8(answer.body).unwrap();
        for secret in [token.token.as_deref().unwrap(), again.token.as_deref().unwrap()] {
            let hash = hex::encode(keywheel_keyring::Digest::of(secret.as_bytes()).as_bytes());
            assert!(text.contains(id.as_str()) && !text.contains(secret) && !text.contains(&hash));
        }
    }
}
