//! Finding the credential in a request's headers, query and cookies, and taking it out.

mod support;

use keywheel_filter::config::Source;
use keywheel_filter::credential::{self, Found, Headers};
use support::FakeRequest;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn header(name: &str, scheme: Option<&str>) -> Source {
    Source::Header { name: name.into(), scheme: scheme.map(str::to_owned) }
}

fn query(name: &str) -> Source {
    Source::Query { name: name.into() }
}

fn cookie(name: &str) -> Source {
    Source::Cookie { name: name.into() }
}

/// What is found, in a word; a credential as itself.
fn found(sources: &[Source], request: &FakeRequest) -> String {
    match credential::find(sources, request, 32).map(|(_, found)| found) {
        None => "nothing".into(),
        Some(Found::Absent) => "absent".into(),
        Some(Found::Empty) => "empty".into(),
        Some(Found::Ambiguous) => "ambiguous".into(),
        Some(Found::Malformed) => "malformed".into(),
        Some(Found::Credential(credential)) => String::from_utf8_lossy(&credential).into_owned(),
    }
}

fn in_headers(headers: &[(&str, &[u8])]) -> String {
    let request = FakeRequest::default();
    for (name, value) in headers {
        request.push(name, value);
    }
    found(&[header("x-api-key", None), header("authorization", Some("Bearer"))], &request)
}

fn in_path(path: &str) -> String {
    found(&[query("api_key")], &FakeRequest::get(path, &[]))
}

fn in_cookies(cookies: &str) -> String {
    found(&[cookie("api_key")], &FakeRequest::get("/", &[("cookie", cookies)]))
}

#[test]
fn the_first_source_that_is_present_decides() {
    assert_eq!(in_headers(&[]), "nothing");
    assert_eq!(in_headers(&[("x-api-key", b"k1")]), "k1");
    assert_eq!(in_headers(&[("authorization", b"Bearer k2")]), "k2");
    assert_eq!(in_headers(&[("authorization", b"Bearer k2"), ("x-api-key", b"k1")]), "k1");
    assert_eq!(in_headers(&[("x-api-key", b""), ("authorization", b"Bearer k2")]), "empty");
    assert_eq!(in_headers(&[("x-api-key", b"\xff"), ("authorization", b"Bearer k2")]), "malformed");
    let all = [header("x-api-key", None), query("api_key"), cookie("api_key")];
    let request = FakeRequest::get("/?api_key=q", &[("cookie", "api_key=c")]);
    assert_eq!(found(&all, &request), "q");
    request.push("x-api-key", b"h");
    assert_eq!(found(&all, &request), "h");
    assert_eq!(found(&all, &FakeRequest::get("/", &[("cookie", "api_key=c")])), "c");
}

#[test]
fn a_scheme_is_compared_without_case_and_other_schemes_are_not_ours() {
    for value in [&b"bearer k"[..], b"BEARER k", b"Bearer   k", b"Bearer\tk"] {
        assert_eq!(in_headers(&[("authorization", value)]), "k", "{value:?}");
    }
    for value in [&b"Basic dTpw"[..], b"Bearerk", b"Bear", b"", b"\xff"] {
        assert_eq!(in_headers(&[("authorization", value)]), "nothing", "{value:?}");
    }
    for value in [&b"Bearer"[..], b"Bearer "] {
        assert_eq!(in_headers(&[("authorization", value)]), "empty", "{value:?}");
    }
}

#[test]
fn several_values_are_ambiguous_but_a_comma_in_one_is_not() {
    assert_eq!(in_headers(&[("x-api-key", b"a"), ("x-api-key", b"b")]), "ambiguous");
    assert_eq!(in_headers(&[("x-api-key", b"a"), ("x-api-key", b"a")]), "ambiguous");
    assert_eq!(in_headers(&[("x-api-key", b""), ("x-api-key", b"")]), "ambiguous");
    assert_eq!(in_headers(&[("x-api-key", b"a,b")]), "a,b");
    assert_eq!(in_headers(&[("authorization", b"Bearer a"), ("authorization", b"Basic b")]), "ambiguous");
    assert_eq!(in_headers(&[("authorization", b"Bearer a,Bearer b")]), "ambiguous", "as Envoy joins them");
    assert_eq!(in_headers(&[("authorization", b"Bearer a, bearer b")]), "ambiguous");
    assert_eq!(in_headers(&[("authorization", b"Bearer a,b")]), "a,b");
    assert_eq!(in_headers(&[("authorization", b"Basic a,Bearer b")]), "ambiguous");
}

#[test]
fn what_no_key_can_be_is_malformed() {
    assert_eq!(in_headers(&[("x-api-key", &[b'k'; 32])]), "k".repeat(32));
    for value in [&[b'k'; 33][..], b"a b", b"a\tb", b"\x00", b"\x7f", b"\xff", "schlüssel".as_bytes()] {
        assert_eq!(in_headers(&[("x-api-key", value)]), "malformed", "{value:?}");
    }
}

