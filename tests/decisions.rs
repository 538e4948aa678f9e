//! Every state of a key version, before, inside and after its window.

use keywheel_filter::decide::{Decision, Outcome, Reason, decide};
use keywheel_keyring::{Brownout, Digest, Entry, Millis, State};
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
        assert_eq!([BEFORE, START, LAST, END].map(|now| decide(&entry, now, 0.5)), expected, "{state:?}");
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
        assert_eq!(decide(&entry, Millis(now), 0.5), Decision::Allow);
    }
}

#[test]
fn in_a_brown_out_a_share_of_the_requests_is_refused_until_it_ends() {
    let entry = Entry {
        expires_at: Some(END),
        brownout: Some(Brownout { share: 0.25, until: LAST }),
        ..Entry::new(Digest::of(b"k"), "kv_1", "key_1", "acme", 1, State::Retiring)
    };
    assert_eq!(decide(&entry, START, 0.0), Decision::Deny(Reason::KeyBrownout));
    assert_eq!(decide(&entry, START, 0.2499), Decision::Deny(Reason::KeyBrownout));
    assert_eq!(decide(&entry, START, 0.25), Decision::Allow);
    assert_eq!(decide(&entry, LAST, 0.0), Decision::Allow, "it is over");
    assert_eq!(decide(&entry, END, 0.0), Decision::Deny(Reason::KeyExpired));
}

#[test]
fn every_outcome_has_an_index_and_a_label_of_its_own() {
    let all: Vec<Outcome> = Outcome::all().collect();
    assert_eq!(all.len(), Outcome::COUNT);
    for (at, outcome) in all.iter().enumerate() {
        assert_eq!(outcome.index(), at);
        assert_eq!(all.iter().filter(|other| other.label() == outcome.label()).count(), 1);
    }
}
