//! What a relay holds of one ring, and what fits to it. No I/O: documents come in as [`Facts`], places go out.
//!
//! A **generation** is all pages of one snapshot. After it come the runs of changes since its first page, without
//! a gap, and the newest heartbeat at their end: the **log**. A proxy that takes pages and follows the log has the
//! ring as it is at the log's head. The generation is fetched anew from time to time, while the one that is there
//! is served: its pages expire, a signing key's turn ends, and a long log is much to follow.

mod serve;

use std::cmp::Ordering;
use std::collections::VecDeque;

use keywheel_keyring::{Digest, Epoch, Kind, Millis};

use crate::document::Facts;
pub use serve::{Changes, Unanswered};

/// How long the upstream may hold a poll, in seconds. A heartbeat comes as often, and a proxy that waits for 25 seconds
/// gets one that it has not seen, behind three relays too.
pub const WAIT: u64 = 8;
/// Pages are fetched anew when they are so old, in milliseconds: they expire after 24 hours.
const FRESH_FOR: u64 = 12 * 3600 * 1000;
/// And when more runs follow them than this and one for each page.
const FOLLOWED: usize = 16;
/// But no sooner after the last time, in milliseconds.
const PAUSE: u64 = 10_000;
/// Runs from before the generation that are kept for proxies which are behind.
const KEPT_RUNS: usize = 256;

/// What to ask the upstream for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Changes { epoch: Epoch, since: u64, wait: u64 },
    Page { after: Option<Digest>, epoch: Option<Epoch>, at_least: u64 },
}

/// Where a document is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A generation is named by when its first page was issued, which no other's was.
    Page {
        epoch: Epoch,
        generation: Millis,
        number: usize,
    },
    Run {
        epoch: Epoch,
        since: u64,
        revision: u64,
    },
    /// One of each epoch; the next takes its place.
    Heartbeat {
        epoch: Epoch,
        issued_at: Millis,
    },
}

/// Why a document from upstream is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("it has expired; is the clock of this machine right?")]
    Expired,
    #[error("it is of an earlier epoch than what is held")]
    OlderEpoch,
    #[error("it is of another epoch than what came before it")]
    OtherEpoch,
    #[error("it is older than what is held: the upstream's data is an older copy")]
    Older,
    #[error("it is held already")]
    Known,
    #[error("it does not join on to what is held")]
    Gap,
    #[error("nobody asked for it")]
    OutOfTurn,
}

/// What is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    Generation { epoch: Epoch, generation: Millis },
    Run { epoch: Epoch, since: u64, revision: u64 },
    Epoch(Epoch),
}

/// What a document has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whether what is served changed but for its age.
    pub news: bool,
    pub dropped: Vec<Dropped>,
}

/// One ring's documents.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    held: Option<Held>,
    build: Option<Build>,
    /// The upstream has no changes from where the log ends.
    gone: bool,
    /// A page could not be read any more.
    damaged: bool,
    refreshed_at: Millis,
}

/// What is served.
#[derive(Debug, Clone)]
struct Held {
    pages: Vec<Facts>,
    log: Log,
}

/// Runs of changes that join end to end.
#[derive(Debug, Clone)]
struct Log {
    epoch: Epoch,
    /// From which revision on it has all changes.
    start: u64,
    head: u64,
    runs: VecDeque<Facts>,
    heartbeat: Option<Facts>,
    /// The upstream was asked from this revision on, and had nothing that is not held.
    asked: Option<u64>,
}

/// A generation under way. It has a page.
#[derive(Debug, Clone)]
struct Build {
    first: Facts,
    pages: Vec<Facts>,
    /// `None` where it is of the epoch that is held, whose log serves both.
    log: Option<Log>,
    done: bool,
}

