//! `rules`: what a request needs, by its path and by its route.
//!
//! The first line is a configuration's `rules` and `default`, each line after it a request:
//!
//! ```text
//! {"rules":[{"match":{"path_prefix":"/orders"},"access":{"scopes":["trade"]}}],"default":"deny"}
//! GET api.example.com /orders/7
//! ```
//!
//! The whole input is read as a route's metadata, too.

use keywheel_filter::config::Config;
use keywheel_filter::path::{canonical, split_query};
use keywheel_filter::policy::{Access, Facts, Policy, plain_host};
use keywheel_filter::route;
use keywheel_keyring::SigningKey;
use serde_json::{Map, Value, json};

use super::support::Random;

pub fn rules(data: &[u8]) {
    if let Some(Access::Keyed(demand)) = route::access(data) {
        let names = demand.scopes.iter().chain(demand.any_scope.iter().flatten());
        assert!(
            names.chain(demand.clients.iter().flatten()).all(|name| keywheel_keyring::entry::is_name(name))
        );
    }
    let mut lines = data.split(|byte| *byte == b'\n');
    let policy = lines.next().and_then(policy).unwrap_or_default();
    for line in lines {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(method), Some(host), Some(path)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Some(decoded) = canonical(path) else { continue };
        has_one_reading(&decoded);
        let decide = |path: &[u8], host: &[u8]| {
            let path =
                canonical(path).unwrap_or_else(|| panic!("{:?} is refused", String::from_utf8_lossy(path)));
            policy.access(&Seen { method, host: plain_host(host), path: &path }).clone()
        };
        let access = decide(path, host);
        for spelling in spellings(path, &decoded) {
            assert_eq!(decide(&spelling, host), access, "spelt {:?}", String::from_utf8_lossy(&spelling));
        }
        for spelling in hosts(host) {
            assert_eq!(decide(path, &spelling), access, "host {:?}", String::from_utf8_lossy(&spelling));
        }
    }
}

/// The rules of the first line, where a configuration takes them.
fn policy(line: &[u8]) -> Option<Policy> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    fields.retain(|name, _| matches!(name.as_str(), "rules" | "default" | "route_overrides"));
    let trust = SigningKey::from_seed([7; 32]).public().to_string();
    fields.insert("ring".into(), "r".into());
    fields.insert("control".into(), json!({"clusters": [], "trust": [trust]}));
    fields.insert("sources".into(), json!([{"header": "x-api-key"}]));
    Some(Config::parse(&serde_json::to_vec(&fields).ok()?).ok()?.policy)
}

struct Seen<'a> {
    method: &'a [u8],
    host: Option<Vec<u8>>,
    path: &'a [u8],
}

impl Facts for Seen<'_> {
    fn path(&self) -> &[u8] {
        self.path
    }

    fn host(&self) -> Option<&[u8]> {
        self.host.as_deref()
    }

    fn method(&self) -> &[u8] {
        self.method
    }

    fn route(&self) -> &[u8] {
        b"main"
    }

    fn route_metadata(&self, _: &str) -> Option<Vec<u8>> {
        Some(b"main".to_vec())
    }
}

/// No later hop can read it otherwise.
fn has_one_reading(decoded: &[u8]) {
    let text = std::str::from_utf8(decoded).expect("a canonical path is text");
    assert!(!decoded.windows(3).any(is_escape), "{text:?} is another path to whoever decodes twice");
    let segments = text.strip_prefix('/').expect("it starts with a slash").split('/');
    let last = segments.clone().count() - 1;
    for (at, segment) in segments.enumerate() {
        assert!(!segment.is_empty() || at == last, "{text:?} has an empty segment");
        assert!(segment != "." && segment != "..", "{text:?} has dot segments");
    }
    assert!(!text.bytes().any(|byte| byte.is_ascii_control() || matches!(byte, b'\\' | b';')), "{text:?}");
}

/// What is left of an escape in an escape.
fn is_escape(part: &[u8]) -> bool {
    matches!(part, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
}

/// The same path in other words.
fn spellings(path: &[u8], decoded: &[u8]) -> Vec<Vec<u8>> {
    let path = split_query(path).0;
    // Each byte may become three, and a path has a greatest length.
    if path.len() > 2_700 {
        return Vec::new();
    }
    let seed =
        path.iter().fold(0x9e37_79b9, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
    let mut random = Random(seed | 1);
    let mut all = vec![
        respell(path, |_| true, |hex| hex.to_ascii_lowercase()),
        respell(path, |_| true, |hex| hex.to_ascii_uppercase()),
        respell(path, |_| false, |hex| hex.to_ascii_uppercase()),
        respell(path, |_| random.one_in(2), |hex| hex.to_ascii_lowercase()),
    ];
    // A slash at the end makes no difference.
    let mut other = path.to_vec();
    if decoded.ends_with(b"/") && decoded.len() > 1 {
        other.pop();
    } else if !decoded.ends_with(b"/") {
        other.push(b'/');
    }
    all.push(other);
    all.push([path, b"?/..//%2f;a"].concat());
    all
}

/// Writes the unreserved characters that `escape` picks as escapes, the others as themselves, and all
/// escapes in the case that `case` says.
fn respell(path: &[u8], mut escape: impl FnMut(u8) -> bool, case: impl Fn(&str) -> String) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        let mut escaped = false;
        if byte == b'%'
            && let [a, b, tail @ ..] = tail
        {
            let hex = std::str::from_utf8(&[*a, *b]).map(|hex| u8::from_str_radix(hex, 16));
            byte = hex.expect("canonical").expect("canonical");
            escaped = true;
            rest = tail;
        }
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let escaped = if unreserved { escape(byte) } else { escaped };
        if escaped {
            out.push(b'%');
            out.extend(case(&format!("{byte:02x}")).bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

/// The same host in other words.
fn hosts(host: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![host.to_ascii_uppercase(), host.to_ascii_lowercase()];
    let bare = !host.is_empty() && !host.contains(&b':') && !host.starts_with(b"[");
    if bare {
        all.push([host, b":8443"].concat());
        if !host.ends_with(b".") {
            all.push([host, b"."].concat());
            all.push([host, b".:8443"].concat());
        }
    }
    all
}
