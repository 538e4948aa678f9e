//! Which documents a ring takes, and what each does to its buckets.
//!
//! A ring never goes back and never skips. [`Generation::judge`] decides from the generation and
//! the document alone; the [`Plan`] that it returns lists the bucket changes in the order in which
//! they must become visible, and the generation to write after them.
//!
//! While a snapshot is under way, the changes since its first page are taken too: a large ring takes
//! a while, and a revocation cannot wait for it. Neither drops nor overwrites what is newer, by the
//! entries' revisions. Only a removal leaves nothing behind that could be compared, so that no page is
//! taken which was cut before the last of them. After the last page the changes are followed from the
//! first page's revision, and what was taken meanwhile comes again.
//!
//! Pages may be much older than the ring: a relay keeps them for hours. So where changes can be asked for, a
//! snapshot is whole only once they were followed to their end: see [`Ending`].

mod write;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::document::{Kind, MAX_ENTRIES};
use crate::generation::{MAX_SIGNERS, Position, Sync};
use crate::{Digest, Document, Generation, Millis, SignerId};
pub use write::{Run, Write};

/// What a document does to a ring.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// No bucket changes: the ring's age is renewed, or a snapshot is found to be whole.
    Heartbeat(Box<Generation>),
    /// Write the buckets, in this order, then the generation.
    Write(Box<Write>),
}

/// What makes a snapshot a ring that can be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its last page: whoever brings the pages brings the changes in his own time.
    LastPage,
    /// The end of the changes since its first page, which were first asked for at `asked_at`. A key that was
    /// revoked after the pages were cut is not accepted for a moment.
    CaughtUp { asked_at: Millis },
}

/// Why a document changes nothing. Each is a value of the `reason` label of `keywheel_ring_rejected`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    Unsigned,
    UntrustedSigner,
    BadSignature,
    Unreadable,
    WrongRing,
    Expired,
    OlderEpoch,
    OtherEpoch,
    Older,
    /// What the ring has already. It is no attack and no fault, and is not counted.
    Known,
    Gap,
    /// A run of changes before the first page of a repair, or without a ring.
    OutOfTurn,
    /// The ring would rest on more signers than can be told apart. A snapshot rests on fewer.
    TooManySigners,
    /// A bucket could not take it.
    Bucket,
}

impl Rejection {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::UntrustedSigner => "untrusted_signer",
            Self::BadSignature => "bad_signature",
            Self::Unreadable => "unreadable",
            Self::WrongRing => "wrong_ring",
            Self::Expired => "expired",
            Self::OlderEpoch => "older_epoch",
            Self::OtherEpoch => "other_epoch",
            Self::Older => "older",
            Self::Known => "known",
            Self::Gap => "gap",
            Self::OutOfTurn => "out_of_turn",
            Self::TooManySigners => "too_many_signers",
            Self::Bucket => "bucket",
        }
    }
}

impl Generation {
    /// Decides what `document`, signed by `signer`, does to this ring.
    ///
    /// # Errors
    ///
    /// [`Rejection`]; the document then changes nothing.
    pub fn judge(
        &self,
        ring: &str,
        document: Document,
        signer: SignerId,
        now: Millis,
        ending: Ending,
    ) -> Result<Plan, Rejection> {
        if document.ring != ring {
            return Err(Rejection::WrongRing);
        }
        // A clock that was set back does not bring an expired document back.
        if document.expires_at <= now.max(self.issued_at) {
            return Err(Rejection::Expired);
        }
        if self.complete.is_some_and(|complete| document.epoch < complete.epoch) {
            return Err(Rejection::OlderEpoch);
        }
        match document.kind {
            Kind::Changes { since } => match &self.sync {
                None => self.judge_changes(since, document, signer),
                Some(sync) if sync.is_paged() => self.judge_end(sync, since, document, signer, ending),
                Some(sync) => self.judge_meanwhile(sync, since, document, signer),
            },
            Kind::Snapshot { after, through } => self.judge_page(after, through, document, signer, ending),
        }
    }

