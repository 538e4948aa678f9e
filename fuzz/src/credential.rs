//! `credential`: where requests carry keys.
//!
//! The input is text. Sources come first, one a line, then an empty line, then the request's headers:
//!
//! ```text
//! header x-api-key
//! header authorization Bearer
//! query api_key
//! cookie api_key
//!
//! :path: /orders?api_key=secret
//! cookie: theme=dark; api_key=secret
//! ```

use keywheel_filter::config::{Config, Source};
use keywheel_filter::credential::{Found, Headers, find, hide};
use keywheel_keyring::SigningKey;
use serde_json::{Value, json};

use super::support::FakeRequest;

/// The longest credential.
const MAX: usize = 32;

pub fn credential(data: &[u8]) {
    let (sources, headers) = match data.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, &[][..]),
    };
    let Some(sources) = configured(sources) else { return };
    let (before, after) = (request(headers), request(headers));
    the_first_that_is_present_decides(&sources, &before);

    assert!(hide(&sources, &after));
    for source in &sources {
        is_hidden(source, &after);
    }
    if let Some((source, found)) = find(&sources, &after, MAX) {
        // Of several values none is ours, but there are several.
        let foreign = matches!(source, Source::Header { scheme: Some(_), .. });
        assert!(foreign && matches!(found, Found::Ambiguous), "{source:?}: {found:?}");
    }
    for name in names(headers) {
        rest_is_kept(&sources, &name, &before, &after);
    }
    assert!(hide(&sources, &after));
    for name in names(headers) {
        let mut again = request(headers);
        assert!(hide(&sources, &again));
        assert_eq!(again.joined(&name), after.joined(&name), "hiding twice changes nothing more");
        again = again.stubborn();
        let _ = hide(&sources, &again);
    }
}

/// The sources of the first lines, where a configuration takes them.
fn configured(lines: &[u8]) -> Option<Vec<Source>> {
    let lines = std::str::from_utf8(lines).ok()?;
    let sources: Option<Vec<Value>> = lines
        .split('\n')
        .map(|line| {
            let mut words = line.split(' ');
            Some(match (words.next()?, words.next()?, words.next()) {
                ("header", name, None) => json!({"header": name}),
                ("header", name, Some(scheme)) => json!({"header": name, "scheme": scheme}),
                ("query", name, None) => json!({"query": name}),
                ("cookie", name, None) => json!({"cookie": name}),
                _ => return None,
            })
        })
        .collect();
    let trust = SigningKey::from_seed([7; 32]).public().to_string();
    let config = json!({"ring": "r", "control": {"clusters": [], "trust": [trust]}, "sources": sources?});
    Some(Config::parse(config.to_string().as_bytes()).ok()?.sources)
}

/// The headers of the other lines, their values trimmed as Envoy trims them.
fn request(lines: &[u8]) -> FakeRequest {
    let request = FakeRequest::default();
    for line in lines.split(|byte| *byte == b'\n') {
        if let Some((name, value)) = header(line)
            && (!name.starts_with(':') || request.first(&name).is_none())
        {
            request.push(&name, value);
        }
    }
    request
}

fn header(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    Some((name.to_ascii_lowercase(), line[colon + 1..].trim_ascii()))
}

fn names(lines: &[u8]) -> Vec<String> {
    lines.split(|byte| *byte == b'\n').filter_map(header).map(|(name, _)| name).collect()
}

fn the_first_that_is_present_decides(sources: &[Source], request: &FakeRequest) {
    let Some((source, found)) = find(sources, request, MAX) else {
        assert!(sources.iter().all(|source| find(std::slice::from_ref(source), request, MAX).is_none()));
        return;
    };
    let at = sources.iter().position(|other| other == source).expect("one of ours");
    assert!(find(&sources[..at], request, MAX).is_none(), "no source before it is present");
    match found {
        Found::Absent => panic!("{source:?} is absent, and was given"),
        Found::Credential(credential) => {
            assert!((1..=MAX).contains(&credential.len()) && credential.iter().all(u8::is_ascii_graphic));
            let name = header_of(source);
            let held = request.joined(name).expect("the source is there");
            let raw = held.windows(credential.len()).any(|part| part == &*credential);
            let escaped = name == ":path" && held.contains(&b'%');
            assert!(raw || escaped, "a credential is a part of its source");
        }
        Found::Empty | Found::Ambiguous | Found::Malformed => {}
    }
}

fn header_of(source: &Source) -> &str {
    match source {
        Source::Header { name, .. } => name,
        Source::Query { .. } => ":path",
        Source::Cookie { .. } => "cookie",
    }
}

