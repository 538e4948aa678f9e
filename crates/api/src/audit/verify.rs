//! Whether a trail is whole, up to its checkpoints.

use std::cmp::Reverse;

use keywheel_keyring::PublicKey;
use keywheel_keyring::signature::{self, SignatureError};

use super::{AuditRecord, Chain, Checkpoint, Head, bytes};

/// The first thing that is wrong with a trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("record {seq} was altered: its hash is not the one of what it says")]
    Altered { seq: u64 },
    #[error("{} missing", Span(*.from, *.to))]
    Missing { from: u64, to: u64 },
    #[error("record {seq} is out of place: record {expected} belongs there")]
    OutOfPlace { seq: u64, expected: u64 },
    #[error("record {seq} does not continue the one before it: one of the two was replaced")]
    Unlinked { seq: u64 },
    #[error("{} missing, which a checkpoint covers", Span(*.from, *.to))]
    CutOff { from: u64, to: u64 },
    #[error(
        "{} not what the checkpoint at record {to} was signed over: at least one was replaced, and the hashes after it were made anew",
        Span(*.from, *.to)
    )]
    Rewritten { from: u64, to: u64 },
    #[error("the checkpoint at record {seq} {}", why(*.cause))]
    Checkpoint { seq: u64, cause: SignatureError },
}

/// What a trail without fault consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub head: Head,
    /// How many checkpoints hold.
    pub checkpoints: u64,
    /// The last record that a checkpoint covers. What was dropped or rewritten after it leaves no trace.
    pub covered: u64,
}

/// Takes records in their order, as they come.
#[derive(Debug)]
pub struct Verifier {
    chain: Chain,
    /// By record, the earliest last.
    ahead: Vec<Checkpoint>,
    covered: u64,
    checkpoints: u64,
}

/// Verifies a whole trail at once.
///
/// # Errors
///
/// [`Fault`].
pub fn verify<'a>(
    records: impl IntoIterator<Item = &'a AuditRecord>,
    checkpoints: &[Checkpoint],
    trust: &[PublicKey],
) -> Result<Verified, Fault> {
    let mut verifier = Verifier::new(checkpoints.to_vec(), trust)?;
    for record in records {
        verifier.take(record)?;
    }
    verifier.finish()
}

impl Verifier {
    /// # Errors
    ///
    /// [`Fault::Checkpoint`] if one is not signed by a key in `trust`.
    pub fn new(checkpoints: Vec<Checkpoint>, trust: &[PublicKey]) -> Result<Self, Fault> {
        Self::after(Head::START, checkpoints, trust)
    }

    /// Goes on from `head`, up to which a trail is known to be good. Earlier checkpoints are left aside.
    ///
    /// # Errors
    ///
    /// As [`Verifier::new`].
    pub fn after(head: Head, mut checkpoints: Vec<Checkpoint>, trust: &[PublicKey]) -> Result<Self, Fault> {
        checkpoints.retain(|checkpoint| checkpoint.seq > head.seq);
        checkpoints.sort_by_key(|checkpoint| Reverse(checkpoint.seq));
        for checkpoint in checkpoints.iter().rev() {
            let Checkpoint { seq, at, signer, signature, .. } = checkpoint;
            let body = bytes::checkpoint(checkpoint.head(), *at);
            signature::verify(trust, &body, Some(signer.as_bytes()), Some(signature.as_bytes()))
                .map_err(|cause| Fault::Checkpoint { seq: *seq, cause })?;
        }
        Ok(Self { chain: Chain::new(head), ahead: checkpoints, covered: head.seq, checkpoints: 0 })
    }