impl Archive {
    /// What was found on disk, if it adds up to a ring: pages in their order, runs in any.
    #[must_use]
    pub fn restore(pages: Vec<Facts>, mut runs: Vec<Facts>, heartbeat: Option<Facts>) -> Option<Self> {
        let first = *pages.first()?;
        let (mut cursor, mut latest) = (None, first.revision);
        for (number, page) in pages.iter().enumerate() {
            let Kind::Snapshot { after, through } = page.kind else { return None };
            let joins = if number == 0 { after.is_none() } else { cursor.is_some() && after <= cursor };
            let goes_on = through.is_none_or(|through| cursor.is_none_or(|cursor| through > cursor));
            if !joins || !goes_on || page.epoch != first.epoch || page.revision < first.revision {
                return None;
            }
            (cursor, latest) = (through, latest.max(page.revision));
        }
        if cursor.is_some() {
            return None;
        }
        let mut log = Log::new(&first);
        runs.sort_by_key(|run| run.revision);
        for document in runs.into_iter().chain(heartbeat) {
            match log.place(&document) {
                Ok(_) => log.push(document),
                // What is missing before it may have revoked a key. A ring from before that is no ring.
                Err(Misfit::Gap) => return None,
                Err(_) => {}
            }
        }
        if log.head < latest {
            return None;
        }
        Some(Self { held: Some(Held { pages, log }), ..Self::default() })
    }

    /// Whether a run is held that ends at this revision.
    #[must_use]
    pub fn has_run(&self, revision: u64) -> bool {
        let run =
            self.held.as_ref().map(|held| held.log.runs.binary_search_by_key(&revision, |run| run.revision));
        run.is_some_and(|found| found.is_ok())
    }

    /// Of what is served.
    #[must_use]
    pub fn position(&self) -> Option<(Epoch, u64)> {
        self.held.as_ref().map(|held| (held.log.epoch, held.log.head))
    }

    /// When the newest document that is served was signed.
    #[must_use]
    pub fn issued_at(&self) -> Option<Millis> {
        self.held.as_ref().map(Held::issued_at)
    }

    /// Whether a proxy that has nothing could take the ring.
    #[must_use]
    pub fn is_installable(&self, now: Millis) -> bool {
        self.held.as_ref().is_some_and(|held| held.pages.iter().all(|page| page.expires_at > now))
    }

    /// The next poll. While a later epoch is fetched, its log is followed, and what is held stays as it is.
    #[must_use]
    pub fn poll(&self) -> Option<Ask> {
        let log = self.following().filter(|_| !self.gone)?;
        // A proxy that acknowledges the head at once is answered with the heartbeat at the head.
        let wait = if log.is_at_head() { WAIT } else { 0 };
        Some(Ask::Changes { epoch: log.epoch, since: log.head, wait })
    }

    /// The next page of a generation, if one is wanted.
    #[must_use]
    pub fn page(&self, now: Millis) -> Option<Ask> {
        if let Some(build) = &self.build {
            let last = build.pages.last().unwrap_or(&build.first);
            let Kind::Snapshot { through, .. } = last.kind else { return None };
            let (epoch, at_least) = (Some(build.first.epoch), build.first.revision);
            return (!build.done).then_some(Ask::Page { after: through, epoch, at_least });
        }
        let first = Ask::Page { after: None, epoch: None, at_least: 0 };
        let Some(held) = self.held.as_ref().filter(|_| !self.gone) else { return Some(first) };
        let (epoch, at_least) = (Some(held.log.epoch), held.log.head);
        let due = self.damaged || held.is_due(now);
        (due && now.saturating_since(self.refreshed_at) >= PAUSE).then_some(Ask::Page {
            after: None,
            epoch,
            at_least,
        })
    }

    /// The upstream answered that it has no history from there.
    pub fn gone(&mut self) -> Vec<Dropped> {
        self.gone = true;
        self.abandon()
    }

    /// The upstream was asked for changes, and answered with what is held already.
    pub fn nothing_more(&mut self, now: Millis) -> Accepted {
        let building = self.build.as_mut().and_then(|build| build.log.as_mut());
        if let Some(log) = building.or_else(|| self.held.as_mut().map(|held| &mut held.log)) {
            log.asked = Some(log.head);
        }
        match self.finish(now) {
            Some(dropped) => Accepted { news: true, dropped },
            None => Accepted { news: false, dropped: Vec::new() },
        }
    }

    /// What is held could not be read: the generation is fetched anew. Returns whether that is news.
    pub const fn damaged(&mut self) -> bool {
        !std::mem::replace(&mut self.damaged, true)
    }

    /// Gives the generation under way up; another begins with its first page.
    pub fn abandon(&mut self) -> Vec<Dropped> {
        let Some(build) = self.build.take() else { return Vec::new() };
        let epoch = build.first.epoch;
        if build.log.is_some() {
            vec![Dropped::Epoch(epoch)]
        } else {
            vec![Dropped::Generation { epoch, generation: build.first.issued_at }]
        }
    }

