//! Documents in the form in which keywheel writes them, read in one go.
//!
//! A large ring is a million entries, and a general reader takes most of its time to find out, entry by
//! entry, what nearly every entry has in the same place. Whatever differs in the least, be it by a space, is
//! left to that reader, so this one decides on nothing: what it reads, the other would read alike.

use serde::de::IgnoredAny;

use super::{Document, MAX_ENTRIES};
use crate::{Digest, Entry, Millis, State};

const ENTRIES: &str = r#","entries":["#;

/// The document, unless it has anything out of the ordinary.
pub(super) fn read(body: &[u8]) -> Option<Document> {
    let text = std::str::from_utf8(body).ok()?;
    let (head, rest) = text.split_once(ENTRIES)?;
    // Not in a string, nor in an object within the object.
    serde_json::from_str::<IgnoredAny>(&[head, "}"].concat()).ok()?;
    let mut text = Text(rest);
    let mut entries = Vec::with_capacity(MAX_ENTRIES);
    if !text.has("]") {
        loop {
            entries.push(entry(&mut text)?);
            if entries.len() > MAX_ENTRIES {
                return None;
            }
            if text.has("]") {
                break;
            }
            text.skip(",")?;
        }
    }
    let rest = [head, ENTRIES, "]", text.0].concat();
    let document: Document = serde_json::from_str(&rest).ok()?;
    Some(Document { entries, ..document })
}

fn entry(text: &mut Text<'_>) -> Option<Entry> {
    text.skip(r#"{"digest":""#)?;
    let digest: Digest = text.string()?.parse().ok()?;
    text.skip(r#","version":""#)?;
    let version = text.string()?;
    text.skip(r#","key":""#)?;
    let key = text.string()?;
    text.skip(r#","client":""#)?;
    let client = text.string()?;
    text.skip(r#","revision":"#)?;
    let revision = text.number()?;
    text.skip(r#","state":""#)?;
    let state = match text.string()? {
        "active" => State::Active,
        "retiring" => State::Retiring,
        "pending" => State::Pending,
        "retired" => State::Retired,
        "revoked" => State::Revoked,
        "compromised" => State::Compromised,
        _ => return None,
    };
    let mut entry = Entry::new(digest, version, key, client, revision, state);
    if text.has(r#","not_before":"#) {
        entry.not_before = Some(Millis(text.number()?));
    }
    if text.has(r#","expires_at":"#) {
        entry.expires_at = Some(Millis(text.number()?));
    }
    if text.has(r#","scopes":[""#) {
        entry.scopes.push(text.string()?.to_owned());
        while text.has(r#",""#) {
            entry.scopes.push(text.string()?.to_owned());
        }
        text.skip("]")?;
    }
    entry.successor = text.has(r#","successor":true"#);
    text.skip("}")?;
    Some(entry)
}

/// What is left to read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn has(&mut self, part: &str) -> bool {
        self.skip(part).is_some()
    }

    fn skip(&mut self, part: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(part)?;
        Some(())
    }

    /// A string without its first quote. With an escape, or what must be escaped, it is none.
    fn string(&mut self) -> Option<&'a str> {
        let len = self.0.bytes().position(|byte| matches!(byte, b'"' | b'\\' | ..b' ' | 0x80..))?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest.strip_prefix('"')?;
        Some(string)
    }

    fn number(&mut self) -> Option<u64> {
        let len = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        // In JSON no number but 0 begins with it.
        if digits.len() > 1 && digits.starts_with('0') { None } else { digits.parse().ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Brownout, Epoch, Kind};

    fn document(entries: Vec<Entry>) -> Document {
        Document {
            ring: "production".into(),
            epoch: Epoch::from_bytes([1; 16]),
            kind: Kind::Changes { since: 1 },
            revision: 9,
            issued_at: Millis(1_790_000_000_000),
            expires_at: Millis(1_790_000_000_001),
            key_prefix: Some("kw_live_".into()),
            critical: Vec::new(),
            entries,
            removed: vec![Digest::of(b"gone")],
        }
    }

    fn full() -> Vec<Entry> {
        let entry =
            |key: &str, state| Entry::new(Digest::of(key.as_bytes()), "kv_1", "key_1", "acme", 7, state);
        vec![
            entry("a", State::Active),
            Entry {
                not_before: Some(Millis(0)),
                expires_at: Some(Millis(u64::MAX)),
                scopes: vec!["market:read".into(), "trade".into()],
                successor: true,
                ..entry("b", State::Retiring)
            },
            Entry { scopes: vec!["trade".into()], ..entry("c", State::Compromised) },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for document in [document(Vec::new()), document(full())] {
            assert_eq!(read(&serde_json::to_vec(&document).unwrap()), Some(document));
        }
    }

    #[test]
    fn what_is_out_of_the_ordinary_is_left_to_the_general_reader() {
        let brownout = Brownout { share: 0.5, until: Millis(1) };
        let odd = Entry { brownout: Some(brownout), ..full().remove(0) };
        assert_eq!(read(&serde_json::to_vec(&document(vec![odd])).unwrap()), None);
        let text = serde_json::to_string(&document(full())).unwrap();
        for (from, to) in [
            (r#""acme""#, r#""ac\u006de""#),
            (r#""acme""#, r#""äcme""#),
            (r#""revision":7"#, r#""revision":07"#),
            (r#""revision":7"#, r#""revision": 7"#),
            (r#""revision":7"#, r#""revision":18446744073709551616"#),
            (r#""successor":true"#, r#""successor":true,"note":1"#),
            (r#"{"ring""#, r#"{"note":{"a":1,"entries":[]},"ring""#),
            (r#""removed""#, r#""entries":[],"removed""#),
        ] {
            assert!(text.contains(from), "{from}");
            assert_eq!(read(text.replacen(from, to, 1).as_bytes()), None, "{to}");
        }
    }

    #[test]
    fn both_readers_read_alike_whatever_byte_is_changed() {
        let body = serde_json::to_vec(&document(full())).unwrap();
        let check = |body: &[u8]| {
            if let Some(read) = read(body) {
                let general = serde_json::from_slice::<Document>(body);
                assert_eq!(general.ok(), Some(read), "{}", String::from_utf8_lossy(body));
            }
        };
        let text = String::from_utf8(body.clone()).unwrap();
        for note in [
            r#""a,\"entries\":[]""#,
            r#"{"a":1,"entries":[]}"#,
            r#"[1,"entries",[]]"#,
            r#""\",\"entries\":[""#,
        ] {
            let noted = text.replacen('{', &format!(r#"{{"note":{note},"#), 1);
            assert!(serde_json::from_str::<Document>(&noted).is_ok(), "{note}");
            check(noted.as_bytes());
            check(noted.replace("[]", r#"[{"digest":"00"}]"#).as_bytes());
        }
        for at in 0..body.len() {
            let mut shorter = body.clone();
            shorter.remove(at);
            check(&shorter);
            check(&body[..at]);
            for byte in *b"\"\\,:{}[]0189aAfz e.-+\x00\x1f\x7f\x80\xff" {
                let mut other = body.clone();
                other[at] = byte;
                check(&other);
                other = body.clone();
                other.insert(at, byte);
                check(&other);
            }
        }
    }
}
