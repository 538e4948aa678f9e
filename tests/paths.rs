//! Paths as every later hop reads them, and the patterns that rules compare them with.

use keywheel_filter::path::{Pattern, canonical};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_path_with_one_reading_is_decoded() {
    for (path, decoded) in [
        ("/", "/"),
        ("/orders", "/orders"),
        ("/orders/", "/orders/"),
        ("/orders?x=..//;%2f", "/orders"),
        ("/%6frders", "/orders"),
        ("/caf%C3%A9", "/café"),
        ("/caf%c3%a9", "/café"),
        ("/a%20b", "/a b"),
        ("/100%25", "/100%"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a..b/...", "/a..b/..."),
        ("/file%2etxt", "/file.txt"),
        ("/a:b@c,d=e+f~g!$&'()*", "/a:b@c,d=e+f~g!$&'()*"),
    ] {
        assert_eq!(canonical(path.as_bytes()).as_deref(), Some(decoded.as_bytes()), "{path}");
    }
}

/// DESIGN §8: no scope may be skipped by spelling a path differently.
#[test]
fn a_path_that_a_later_hop_could_read_otherwise_is_refused() {
    for path in [
        &b""[..],
        b"*",
        b"orders",
        b"http://a/orders",
        b"//",
        b"//orders",
        b"/orders//1",
        b"/orders//",
        b"/.",
        b"/./orders",
        b"/a/..",
        b"/a/../orders",
        b"/a/%2e%2E/orders",
        b"/a/.%2e",
        b"/%2e/orders",
        b"/a%2forders",
        b"/a%2Forders",
        b"/a%5corders",
        b"/a\\orders",
        b"/orders;v=1",
        b"/orders%3bv=1",
        b"/orders#x",
        b"/a%252forders",
        b"/a%252e",
        b"/a%25%32%65",
        b"/a%2%35%65",
        b"/admin%3fx",
        b"/admin%23x",
        b"/a%00",
        b"/a%0a",
        b"/a%7f",
        b"/a\x00",
        b"/a\x7f",
        b"/a b",
        b"/caf\xc3\xa9",
        b"/a%",
        b"/a%2",
        b"/a%zz",
        b"/a%c0%af",
        b"/a%ff",
    ] {
        assert_eq!(canonical(path), None, "{}", String::from_utf8_lossy(path));
    }
    assert!(canonical(format!("/{}", "a".repeat(8191)).as_bytes()).is_some());
    assert!(canonical(format!("/{}", "a".repeat(8192)).as_bytes()).is_none());
}

#[test]
fn patterns_fit_whole_segments() {
    let check = |pattern: Option<Pattern>, fits: &[&str], misses: &[&str]| {
        let pattern = pattern.expect("the pattern is canonical");
        let matches = |path: &str| pattern.matches(&canonical(path.as_bytes()).expect("canonical"));
        for path in fits {
            assert!(matches(path), "{pattern:?} fits {path}");
        }
        for path in misses {
            assert!(!matches(path), "{pattern:?} misses {path}");
        }
    };
    check(
        Pattern::exact("/orders"),
        &["/orders", "/orders/", "/%6Frders", "/orders?x"],
        &["/", "/orders/1", "/Orders", "/ordersx", "/order"],
    );
    check(
        Pattern::prefix("/orders"),
        &["/orders", "/orders/", "/orders/1", "/orders/1/2", "/%6frders/1"],
        &["/", "/orders-old", "/order", "/x/orders"],
    );
    check(Pattern::prefix("/"), &["/", "/a", "/a/b"], &[]);
    check(Pattern::exact("/"), &["/"], &["/a"]);
    check(
        Pattern::template("/orders/{id}/fills"),
        &["/orders/1/fills", "/orders/a%20b/fills/"],
        &["/orders/fills", "/orders/1/2/fills", "/orders/1/fills/2", "/orders/1"],
    );
    check(Pattern::template("/{a}"), &["/x"], &["/", "/x/y"]);
    check(Pattern::exact("/caf%C3%A9"), &["/caf%c3%a9"], &["/cafe"]);
}

#[test]
fn a_pattern_that_could_never_fit_is_refused() {
    for path in ["", "orders", "/a//b", "/a/../b", "/a;b", "/a?b", "/a%2fb", "/a b", "/{id}"] {
        assert_eq!(Pattern::exact(path), None, "{path}");
        assert_eq!(Pattern::prefix(path), None, "{path}");
    }
    for path in ["/{}", "/{a", "/a}", "/x{a}", "/{a}{b}", "/{a b}", "/{a-b}"] {
        assert_eq!(Pattern::template(path), None, "{path}");
    }
}
