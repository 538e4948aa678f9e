//! What of an archive answers a reader.

use keywheel_keyring::{Digest, Epoch, Kind, Millis};

use super::{Archive, Held, Place};
use crate::document::Facts;

/// What a reader of changes gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// A run, after which so many more follow.
    Run(Place, Facts, usize),
    /// It has everything.
    AtHead,
}

/// Why the archive has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    #[error("the relay does not hold this ring yet")]
    Absent,
    /// The reader shall take a snapshot.
    #[error("the ring's epoch is {0}; take a snapshot")]
    EarlierEpoch(Epoch),
    /// The reader has more than the relay, which will come to have it.
    #[error("the relay is not there yet: it ends at revision {head}")]
    Behind { head: u64 },
    /// Nothing that is held reaches there; the upstream may have it.
    #[error("the relay holds no document from there on")]
    NotHeld,
    /// It may not be installed any more.
    #[error("what the relay holds has expired, and its upstream does not answer")]
    Expired,
}

impl Archive {
    /// The page that covers what comes after `after`, and where the page behind it ends.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub fn page_for(
        &self,
        after: Option<Digest>,
        epoch: Option<Epoch>,
        at_least: u64,
        now: Millis,
    ) -> Result<(Place, Facts, Option<Digest>), Unanswered> {
        let held = self.held(epoch)?;
        if at_least > held.log.head {
            return Err(Unanswered::Behind { head: held.log.head });
        }
        let covers = |page: &Facts| through(page).is_none_or(|through| Some(through) > after);
        let number = held.pages.iter().position(covers).ok_or(Unanswered::NotHeld)?;
        let page = *held.pages.get(number).ok_or(Unanswered::NotHeld)?;
        if page.revision < at_least {
            return Err(Unanswered::NotHeld);
        }
        if page.expires_at <= now {
            return Err(Unanswered::Expired);
        }
        let generation = held.pages.first().map_or(page.issued_at, |first| first.issued_at);
        let ahead = held.pages.get(number.saturating_add(1)).and_then(through);
        Ok((Place::Page { epoch: page.epoch, generation, number }, page, ahead))
    }

    /// The run that covers what comes after `since`.
    ///
    /// # Errors
    ///
    /// [`Unanswered`].
    pub fn changes_for(&self, epoch: Epoch, since: u64, now: Millis) -> Result<Changes, Unanswered> {
        let log = &self.held(Some(epoch))?.log;
        if since > log.head {
            return Err(Unanswered::Behind { head: log.head });
        }
        if since == log.head {
            return Ok(Changes::AtHead);
        }
        let at = log.runs.partition_point(|run| run.revision <= since);
        let run = *log.runs.get(at).filter(|_| since >= log.start).ok_or(Unanswered::NotHeld)?;
        let Kind::Changes { since } = run.kind else { return Err(Unanswered::NotHeld) };
        // The pages are newer.
        if run.expires_at <= now {
            return Err(Unanswered::NotHeld);
        }
        let more = log.runs.len().saturating_sub(at.saturating_add(1));
        Ok(Changes::Run(Place::Run { epoch, since, revision: run.revision }, run, more))
    }

    /// For a reader that has everything: the newest heartbeat. Right after a change the run itself, which says no less: the
    /// reader has it, and nothing comes behind it.
    #[must_use]
    pub fn heartbeat(&self, now: Millis) -> Option<(Place, Facts)> {
        let log = &self.held.as_ref()?.log;
        let epoch = log.epoch;
        let at_head = |facts: &&Facts| facts.revision == log.head && facts.expires_at > now;
        if let Some(beat) = log.heartbeat.as_ref().filter(at_head) {
            return Some((Place::Heartbeat { epoch, issued_at: beat.issued_at }, *beat));
        }
        let run = log.runs.back().filter(at_head)?;
        let Kind::Changes { since } = run.kind else { return None };
        Some((Place::Run { epoch, since, revision: run.revision }, *run))
    }

    fn held(&self, epoch: Option<Epoch>) -> Result<&Held, Unanswered> {
        let held = self.held.as_ref().ok_or(Unanswered::Absent)?;
        match epoch {
            Some(epoch) if epoch < held.log.epoch => Err(Unanswered::EarlierEpoch(held.log.epoch)),
            Some(epoch) if epoch > held.log.epoch => Err(Unanswered::Behind { head: held.log.head }),
            _ => Ok(held),
        }
    }
}

const fn through(page: &Facts) -> Option<Digest> {
    match page.kind {
        Kind::Snapshot { through, .. } => through,
        Kind::Changes { .. } => None,
    }
}
