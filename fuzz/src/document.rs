//! `document`: any bytes as a ring document whose signature held.

use std::collections::{BTreeMap, BTreeSet};

use keywheel_keyring::bucket::{Bucket, merge};
use keywheel_keyring::document::{MAX_ENTRIES, Parsed};
use keywheel_keyring::generation::Position;
use keywheel_keyring::merge::{Ending, Plan};
use keywheel_keyring::{Digest, Document, Entry, Generation, Kind, Millis, SignerId, State};
use serde_json::Value;

pub fn document(data: &[u8]) {
    let Ok(parsed) = Document::parse(data) else { return };
    is_sound(&parsed);
    nothing_is_left_out(data, &parsed);
    is_written_as_read(&parsed);
    is_stored_as_read(&parsed.document);
}

fn is_sound(parsed: &Parsed) {
    let document = &parsed.document;
    assert!(document.entries.len() + document.removed.len() <= MAX_ENTRIES);
    let mut digests = BTreeSet::new();
    for entry in &document.entries {
        assert_eq!(entry.check(), Ok(()), "{entry:?}");
        assert!(digests.insert(entry.digest), "each digest once");
        assert!(entry.revision <= document.revision);
    }
    let denied = document.entries.iter().filter(|entry| entry.state == State::Unreadable).count();
    assert!(denied <= parsed.bad.len(), "who is denied is named");
    match document.kind {
        Kind::Snapshot { after, through } => {
            let through = through.unwrap_or(Digest::MAX);
            assert!(document.removed.is_empty());
            assert!(document.entries.is_sorted_by_key(|entry| entry.digest));
            for entry in &document.entries {
                assert!(after.is_none_or(|after| entry.digest > after) && entry.digest <= through);
            }
        }
        Kind::Changes { since } => {
            assert!(document.entries.is_sorted_by_key(|entry| entry.revision));
            assert!(document.entries.iter().all(|entry| entry.revision > since));
            assert!(since <= document.revision);
        }
    }
}

/// An entry that is left out could leave a revoked key alive; so could one that is read too kindly.
fn nothing_is_left_out(data: &[u8], parsed: &Parsed) {
    // What is ignored need not be text.
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    let named = |value: &Value| value.as_str().and_then(|text| text.parse::<Digest>().ok());
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    let held: BTreeMap<Digest, State> =
        parsed.document.entries.iter().map(|entry| (entry.digest, entry.state)).collect();
    for entry in list("entries") {
        let digest = named(&entry["digest"]).expect("without a digest the document is refused");
        let state = held.get(&digest).expect("every entry is kept");
        let mild = matches!(entry["state"].as_str(), Some("active" | "retiring" | "pending"));
        assert!(mild || state.is_denied(), "{entry} became {state:?}");
    }
    let removed: Vec<Digest> = list("removed").iter().filter_map(named).collect();
    assert_eq!(removed, parsed.document.removed);
}

fn is_written_as_read(parsed: &Parsed) {
    let mut document = parsed.document.clone();
    for entry in &mut document.entries {
        // No server writes this state.
        if entry.state == State::Unreadable {
            entry.state = State::Compromised;
        }
    }
    let written = serde_json::to_vec(&document).expect("documents are JSON");
    let mut again = Document::parse(&written).expect("what was read can be written");
    assert!(again.bad.is_empty());
    for document in [&mut document, &mut again.document] {
        document.entries.iter_mut().for_each(round_share);
    }
    assert_eq!(again.document, document);
}

/// A share is stored in 16 bits.
fn round_share(entry: &mut Entry) {
    if let Some(brownout) = &mut entry.brownout {
        let most = f64::from(u16::MAX);
        brownout.share = (brownout.share * most).round() / most;
    }
}

/// A ring that the document fits holds what it says.
fn is_stored_as_read(document: &Document) {
    let before = match document.kind {
        Kind::Changes { since } => Generation {
            complete: Some(Position { epoch: document.epoch, revision: since }),
            ..Generation::default()
        },
        Kind::Snapshot { .. } => Generation::default(),
    };
    let signer = SignerId::from_bytes([1; 8]);
    assert!(
        before.judge("another", document.clone(), signer, Millis(0), Ending::LastPage).is_err()
            || document.ring == "another"
    );
    let Ok(plan) = before.judge(&document.ring, document.clone(), signer, Millis(0), Ending::LastPage) else {
        return;
    };
    let write = match plan {
        Plan::Write(write) => write,
        Plan::Heartbeat(next) => {
            assert!(document.entries.is_empty() && next.complete == before.complete);
            return;
        }
    };
    let mut buckets: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    for round in 0..2 {
        for run in write.runs(|_| false) {
            let existing = buckets.get(&run.bucket).map(Vec::as_slice);
            let merged = merge(existing, write.epoch(), &run.ops).expect("our own bytes");
            assert!(round == 0 || merged.before == merged.after, "the second time changes nothing");
            buckets.insert(run.bucket, merged.bytes);
        }
    }
    let held = |digest: &Digest| {
        buckets.get(&digest.bucket()).and_then(|bytes| {
            Bucket::parse(bytes).expect("our own bytes").find(digest).expect("our own bytes")
        })
    };
    for entry in &document.entries {
        let mut expected = Entry { reinstated_in: None, ..entry.clone() };
        round_share(&mut expected);
        let mut held = held(&entry.digest).expect("it is stored");
        round_share(&mut held);
        assert_eq!(held, expected);
    }
    let named: BTreeSet<Digest> = document.entries.iter().map(|entry| entry.digest).collect();
    for digest in document.removed.iter().filter(|digest| !named.contains(digest)) {
        assert_eq!(held(digest), None);
    }
    let next = write.finish(0);
    assert_eq!(Generation::decode(&next.encode()), Ok(next));
}
