//! A snapshot page or a run of changes, as JSON.
//!
//! A document is read only after its signature held. A bad entry with a readable digest becomes one
//! that denies; without a readable digest the whole document is refused, since leaving an entry out
//! could leave a revoked key alive.

mod plain;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Entry, Epoch, KeyPrefix, Millis};

/// The most entries and removals, together, that one document carries.
pub const MAX_ENTRIES: usize = 500;
/// No document of [`MAX_ENTRIES`] entries is longer than this, in bytes.
pub const MAX_BYTES: usize = 4 << 20;

/// A header beside a page: up to which digest the page behind it should go, in hexadecimal. Who wants both asks
/// for both at once. It is a guess, and not signed.
pub const AHEAD_HEADER: &str = "keywheel-ahead";

/// A page of a snapshot or a run of changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub ring: String,
    pub epoch: Epoch,
    #[serde(flatten)]
    pub kind: Kind,
    /// Where the page was cut, or the last change that the run holds.
    pub revision: u64,
    pub issued_at: Millis,
    /// After this a proxy does not install the document.
    pub expires_at: Millis,
    /// What stands before the id in keys that this ring issues.
    #[serde(default)]
    pub key_prefix: Option<String>,
    /// Fields that a reader must know, or else refuse the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical: Vec<String>,
    pub entries: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Digest>,
}

/// What range of a ring a document covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// Every digest after `after` (`null`: from the first) and up to `through` (`null`: to the last).
    Snapshot { after: Option<Digest>, through: Option<Digest> },
    /// Every change after revision `since`.
    Changes { since: u64 },
}

/// A document, and what of it could not be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub document: Document,
    /// For each entry that now denies: its version, or its digest, and what was wrong.
    pub bad: Vec<(String, String)>,
}

/// Why a document is refused whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("not a ring document: {0}")]
    Json(String),
    #[error("entry {0} has no readable digest")]
    Digest(usize),
    #[error("more than {MAX_ENTRIES} entries and removals")]
    TooMany,
    #[error("a snapshot page names digests outside its range, or out of order")]
    Range,
    #[error("critical field `{0}` is unknown to this version")]
    Critical(String),
    #[error("an entry or the end of a run has a revision that the document does not cover")]
    Revision,
}

impl Document {
    /// Reads a document whose signature held.
    ///
    /// # Errors
    ///
    /// [`DocumentError`]; such a document changes nothing.
    pub fn parse(body: &[u8]) -> Result<Parsed, DocumentError> {
        if body.len() > MAX_BYTES {
            return Err(DocumentError::TooLong);
        }
        let (mut document, mut bad) = match plain::read(body).map_or_else(|| serde_json::from_slice(body), Ok)
        {
            Ok(document) => (document, Vec::new()),
            // Slower, and only for documents that a server should not have made.
            Err(error) => Loose::parse(body, &error)?,
        };
        if let Some(field) = document.critical.iter().find(|field| !KNOWN.contains(&field.as_str())) {
            return Err(DocumentError::Critical(field.clone()));
        }
        if document.entries.len().saturating_add(document.removed.len()) > MAX_ENTRIES {
            return Err(DocumentError::TooMany);
        }
        if document.key_prefix.as_ref().is_some_and(|prefix| prefix.parse::<KeyPrefix>().is_err()) {
            return Err(DocumentError::Json("key_prefix is not a key prefix".into()));
        }
        for entry in &mut document.entries {
            if let Err(error) = entry.check() {
                bad.push((entry.version.clone(), error.to_string()));
                *entry = Entry::unreadable(entry.digest, &entry.version, entry.revision);
            }
        }
        document.keep_the_stricter();
        document.check_order()?;
        Ok(Parsed { document, bad })
    }

    /// Of two entries with one digest the stricter stays.
    fn keep_the_stricter(&mut self) {
        if self.entries.is_sorted_by(|one, next| one.digest < next.digest) {
            return;
        }
        let mut digests: Vec<Digest> = self.entries.iter().map(|entry| entry.digest).collect();
        digests.sort_unstable();
        if digests.is_sorted_by(|one, next| one < next) {
            return;
        }
        let mut seen: BTreeMap<Digest, Entry> = BTreeMap::new();
        for entry in self.entries.drain(..) {
            let stricter = match seen.get(&entry.digest) {
                Some(held) => {
                    Entry { revision: held.revision.max(entry.revision), ..held.stricter(&entry).clone() }
                }
                None => entry,
            };
            seen.insert(stricter.digest, stricter);
        }
        self.entries = seen.into_values().collect();
        if matches!(self.kind, Kind::Changes { .. }) {
            self.entries.sort_by_key(|entry| entry.revision);
        }
    }

