//! `bucket`: what shared data holds. The first byte says how the others are read:
//!
//! | first | the others |
//! |---|---|
//! | `b` | a bucket as another plugin may have left it |
//! | `g` | a generation |
//! | any other | changes, four bytes each: what, which key, which revision, how |
//!
//! A change is `u` (upsert; `a`ctive, `t` retired, `r`evoked, `c`ompromised, upper case: reinstated), `d`
//! (remove), `s` (sweep through the key; then after which, then a set of names in two bytes), `e` (next epoch).

use keywheel_keyring::bucket::{Bucket, Op, merge};
use keywheel_keyring::{Digest, Entry, Generation, State};

use super::bytes::Bytes;
use model::{KEYS, Step, digest, epoch};

#[path = "../../crates/keyring/tests/model/mod.rs"]
mod model;

/// More changes than this bring nothing new.
const MAX_STEPS: usize = 200;

pub fn bucket(data: &[u8]) {
    match data.split_first() {
        Some((b'b', bytes)) => any_bytes(bytes),
        Some((b'g', bytes)) => {
            if let Ok(generation) = Generation::decode(bytes) {
                assert_eq!(Generation::decode(&generation.encode()), Ok(generation));
            }
        }
        _ => model::agree(&steps(Bytes(data))),
    }
}

/// Whatever is stored is read in bounds; what can be read survives a merge that changes nothing.
fn any_bytes(bytes: &[u8]) {
    let Ok(bucket) = Bucket::parse(bytes) else {
        assert!(merge(Some(bytes), epoch(1), &[]).is_err());
        return;
    };
    let _ = bucket.find(&digest(1));
    let entry = Entry::new(digest(1), "kv", "key", "acme", u64::MAX, State::Active);
    let merged = merge(Some(bytes), epoch(0xff), &[Op::Upsert(&entry)]);
    let entries = bucket.entries();
    assert_eq!(merged.is_ok(), entries.is_ok(), "one bad record spoils the bucket");
    let Ok(mut entries) = entries else { return };
    for entry in &entries {
        assert!(bucket.find(&entry.digest).is_ok_and(|found| found.is_some()));
    }
    let same = merge(Some(bytes), epoch(0), &[]).expect("every record can be read");
    assert_eq!(same.before, same.after);
    // Of two records with one digest the later stays.
    entries.sort_by_key(|entry| entry.digest);
    entries.reverse();
    entries.dedup_by_key(|entry| entry.digest);
    entries.reverse();
    let held: Vec<Digest> = entries.iter().map(|entry| entry.digest).collect();
    let again = Bucket::parse(&same.bytes).and_then(|bucket| bucket.entries()).expect("our own bytes");
    assert_eq!(again.iter().map(|entry| entry.digest).collect::<Vec<_>>(), held);
}

fn steps(mut bytes: Bytes<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(what) = bytes.next()
        && steps.len() < MAX_STEPS
    {
        let (key, revision) = match what {
            b'e' | b' ' | b'\n' => (0, 0),
            _ => (bytes.below(KEYS), u64::from(bytes.below(40))),
        };
        steps.push(match what {
            b'e' if steps.iter().filter(|step| matches!(step, Step::NextEpoch)).count() < 200 => {
                Step::NextEpoch
            }
            b'u' => {
                let how = bytes.next().unwrap_or(b'a');
                let state = match how.to_ascii_lowercase() {
                    b't' => State::Retired,
                    b'r' => State::Revoked,
                    b'c' => State::Compromised,
                    _ => State::Active,
                };
                let epochs = steps.iter().filter(|step| matches!(step, Step::NextEpoch)).count();
                let now = u8::try_from(epochs).unwrap_or(u8::MAX).saturating_add(1);
                let reinstated_in = how.is_ascii_uppercase().then_some(now);
                Step::Upsert { key, revision, state, reinstated_in }
            }
            b'd' => Step::Remove { key, revision },
            b's' => {
                let after = bytes.below(KEYS + 1).checked_sub(1);
                let names = u16::from_le_bytes([bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)]);
                let named = (0..KEYS).filter(|key| names & (1 << key) != 0).collect();
                Step::Sweep { after, through: key, revision, named }
            }
            _ => continue,
        });
    }
    steps
}