/// As a server behind would look for it.
fn is_hidden(source: &Source, request: &FakeRequest) {
    let Some(held) = request.joined(header_of(source)) else { return };
    match source {
        Source::Header { scheme: None, .. } => panic!("the whole header was ours"),
        Source::Header { scheme: Some(scheme), .. } => {
            for value in held.split(|byte| *byte == b',') {
                assert!(!has_scheme(value.trim_ascii_start(), scheme), "{source:?} is in {held:?}");
            }
        }
        Source::Query { name } => {
            let query = held.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
            assert!(query.split(|byte| matches!(byte, b'&' | b';')).all(|pair| !is_parameter(pair, name)));
        }
        Source::Cookie { name } => {
            assert!(held.split(|byte| matches!(byte, b';' | b',')).all(|pair| !is_cookie(pair, name)));
        }
    }
}

fn has_scheme(value: &[u8], scheme: &str) -> bool {
    let (head, rest) = value.split_at(scheme.len().min(value.len()));
    head.eq_ignore_ascii_case(scheme.as_bytes()) && (rest.is_empty() || matches!(rest[0], b' ' | b'\t'))
}

fn is_parameter(pair: &[u8], name: &str) -> bool {
    let encoded = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    let mut decoded = Vec::new();
    let mut rest = encoded;
    while let [first, tail @ ..] = rest {
        rest = tail;
        decoded.push(match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [a, b, tail @ ..]) => {
                let digits = [*a, *b];
                let digits = std::str::from_utf8(&digits).ok().filter(|text| !text.starts_with('+'));
                let Some(byte) = digits.and_then(|text| u8::from_str_radix(text, 16).ok()) else {
                    return false;
                };
                rest = tail;
                byte
            }
            (b'%', _) => return false,
            _ => *first,
        });
    }
    decoded == name.as_bytes()
}

fn is_cookie(pair: &[u8], name: &str) -> bool {
    pair.trim_ascii().split(|byte| *byte == b'=').next().map(<[u8]>::trim_ascii_end) == Some(name.as_bytes())
}

/// What is not ours stays as it came, byte for byte.
fn rest_is_kept(sources: &[Source], name: &str, before: &FakeRequest, after: &FakeRequest) {
    let (was, is) = (before.joined(name), after.joined(name));
    let ours: Vec<&Source> = sources.iter().filter(|source| header_of(source) == name).collect();
    let expected = match (name, &was) {
        (_, None) => None,
        (":path", Some(path)) => {
            let mut parts = path.splitn(2, |byte| *byte == b'?');
            let mut kept = parts.next().unwrap_or_default().to_vec();
            let is_ours = |pair: &[u8]| {
                ours.iter().any(|source| matches!(source, Source::Query { name } if is_parameter(pair, name)))
            };
            if let Some(query) = parts.next() {
                let (mut from, mut first) = (0, true);
                for pair in query.split(|byte| matches!(byte, b'&' | b';')) {
                    if !is_ours(pair) {
                        kept.push(if first { b'?' } else { query[from - 1] });
                        kept.extend_from_slice(pair);
                        first = false;
                    }
                    from += pair.len() + 1;
                }
            }
            Some(kept)
        }
        ("cookie", Some(cookies)) => {
            let is_ours = |pair: &[u8]| {
                ours.iter().any(|source| match source {
                    Source::Cookie { name } => is_cookie(pair, name),
                    _ => false,
                })
            };
            // Each with the separator behind it.
            let all: Vec<&[u8]> = cookies.split_inclusive(|byte| matches!(byte, b';' | b',')).collect();
            let bare =
                |pair: &[u8]| pair.strip_suffix(b";").or(pair.strip_suffix(b",")).unwrap_or(pair).to_vec();
            if !cookies.split(|byte| matches!(byte, b';' | b',')).any(is_ours) {
                was.clone()
            } else {
                // What is kept keeps the separator in front of it, but the first.
                let mut kept: Option<Vec<u8>> = None;
                let mut separator = None;
                for pair in
                    all.iter().copied().chain(matches!(cookies.last(), Some(b';' | b',')).then_some(&b""[..]))
                {
                    if !is_ours(&bare(pair)) {
                        let kept = kept.get_or_insert_with(|| {
                            separator = None;
                            Vec::new()
                        });
                        kept.extend(separator);
                        kept.extend(bare(pair));
                    }
                    separator = pair.last().copied().filter(|byte| matches!(byte, b';' | b','));
                }
                // Hiding several cookies one by one trims the front each time.
                let kept = kept.unwrap_or_default().trim_ascii_start().to_vec();
                (!kept.is_empty()).then_some(kept)
            }
        }
        (_, Some(value)) => {
            let is_ours = |source: &&Source| match source {
                Source::Header { scheme: None, .. } => true,
                Source::Header { scheme: Some(scheme), .. } => {
                    value.split(|byte| *byte == b',').any(|part| has_scheme(part.trim_ascii_start(), scheme))
                }
                _ => false,
            };
            if ours.iter().any(is_ours) { None } else { was.clone() }
        }
    };
    assert_eq!(is, expected, "{name}, which was {was:?}");
}
