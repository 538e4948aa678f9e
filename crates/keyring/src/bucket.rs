//! The entries of one digest prefix, in the compact form that a proxy holds in shared data.
//!
//! ```text
//! format: u8 = 1 | epoch: 16 bytes | count: u32
//! digests:  count × 32 bytes, ascending
//! ends:     count × u32, where each record ends, counted from the first record
//! scopes:   lists: u8, each: count u8, then each scope: length u8 + bytes
//! records:  flags: u8 | [epoch: 16 bytes] | revision: varint | [not_before: varint] | [expires_at: varint]
//!           | [brown-out: share u16 of 65,535, until varint]
//!           | version, key, client: length u8 + bytes | which of the lists its scopes are: u8
//! ```
//!
//! A list of scopes is written once, since few lists serve many keys. Where a bucket has more than 255 of
//! them, a record's number is 255 and its own list follows.
//!
//! A version that begins with `kv_`, and a key with `key_`, is stored without that, and 129 is added to its
//! length: no name is longer than 128 bytes. If what is left is an id as keywheel makes them, 16 digits in
//! base62, the length is 255 and 12 bytes follow: each half as a number of 48 bits.
//!
//! Numbers of fixed width are little-endian. A bucket of 15 entries takes about 75 bytes an entry.
//! An entry whose flag says *carried* was written under an earlier epoch than the bucket's. If it denies, that
//! epoch stands in the record: only what was reinstated in a later one takes its place.

mod name;
mod record;

use record::{Lists, Record, Scopes};

use crate::bytes::Reader;
use crate::{Digest, Entry, Epoch};

pub use crate::bytes::Corrupt;

const FORMAT: u8 = 1;

/// One bucket, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'a> {
    epoch: Epoch,
    digests: &'a [[u8; 32]],
    ends: &'a [[u8; 4]],
    scopes: Lists<'a>,
    records: &'a [u8],
}

/// One change to a bucket.
#[derive(Debug, Clone, Copy)]
pub enum Op<'a> {
    /// Take the entry, unless the bucket has a newer one.
    Upsert(&'a Entry),
    /// Forget the digest, unless the bucket has it from a newer revision.
    Remove { digest: Digest, revision: u64 },
    /// Forget what a snapshot page cut at `revision` does not name: every digest after `after` and
    /// up to `through` that `named` (ascending) lacks.
    Sweep { after: Option<Digest>, through: Digest, revision: u64, named: &'a [Digest] },
}

/// What a merge made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    pub bytes: Vec<u8>,
    /// Entries before and after.
    pub before: usize,
    pub after: usize,
    /// Of those after, what lies in the range that was swept.
    pub swept: usize,
}

/// Applies `ops` in order, by (epoch, revision): what is newer stays.
///
/// `epoch` is the one under which the operations were published; it must not be older than the
/// bucket's. A denial from an earlier epoch gives way only to an entry reinstated in a later one than it is
/// from: within one epoch nothing says which of the two came first.
///
/// # Errors
///
/// [`Corrupt`] if the existing bytes are not a bucket. Nothing else can fail: a change that a bucket
/// could refuse would stop a whole ring.
pub fn merge(existing: Option<&[u8]>, epoch: Epoch, ops: &[Op<'_>]) -> Result<Merged, Corrupt> {
    let mut held = Records::default();
    if let Some(bytes) = existing {
        let bucket = Bucket::parse(bytes)?;
        let older = bucket.epoch < epoch;
        for (digest, record) in bucket.iter() {
            let mut record = Record::read(record?, bucket.scopes)?;
            if older && record.carried.is_none() {
                record.carried = Some(bucket.epoch);
            }
            held.insert(digest, record);
        }
    }
    let before = held.0.len();
    for op in ops {
        match *op {
            Op::Upsert(entry) => upsert(&mut held, epoch, entry),
            Op::Remove { digest, revision } => {
                held.remove_if(&digest, |record| record.carried.is_some() || record.revision <= revision);
            }
            Op::Sweep { after, through, revision, named } => held.0.retain(|(digest, record)| {
                let in_range = in_range(digest, after, through);
                let kept = match record.carried {
                    Some(_) => record.state.is_denied(),
                    None => record.revision > revision,
                };
                !in_range || kept || named.binary_search(digest).is_ok()
            }),
        }
    }
    let range = ops.iter().find_map(|op| match *op {
        Op::Sweep { after, through, .. } => Some((after, through)),
        _ => None,
    });
    let swept = range.map_or(0, |(after, through)| {
        held.0.iter().filter(|(digest, _)| in_range(digest, after, through)).count()
    });
    Ok(Merged { bytes: encode(epoch, &held.0), before, after: held.0.len(), swept })
}

fn in_range(digest: &Digest, after: Option<Digest>, through: Digest) -> bool {
    after.is_none_or(|after| *digest > after) && *digest <= through
}

fn upsert<'a>(held: &mut Records<'a>, epoch: Epoch, entry: &'a Entry) {
    let is_newer = |record: &Record<'_>| match record.carried {
        Some(denied_in) => {
            let reinstated = entry.reinstated_in.is_some_and(|at| denied_in < at && at <= epoch);
            !record.state.is_denied() || entry.state.is_denied() || reinstated
        }
        None => record.revision < entry.revision,
    };
    match held.find(&entry.digest) {
        Ok(at) => {
            if let Some((_, record)) = held.0.get_mut(at)
                && is_newer(record)
            {
                *record = Record::from(entry);
            }
        }
        Err(at) => held.0.insert(at, (entry.digest, Record::from(entry))),
    }
}

