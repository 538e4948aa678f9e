//! A bucket as a plain map, with the rules of DESIGN §6 and nothing else.

use std::collections::BTreeMap;

use keywheel_keyring::bucket::{Bucket, Corrupt, Op, merge};
use keywheel_keyring::{Digest, Entry, Epoch, State};

/// How many keys there are.
pub(crate) const KEYS: u8 = 12;

/// What happens to a bucket.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Upsert { key: u8, revision: u64, state: State, reinstated_in: Option<u8> },
    Remove { key: u8, revision: u64 },
    Sweep { after: Option<u8>, through: u8, revision: u64, named: Vec<u8> },
    NextEpoch,
}

/// What each key has, and under which epoch.
#[derive(Default)]
pub(crate) struct Model(BTreeMap<u8, (u8, u64, State)>);

/// All in one bucket, in the order of their numbers.
pub(crate) fn digest(key: u8) -> Digest {
    let mut bytes = [0; 32];
    bytes[31] = key;
    Digest::from_bytes(bytes)
}

pub(crate) fn epoch(number: u8) -> Epoch {
    let mut bytes = [0; 16];
    bytes[15] = number;
    Epoch::from_bytes(bytes)
}

impl Model {
    pub(crate) fn apply(&mut self, now: u8, step: &Step) {
        match step {
            Step::Upsert { key, revision, state, reinstated_in } => {
                let takes = match self.0.get(key) {
                    None => true,
                    Some((held, held_revision, _)) if *held == now => held_revision < revision,
                    Some((from, _, held)) => {
                        let reinstated = reinstated_in.is_some_and(|at| *from < at && at <= now);
                        !held.is_denied() || state.is_denied() || reinstated
                    }
                };
                if takes {
                    self.0.insert(*key, (now, *revision, *state));
                }
            }
            Step::Remove { key, revision } => {
                self.0.retain(|held, (epoch, held_revision, _)| {
                    held != key || (*epoch == now && *held_revision > *revision)
                });
            }
            Step::Sweep { after, through, revision, named } => self.0.retain(|key, (epoch, held, state)| {
                let covered = after.is_none_or(|after| *key > after) && key <= through;
                let newer = if *epoch == now { *held > *revision } else { state.is_denied() };
                !covered || newer || named.contains(key)
            }),
            Step::NextEpoch => {}
        }
    }

    pub(crate) fn get(&self, key: u8) -> Option<(u64, State)> {
        self.0.get(&key).map(|(_, revision, state)| (*revision, *state))
    }
}

/// The bucket after a step under epoch `now`.
pub(crate) fn apply(bytes: Option<&[u8]>, now: u8, step: &Step) -> Result<Option<Vec<u8>>, Corrupt> {
    let entry;
    let named: Vec<Digest>;
    let op = match step {
        Step::NextEpoch => return Ok(bytes.map(<[u8]>::to_vec)),
        Step::Upsert { key, revision, state, reinstated_in } => {
            entry = Entry {
                reinstated_in: reinstated_in.map(epoch),
                ..Entry::new(digest(*key), "kv", "key", "acme", *revision, *state)
            };
            Op::Upsert(&entry)
        }
        Step::Remove { key, revision } => Op::Remove { digest: digest(*key), revision: *revision },
        Step::Sweep { after, through, revision, named: keys } => {
            named = keys.iter().map(|key| digest(*key)).collect();
            Op::Sweep {
                after: after.map(digest),
                through: digest(*through),
                revision: *revision,
                named: &named,
            }
        }
    };
    Ok(Some(merge(bytes, epoch(now), &[op])?.bytes))
}

/// Takes the steps in order, each twice: a change that arrives again changes nothing.
pub(crate) fn agree(steps: &[Step]) {
    let mut model = Model::default();
    let mut bytes: Option<Vec<u8>> = None;
    let mut now = 1;
    for step in steps {
        if matches!(step, Step::NextEpoch) {
            now += 1;
        }
        let once = apply(bytes.as_deref(), now, step).expect("our own bytes");
        // A reinstatement of this epoch is as good the second time.
        let twice = apply(once.as_deref(), now, step).expect("our own bytes");
        assert_eq!(once, twice, "{step:?} came twice");
        bytes = once;
        model.apply(now, step);
        let bucket = bytes.as_deref().map(|bytes| Bucket::parse(bytes).expect("our own bytes"));
        for key in 0..KEYS {
            let found = bucket.and_then(|bucket| bucket.find(&digest(key)).expect("our own bytes"));
            assert_eq!(
                found.map(|entry| (entry.revision, entry.state)),
                model.get(key),
                "{key} after {step:?}"
            );
        }
    }
}