    fn check_order(&self) -> Result<(), DocumentError> {
        match self.kind {
            Kind::Snapshot { after, through } => {
                let through = through.unwrap_or(Digest::MAX);
                let mut last = after;
                for entry in &self.entries {
                    if last.is_some_and(|last| entry.digest <= last) || entry.digest > through {
                        return Err(DocumentError::Range);
                    }
                    last = Some(entry.digest);
                }
                if !self.removed.is_empty() || after.is_some_and(|after| after >= through) {
                    return Err(DocumentError::Range);
                }
                let late = self.entries.iter().any(|entry| entry.revision > self.revision);
                if late { Err(DocumentError::Revision) } else { Ok(()) }
            }
            Kind::Changes { since } => {
                let mut last = since;
                for entry in &self.entries {
                    if entry.revision < last || entry.revision > self.revision || entry.revision == since {
                        return Err(DocumentError::Revision);
                    }
                    last = entry.revision;
                }
                let empty = self.entries.is_empty() && self.removed.is_empty();
                if since > self.revision || (since == self.revision && !empty) {
                    return Err(DocumentError::Revision);
                }
                Ok(())
            }
        }
    }
}

/// The fields that a document may list as critical.
const KNOWN: [&str; 13] = [
    "ring",
    "epoch",
    "kind",
    "since",
    "after",
    "through",
    "revision",
    "issued_at",
    "expires_at",
    "key_prefix",
    "entries",
    "removed",
    "brownout",
];

/// The same document with its entries unread.
#[derive(Deserialize)]
struct Loose {
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
    entries: Vec<Value>,
}