    /// Where a document belongs.
    ///
    /// # Errors
    ///
    /// [`Misfit`]: it changes nothing.
    pub fn judge(&self, facts: &Facts, now: Millis) -> Result<Place, Misfit> {
        // A clock that was set back does not bring an expired document back.
        if facts.expires_at <= now.max(self.issued_at().unwrap_or_default()) {
            return Err(Misfit::Expired);
        }
        let Kind::Snapshot { after, through } = facts.kind else {
            return self.following().ok_or(Misfit::OutOfTurn)?.place(facts);
        };
        let Some(build) = &self.build else {
            if after.is_some() {
                return Err(Misfit::Gap);
            }
            if let Some((epoch, head)) = self.position() {
                if facts.epoch < epoch {
                    return Err(Misfit::OlderEpoch);
                }
                if facts.epoch == epoch && facts.revision < head {
                    return Err(Misfit::Older);
                }
            }
            return Ok(Place::Page { epoch: facts.epoch, generation: facts.issued_at, number: 0 });
        };
        let cursor = match build.pages.last().map(|page| page.kind) {
            Some(Kind::Snapshot { through: Some(through), .. }) => through,
            _ => return Err(Misfit::OutOfTurn),
        };
        if facts.epoch != build.first.epoch {
            return Err(Misfit::OtherEpoch);
        }
        if facts.revision < build.first.revision {
            return Err(Misfit::Older);
        }
        if through.is_some_and(|through| through <= cursor) {
            return Err(Misfit::Known);
        }
        if after > Some(cursor) {
            return Err(Misfit::Gap);
        }
        let (epoch, generation) = (facts.epoch, build.first.issued_at);
        Ok(Place::Page { epoch, generation, number: build.pages.len() })
    }

    /// Takes a document that was judged to fit, and that is on disk.
    ///
    /// # Errors
    ///
    /// As [`Archive::judge`].
    pub fn accept(&mut self, facts: Facts, now: Millis) -> Result<Accepted, Misfit> {
        let place = self.judge(&facts, now)?;
        let mut news = false;
        let mut dropped = Vec::new();
        match (facts.kind, &mut self.build) {
            (Kind::Changes { .. }, Some(Build { log: Some(log), .. })) => log.push(facts),
            (Kind::Changes { .. }, _) => {
                news = matches!(place, Place::Run { .. });
                if let Some(held) = &mut self.held {
                    held.log.push(facts);
                }
            }
            (Kind::Snapshot { through, .. }, Some(build)) => {
                build.pages.push(facts);
                build.done = through.is_none();
            }
            (Kind::Snapshot { through, .. }, none) => {
                let held = self.held.as_ref().map(|held| held.log.epoch);
                let log = (held != Some(facts.epoch)).then(|| Log::new(&facts));
                *none = Some(Build { first: facts, pages: vec![facts], log, done: through.is_none() });
                self.gone = false;
            }
        }
        if let Some(old) = self.finish(now) {
            news = true;
            dropped = old;
        }
        Ok(Accepted { news, dropped })
    }

    /// Serves the generation under way in the place of the one that is held, once it is whole: its pages, and the
    /// changes up to the latest of them. No rotation is then seen from one side alone.
    fn finish(&mut self, now: Millis) -> Option<Vec<Dropped>> {
        let build = self.build.as_ref().filter(|build| build.done)?;
        let log = build.log.as_ref().or_else(|| self.held.as_ref().map(|held| &held.log))?;
        let latest = build.pages.iter().map(|page| page.revision).max()?;
        if log.head < latest || !log.is_at_head() {
            return None;
        }
        let Build { first, pages, log, .. } = self.build.take()?;
        (self.refreshed_at, self.damaged) = (now, false);
        let Some(log) = log else {
            let held = self.held.as_mut()?;
            let old = std::mem::replace(&mut held.pages, pages);
            let epoch = first.epoch;
            let old = old.first().map(|page| Dropped::Generation { epoch, generation: page.issued_at });
            return Some(old.into_iter().chain(held.log.forget(first.revision)).collect());
        };
        let old = self.held.replace(Held { pages, log });
        Some(old.into_iter().map(|held| Dropped::Epoch(held.log.epoch)).collect())
    }

    fn following(&self) -> Option<&Log> {
        let building = self.build.as_ref().and_then(|build| build.log.as_ref());
        building.or_else(|| self.held.as_ref().map(|held| &held.log))
    }
}

// === impl Held ===

