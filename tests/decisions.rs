//! Every state of a key version, before, inside and after its window.

use keywheel_filter::config::Source;
use keywheel_filter::decide::{Decision, Reason, decide};
use keywheel_filter::reply::refuse;
use keywheel_keyring::{Digest, Entry, Millis, State};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BEFORE: Millis = Millis(99);
const START: Millis = Millis(100);
const LAST: Millis = Millis(199);
const END: Millis = Millis(200);

#[test]
fn every_state_at_every_time() {
    use Decision::{Allow, Deny};
    use Reason::{KeyExpired, KeyNotYetValid, KeyRetired, KeyRevoked, UnknownKey};
    let check = |state: State, expected: [Decision; 4]| {
        let entry = Entry {
            not_before: Some(START),
            expires_at: Some(END),
            ..Entry::new(Digest::of(b"k"), "kv_1", "key_1", "acme", 1, state)
        };
        assert_eq!([BEFORE, START, LAST, END].map(|now| decide(&entry, now)), expected, "{state:?}");
    };
    for state in [State::Active, State::Retiring, State::Pending] {
        check(state, [Deny(KeyNotYetValid), Allow, Allow, Deny(KeyExpired)]);
    }
    check(State::Retired, [Deny(KeyRetired); 4]);
    check(State::Revoked, [Deny(KeyRevoked); 4]);
    check(State::Compromised, [Deny(KeyRevoked); 4]);
    check(State::Unreadable, [Deny(UnknownKey); 4]);
}

#[test]
fn a_key_without_a_window_is_valid_at_any_time() {
    let entry = Entry::new(Digest::of(b"k"), "kv_1", "key_1", "acme", 1, State::Active);
    for now in [0, 1, u64::MAX] {
        assert_eq!(decide(&entry, Millis(now)), Decision::Allow);
    }
}

#[test]
fn every_refusal_is_answered_as_documented() {
    let header = Source::Header { name: "x-api-key".into(), scheme: None };
    let bearer = Source::Header { name: "authorization".into(), scheme: Some("Bearer".into()) };
    let challenge = |reason, source: &Source| {
        let reply = refuse(reason, "production", source);
        reply.headers.into_iter().find(|(name, _)| *name == "www-authenticate").map(|(_, value)| value)
    };
    for reason in Reason::ALL {
        let reply = refuse(reason, "production", &header);
        let code = reason.code();
        let unavailable = reason == Reason::RingUnavailable;
        assert_eq!(reply.status, if unavailable { 503 } else { 401 }, "{code}");
        assert_eq!(reply.grpc_status, if unavailable { 14 } else { 16 }, "{code}");
        assert_eq!(reply.details, format!("keywheel{{{code}}}"));
        assert_eq!(reply.headers[0], ("content-type", "application/problem+json".into()));
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((body["status"].as_u64(), body["code"].as_str()), (Some(reply.status.into()), Some(code)));
        assert!(body["type"].as_str().unwrap().ends_with(&format!("/docs/errors/{code}.md")));
        let retry = reply.headers.iter().any(|(name, value)| *name == "retry-after" && value == "1");
        assert_eq!(retry, unavailable, "{code}");
        assert_eq!(challenge(reason, &header).is_some(), !unavailable, "{code}");
    }
    assert_eq!(
        challenge(Reason::MissingKey, &header).unwrap(),
        r#"ApiKey realm="production", header="x-api-key""#
    );
    assert_eq!(challenge(Reason::MissingKey, &bearer).unwrap(), r#"Bearer realm="production""#);
    assert_eq!(
        challenge(Reason::KeyExpired, &bearer).unwrap(),
        r#"Bearer realm="production", error="invalid_token""#
    );
    assert_eq!(
        challenge(Reason::AmbiguousKey, &bearer).unwrap(),
        r#"Bearer realm="production", error="invalid_request""#
    );
}