#[test]
fn a_query_parameter_is_read_as_servers_read_it() {
    for (path, expected) in [
        ("/", "nothing"),
        ("/?", "nothing"),
        ("/api_key=k", "nothing"),
        ("/?a=1&b=2", "nothing"),
        ("/?api_keys=k&xapi_key=k", "nothing"),
        ("/?API_KEY=k", "nothing"),
        ("/?api_key=k", "k"),
        ("/?a=1&api_key=k&b=2", "k"),
        ("/?api%5Fkey=k", "k"),
        ("/?%61pi_key=k", "k"),
        ("/?api_key=%6b%2B", "k+"),
        ("/?api_key=a=b", "a=b"),
        ("/?api_key=a?b", "a?b"),
        ("/?api_key", "empty"),
        ("/?api_key=", "empty"),
        ("/?api_key=a&api_key=b", "ambiguous"),
        ("/?api_key=a&api%5fkey=a", "ambiguous"),
        ("/?api_key=a+b", "malformed"),
        ("/?api_key=%", "malformed"),
        ("/?api_key=%4", "malformed"),
        ("/?api_key=%zz", "malformed"),
        ("/?api_key=%00", "malformed"),
        ("/?api_key=%ff", "malformed"),
        ("/?%zz=1&api_key=k", "k"),
        ("/?x=1;api_key=k", "k"),
        ("/?api_key=k;api_key=k", "ambiguous"),
    ] {
        assert_eq!(in_path(path), expected, "{path}");
    }
}

#[test]
fn a_cookie_is_read_by_its_exact_name() {
    for (cookies, expected) in [
        ("", "nothing"),
        ("a=1; b=2", "nothing"),
        ("api_keys=k; xapi_key=k; API_KEY=k", "nothing"),
        ("api_key=k", "k"),
        ("a=1; api_key=k; b=2", "k"),
        ("a=1;api_key=k;b=2", "k"),
        ("  api_key=k  ", "k"),
        ("api_key=\"k\"", "k"),
        ("api_key=a=b", "a=b"),
        ("api_key=", "empty"),
        ("api_key", "empty"),
        ("api_key=\"\"", "empty"),
        ("api_key =k", "k"),
        ("api_key = k", "k"),
        ("api_key=a; api_key=a", "ambiguous"),
        ("api_key=a,api_key=b", "ambiguous"),
        ("a=1,api_key=k", "k"),
        ("api_key=a b", "malformed"),
        (";;;", "nothing"),
    ] {
        assert_eq!(in_cookies(cookies), expected, "{cookies}");
    }
}

#[test]
fn a_query_parameter_is_taken_out_and_the_rest_stays_byte_for_byte() {
    for (path, rest) in [
        ("/a", "/a"),
        ("/a?", "/a?"),
        ("/a?b=1", "/a?b=1"),
        ("/a?api_key=k", "/a"),
        ("/a?api_key=k&b=1", "/a?b=1"),
        ("/a?b=1&api_key=k", "/a?b=1"),
        ("/a?z=%7E&api%5Fkey=k&a=+&&a=2", "/a?z=%7E&a=+&&a=2"),
        ("/a?api_key=k&b=1&api_key=l&c", "/a?b=1&c"),
        ("/a?%zz&api_key=%zz&=x", "/a?%zz&=x"),
        ("/a?x=1;api_key=k", "/a?x=1"),
        ("/a?x=1;api_key=k;y=2&z", "/a?x=1;y=2&z"),
        ("/a?api_key=k;y=2", "/a?y=2"),
        ("/a?api_key=k&", "/a?"),
        ("/a?&api_key=k&", "/a?&"),
    ] {
        let request = FakeRequest::get(path, &[]);
        assert!(credential::hide(&[query("api_key")], &request));
        assert_eq!(request.header(":path"), rest, "{path}");
    }
}

#[test]
fn a_cookie_is_taken_out_and_the_rest_stays_byte_for_byte() {
    for (cookies, rest) in [
        ("a=1; b=2", "a=1; b=2"),
        ("api_key=k", "-"),
        ("api_key=k; a=1", "a=1"),
        ("a=1; api_key=k", "a=1"),
        ("z=\"%7E\";api_key=k;  a= 1 ;b", "z=\"%7E\";  a= 1 ;b"),
        ("api_key=k; a=1; api_key=l", "a=1"),
        ("a=1,api_key=k, b=2;c", "a=1, b=2;c"),
        ("; api_key=k; a=1", "; a=1"),
    ] {
        let request = FakeRequest::get("/", &[("cookie", cookies)]);
        assert!(credential::hide(&[cookie("api_key")], &request));
        assert_eq!(request.header("cookie"), rest, "{cookies}");
    }
}

#[test]
fn only_what_may_be_a_credential_is_taken_out_of_a_header() {
    let bearer = [header("authorization", Some("Bearer"))];
    for (value, rest) in [
        ("Bearer k", "-"),
        ("bearer k", "-"),
        ("Basic x, Bearer k", "-"),
        ("Basic dTpw", "Basic dTpw"),
        ("", ""),
    ] {
        let request = FakeRequest::get("/", &[("authorization", value)]);
        assert!(credential::hide(&bearer, &request));
        assert_eq!(request.header("authorization"), rest, "{value}");
    }
    let request = FakeRequest::get("/", &[("x-api-key", "whatever")]);
    assert!(credential::hide(&[header("x-api-key", None)], &request));
    assert!(request.first("x-api-key").is_none());
}

#[test]
fn a_host_that_refuses_to_hide_is_noticed() {
    let request = FakeRequest::get("/?api_key=k", &[("x-api-key", "k"), ("cookie", "api_key=k")]).stubborn();
    for source in [header("x-api-key", None), query("api_key"), cookie("api_key")] {
        assert!(!credential::hide(&[source], &request));
    }
}

#[test]
fn a_credential_is_never_printed() {
    let request = FakeRequest::get("/?api_key=secret", &[]);
    let sources = [query("api_key")];
    let found = credential::find(&sources, &request, 32);
    let (_, found) = found.expect("it is there");
    assert!(!format!("{found:?}").contains("secret"));
}