// === impl Records ===

/// The records of a bucket by their digests, which ascend. There are few of them, and nearly always what comes
/// next belongs at the end.
#[derive(Default)]
struct Records<'a>(Vec<(Digest, Record<'a>)>);

impl<'a> Records<'a> {
    /// Where the digest is, or where it belongs.
    fn find(&self, digest: &Digest) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if digest <= last => self.0.binary_search_by(|(held, _)| held.cmp(digest)),
            _ => Err(self.0.len()),
        }
    }

    fn insert(&mut self, digest: Digest, record: Record<'a>) {
        match self.find(&digest) {
            Ok(at) => {
                if let Some(held) = self.0.get_mut(at) {
                    *held = (digest, record);
                }
            }
            Err(at) => self.0.insert(at, (digest, record)),
        }
    }

    fn remove_if(&mut self, digest: &Digest, is_old: impl FnOnce(&Record<'a>) -> bool) {
        if let Ok(at) = self.find(digest)
            && self.0.get(at).is_some_and(|(_, record)| is_old(record))
        {
            self.0.remove(at);
        }
    }
}

// === impl Bucket ===

impl<'a> Bucket<'a> {
    /// # Errors
    ///
    /// [`Corrupt`] if the frame is not in this format. Records are checked when they are read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FORMAT {
            return Err(Corrupt);
        }
        let epoch = Epoch::from_bytes(reader.array()?);
        let count = reader.u32()? as usize;
        let (digests, _) = reader.take(count.saturating_mul(Digest::LEN))?.as_chunks();
        let (ends, _) = reader.take(count.saturating_mul(4))?.as_chunks();
        let scopes = Lists::read(&mut reader)?;
        Ok(Self { epoch, digests, ends, scopes, records: reader.0 })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// # Errors
    ///
    /// [`Corrupt`] if the record of that digest cannot be read.
    pub fn find(&self, digest: &Digest) -> Result<Option<Entry>, Corrupt> {
        // Which record is found may show in the time taken; how much of a digest matched may not.
        let Some(at) = self.digests.iter().position(|held| Digest::from_bytes(*held) == *digest) else {
            return Ok(None);
        };
        Record::read(self.record(at)?, self.scopes)?.entry(*digest).map(Some)
    }

    /// # Errors
    ///
    /// [`Corrupt`] if any record cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, Corrupt> {
        self.iter().map(|(digest, record)| Record::read(record?, self.scopes)?.entry(digest)).collect()
    }

    fn iter(self) -> impl Iterator<Item = (Digest, Result<&'a [u8], Corrupt>)> {
        let digests = self.digests.iter().map(|digest| Digest::from_bytes(*digest));
        digests.enumerate().map(move |(at, digest)| (digest, self.record(at)))
    }

    fn record(&self, at: usize) -> Result<&'a [u8], Corrupt> {
        let end = |at: usize| self.ends.get(at).map(|end| u32::from_le_bytes(*end) as usize);
        let start = match at.checked_sub(1) {
            Some(previous) => end(previous).ok_or(Corrupt)?,
            None => 0,
        };
        self.records.get(start..end(at).ok_or(Corrupt)?).ok_or(Corrupt)
    }
}

