//! What is known of the time since a copy was made. Pure: the files are read elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use keywheel_api::audit::{Checkpoint, Fault, Head, Verified, Verifier};
use keywheel_api::{AuditRecord, State, Timestamp};
use keywheel_keyring::document::DocumentError;
use keywheel_keyring::signature::{self, SignatureError};
use keywheel_keyring::{Digest, Document, Epoch, Kind, PublicKey};
use serde::Deserialize;

/// What a stretch of the audit trail says of keys, as of its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Keys that were revoked.
    pub revoked: BTreeSet<String>,
    /// Each version that changed, and what it was last.
    pub versions: BTreeMap<String, State>,
    /// Secrets that leaked.
    pub compromised: BTreeSet<Digest>,
    /// Leaked secrets that an older version counted but did not name.
    pub unnamed: u64,
}

/// Why an exported trail is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("it does not continue the copy's audit trail: {0}")]
    Fault(#[from] Fault),
    #[error("it belongs to another history: its record {0} is not the copy's")]
    Foreign(u64),
    #[error("it ends at record {end}, before the copy does at {copy}; export it up to its end")]
    Short { end: u64, copy: u64 },
    #[error("record {seq} cannot be understood: {cause}; use the keywheel that wrote it")]
    Unreadable { seq: u64, cause: String },
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("{0}; name the key with --trust if it is yours")]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("it is of ring `{0}`, which the copy does not have")]
    OtherRing(String),
    #[error("it is not later than the copy, so it says nothing that the copy does not")]
    Older,
}

/// Whether documents tell all that became of a ring since the copy, which ends at `epoch` and `revision`, up to where
/// they end: they are a whole later snapshot, or they follow on the copy without a gap. A heartbeat, and the last run
/// of changes alone, are genuine and later, and tell nothing of what was revoked before them.
#[must_use]
pub fn joins(epoch: Epoch, revision: u64, documents: &[&Document]) -> bool {
    let mut pages: Vec<_> = documents
        .iter()
        .filter_map(|document| match document.kind {
            Kind::Snapshot { after, through } => Some((after, through)),
            Kind::Changes { .. } => None,
        })
        .collect();
    pages.sort_by_key(|(after, _)| *after);
    // Where the pages so far end; at first before the first digest, at last, `None`, behind the last one.
    let mut covered = Some(None);
    for (after, through) in pages {
        match covered {
            Some(end) if after <= end => covered = through.map(|through| end.max(Some(through))),
            _ => break,
        }
    }
    if covered.is_none() {
        return true;
    }
    let mut runs: Vec<_> = documents
        .iter()
        .filter(|document| document.epoch == epoch)
        .filter_map(|document| match document.kind {
            Kind::Changes { since } => Some((since, document.revision)),
            Kind::Snapshot { .. } => None,
        })
        .collect();
    runs.sort_unstable();
    let last = runs.iter().map(|(_, revision)| *revision).max();
    let mut end = revision;
    for (since, to) in runs {
        if since <= end {
            end = end.max(to);
        }
    }
    end > revision && last == Some(end)
}

/// A signed document in a file: what `keywheel ring export --seed` prints.
#[derive(Debug, Deserialize)]
pub struct Sealed {
    pub signer: String,
    pub signature: String,
    pub document: String,
}

impl Journal {
    /// Follows the trail from `copy`, where the restored one ends. What comes before is skipped.
    ///
    /// # Errors
    ///
    /// [`JournalError`]; then nothing of it is used.
    pub fn read(
        copy: Head,
        records: &[AuditRecord],
        checkpoints: Vec<Checkpoint>,
        trust: &[PublicKey],
    ) -> Result<(Self, Verified), JournalError> {
        let end = records.last().map_or(0, |record| record.seq);
        if end < copy.seq {
            return Err(JournalError::Short { end, copy: copy.seq });
        }
        if let Some(same) = records.iter().find(|record| record.seq == copy.seq)
            && same.hash != copy.hash
        {
            return Err(JournalError::Foreign(copy.seq));
        }
        let mut verifier = Verifier::after(copy, checkpoints, trust)?;
        let mut journal = Self::default();
        for record in records.iter().filter(|record| record.seq > copy.seq) {
            verifier.take(record)?;
            let unreadable = |error: serde_json::Error| JournalError::Unreadable {
                seq: record.seq,
                cause: error.to_string(),
            };
            journal.take(record).map_err(unreadable)?;
        }
        Ok((journal, verifier.finish()?))
    }