    fn judge_changes(&self, since: u64, mut document: Document, signer: SignerId) -> Result<Plan, Rejection> {
        let Some(complete) = self.complete.filter(|_| !self.repair) else {
            return Err(Rejection::OutOfTurn);
        };
        if document.epoch != complete.epoch {
            return Err(Rejection::OtherEpoch);
        }
        if since > complete.revision {
            return Err(Rejection::Gap);
        }
        let mut next = self.clone();
        next.accept(&document, signer, MAX_SIGNERS)?;
        match document.revision.cmp(&complete.revision) {
            Ordering::Less => return Err(Rejection::Older),
            Ordering::Equal if since == document.revision && document.issued_at > self.issued_at => {
                return Ok(Plan::Heartbeat(Box::new(next)));
            }
            Ordering::Equal => return Err(Rejection::Known),
            Ordering::Greater => {}
        }
        keep_what_came_back(&mut document);
        next.complete = Some(Position { revision: document.revision, ..complete });
        Ok(Plan::Write(Box::new(Write::changes(document, next, Some(Digest::MAX)))))
    }

    /// Changes while a snapshot is under way.
    fn judge_meanwhile(
        &self,
        sync: &Sync,
        since: u64,
        mut document: Document,
        signer: SignerId,
    ) -> Result<Plan, Rejection> {
        if document.epoch != sync.first.epoch {
            return Err(Rejection::OtherEpoch);
        }
        // What came before the first page is in the pages, if it comes in no run.
        if since > sync.upto.max(sync.first.revision) {
            return Err(Rejection::Gap);
        }
        match document.revision.cmp(&sync.upto) {
            Ordering::Less => return Err(Rejection::Older),
            Ordering::Equal => return Err(Rejection::Known),
            Ordering::Greater => {}
        }
        let (mut next, mut sync) = (self.clone(), sync.clone());
        next.accept(&document, signer, 2 * MAX_SIGNERS)?;
        add_signer(&mut sync.signers, signer, MAX_SIGNERS)?;
        keep_what_came_back(&mut document);
        // No page is older than the first, so what they cover is newer than what was before it: an entry that
        // came and went would come back for good.
        let (first, cursor) = (sync.first.revision, sync.cursor);
        let is_ahead = |digest: &Digest| cursor.is_none_or(|cursor| *digest > cursor);
        document.entries.retain(|entry| entry.revision > first || is_ahead(&entry.digest));
        let is_old = document.revision <= first;
        document.removed.retain(|digest| !is_old || is_ahead(digest));
        sync.upto = document.revision;
        if !document.removed.is_empty() {
            sync.floor = sync.floor.max(document.revision);
        }
        let counted = sync.cursor;
        next.sync = Some(sync);
        Ok(Plan::Write(Box::new(Write::changes(document, next, counted))))
    }

    /// Changes after a snapshot's last page.
    fn judge_end(
        &self,
        sync: &Sync,
        since: u64,
        mut document: Document,
        signer: SignerId,
        ending: Ending,
    ) -> Result<Plan, Rejection> {
        if document.epoch != sync.first.epoch {
            return Err(Rejection::OtherEpoch);
        }
        if since > sync.upto {
            return Err(Rejection::Gap);
        }
        let mut next = self.clone();
        let mut sync = sync.clone();
        next.accept(&document, signer, 2 * MAX_SIGNERS)?;
        add_signer(&mut sync.signers, signer, MAX_SIGNERS)?;
        match document.revision.cmp(&sync.upto) {
            Ordering::Less => return Err(Rejection::Older),
            // Whoever was asked has nothing behind it. Mostly that is a heartbeat; a relay whose upstream was gone right
            // after a change has only the run that it answered with before. Neither need be later than the pages.
            Ordering::Equal => {
                next.end(sync);
                return Ok(Plan::Heartbeat(Box::new(next)));
            }
            Ordering::Greater => {}
        }
        let is_end = match ending {
            Ending::LastPage => true,
            // Where changes come faster than they can be asked for, none is the last. One that was signed since, and
            // that was not cut for its length, went up to the head.
            Ending::CaughtUp { asked_at } => {
                let changes = document.entries.len().saturating_add(document.removed.len());
                document.issued_at >= asked_at && changes < MAX_ENTRIES
            }
        };
        keep_what_came_back(&mut document);
        sync.upto = document.revision;
        if is_end {
            next.end(sync);
        } else {
            next.sync = Some(sync);
        }
        Ok(Plan::Write(Box::new(Write::changes(document, next, Some(Digest::MAX)))))
    }