fn encode(epoch: Epoch, held: &[(Digest, Record<'_>)]) -> Vec<u8> {
    let mut lists: Vec<Scopes<'_>> = Vec::new();
    let mut records = Vec::with_capacity(held.len().saturating_mul(64));
    let mut ends = Vec::with_capacity(held.len().saturating_mul(4));
    for (_, record) in held {
        record.encode(&mut records, &mut lists);
        // A record is at most 3 KB, so that 32 bits address more than a proxy has memory for.
        ends.extend_from_slice(&(records.len() as u32).to_le_bytes());
    }
    let mut scopes = vec![lists.len() as u8];
    for list in lists {
        list.write(&mut scopes);
    }
    let size = held.len().saturating_mul(36).saturating_add(records.len()).saturating_add(scopes.len());
    let mut bytes = Vec::with_capacity(size.saturating_add(21));
    bytes.push(FORMAT);
    bytes.extend_from_slice(epoch.as_bytes());
    bytes.extend_from_slice(&(held.len() as u32).to_le_bytes());
    for (digest, _) in held {
        bytes.extend_from_slice(digest.as_bytes());
    }
    bytes.extend_from_slice(&ends);
    bytes.extend_from_slice(&scopes);
    bytes.extend_from_slice(&records);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Brownout, Millis, State};

    fn epoch(last: u8) -> Epoch {
        let mut bytes = [0; 16];
        bytes[15] = last;
        Epoch::from_bytes(bytes)
    }

    fn entry(key: &str, revision: u64, state: State) -> Entry {
        Entry::new(Digest::of(key.as_bytes()), "kv_1", "key_1", "acme", revision, state)
    }

    fn apply(existing: Option<&[u8]>, in_epoch: u8, ops: &[Op<'_>]) -> Vec<u8> {
        merge(existing, epoch(in_epoch), ops).unwrap().bytes
    }

    fn state_of(bytes: &[u8], key: &str) -> Option<State> {
        Bucket::parse(bytes).unwrap().find(&Digest::of(key.as_bytes())).unwrap().map(|entry| entry.state)
    }

    #[test]
    fn an_entry_comes_back_whole() {
        let full = Entry {
            not_before: Some(Millis(1_790_000_000_000)),
            expires_at: Some(Millis(1_790_000_600_000)),
            scopes: vec!["market:read".into(), "trade".into()],
            successor: true,
            brownout: Some(Brownout { share: 1.0, until: Millis(7) }),
            ..entry("k", u64::MAX, State::Retiring)
        };
        let bytes = apply(None, 1, &[Op::Upsert(&full)]);
        assert_eq!(Bucket::parse(&bytes).unwrap().entries().unwrap(), [full]);
    }

    #[test]
    fn names_of_every_length_come_back_whole() {
        for len in [0, 1, 3, 4, 122, 123, 124, 125, 126, 127, 128] {
            for (beginning, rest) in [("kv_", "x"), ("key_", "kv_"), ("", "kv_"), ("k", "y")] {
                let name: String = beginning.chars().chain(rest.chars().cycle()).take(len).collect();
                let entry =
                    Entry { version: name.clone(), key: name.clone(), ..entry("k", 1, State::Active) };
                let bytes = apply(None, 1, &[Op::Upsert(&entry)]);
                let found = Bucket::parse(&bytes).unwrap().entries().unwrap();
                assert_eq!((&found[0].version, &found[0].key), (&name, &name));
            }
        }
    }

    #[test]
    fn ids_take_twelve_bytes_and_come_back_whole() {
        for id in ["0000000000000000", "zzzzzzzzzzzzzzzz", "0123456789ABCDEF", "aZ0-456789ABCDEF"] {
            let entry = Entry {
                version: format!("kv_{id}"),
                key: format!("key_{id}"),
                ..entry("k", 1, State::Active)
            };
            let bytes = apply(None, 1, &[Op::Upsert(&entry)]);
            assert_eq!(Bucket::parse(&bytes).unwrap().entries().unwrap(), [entry], "{id}");
        }
    }

    #[test]
    fn scopes_come_back_whole_however_many_lists_there_are() {
        let scoped = |i: u64| Entry {
            scopes: (0..i % 300).take(3).map(|scope| format!("s{}-{scope}", i % 300)).collect(),
            ..entry(&i.to_string(), i, State::Active)
        };
        for count in [1, 254, 255, 256, 257, 600] {
            let entries: Vec<Entry> = (0..count).map(scoped).collect();
            let ops: Vec<Op<'_>> = entries.iter().map(Op::Upsert).collect();
            let bytes = apply(None, 1, &ops);
            assert_eq!(apply(Some(&bytes), 1, &[]), bytes);
            let bucket = Bucket::parse(&bytes).unwrap();
            for entry in &entries {
                assert_eq!(bucket.find(&entry.digest).unwrap().as_ref(), Some(entry), "of {count}");
            }
        }
    }

    #[test]
    fn an_older_or_repeated_change_changes_nothing() {
        let new = apply(None, 1, &[Op::Upsert(&entry("k", 5, State::Revoked))]);
        let again = apply(Some(&new), 1, &[Op::Upsert(&entry("k", 5, State::Active))]);
        let older = apply(Some(&new), 1, &[Op::Upsert(&entry("k", 4, State::Active))]);
        let removed = apply(Some(&new), 1, &[Op::Remove { digest: Digest::of(b"k"), revision: 4 }]);
        for bytes in [again, older, removed] {
            assert_eq!(bytes, new);
        }
        let newer = apply(Some(&new), 1, &[Op::Upsert(&entry("k", 6, State::Active))]);
        assert_eq!(state_of(&newer, "k"), Some(State::Active));
        let removed = apply(Some(&new), 1, &[Op::Remove { digest: Digest::of(b"k"), revision: 5 }]);
        assert_eq!(state_of(&removed, "k"), None);
    }

    #[test]
    fn denials_survive_an_epoch_unless_reinstated_in_a_later_one() {
        let old = apply(None, 2, &[Op::Upsert(&entry("k", 900, State::Revoked))]);
        let reinstated_in =
            |number: Option<u8>| Entry { reinstated_in: number.map(epoch), ..entry("k", 1, State::Active) };
        // Whether other changes carried the denial through the epochs between, or nothing did.
        let carried = apply(Some(&apply(Some(&old), 3, &[])), 4, &[]);
        for held in [&old, &carried] {
            for (number, state) in [
                (None, State::Revoked),
                (Some(1), State::Revoked),
                // Of the two, the denial may have come last.
                (Some(2), State::Revoked),
                (Some(3), State::Active),
                (Some(5), State::Active),
                // No server has such an epoch yet.
                (Some(6), State::Revoked),
            ] {
                let now = apply(Some(held), 5, &[Op::Upsert(&reinstated_in(number))]);
                assert_eq!(state_of(&now, "k"), Some(state), "reinstated in {number:?}");
            }
        }
    }

    #[test]
    fn a_live_entry_gives_way_to_a_new_epoch_whatever_its_revision() {
        let old = apply(None, 1, &[Op::Upsert(&entry("k", 900, State::Active))]);
        let new = apply(Some(&old), 2, &[Op::Upsert(&entry("k", 1, State::Retiring))]);
        assert_eq!(state_of(&new, "k"), Some(State::Retiring));
    }

    #[test]
    fn a_sweep_forgets_what_a_page_does_not_name() {
        let (a, b, c) =
            (entry("a", 1, State::Active), entry("b", 2, State::Revoked), entry("c", 9, State::Active));
        let all = apply(None, 1, &[Op::Upsert(&a), Op::Upsert(&b), Op::Upsert(&c)]);
        let named = [a.digest];
        let sweep = Op::Sweep { after: None, through: Digest::MAX, revision: 5, named: &named };

        let same_epoch = apply(Some(&all), 1, &[sweep]);
        assert_eq!(["a", "b", "c"].map(|key| state_of(&same_epoch, key).is_some()), [true, false, true]);

        let next_epoch = apply(Some(&all), 2, &[sweep]);
        assert_eq!(state_of(&next_epoch, "b"), Some(State::Revoked), "a denial outlives its epoch");
        assert_eq!(state_of(&next_epoch, "c"), None);

        let elsewhere = Op::Sweep { after: Some(Digest::MAX), through: Digest::MAX, revision: 5, named: &[] };
        assert_eq!(apply(Some(&all), 1, &[elsewhere]), all);
    }

    #[test]
    fn bytes_that_nobody_wrote_are_refused_not_read() {
        let good = apply(None, 1, &[Op::Upsert(&entry("k", 1, State::Active))]);
        for len in 0..good.len() {
            let cut = Bucket::parse(&good[..len]).and_then(|bucket| bucket.entries());
            assert_eq!(cut, Err(Corrupt), "cut at {len}");
        }
        assert!(Bucket::parse(b"\x02").is_err());
        assert_eq!(merge(Some(b"junk"), epoch(1), &[]), Err(Corrupt));
    }

    #[test]
    fn no_bucket_is_too_full_for_the_largest_entries() {
        let largest = |i: u64| Entry {
            version: "v".repeat(128),
            key: "k".repeat(128),
            client: "c".repeat(128),
            scopes: vec![format!("{i:s>64}"); 32],
            ..entry(&i.to_string(), i, State::Active)
        };
        let entries: Vec<Entry> = (1..200).map(largest).collect();
        let ops: Vec<Op<'_>> = entries.iter().map(Op::Upsert).collect();
        let bytes = apply(None, 1, &ops);
        assert!(bytes.len() > 4 * usize::from(u16::MAX));
        let bucket = Bucket::parse(&bytes).unwrap();
        for entry in &entries {
            assert_eq!(bucket.find(&entry.digest).unwrap().as_ref(), Some(entry));
        }
    }
}