    fn take(&mut self, record: &AuditRecord) -> Result<(), serde_json::Error> {
        let Some(after) = &record.event.after else { return Ok(()) };
        match record.event.action.split_once('.') {
            Some(("key" | "version" | "rotation", _)) => {
                let key: ChangedKey = serde_json::from_str(after)?;
                if key.revoked_at.is_some() {
                    self.revoked.insert(key.id);
                } else {
                    self.revoked.remove(&key.id);
                }
                self.versions.extend(key.versions.into_iter().map(|version| (version.id, version.state)));
            }
            Some(("digest", _)) => {
                let leaked: Leaked = serde_json::from_str(after)?;
                match leaked.digests {
                    Some(digests) => self.compromised.extend(digests),
                    None => self.unnamed = self.unnamed.saturating_add(leaked.unknown),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Sealed {
    /// The document, once its signature held.
    ///
    /// # Errors
    ///
    /// [`EvidenceError`].
    pub fn open(&self, trust: &[PublicKey]) -> Result<Document, EvidenceError> {
        let (signer, signature) = (self.signer.as_bytes(), self.signature.as_bytes());
        signature::verify(trust, self.document.as_bytes(), Some(signer), Some(signature))?;
        Ok(Document::parse(self.document.as_bytes())?.document)
    }
}

/// What of a key an audit record says.
#[derive(Deserialize)]
struct ChangedKey {
    id: String,
    revoked_at: Option<Timestamp>,
    versions: Vec<ChangedVersion>,
}

#[derive(Deserialize)]
struct ChangedVersion {
    id: String,
    state: State,
}

#[derive(Deserialize)]
struct Leaked {
    digests: Option<Vec<Digest>>,
    #[serde(default)]
    unknown: u64,
}

#[cfg(test)]
mod tests {
    use keywheel_api::audit::AuditEvent;
    use keywheel_keyring::{Millis, SigningKey};

    use super::*;

    fn trail(events: &[(&str, &str)]) -> Vec<AuditRecord> {
        let mut head = Head::START;
        let next = |(action, after): &(&str, &str)| {
            let after = Some((*after).to_owned());
            let record = head.append(AuditEvent { action: (*action).into(), after, ..AuditEvent::default() });
            head = record.head();
            record
        };
        events.iter().map(next).collect()
    }

    fn key(revoked: bool, versions: &str) -> String {
        let revoked = if revoked { "\"2026-01-01T00:00:00Z\"" } else { "null" };
        format!("{{\"id\":\"key_1\",\"revoked_at\":{revoked},\"versions\":[{versions}]}}")
    }

    #[test]
    fn only_what_leaves_no_gap_tells_all() {
        let epoch = Epoch::from_bytes([1; 16]);
        let document = |kind, revision| Document {
            ring: "production".into(),
            epoch,
            kind,
            revision,
            issued_at: Millis(0),
            expires_at: Millis(0),
            key_prefix: None,
            critical: Vec::new(),
            entries: Vec::new(),
            removed: Vec::new(),
        };
        let digest = |byte| Some(Digest::from_bytes([byte; 32]));
        let run = |since, revision| document(Kind::Changes { since }, revision);
        let page = |after, through| document(Kind::Snapshot { after, through }, 9);
        for (documents, tells) in [
            (vec![], false),
            (vec![run(7, 7)], false),
            (vec![run(6, 7)], false),
            (vec![run(4, 6), run(7, 9)], false),
            (vec![run(4, 6), run(6, 9)], true),
            (vec![run(3, 9)], true),
            (vec![page(None, None)], true),
            (vec![page(None, digest(1))], false),
            (vec![page(digest(1), None)], false),
            (vec![page(None, digest(1)), page(digest(2), None)], false),
            (vec![page(digest(1), None), page(None, digest(1))], true),
        ] {
            let all: Vec<&Document> = documents.iter().collect();
            assert_eq!(joins(epoch, 4, &all), tells, "{documents:?}");
        }
        assert!(!joins(Epoch::from_bytes([0; 16]), 4, &[&run(4, 9)]), "the run is of another counter");
    }

    #[test]
    fn the_last_word_on_each_version_counts() {
        let (active, revoked) = (r#"{"id":"kv_1","state":"active"}"#, r#"{"id":"kv_1","state":"revoked"}"#);
        let records = trail(&[
            ("ring.create", "{}"),
            ("key.create", &key(false, active)),
            ("key.revoke", &key(true, revoked)),
            ("digest.compromise", &format!("{{\"digests\":[\"{}\"]}}", "ab".repeat(32))),
            ("digest.compromise", "{\"unknown\":3}"),
            ("version.reinstate", &key(false, active)),
        ]);
        let read = |upto: usize| Journal::read(records[1].head(), &records[..upto], vec![], &[]).unwrap().0;
        assert_eq!(read(2), Journal::default(), "nothing happened since");
        assert_eq!(read(3).revoked, ["key_1".to_owned()].into());
        assert_eq!(read(3).versions, [("kv_1".to_owned(), State::Revoked)].into());
        let all = read(6);
        assert_eq!((all.revoked.len(), all.versions["kv_1"]), (0, State::Active));
        assert_eq!((all.compromised.len(), all.unnamed), (1, 3));
    }

    #[test]
    fn a_trail_that_does_not_continue_the_copy_is_not_taken() {
        let records =
            trail(&[("ring.create", "{}"), ("a.b", "{}"), ("key.revoke", &key(true, "")), ("x.y", "")]);
        let copy = records[1].head();
        let says = |records: &[AuditRecord], checkpoints: Vec<Checkpoint>, what: &str| {
            let signer = SigningKey::from_seed([7; 32]).public();
            let error = Journal::read(copy, records, checkpoints, &[signer]).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        says(&records[..1], vec![], "ends at record 1");
        says(&[], vec![], "ends at record 0");
        says(&records[3..], vec![], "record 3 is missing");
        let mut altered = records.clone();
        altered[2].event.action = "key.create".into();
        says(&altered, vec![], "record 3 was altered");
        let other = trail(&[("ring.create", "{}"), ("a.c", "{}"), ("x.y", "")]);
        says(&other, vec![], "another history");
        says(&other[2..], vec![], "record 3 does not continue");
        says(
            &trail(&[("ring.create", "{}"), ("a.b", "{}"), ("key.revoke", "[]")]),
            vec![],
            "record 3 cannot be understood",
        );

        // What was cut off behind its end shows by a checkpoint that covers it.
        let key = SigningKey::from_seed([7; 32]);
        let kept = Checkpoint::sign(records[3].head(), Timestamp::UNIX_EPOCH, &key);
        says(&records[..3], vec![kept.clone()], "record 4 is missing");
        let (_, verified) = Journal::read(copy, &records, vec![kept], &[key.public()]).unwrap();
        assert_eq!((verified.head.seq, verified.covered), (4, 4));
    }
}