    /// The snapshot is whole, and what was enforced before is not any more.
    fn end(&mut self, sync: Sync) {
        self.complete = Some(Position { revision: sync.upto, ..sync.first });
        self.entries = sync.entries;
        self.signers = sync.signers;
        self.sync = None;
    }

    fn judge_page(
        &self,
        after: Option<Digest>,
        through: Option<Digest>,
        mut document: Document,
        signer: SignerId,
        ending: Ending,
    ) -> Result<Plan, Rejection> {
        let position = Position { epoch: document.epoch, revision: document.revision };
        if self.complete.is_some_and(|complete| position < complete) {
            return Err(Rejection::Older);
        }
        let mut sync = match &self.sync {
            Some(sync) if document.epoch < sync.first.epoch => return Err(Rejection::OlderEpoch),
            Some(sync) if document.epoch == sync.first.epoch && !sync.is_paged() => sync.clone(),
            // All pages are in. The first may come again, since the changes could not be followed; what they brought so
            // far must not be undone.
            Some(sync)
                if document.epoch == sync.first.epoch
                    && (after.is_some() || document.revision < sync.upto.max(sync.floor)) =>
            {
                return Err(Rejection::Older);
            }
            // A first page, or one of a later epoch, begins anew; it must begin at the beginning.
            _ if after.is_some() => return Err(Rejection::Gap),
            _ => Sync {
                first: position,
                // In one epoch, what lies between the ring and the first page need not wait for its page.
                upto: self
                    .complete
                    .filter(|complete| complete.epoch == position.epoch)
                    .map_or(position.revision, |complete| complete.revision),
                floor: position.revision,
                cursor: None,
                entries: 0,
                signers: Vec::new(),
            },
        };
        let through = through.unwrap_or(Digest::MAX);
        if position.revision < sync.floor || sync.cursor.is_some_and(|cursor| through <= cursor) {
            return Err(Rejection::Older);
        }
        if after > sync.cursor {
            return Err(Rejection::Gap);
        }
        // What earlier pages of this snapshot covered is theirs.
        let from = sync.cursor;
        document.entries.retain(|entry| from.is_none_or(|from| entry.digest > from));

        let mut next = self.clone();
        // Until its last page is in, a ring rests on the signers of the old one and of the new.
        next.accept(&document, signer, 2 * MAX_SIGNERS)?;
        next.repair = false;
        sync.cursor = Some(through);
        add_signer(&mut sync.signers, signer, MAX_SIGNERS)?;
        if through == Digest::MAX {
            // A bucket that was damaged may have missed what was taken meanwhile.
            sync.upto = sync.first.revision;
            sync.cursor = Some(Sync::PAGED);
        }
        if through == Digest::MAX && ending == Ending::LastPage {
            next.end(sync);
        } else {
            next.sync = Some(sync);
        }
        Ok(Plan::Write(Box::new(Write::page(document, next, from, through))))
    }

    fn accept(&mut self, document: &Document, signer: SignerId, most: usize) -> Result<(), Rejection> {
        self.issued_at = self.issued_at.max(document.issued_at);
        if let Some(prefix) = &document.key_prefix {
            self.key_prefix.clone_from(prefix);
        }
        add_signer(&mut self.signers, signer, most)
    }
}

/// What was removed and came back within a run is there at its end.
fn keep_what_came_back(document: &mut Document) {
    let back: BTreeSet<Digest> = document.entries.iter().map(|entry| entry.digest).collect();
    document.removed.retain(|digest| !back.contains(digest));
}

