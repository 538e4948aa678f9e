//! Finding the credential in a request's headers.

use keywheel_filter::config::Source;
use keywheel_filter::credential::{self, Found, Headers};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A fake of Envoy's header map.
struct FakeHeaders<'a>(&'a [(&'a str, &'a [u8])]);

impl Headers for FakeHeaders<'_> {
    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let values: Vec<&[u8]> =
            self.0.iter().filter(|(held, _)| *held == name).map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    fn first(&self, name: &str) -> Option<Vec<u8>> {
        self.0.iter().find(|(held, _)| *held == name).map(|(_, value)| value.to_vec())
    }
}

fn header(name: &str, scheme: Option<&str>) -> Source {
    Source::Header { name: name.into(), scheme: scheme.map(str::to_owned) }
}

fn find(headers: &[(&str, &[u8])]) -> Option<Found> {
    let sources = [header("x-api-key", None), header("authorization", Some("Bearer"))];
    credential::find(&sources, &FakeHeaders(headers), 32).map(|(_, found)| found)
}

fn key(text: &[u8]) -> Option<Found> {
    Some(Found::Credential(text.to_vec()))
}

#[test]
fn the_first_source_that_is_present_decides() {
    assert_eq!(find(&[]), None);
    assert_eq!(find(&[("x-api-key", b"k1")]), key(b"k1"));
    assert_eq!(find(&[("authorization", b"Bearer k2")]), key(b"k2"));
    assert_eq!(find(&[("authorization", b"Bearer k2"), ("x-api-key", b"k1")]), key(b"k1"));
    assert_eq!(find(&[("x-api-key", b""), ("authorization", b"Bearer k2")]), Some(Found::Empty));
    assert_eq!(find(&[("x-api-key", b"\xff"), ("authorization", b"Bearer k2")]), Some(Found::Malformed));
}

#[test]
fn a_scheme_is_compared_without_case_and_other_schemes_are_not_ours() {
    for value in [&b"bearer k"[..], b"BEARER k", b"Bearer   k"] {
        assert_eq!(find(&[("authorization", value)]), key(b"k"), "{value:?}");
    }
    for value in [&b"Basic dTpw"[..], b"Bearerk", b"Bear", b"", b"\xff"] {
        assert_eq!(find(&[("authorization", value)]), None, "{value:?}");
    }
    for value in [&b"Bearer"[..], b"Bearer "] {
        assert_eq!(find(&[("authorization", value)]), Some(Found::Empty), "{value:?}");
    }
}

#[test]
fn several_values_are_ambiguous_but_a_comma_in_one_is_not() {
    assert_eq!(find(&[("x-api-key", b"a"), ("x-api-key", b"b")]), Some(Found::Ambiguous));
    assert_eq!(find(&[("x-api-key", b"a"), ("x-api-key", b"a")]), Some(Found::Ambiguous));
    assert_eq!(find(&[("x-api-key", b""), ("x-api-key", b"")]), Some(Found::Ambiguous));
    assert_eq!(find(&[("x-api-key", b"a,b")]), key(b"a,b"));
    assert_eq!(
        find(&[("authorization", b"Bearer a"), ("authorization", b"Basic b")]),
        Some(Found::Ambiguous)
    );
}

#[test]
fn what_no_key_can_be_is_malformed() {
    assert_eq!(find(&[("x-api-key", &[b'k'; 32])]), key(&[b'k'; 32]));
    for value in [&[b'k'; 33][..], b"a b", b"a\tb", b"\x00", b"\x7f", b"\xff", "schlüssel".as_bytes()] {
        assert_eq!(find(&[("x-api-key", value)]), Some(Found::Malformed), "{value:?}");
    }
}

#[test]
fn only_what_may_be_a_credential_is_hidden() {
    let bearer = header("authorization", Some("Bearer"));
    let holds = |value: &[u8]| credential::holds(&bearer, &FakeHeaders(&[("authorization", value)]));
    assert!(holds(b"Bearer k") && holds(b"bearer k") && holds(b"Basic x, Bearer k"));
    assert!(!holds(b"Basic dTpw") && !holds(b""));
    assert!(credential::holds(&header("x-api-key", None), &FakeHeaders(&[])));
}