impl Loose {
    fn parse(
        body: &[u8],
        error: &serde_json::Error,
    ) -> Result<(Document, Vec<(String, String)>), DocumentError> {
        let not_json = |_| DocumentError::Json(error.to_string());
        let Self { mut rest, entries } = serde_json::from_slice(body).map_err(not_json)?;
        if entries.len() > MAX_ENTRIES {
            return Err(DocumentError::TooMany);
        }
        rest.insert("entries".into(), Value::Array(Vec::new()));
        let mut document: Document = serde_json::from_value(Value::Object(rest)).map_err(not_json)?;
        let mut bad = Vec::new();
        for (at, value) in entries.into_iter().enumerate() {
            let field = |name| value.get(name).and_then(Value::as_str);
            let digest = field("digest").and_then(|text| text.parse::<Digest>().ok());
            let digest = digest.ok_or(DocumentError::Digest(at))?;
            let version = field("version").map_or_else(|| digest.to_string(), str::to_owned);
            let revision = value.get("revision").and_then(Value::as_u64);
            document.entries.push(match serde_json::from_value(value) {
                Ok(entry) => entry,
                Err(error) => {
                    let denied = Entry::unreadable(digest, &version, revision.unwrap_or(document.revision));
                    bad.push((version, error.to_string()));
                    denied
                }
            });
        }
        if matches!(document.kind, Kind::Changes { .. }) {
            document.entries.sort_by_key(|entry| entry.revision);
        }
        Ok((document, bad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    const EPOCH: &str = "0199a3b4-0000-7000-8000-000000000001";

    fn changes(entries: &str) -> String {
        format!(
            r#"{{"ring":"production","epoch":"{EPOCH}","kind":"changes","since":4120,"revision":4127,
            "issued_at":1790000000000,"expires_at":1790003600000,"entries":[{entries}],"removed":[]}}"#
        )
    }

    fn entry(digest: char, revision: u64, rest: &str) -> String {
        let digest = digest.to_string().repeat(64);
        format!(
            r#"{{"digest":"{digest}","version":"kv_1","key":"key_1","client":"acme","revision":{revision},{rest}}}"#
        )
    }

    #[test]
    fn the_documented_example_is_read() {
        let body = changes(&entry(
            'a',
            4125,
            r#""state":"retiring","not_before":null,"expires_at":1790000600000,"scopes":["market:read"],
               "successor":true,"brownout":null,"unknown_field":1"#,
        ));
        let parsed = Document::parse(body.as_bytes()).unwrap();
        assert_eq!(parsed.document.kind, Kind::Changes { since: 4120 });
        assert_eq!(parsed.document.entries[0].scopes, ["market:read"]);
        assert!(parsed.bad.is_empty());
        let written = serde_json::to_vec(&parsed.document).unwrap();
        assert_eq!(Document::parse(&written).unwrap().document, parsed.document);
    }

    #[test]
    fn a_bad_entry_denies_and_is_named() {
        for bad in [
            r#""state":"sleeping""#,
            r#""state":"active","scopes":"all""#,
            r#""state":"active","scopes":["a b"]"#,
            r#""state":"active","not_before":5,"expires_at":5"#,
            r#""state":"active","expires_at":-1"#,
            r#""state":"retiring""#,
            r#""state":"pending""#,
            r#""state":"active","brownout":{"share":2,"until":1}"#,
        ] {
            let body = changes(&[entry('a', 4125, bad), entry('b', 4126, r#""state":"active""#)].join(","));
            let parsed = Document::parse(body.as_bytes()).unwrap();
            let states: Vec<State> = parsed.document.entries.iter().map(|entry| entry.state).collect();
            assert_eq!(states, [State::Unreadable, State::Active], "{bad}");
            assert_eq!(parsed.bad[0].0, "kv_1", "{bad}");
        }
    }

    #[test]
    fn a_document_is_refused_whole() {
        let active = r#""state":"active""#;
        let check = |body: String, want: &str| {
            let error = Document::parse(body.as_bytes()).unwrap_err();
            assert!(format!("{error:?}").starts_with(want), "{error:?} is not {want}: {body}");
        };
        check(String::new(), "Json");
        check("{}".into(), "Json");
        check(changes("").replace("]}", "]"), "Json");
        check(changes(r#"{"digest":"abc","state":"active"}"#), "Digest(0)");
        check(changes("17"), "Digest(0)");
        check(changes(&entry('a', 4120, active)), "Revision");
        check(changes(&entry('a', 4128, active)), "Revision");
        check(changes(&[entry('a', 4126, active), entry('b', 4125, active)].join(",")), "Revision");
        check(changes("").replace("4120", "4128"), "Revision");
        check(changes(&vec![entry('a', 4125, active); 501].join(",")), "TooMany");
        check(changes("").replace(r#""removed""#, r#""critical":["sudo"],"removed""#), "Critical");
        check(changes("").replace(r#""removed""#, r#""key_prefix":"no good","removed""#), "Json");
        check(" ".repeat(MAX_BYTES + 1), "TooLong");
    }

    #[test]
    fn a_page_names_its_range_in_order() {
        let page = |after: &str, through: &str, entries: &str| {
            let range = format!(r#""kind":"snapshot","after":{after},"through":{through}"#);
            let body = changes(entries).replace(r#""kind":"changes","since":4120"#, &range);
            Document::parse(body.as_bytes())
        };
        let (a, b) = (entry('a', 1, r#""state":"active""#), entry('b', 2, r#""state":"active""#));
        let digest = |c: &str| format!("\"{}\"", c.repeat(64));
        assert!(page("null", "null", &format!("{a},{b}")).is_ok());
        assert!(page(&digest("9"), &digest("b"), &format!("{a},{b}")).is_ok());
        assert_eq!(page("null", "null", &format!("{b},{a}")), Err(DocumentError::Range));
        assert_eq!(page(&digest("a"), "null", &a), Err(DocumentError::Range));
        assert_eq!(page("null", &digest("a"), &b), Err(DocumentError::Range));
        assert_eq!(page(&digest("b"), &digest("a"), ""), Err(DocumentError::Range));
    }

    #[test]
    fn of_two_entries_with_one_digest_the_stricter_wins() {
        let body = changes(
            &[entry('a', 4125, r#""state":"revoked""#), entry('a', 4126, r#""state":"active""#)].join(","),
        );
        let parsed = Document::parse(body.as_bytes()).unwrap();
        assert_eq!(parsed.document.entries.len(), 1);
        assert_eq!(parsed.document.entries[0].state, State::Revoked);
        assert_eq!(parsed.document.entries[0].revision, 4126);
    }
}