/// A signer that is left out would let in who does not trust it.
fn add_signer(signers: &mut Vec<SignerId>, signer: SignerId, most: usize) -> Result<(), Rejection> {
    if signers.contains(&signer) {
        return Ok(());
    }
    if signers.len() >= most {
        return Err(Rejection::TooManySigners);
    }
    signers.push(signer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Op;
    use crate::{Entry, Epoch, State};

    const NOW: Millis = Millis(1000);

    fn epoch(last: u8) -> Epoch {
        let mut bytes = [0; 16];
        bytes[15] = last;
        Epoch::from_bytes(bytes)
    }

    fn signer(id: u8) -> SignerId {
        SignerId::from_bytes([id; 8])
    }

    fn document(in_epoch: u8, kind: Kind, revision: u64) -> Document {
        Document {
            ring: "production".into(),
            epoch: epoch(in_epoch),
            kind,
            revision,
            issued_at: NOW,
            expires_at: Millis(2000),
            key_prefix: Some("kw_live_".into()),
            critical: vec![],
            entries: vec![],
            removed: vec![],
        }
    }

    fn changes(since: u64, revision: u64) -> Document {
        document(1, Kind::Changes { since }, revision)
    }

    fn page(in_epoch: u8, after: Option<u8>, through: Option<u8>, revision: u64) -> Document {
        let digest = |byte: Option<u8>| byte.map(|byte| Digest::from_bytes([byte; 32]));
        document(in_epoch, Kind::Snapshot { after: digest(after), through: digest(through) }, revision)
    }

    fn judge(held: &Generation, document: Document) -> Result<Generation, Rejection> {
        held.judge("production", document, signer(1), NOW, Ending::LastPage).map(|plan| match plan {
            Plan::Heartbeat(next) => *next,
            Plan::Write(write) => write.finish(0),
        })
    }

    /// As [`judge`], by a proxy that asks for changes; the last of its pages came at `NOW`.
    fn fetch(held: &Generation, document: Document) -> Result<Generation, Rejection> {
        let ending = Ending::CaughtUp { asked_at: NOW };
        held.judge("production", document, signer(1), NOW, ending).map(|plan| match plan {
            Plan::Heartbeat(next) => *next,
            Plan::Write(write) => write.finish(1),
        })
    }

    fn at(revision: u64) -> Generation {
        let held = judge(&Generation::default(), page(1, None, None, revision)).unwrap();
        assert_eq!(held.complete, Some(Position { epoch: epoch(1), revision }));
        held
    }

    #[test]
    fn a_ring_never_goes_back_and_never_skips() {
        let held = at(10);
        assert_eq!(judge(&held, changes(10, 12)).unwrap().complete.unwrap().revision, 12);
        assert_eq!(judge(&held, changes(7, 12)).unwrap().complete.unwrap().revision, 12);
        assert_eq!(judge(&held, changes(11, 12)), Err(Rejection::Gap));
        assert_eq!(judge(&held, changes(7, 10)), Err(Rejection::Known));
        assert_eq!(judge(&held, changes(7, 9)), Err(Rejection::Older));
        assert_eq!(judge(&held, page(1, None, None, 9)), Err(Rejection::Older));
        assert_eq!(judge(&held, document(2, Kind::Changes { since: 10 }, 12)), Err(Rejection::OtherEpoch));
        assert_eq!(judge(&held, document(0, Kind::Changes { since: 10 }, 12)), Err(Rejection::OlderEpoch));
        assert_eq!(judge(&held, page(0, None, None, 99)), Err(Rejection::OlderEpoch));
        let foreign = Document { ring: "staging".into(), ..changes(10, 12) };
        assert_eq!(judge(&held, foreign), Err(Rejection::WrongRing));
    }

    #[test]
    fn a_heartbeat_counts_only_when_it_is_later() {
        let held = at(10);
        assert_eq!(judge(&held, changes(10, 10)), Err(Rejection::Known), "issued at the same time");
        let later = Document { issued_at: Millis(1500), ..changes(10, 10) };
        assert_eq!(judge(&held, later).unwrap().issued_at, Millis(1500));
    }

    #[test]
    fn an_expired_document_is_not_installed_even_when_the_clock_is_set_back() {
        let held = at(10);
        let old = Document { expires_at: NOW, ..changes(10, 12) };
        assert_eq!(
            held.judge("production", old.clone(), signer(1), NOW, Ending::LastPage),
            Err(Rejection::Expired)
        );
        assert_eq!(
            held.judge("production", old, signer(1), Millis(0), Ending::LastPage),
            Err(Rejection::Expired)
        );
    }

    #[test]
    fn a_first_ring_is_absent_until_its_last_page() {
        let first = judge(&Generation::default(), page(1, None, Some(0x40), 10)).unwrap();
        assert_eq!(first.complete, None);
        assert_eq!(judge(&first, page(1, Some(0x41), Some(0x80), 11)), Err(Rejection::Gap));
        assert_eq!(judge(&first, page(1, Some(0x40), Some(0x80), 9)), Err(Rejection::Older));
        assert_eq!(judge(&first, page(1, None, Some(0x40), 11)), Err(Rejection::Older), "covers nothing new");

        let second = judge(&first, page(1, Some(0x30), Some(0x80), 12)).unwrap();
        assert_eq!(second.sync.as_ref().unwrap().first.revision, 10);
        let last = judge(&second, page(1, Some(0x80), None, 15)).unwrap();
        assert_eq!(
            last.complete,
            Some(Position { epoch: epoch(1), revision: 10 }),
            "follow from the first page"
        );
        assert_eq!(last.sync, None);
    }

    #[test]
    fn where_changes_can_be_asked_for_a_ring_is_absent_until_they_end() {
        let old = |since, revision| Document { issued_at: Millis(900), ..changes(since, revision) };
        let first = fetch(&Generation::default(), page(1, None, Some(0x40), 10)).unwrap();
        let paged = fetch(&first, page(1, Some(0x40), None, 12)).unwrap();
        let upto = |held: &Generation| held.sync.as_ref().map(|sync| sync.upto);
        assert_eq!((paged.complete, upto(&paged)), (None, Some(10)), "from the first page");
        assert_eq!(fetch(&paged, changes(11, 13)), Err(Rejection::Gap));
        assert_eq!(fetch(&paged, changes(8, 9)), Err(Rejection::Older));
        assert_eq!(fetch(&paged, document(2, Kind::Changes { since: 10 }, 13)), Err(Rejection::OtherEpoch));
        assert_eq!(fetch(&paged, page(1, Some(0x40), None, 13)), Err(Rejection::Older));
        // A relay's runs, signed long before: each may have another behind it.
        let behind = fetch(&paged, old(10, 13)).unwrap();
        assert_eq!((behind.complete, upto(&behind)), (None, Some(13)));
        assert_eq!(
            Generation::decode(&behind.encode()),
            Ok(behind.clone()),
            "the next leader goes on from here"
        );
        // Who has nothing behind a run says so by a heartbeat, or has none and answers with the run again.
        for nothing in [old(13, 13), old(10, 13)] {
            let whole = fetch(&behind, nothing).unwrap();
            assert_eq!(whole.complete, Some(Position { epoch: epoch(1), revision: 13 }));
            assert_eq!((whole.sync, whole.entries), (None, 3), "two pages and a run brought one each");
        }
    }

    /// A filter from before this rule, in the same process: it takes the cursor for a page that ended there, and asks
    /// for one more.
    #[test]
    fn an_earlier_filter_can_go_on_from_where_all_pages_are_in() {
        let paged = fetch(&Generation::default(), page(1, None, None, 10)).unwrap();
        let cursor = paged.sync.unwrap().cursor.unwrap();
        assert!(cursor < Digest::MAX, "a page may come behind it");
    }

    #[test]
    fn where_changes_never_end_one_that_was_signed_since_is_the_end() {
        let paged = fetch(&Generation::default(), page(1, None, None, 10)).unwrap();
        let whole = fetch(&paged, changes(10, 13)).unwrap();
        assert_eq!((whole.complete.map(|complete| complete.revision), whole.sync), (Some(13), None));
        // As much as goes into one document: the next one goes on.
        let full = Document { removed: vec![Digest::MAX; MAX_ENTRIES], ..changes(10, 600) };
        assert_eq!(fetch(&paged, full).unwrap().complete, None);
    }

    #[test]
    fn a_snapshot_whose_changes_cannot_be_followed_begins_anew_and_brings_nothing_back() {
        let paged = fetch(&Generation::default(), page(1, None, None, 10)).unwrap();
        let behind = fetch(&paged, Document { issued_at: Millis(900), ..changes(10, 13) }).unwrap();
        assert_eq!(fetch(&behind, page(1, None, Some(0x40), 12)), Err(Rejection::Older));
        let anew = fetch(&behind, page(1, None, Some(0x40), 13)).unwrap();
        assert_eq!(anew.sync.unwrap().first.revision, 13);
        let later = fetch(&behind, page(2, None, Some(0x40), 1)).unwrap();
        assert_eq!(later.sync.unwrap().first.epoch, epoch(2));
    }

    #[test]
    fn a_ring_that_is_fetched_anew_is_enforced_as_it_is_until_the_changes_end() {
        let held = Generation { repair: true, ..at(10) };
        let paged = fetch(&held, page(1, None, None, 20)).unwrap();
        assert_eq!((paged.complete, paged.repair), (held.complete, false));
        let whole = fetch(&paged, changes(20, 20)).unwrap();
        assert_eq!(whole.complete, Some(Position { epoch: epoch(1), revision: 20 }));
    }

    #[test]
    fn a_later_epoch_begins_a_snapshot_anew_and_the_old_ring_serves_meanwhile() {
        let held = at(10);
        assert_eq!(judge(&held, page(2, Some(0x40), None, 3)), Err(Rejection::Gap));
        let first = judge(&held, page(2, None, Some(0x40), 3)).unwrap();
        assert_eq!(first.complete, held.complete);
        assert_eq!(judge(&first, changes(10, 11)), Err(Rejection::OtherEpoch));
        assert_eq!(judge(&first, page(1, None, None, 11)), Err(Rejection::OlderEpoch));
        let newer = judge(&first, page(3, None, Some(0x20), 1)).unwrap();
        assert_eq!(newer.sync.as_ref().unwrap().first.epoch, epoch(3));
        let done = judge(&newer, page(3, Some(0x20), None, 1)).unwrap();
        assert_eq!(done.complete, Some(Position { epoch: epoch(3), revision: 1 }));
    }

    #[test]
    fn changes_during_a_snapshot_are_taken_in_order_and_do_not_end_it() {
        let first = judge(&at(10), page(2, None, Some(0x40), 30)).unwrap();
        let run = |since, revision| document(2, Kind::Changes { since }, revision);
        let upto = |held: &Generation| held.sync.as_ref().unwrap().upto;
        assert_eq!(upto(&first), 30);
        assert_eq!(judge(&first, run(31, 33)), Err(Rejection::Gap));
        let taken = judge(&first, run(29, 32)).unwrap();
        assert_eq!((upto(&taken), taken.complete), (32, first.complete), "nothing is complete by it");
        assert_eq!(judge(&taken, run(30, 32)), Err(Rejection::Known));
        assert_eq!(judge(&taken, run(30, 31)), Err(Rejection::Older));
        // A page from before the changes brings back nothing that is newer than it.
        let last = judge(&taken, page(2, Some(0x40), None, 30)).unwrap();
        assert_eq!(last.complete, Some(Position { epoch: epoch(2), revision: 30 }), "and they come again");
        assert_eq!(judge(&Generation { repair: true, ..at(10) }, changes(10, 11)), Err(Rejection::OutOfTurn));
    }

    #[test]
    fn a_repair_takes_what_changed_before_its_first_page() {
        let held = Generation { repair: true, ..at(10) };
        let first = judge(&held, page(1, None, Some(0x40), 20)).unwrap();
        let removal = Document { removed: vec![Digest::MAX], ..changes(10, 15) };
        let taken = judge(&first, removal).unwrap();
        let sync = taken.sync.as_ref().unwrap();
        assert_eq!((sync.upto, sync.floor), (15, 20), "no page may be older than the first");
        assert!(judge(&taken, changes(15, 22)).is_ok());
        // What the first page covers and does not name was removed before it was cut.
        let gone = Entry::new(Digest::from_bytes([0x30; 32]), "kv", "key", "acme", 12, State::Active);
        let run = Document { entries: vec![gone], ..changes(10, 15) };
        let Plan::Write(write) = first.judge("production", run, signer(1), NOW, Ending::LastPage).unwrap()
        else {
            panic!("changes are written")
        };
        assert!(write.runs(|_| true).is_empty());
        // A server that has no changes from so long ago goes on from the first page.
        assert!(judge(&first, changes(20, 22)).is_ok());
        assert_eq!(judge(&first, changes(21, 22)), Err(Rejection::Gap));
    }

    #[test]
    fn a_page_from_before_a_removal_is_refused() {
        let first = judge(&at(10), page(2, None, Some(0x40), 30)).unwrap();
        let removal = Document {
            removed: vec![Digest::from_bytes([0x50; 32])],
            ..document(2, Kind::Changes { since: 30 }, 32)
        };
        let taken = judge(&first, removal).unwrap();
        for (revision, outcome) in [(30, Err(Rejection::Older)), (31, Err(Rejection::Older)), (32, Ok(()))] {
            assert_eq!(judge(&taken, page(2, Some(0x40), None, revision)).map(drop), outcome, "{revision}");
        }
    }

    #[test]
    fn the_ring_names_the_signers_it_rests_on() {
        let held = at(10);
        let plan = held.judge("production", changes(10, 11), signer(2), NOW, Ending::LastPage).unwrap();
        let Plan::Write(write) = plan else { panic!("changes are written") };
        assert_eq!(write.finish(0).signers, [signer(1), signer(2)]);
    }

    #[test]
    fn more_signers_than_can_be_told_apart_are_refused_until_a_snapshot() {
        let mut held = at(10);
        let next = |held: &Generation, document: Document, by: u8| {
            held.judge("production", document, signer(by), NOW, Ending::LastPage).map(|plan| match plan {
                Plan::Heartbeat(next) => *next,
                Plan::Write(write) => write.finish(0),
            })
        };
        for by in 2..=16 {
            let revision = u64::from(by) + 9;
            held = next(&held, changes(revision - 1, revision), by).unwrap();
        }
        assert_eq!(next(&held, changes(25, 26), 17), Err(Rejection::TooManySigners));
        let first = next(&held, page(1, None, Some(0x40), 26), 17).unwrap();
        assert_eq!(Generation::decode(&first.encode()), Ok(first.clone()), "all 17 are kept meanwhile");
        let last = next(&first, page(1, Some(0x40), None, 26), 17).unwrap();
        assert_eq!(last.signers, [signer(17)]);
    }

    #[test]
    fn what_was_removed_and_came_back_in_one_run_is_there() {
        let back = Entry::new(Digest::of(b"k"), "kv", "key", "acme", 12, State::Active);
        let run = Document {
            removed: vec![back.digest, Digest::MAX],
            entries: vec![back.clone()],
            ..changes(10, 13)
        };
        let Plan::Write(write) = at(10).judge("production", run, signer(1), NOW, Ending::LastPage).unwrap()
        else {
            panic!("changes are written")
        };
        let removals =
            write.runs(|_| true).into_iter().filter(|run| matches!(run.ops[..], [Op::Remove { .. }]));
        assert_eq!(removals.map(|run| run.bucket).collect::<Vec<_>>(), [0xffff]);
    }

    #[test]
    fn a_new_version_is_visible_before_the_old_one_changes() {
        let entry = |bucket: u8, revision| {
            let mut digest = [0; 32];
            digest[0] = bucket;
            Entry::new(Digest::from_bytes(digest), "kv", "key", "acme", revision, State::Active)
        };
        let run = Document { entries: vec![entry(9, 11), entry(1, 12), entry(9, 13)], ..changes(10, 13) };
        let Plan::Write(write) = at(10).judge("production", run, signer(1), NOW, Ending::LastPage).unwrap()
        else {
            panic!("changes are written")
        };
        let order: Vec<u16> = write.runs(|_| true).iter().map(|run| run.bucket).collect();
        assert_eq!(order, [0x0900, 0x0100, 0x0900]);
    }
}
