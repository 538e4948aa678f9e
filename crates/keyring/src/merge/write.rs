//! What a document changes in the buckets, and in which order.

use crate::bucket::Op;
use crate::{Digest, Document, Epoch, Generation};

/// Bucket changes and the generation that follows them.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    document: Document,
    next: Generation,
    /// The range that a page covers.
    sweep: Option<(Option<Digest>, Digest)>,
    named: Vec<Digest>,
    /// Up to which digest entries count as held; what lies behind is counted with the page that brings it.
    counted: Option<Digest>,
}

/// Changes to one bucket.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    pub bucket: u16,
    pub ops: Vec<Op<'a>>,
    /// Whether entries that it adds count as held by now.
    pub counts: bool,
}

impl Write {
    /// The generation that follows, but for the number of entries after a run of changes.
    #[must_use]
    pub const fn next(&self) -> &Generation {
        &self.next
    }

    /// Whether this is a run of changes that comes again when the snapshot under way is done.
    #[must_use]
    pub fn comes_again(&self) -> bool {
        self.sweep.is_none() && self.next.sync.as_ref().is_some_and(|sync| !sync.is_paged())
    }

    /// Whether this is a page of a snapshot.
    #[must_use]
    pub const fn is_page(&self) -> bool {
        self.sweep.is_some()
    }

    /// The epoch under which the changes were published.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.document.epoch
    }

    /// A run of changes.
    pub(super) const fn changes(document: Document, next: Generation, counted: Option<Digest>) -> Self {
        Self { document, next, sweep: None, named: Vec::new(), counted }
    }

    /// A page, which covers what is behind the first of these digests, up to the second.
    pub(super) fn page(document: Document, next: Generation, after: Option<Digest>, through: Digest) -> Self {
        let named = document.entries.iter().map(|entry| entry.digest).collect();
        Self { document, next, sweep: Some((after, through)), named, counted: None }
    }

    /// The changes, grouped by bucket without changing the order in which revisions become visible:
    /// a rotation's new version is there before its old one ends. A page sweeps only the buckets that
    /// `occupied` says may hold something: few entries leave most of its range empty.
    #[must_use]
    pub fn runs(&self, occupied: impl Fn(u16) -> bool) -> Vec<Run<'_>> {
        let mut runs: Vec<Run<'_>> = Vec::new();
        let mut push = |bucket: u16, counts: bool, op| match runs.last_mut() {
            Some(last) if last.bucket == bucket && last.counts == counts => last.ops.push(op),
            _ => runs.push(Run { bucket, ops: vec![op], counts }),
        };
        let counts = |digest: &Digest| self.counted.is_some_and(|counted| *digest <= counted);
        match self.sweep {
            None => {
                for entry in &self.document.entries {
                    push(entry.digest.bucket(), counts(&entry.digest), Op::Upsert(entry));
                }
                for digest in &self.document.removed {
                    let op = Op::Remove { digest: *digest, revision: self.document.revision };
                    push(digest.bucket(), counts(digest), op);
                }
            }
            Some((after, through)) => {
                // Entries ascend, and so do the buckets that the page covers.
                let revision = self.document.revision;
                let first = after.map_or(0, |after| after.bucket());
                let mut entries = self.document.entries.iter().peekable();
                for bucket in first..=through.bucket() {
                    if !occupied(bucket) && entries.peek().is_none_or(|entry| entry.digest.bucket() != bucket)
                    {
                        continue;
                    }
                    push(bucket, true, Op::Sweep { after, through, revision, named: &self.named });
                    while let Some(entry) = entries.next_if(|entry| entry.digest.bucket() == bucket) {
                        push(bucket, true, Op::Upsert(entry));
                    }
                }
            }
        }
        runs
    }

    /// The generation to write after the buckets. `count` is how many entries the runs that count added,
    /// or how many a page's range holds now.
    #[must_use]
    pub fn finish(mut self, count: i64) -> Generation {
        let entries = match &mut self.next.sync {
            Some(sync) => &mut sync.entries,
            None => &mut self.next.entries,
        };
        *entries = entries.saturating_add_signed(count);
        self.next
    }
}