    /// # Errors
    ///
    /// [`Fault`]; what follows it says nothing.
    pub fn take(&mut self, record: &AuditRecord) -> Result<(), Fault> {
        self.chain.follow(record)?;
        while let Some(checkpoint) = self.ahead.pop_if(|checkpoint| checkpoint.seq <= record.seq) {
            let Head { seq, hash } = self.chain.head();
            if checkpoint.hash != hash {
                return Err(Fault::Rewritten { from: self.covered.saturating_add(1).min(seq), to: seq });
            }
            self.covered = seq;
            self.checkpoints = self.checkpoints.saturating_add(1);
        }
        Ok(())
    }

    /// # Errors
    ///
    /// [`Fault::CutOff`] if a checkpoint covers more than came.
    pub fn finish(self) -> Result<Verified, Fault> {
        let head = self.chain.head();
        match self.ahead.first() {
            Some(last) if last.seq > head.seq => {
                Err(Fault::CutOff { from: head.seq.saturating_add(1), to: last.seq })
            }
            _ => Ok(Verified { head, checkpoints: self.checkpoints, covered: self.covered }),
        }
    }
}

const fn why(cause: SignatureError) -> &'static str {
    match cause {
        SignatureError::Missing => "is not signed",
        SignatureError::Untrusted => "is signed by a key that is not trusted",
        SignatureError::Wrong => "was altered: its signature does not fit it",
    }
}