impl Held {
    fn issued_at(&self) -> Millis {
        let pages = self.pages.iter().chain(self.log.runs.back()).chain(&self.log.heartbeat);
        pages.map(|facts| facts.issued_at).max().unwrap_or_default()
    }

    fn first(&self) -> u64 {
        self.pages.first().map_or(0, |page| page.revision)
    }

    fn is_due(&self, now: Millis) -> bool {
        let first = self.first();
        let followed = self.log.runs.iter().rev().take_while(|run| run.revision > first).count();
        let newest =
            self.log.heartbeat.iter().chain(self.log.runs.back()).max_by_key(|facts| facts.issued_at);
        // A proxy that trusts the next signing key alone takes no page of the last one.
        let is_of_others = |page: &Facts| newest.is_some_and(|newest| newest.signer != page.signer);
        followed > FOLLOWED.saturating_add(self.pages.len())
            || self
                .pages
                .iter()
                .any(|page| is_of_others(page) || now.saturating_since(page.issued_at) > FRESH_FOR)
    }
}

// === impl Log ===

impl Log {
    const fn new(first: &Facts) -> Self {
        let Facts { epoch, revision, .. } = *first;
        Self { epoch, start: revision, head: revision, runs: VecDeque::new(), heartbeat: None, asked: None }
    }

    fn place(&self, facts: &Facts) -> Result<Place, Misfit> {
        let Kind::Changes { since } = facts.kind else { return Err(Misfit::OutOfTurn) };
        let Facts { epoch, revision, issued_at, .. } = *facts;
        if epoch != self.epoch {
            return Err(Misfit::OtherEpoch);
        }
        if since > self.head {
            return Err(Misfit::Gap);
        }
        let later = |beat: Facts| beat.issued_at < issued_at;
        match revision.cmp(&self.head) {
            Ordering::Less => Err(Misfit::Older),
            Ordering::Greater => Ok(Place::Run { epoch, since, revision }),
            Ordering::Equal if since == revision && self.heartbeat.is_none_or(later) => {
                Ok(Place::Heartbeat { epoch, issued_at })
            }
            Ordering::Equal => Err(Misfit::Known),
        }
    }

    /// Whether the upstream had nothing behind the head when it was asked last. Mostly a heartbeat says so; a relay whose own
    /// upstream is away may have only the run that ends there.
    fn is_at_head(&self) -> bool {
        self.asked == Some(self.head) || self.heartbeat.is_some_and(|beat| beat.revision == self.head)
    }

    fn push(&mut self, facts: Facts) {
        if facts.revision > self.head {
            self.head = facts.revision;
            self.runs.push_back(facts);
        } else {
            self.heartbeat = Some(facts);
        }
    }

