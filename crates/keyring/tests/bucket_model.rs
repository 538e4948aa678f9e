//! A bucket agrees with a plain map after any sequence of changes, pages and epochs.

mod model;

use keywheel_keyring::bucket::{Bucket, Op, merge};
use keywheel_keyring::{Entry, State};
use proptest::prelude::*;

use model::{Step, digest, epoch};

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        4 => Just(State::Active),
        1 => Just(State::Retired),
        1 => Just(State::Revoked),
        1 => Just(State::Compromised),
    ];
    prop_oneof![
        6 => (0..12_u8, 0..40_u64, state, proptest::option::of(0..8_u8)).prop_map(
            |(key, revision, state, reinstated_in)| Step::Upsert { key, revision, state, reinstated_in }
        ),
        2 => (0..12_u8, 0..40_u64).prop_map(|(key, revision)| Step::Remove { key, revision }),
        1 => (proptest::option::of(0..12_u8), 0..12_u8, 0..40_u64, proptest::collection::btree_set(0..12_u8, 0..6))
            .prop_map(|(after, through, revision, named)| {
                Step::Sweep { after, through, revision, named: named.into_iter().collect() }
            }),
        1 => Just(Step::NextEpoch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_agrees_with_a_map(steps in proptest::collection::vec(step(), 0..60)) {
        model::agree(&steps);
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