/// `record 3 is`, `records 3 to 5 are`.
struct Span(u64, u64);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self(from, to) if from == to => write!(f, "record {from} is"),
            Self(from, to) => write!(f, "records {from} to {to} are"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use keywheel_keyring::{Digest, SigningKey};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;
    use crate::audit::AuditEvent;

    fn key() -> SigningKey {
        SigningKey::from_seed([7; 32])
    }

    fn event(n: u64) -> AuditEvent {
        AuditEvent {
            at: Timestamp::from_millisecond(n as i64).unwrap(),
            actor: format!("token_{n}"),
            action: "key.revoke".into(),
            resource: format!("key_{n}"),
            before: n.is_multiple_of(2).then(|| format!("{{\"n\":{n}}}")),
            after: Some("{}".into()),
            request_id: Some(format!("r{n}")),
            client_address: n.is_multiple_of(3).then(|| "127.0.0.1".into()),
        }
    }

    fn chained(events: impl IntoIterator<Item = AuditEvent>) -> Vec<AuditRecord> {
        let mut head = Head::START;
        let next = |event| {
            let record = head.append(event);
            head = record.head();
            record
        };
        events.into_iter().map(next).collect()
    }

    fn trail(len: u64) -> Vec<AuditRecord> {
        chained((1..=len).map(event))
    }

    /// A checkpoint at each of these records.
    fn signed(records: &[AuditRecord], at: &[usize]) -> Vec<Checkpoint> {
        let sign = |seq: &usize| Checkpoint::sign(records[seq - 1].head(), Timestamp::UNIX_EPOCH, &key());
        at.iter().map(sign).collect()
    }

    fn check(records: &[AuditRecord], checkpoints: &[Checkpoint]) -> Result<Verified, Fault> {
        verify(records, checkpoints, &[key().public()])
    }

    /// One way to edit each field.
    const EDITS: [fn(&mut AuditRecord); 20] = [
        |record| record.seq += 1,
        |record| record.seq = 0,
        |record| record.event.at = Timestamp::from_millisecond(record.event.at.as_millisecond() + 1).unwrap(),
        |record| record.event.actor.push('x'),
        |record| record.event.actor.clear(),
        |record| record.event.action.push('x'),
        |record| record.event.resource.push('x'),
        |record| std::mem::swap(&mut record.event.actor, &mut record.event.resource),
        |record| {
            // The same letters in the same order, divided otherwise.
            let last = record.event.action.pop().unwrap();
            record.event.resource.insert(0, last);
        },
        |record| record.event.before = Some(String::new()),
        |record| record.event.before = Some("[]".into()),
        |record| record.event.after = None,
        |record| record.event.after = Some(String::new()),
        |record| record.event.after = Some("{ }".into()),
        |record| record.event.before = record.event.after.take(),
        |record| record.event.request_id = None,
        |record| record.event.client_address = Some("127.0.0.2".into()),
        |record| record.event.client_address = record.event.request_id.take(),
        |record| record.previous = Digest::of(b"x"),
        |record| record.hash = Digest::of(b"x"),
    ];

    #[test]
    fn a_whole_trail_holds_and_says_how_far_it_is_covered() {
        let records = trail(9);
        let end = records[8].head();
        assert_eq!(check(&records, &[]), Ok(Verified { head: end, checkpoints: 0, covered: 0 }));
        let checkpoints = signed(&records, &[7, 3, 3]);
        assert_eq!(check(&records, &checkpoints), Ok(Verified { head: end, checkpoints: 3, covered: 7 }));
        assert_eq!(check(&[], &[]).unwrap().head, Head::START);
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let records = trail(9);
        let checkpoints = signed(&records, &[3, 8]);
        let says = |records: &[AuditRecord], what: &str| {
            assert_eq!(check(records, &checkpoints).unwrap_err().to_string(), what);
        };
        let without = |seqs: &[u64]| -> Vec<_> {
            records.iter().filter(|record| !seqs.contains(&record.seq)).cloned().collect()
        };
        says(&without(&[1]), "record 1 is missing");
        says(&without(&[4]), "record 4 is missing");
        says(&without(&[4, 5]), "records 4 to 5 are missing");
        says(&without(&[8, 9]), "record 8 is missing, which a checkpoint covers");
        says(&[], "records 1 to 8 are missing, which a checkpoint covers");
        assert!(check(&without(&[9]), &checkpoints).is_ok(), "no checkpoint covers the last one");

        let mut twice = records.clone();
        twice.insert(4, records[3].clone());
        says(&twice, "record 4 is out of place: record 5 belongs there");

        // Whoever knows the chain makes every hash anew, but has no signing key.
        let mut events: Vec<_> = records.iter().map(|record| record.event.clone()).collect();
        events[4].actor = "token_x".into();
        says(
            &chained(events.clone()),
            "records 4 to 8 are not what the checkpoint at record 8 was signed over: at least one was replaced, and the hashes after it were made anew",
        );
        let mut one = records.clone();
        one[4] = records[3].head().append(events[4].clone());
        says(&one, "record 6 does not continue the one before it: one of the two was replaced");
    }

    #[test]
    fn a_checkpoint_must_be_signed_by_a_trusted_key_and_be_unaltered() {
        let records = trail(5);
        let good = Checkpoint::sign(records[4].head(), Timestamp::UNIX_EPOCH, &key());
        let says = |checkpoint: &Checkpoint, what: &str| {
            let fault = check(&records, std::slice::from_ref(checkpoint)).unwrap_err();
            assert!(matches!(fault, Fault::Checkpoint { .. }), "{fault}");
            assert!(fault.to_string().contains(what), "{fault}");
        };
        let altered = "its signature does not fit it";
        says(&Checkpoint { seq: 4, ..good.clone() }, altered);
        says(&Checkpoint { hash: Digest::of(b"x"), ..good.clone() }, altered);
        says(&Checkpoint { at: Timestamp::MAX, ..good.clone() }, altered);
        says(&Checkpoint { signature: "AAAA".into(), ..good }, altered);
        let stranger = SigningKey::from_seed([8; 32]);
        says(&Checkpoint::sign(records[4].head(), Timestamp::UNIX_EPOCH, &stranger), "not trusted");
    }

    proptest! {
        #[test]
        fn any_edited_field_is_found_and_named(len in 2_u64..20, at: Index, edit in select(&EDITS[..])) {
            let good = trail(len);
            let mut records = good.clone();
            let at = at.index(records.len());
            edit(&mut records[at]);
            prop_assume!(records != good);
            let seq = at as u64 + 1;
            let fault = check(&records, &[]).unwrap_err();
            let edited = records[at].seq;
            let expected = if edited == seq {
                Fault::Altered { seq }
            } else if edited > seq {
                Fault::Missing { from: seq, to: seq }
            } else {
                Fault::OutOfPlace { seq: edited, expected: seq }
            };
            prop_assert_eq!(fault, expected);
        }

        #[test]
        fn any_dropped_run_is_found_and_named(len in 1_u64..20, from: Index, count in 1_usize..20) {
            let good = trail(len);
            let checkpoints = signed(&good, &[good.len()]);
            let from = from.index(good.len());
            let to = (from + count).min(good.len());
            let mut records = good.clone();
            records.drain(from..to);
            let (first, last) = (from as u64 + 1, to as u64);
            let fault = check(&records, &checkpoints).unwrap_err();
            let expected = if to == good.len() {
                Fault::CutOff { from: first, to: last }
            } else {
                Fault::Missing { from: first, to: last }
            };
            prop_assert_eq!(fault, expected);
        }

        #[test]
        fn any_inserted_record_is_found(len in 1_u64..20, at: Index, again in any::<bool>()) {
            let good = trail(len);
            let at = at.index(good.len());
            let mut records = good.clone();
            // An event that never was, well linked; or one that was there already.
            let head = if at == 0 { Head::START } else { good[at - 1].head() };
            let inserted = if again { good[at].clone() } else { head.append(event(99)) };
            records.insert(at, inserted);
            let expected = Fault::OutOfPlace { seq: at as u64 + 1, expected: at as u64 + 2 };
            prop_assert_eq!(check(&records, &[]).unwrap_err(), expected);
        }

        #[test]
        fn any_two_swapped_records_are_found_and_the_first_named(
            len in 2_u64..20, a: Index, b: Index, renumbered in any::<bool>(),
        ) {
            let good = trail(len);
            let (a, b) = (a.index(good.len()), b.index(good.len()));
            prop_assume!(a < b);
            let mut records = good;
            records.swap(a, b);
            if renumbered {
                (records[a].seq, records[b].seq) = (a as u64 + 1, b as u64 + 1);
            }
            let first = a as u64 + 1;
            let expected = if renumbered {
                Fault::Altered { seq: first }
            } else {
                Fault::Missing { from: first, to: b as u64 }
            };
            prop_assert_eq!(check(&records, &[]).unwrap_err(), expected);
        }

        #[test]
        fn whoever_makes_the_hashes_anew_does_not_pass_a_checkpoint(
            len in 1_u64..20, at: Index, covered: Index,
        ) {
            let good = trail(len);
            let (at, covered) = (at.index(good.len()), covered.index(good.len()));
            let checkpoints = signed(&good, &[covered + 1]);
            let mut events: Vec<_> = good.into_iter().map(|record| record.event).collect();
            events[at].actor.push('x');
            let found = check(&chained(events), &checkpoints);
            if at <= covered {
                prop_assert_eq!(found.unwrap_err(), Fault::Rewritten { from: 1, to: covered as u64 + 1 });
            } else {
                prop_assert!(found.is_ok(), "what no checkpoint covers leaves no trace");
            }
        }

        #[test]
        fn no_two_events_have_the_same_bytes(texts in proptest::collection::vec("[ab\\x01\\x00]{0,2}", 10)) {
            let event = |texts: &[String]| {
                let optional = |text: &String| (text != "a").then(|| text.clone());
                AuditEvent {
                    at: Timestamp::UNIX_EPOCH,
                    actor: texts[0].clone(),
                    action: texts[1].clone(),
                    resource: String::new(),
                    before: optional(&texts[2]),
                    after: optional(&texts[3]),
                    request_id: optional(&texts[4]),
                    client_address: None,
                }
            };
            let (a, b) = (event(&texts[..5]), event(&texts[5..]));
            let hashes = [a.clone(), b.clone()].map(|event| Head::START.append(event).hash);
            prop_assert_eq!(a == b, hashes[0] == hashes[1]);
        }
    }
}
