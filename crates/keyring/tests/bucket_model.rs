//! A bucket agrees with a plain map after any sequence of changes, pages and epochs.

use std::collections::BTreeMap;

use keywheel_keyring::bucket::{Bucket, Op, merge};
use keywheel_keyring::{Digest, Entry, Epoch, State};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Upsert { key: u8, revision: u64, state: State, reinstated: bool },
    Remove { key: u8, revision: u64 },
    Sweep { after: Option<u8>, through: u8, revision: u64, named: Vec<u8> },
    NextEpoch,
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        4 => Just(State::Active),
        1 => Just(State::Retired),
        1 => Just(State::Revoked),
        1 => Just(State::Compromised),
    ];
    prop_oneof![
        6 => (0..12_u8, 0..40_u64, state, any::<bool>())
            .prop_map(|(key, revision, state, reinstated)| Step::Upsert { key, revision, state, reinstated }),
        2 => (0..12_u8, 0..40_u64).prop_map(|(key, revision)| Step::Remove { key, revision }),
        1 => (proptest::option::of(0..12_u8), 0..12_u8, 0..40_u64, proptest::collection::btree_set(0..12_u8, 0..6))
            .prop_map(|(after, through, revision, named)| {
                Step::Sweep { after, through, revision, named: named.into_iter().collect() }
            }),
        1 => Just(Step::NextEpoch),
    ]
}

/// All in one bucket, in the order of their numbers.
fn digest(key: u8) -> Digest {
    let mut bytes = [0; 32];
    bytes[31] = key;
    Digest::from_bytes(bytes)
}

fn epoch(number: u8) -> Epoch {
    let mut bytes = [0; 16];
    bytes[15] = number;
    Epoch::from_bytes(bytes)
}

/// The rules of DESIGN §6, on a map: what each digest has, and under which epoch.
#[derive(Default)]
struct Model(BTreeMap<u8, (u8, u64, State)>);

impl Model {
    fn apply(&mut self, now: u8, step: &Step) {
        match step {
            Step::Upsert { key, revision, state, reinstated } => {
                let takes = match self.0.get(key) {
                    None => true,
                    Some((held, held_revision, _)) if *held == now => held_revision < revision,
                    Some((_, _, held)) => !held.is_denied() || state.is_denied() || *reinstated,
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
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_agrees_with_a_map(steps in proptest::collection::vec(step(), 0..60)) {
        let mut model = Model::default();
        let mut bytes: Option<Vec<u8>> = None;
        let mut now = 1;
        for step in &steps {
            let entry;
            let named: Vec<Digest>;
            let op = match step {
                Step::NextEpoch => { now += 1; continue; }
                Step::Upsert { key, revision, state, reinstated } => {
                    entry = Entry {
                        reinstated_in: reinstated.then(|| epoch(now)),
                        ..Entry::new(digest(*key), "kv", "key", "acme", *revision, *state)
                    };
                    Op::Upsert(&entry)
                }
                Step::Remove { key, revision } => Op::Remove { digest: digest(*key), revision: *revision },
                Step::Sweep { after, through, revision, named: keys } => {
                    named = keys.iter().map(|key| digest(*key)).collect();
                    Op::Sweep {
                        after: after.map(digest), through: digest(*through), revision: *revision, named: &named,
                    }
                }
            };
            bytes = Some(merge(bytes.as_deref(), epoch(now), &[op]).unwrap().bytes);
            model.apply(now, step);
        }
        let bucket = bytes.as_deref().map(|bytes| Bucket::parse(bytes).unwrap());
        for key in 0..12 {
            let found = bucket.and_then(|bucket| bucket.find(&digest(key)).unwrap());
            let expected = model.0.get(&key).map(|(_, revision, state)| (*revision, *state));
            prop_assert_eq!(found.map(|entry| (entry.revision, entry.state)), expected);
        }
    }

    #[test]
    fn no_bytes_make_a_bucket_or_a_merge_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), flip: usize, value: u8,
    ) {
        let entry = Entry::new(digest(1), "kv", "key", "acme", 1, State::Active);
        let read = |bytes: &[u8]| {
            if let Ok(bucket) = Bucket::parse(bytes) {
                let _ = bucket.entries();
                let _ = bucket.find(&digest(1));
            }
            let _ = merge(Some(bytes), epoch(1), &[Op::Upsert(&entry)]);
        };
        read(&bytes);
        let mut good = merge(None, epoch(1), &[Op::Upsert(&entry)]).unwrap().bytes;
        let at = flip % good.len();
        good[at] = value;
        read(&good);
    }
}