    /// Runs from before `first`, but for the latest of them.
    fn forget(&mut self, first: u64) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        while self.runs.len() > KEPT_RUNS {
            let Some(run) = self.runs.pop_front_if(|run| run.revision <= first) else { break };
            if let Kind::Changes { since } = run.kind {
                dropped.push(Dropped::Run { epoch: run.epoch, since, revision: run.revision });
            }
            self.start = self.runs.front().map_or(run.revision, |next| match next.kind {
                Kind::Changes { since } => since,
                Kind::Snapshot { .. } => run.revision,
            });
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use keywheel_keyring::SignerId;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn facts(kind: Kind, revision: u64, issued_at: u64, signer: &str) -> Facts {
        let signer: SignerId = signer.parse().unwrap();
        let (issued_at, expires_at) = (Millis(issued_at), Millis(issued_at + 24 * HOUR));
        Facts { epoch: Epoch::from_bytes([1; 16]), kind, revision, issued_at, expires_at, signer }
    }

    const ONE: &str = "0101010101010101";

    fn digest(first: u8) -> Digest {
        Digest::from_bytes([first; 32])
    }

    /// Pages up to 0x40, 0x80 and the end, the last of them of revision 3, and one run of changes.
    fn archive() -> Archive {
        let page = |after: Option<u8>, through: Option<u8>, revision| {
            let kind = Kind::Snapshot { after: after.map(digest), through: through.map(digest) };
            facts(kind, revision, 1_000, ONE)
        };
        let pages =
            vec![page(None, Some(0x40), 2), page(Some(0x40), Some(0x80), 2), page(Some(0x80), None, 3)];
        let runs = vec![facts(Kind::Changes { since: 2 }, 4, 1_001, ONE)];
        let beat = facts(Kind::Changes { since: 4 }, 4, 1_002, ONE);
        Archive::restore(pages, runs, Some(beat)).unwrap()
    }

    #[test]
    fn a_reader_gets_the_page_that_covers_what_comes_next() {
        let archive = archive();
        let number = |after: Option<u8>, at_least| {
            let found = archive.page_for(after.map(digest), None, at_least, Millis(0));
            found.map(|(place, _, ahead)| match place {
                Place::Page { number, .. } => (number, ahead),
                _ => panic!("{place:?}"),
            })
        };
        assert_eq!(number(None, 0), Ok((0, Some(digest(0x80)))));
        assert_eq!(number(Some(0x40), 2), Ok((1, None)));
        assert_eq!(number(Some(0x3f), 2), Ok((0, Some(digest(0x80)))), "it covers more than is asked for");
        assert_eq!(number(Some(0x80), 3), Ok((2, None)));
        assert_eq!(number(Some(0x40), 3), Err(Unanswered::NotHeld), "it was cut before");
        assert_eq!(number(None, 5), Err(Unanswered::Behind { head: 4 }));
        let late = archive.page_for(None, None, 0, Millis(1_000 + 24 * HOUR));
        assert_eq!(late, Err(Unanswered::Expired));
    }

    #[test]
    fn pages_are_fetched_anew_when_they_are_old_or_of_another_signer_or_far_behind() {
        let fresh = Millis(1_000 + FRESH_FOR);
        assert_eq!(archive().page(fresh), None);
        let anew = Some(Ask::Page { after: None, epoch: Some(Epoch::from_bytes([1; 16])), at_least: 4 });
        assert_eq!(archive().page(Millis(fresh.0 + 1)), anew);

        let mut signed_anew = archive();
        signed_anew
            .accept(facts(Kind::Changes { since: 4 }, 4, 2_000, "0202020202020202"), Millis(0))
            .unwrap();
        assert_eq!(signed_anew.page(Millis(PAUSE)), anew);

        let mut behind = archive();
        for revision in 5..=23 {
            assert_eq!(behind.page(Millis(PAUSE)), None, "{revision}");
            behind
                .accept(facts(Kind::Changes { since: revision - 1 }, revision, 2_000, ONE), Millis(0))
                .unwrap();
        }
        let anew = Ask::Page { after: None, epoch: Some(Epoch::from_bytes([1; 16])), at_least: 23 };
        assert_eq!(behind.page(Millis(PAUSE)), Some(anew));
        assert_eq!(behind.page(Millis(PAUSE - 1)), None, "not too often");
    }

    #[test]
    fn an_upstream_that_has_no_heartbeat_at_its_head_is_followed_all_the_same() {
        let mut archive = Archive::default();
        archive
            .accept(facts(Kind::Snapshot { after: None, through: None }, 2, 1_000, ONE), Millis(0))
            .unwrap();
        let run = facts(Kind::Changes { since: 2 }, 4, 1_001, ONE);
        archive.accept(run, Millis(0)).unwrap();
        assert_eq!(archive.position(), None, "there may be more behind it");
        assert_eq!(archive.accept(run, Millis(0)), Err(Misfit::Known));
        assert!(archive.nothing_more(Millis(0)).news);
        assert_eq!(archive.position().unwrap().1, 4);
        assert!(matches!(archive.poll(), Some(Ask::Changes { since: 4, wait: WAIT, .. })));
        archive.accept(facts(Kind::Changes { since: 4 }, 5, 1_002, ONE), Millis(0)).unwrap();
        assert!(matches!(archive.poll(), Some(Ask::Changes { since: 5, wait: 0, .. })));
    }

    #[test]
    fn an_upstream_that_is_an_older_copy_takes_nothing_back() {
        let mut archive = archive();
        let first = Kind::Snapshot { after: None, through: None };
        assert_eq!(archive.gone(), []);
        assert_eq!(archive.poll(), None, "it has no history from here");
        assert_eq!(archive.accept(facts(first, 3, 9_000, ONE), Millis(0)), Err(Misfit::Older));
        assert_eq!(archive.position().unwrap().1, 4);
        archive.accept(facts(first, 7, 9_001, ONE), Millis(0)).unwrap();
        assert_eq!(archive.position().unwrap().1, 4, "the changes up to there are yet to come");
        assert!(archive.poll().is_some());
    }
}
