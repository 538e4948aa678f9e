//! One ring of a relay: its archive, its files, and everyone who asks for it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keywheel_control::clock;
use keywheel_control::ring::{Shelf, Signed, Waiters};
use keywheel_keyring::{Digest, Epoch, Millis, PublicKey};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, warn};

use crate::archive::{Accepted, Archive, Ask, Changes, Misfit, Place, Unanswered};
use crate::behind::Proxies;
use crate::disk::Disk;
use crate::document::{Checked, Facts, Unfit, check};
use crate::follow::SAY_AGAIN;
use crate::upstream::{Upstream, UpstreamError};
use crate::usage::Spool;

/// Documents in memory, for all who ask for the same: at most about 30 MB.
const KEPT: usize = 128;
/// What the upstream was asked for on a reader's behalf serves all who ask for the same for so long.
const PASSED_AGE: Duration = Duration::from_secs(1);
const PASSED_KEPT: usize = 64;
/// A reader who is more runs behind is asked for at the upstream, which cuts one run of them.
const FEW: usize = 4;
/// How long a reader waits for what the upstream is asked for on its behalf.
const PATIENCE: Duration = Duration::from_secs(2);
/// A wait of a second ends with a heartbeat that was signed after it began, as far as the upstream has one.
const SHORT: Duration = Duration::from_secs(1);

/// One ring, to everyone who asks for it.
#[derive(Debug)]
pub struct Ring {
    pub name: String,
    pub(crate) trust: Vec<PublicKey>,
    pub(crate) upstream: Arc<Upstream>,
    pub proxies: Proxies,
    pub usage: Spool,
    pub(crate) disk: Disk,
    // A std mutex: it is held for a lookup, never across an await.
    archive: Mutex<Archive>,
    /// Where what is served ends.
    head: watch::Sender<Option<(Epoch, u64)>>,
    kept: Shelf<Place>,
    /// What could not be written to disk, and is served all the same: a revocation must not wait for room.
    unsaved: Mutex<Vec<(Place, Signed)>>,
    passed: Shelf<String>,
    /// Whether the upstream ever answered.
    answered: AtomicBool,
    /// Whether the upstream did not answer the last call.
    away: AtomicBool,
    waiters: Waiters,
    refused: AtomicU64,
    /// When the log said that relays ask each other.
    circle_said: Mutex<Option<Instant>>,
    stopping: watch::Receiver<bool>,
}

/// What is known of the upstream, by what it answered to the last call for this ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has not answered since the relay was started, and no call has failed either.
    Unknown,
    Answers,
    Away,
}

/// Why a reader gets no document.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The reader shall take a snapshot.
    #[error("neither the relay nor its upstream has this in its history; take a snapshot")]
    Gone,
    #[error("the relay holds nothing that is newer, and its upstream does not answer")]
    Away,
}

/// Why a document from upstream changes nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a document is refused: {0}")]
    Unfit(#[from] Unfit),
    #[error("a document is left aside: {0}")]
    Misfit(#[from] Misfit),
    #[error("a document cannot be written: {0}")]
    Disk(#[from] io::Error),
}

impl Fault {
    /// Whether somebody has to do something about the upstream.
    pub(crate) const fn is_a_mistake(&self) -> bool {
        matches!(self, Self::Unfit(_) | Self::Misfit(Misfit::Older))
    }
}

/// Why what is held cannot be read.
#[derive(Debug, thiserror::Error)]
enum Damaged {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Unfit(#[from] Unfit),
    #[error("it is another document than was written there")]
    Other,
}

impl Ring {
    /// Takes what the disk has. What of it does not verify is left out.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or read.
    pub fn open(
        data: &Path,
        name: &str,
        trust: &[PublicKey],
        upstream: Arc<Upstream>,
        node: &str,
        most_usage: u64,
        stopping: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let disk = Disk::open(data, name)?;
        let (archive, bad) = disk.load(name, trust)?;
        if bad > 0 {
            let about = "The upstream is asked for them anew";
            warn!(
                ring = name,
                bad, "{bad} stored documents of ring {name} are not what was written. {about}"
            );
        }
        Ok(Self {
            name: name.to_owned(),
            trust: trust.to_owned(),
            upstream,
            proxies: Proxies::open(disk.dir(), node)?,
            usage: Spool::open(disk.dir(), most_usage)?,
            disk,
            head: watch::Sender::new(archive.position()),
            archive: Mutex::new(archive),
            kept: Shelf::new(KEPT),
            unsaved: Mutex::default(),
            passed: Shelf::new(PASSED_KEPT),
            answered: AtomicBool::new(false),
            away: AtomicBool::new(false),
            waiters: Waiters::default(),
            refused: AtomicU64::new(0),
            circle_said: Mutex::default(),
            stopping,
        })
    }

    pub(crate) fn archive(&self) -> MutexGuard<'_, Archive> {
        self.archive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the upstream did not answer lately. One that was not asked yet is tried all the same.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.standing() == Standing::Away
    }

    /// What is known of the upstream.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (self.away.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed)) {
            (true, _) => Standing::Away,
            (false, true) => Standing::Answers,
            (false, false) => Standing::Unknown,
        }
    }

    pub(crate) fn set_away(&self, away: bool) {
        if !away {
            self.answered.store(true, Ordering::Relaxed);
        }
        self.away.store(away, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Whether everything that is served is on disk.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.unsaved().is_empty()
    }

    /// How many requests are held open until the ring changes.
    #[must_use]
    pub fn waiters(&self) -> u64 {
        self.waiters.count()
    }

    /// Documents from upstream that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where what is served ends, and how old it is, in milliseconds.
    #[must_use]
    pub fn position(&self) -> Option<(Epoch, u64, u64)> {
        let archive = self.archive();
        let ((epoch, head), issued_at) = (archive.position()?, archive.issued_at()?);
        Some((epoch, head, clock::now().saturating_since(issued_at)))
    }

    /// Whether a proxy that has nothing could take the ring.
    #[must_use]
    pub fn is_installable(&self) -> bool {
        self.archive().is_installable(clock::now())
    }

    /// What the relay says of itself to its upstream.
    pub(crate) fn about(&self) -> String {
        let position = self.position();
        let (epoch, head, age) = position
            .map_or((String::new(), 0, 0), |(epoch, head, age)| (epoch.to_string(), head, age / 1000));
        let enforced = position.map_or(0, |(epoch, head, _)| self.proxies.acknowledged(epoch, head));
        let trust: Vec<String> = self.trust.iter().map(|key| key.id().to_string()).collect();
        self.proxies.about(&epoch, head, enforced, age, &trust.join(","))
    }

    /// The page that comes after a digest.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`].
    pub async fn snapshot(
        self: &Arc<Self>,
        after: Option<Digest>,
        epoch: Option<Epoch>,
        at_least: u64,
    ) -> Result<Signed, NoAnswer> {
        // Twice: a newer generation may have taken the place of the one whose page was chosen.
        for _ in 0..2 {
            let found = self.archive().page_for(after, epoch, at_least, clock::now());
            match found {
                Ok((place, facts, ahead)) => match self.load(place, facts).await {
                    Ok(signed) => return Ok(Signed { ahead, ..signed }),
                    Err(error) => self.found_damaged(place, &error),
                },
                Err(Unanswered::NotHeld) => break,
                Err(Unanswered::EarlierEpoch(_)) => return Err(NoAnswer::Gone),
                Err(unanswered) => return Err(unanswered.into()),
            }
        }
        self.pass(Ask::Page { after, epoch, at_least }).await
    }

    /// What changed after a revision. It waits for a change.
    ///
    /// # Errors
    ///
    /// [`NoAnswer`].
    pub async fn changes(
        self: &Arc<Self>,
        epoch: Epoch,
        since: u64,
        wait: Duration,
    ) -> Result<Signed, NoAnswer> {
        let (asked, asked_at) = (Instant::now(), clock::now());
        let deadline = asked + wait;
        let (mut head, mut stopping) = (self.head.subscribe(), self.stopping.clone());
        loop {
            head.mark_unchanged();
            let found = self.archive().changes_for(epoch, since, clock::now());
            match found {
                Ok(Changes::Run(place, facts, more)) => {
                    if more > FEW
                        && !self.is_away()
                        && let Ok(signed) = self.pass(Ask::Changes { epoch, since, wait: 0 }).await
                    {
                        return Ok(signed);
                    }
                    match self.load(place, facts).await {
                        Ok(signed) => return Ok(signed),
                        Err(error) => self.found_damaged(place, &error),
                    }
                    return self.pass(Ask::Changes { epoch, since, wait: 0 }).await;
                }
                Err(Unanswered::NotHeld) => {
                    return match self.pass(Ask::Changes { epoch, since, wait: 0 }).await {
                        // The pages that are held are newer than this reader.
                        Err(NoAnswer::Away) => Err(NoAnswer::Gone),
                        answer => answer,
                    };
                }
                Ok(Changes::AtHead) | Err(Unanswered::Behind { .. }) if Instant::now() < deadline => {
                    let _waiter = self.waiters.begin();
                    let ended = tokio::select! {
                        changed = timeout_at(deadline, head.changed()) => !matches!(changed, Ok(Ok(()))),
                        _ = stopping.wait_for(|stopping| *stopping) => true,
                    };
                    if ended && let Ok(Changes::AtHead) = found {
                        return self.heartbeat(epoch, since, wait, asked_at).await;
                    }
                    if self.is_stopping() {
                        return Err(NoAnswer::Away);
                    }
                }
                Ok(Changes::AtHead) => return self.heartbeat(epoch, since, wait, asked_at).await,
                Err(Unanswered::EarlierEpoch(_)) => return Err(NoAnswer::Gone),
                Err(unanswered) => return Err(unanswered.into()),
            }
        }
    }

    async fn heartbeat(
        self: &Arc<Self>,
        epoch: Epoch,
        since: u64,
        wait: Duration,
        asked_at: Millis,
    ) -> Result<Signed, NoAnswer> {
        let held = self.archive().heartbeat(clock::now());
        let is_news = held.is_some_and(|(_, facts)| facts.issued_at > asked_at);
        if !is_news
            && (wait >= SHORT || held.is_none())
            && !self.is_away()
            && !self.is_stopping()
            && let Ok(signed) = self.pass(Ask::Changes { epoch, since, wait: 0 }).await
        {
            return Ok(signed);
        }
        let (place, facts) = held.ok_or(Unanswered::Expired)?;
        self.load(place, facts).await.map_err(|error| {
            self.found_damaged(place, &error);
            NoAnswer::Away
        })
    }

    /// Asks the upstream on a reader's behalf, once for all who ask for the same.
    async fn pass(&self, ask: Ask) -> Result<Signed, NoAnswer> {
        let make = || async {
            let asked = tokio::time::timeout(PATIENCE, self.upstream.ask(&self.name, &ask, None));
            let signed = match asked.await {
                Ok(Ok(signed)) => signed,
                Ok(Err(UpstreamError::Gone)) => return Err(NoAnswer::Gone),
                Ok(Err(_)) | Err(_) => return Err(NoAnswer::Away),
            };
            match check(&self.name, &self.trust, signed) {
                Ok(Checked { signed, facts }) if facts.expires_at > clock::now() => Ok(signed),
                Ok(_) => Err(NoAnswer::Unanswered(Unanswered::Expired)),
                Err(error) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    error!(ring = self.name, %error, "A document of the upstream is refused");
                    Err(NoAnswer::Away)
                }
            }
        };
        self.passed.get(&format!("{ask:?}"), (0, 0), |_, age| age < PASSED_AGE, make).await
    }

    /// Takes a document from upstream: first to disk, then to who waits for it.
    pub(crate) async fn take(self: &Arc<Self>, signed: Signed) -> Result<(), Fault> {
        let Checked { signed, facts } = check(&self.name, &self.trust, signed).inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })?;
        let place = self.archive().judge(&facts, clock::now())?;
        let (ring, copy) = (self.clone(), signed.clone());
        let written = on_disk(move || ring.disk.write(place, &copy)).await;
        match (written, place) {
            (Ok(()), _) => {}
            // It is no use before all pages are there, and they come again.
            (Err(error), Place::Page { .. }) => return Err(error.into()),
            (Err(error), _) => {
                let about = "it is served all the same. Make room, or mend the disk";
                error!(ring = self.name, %error, "A document cannot be written to disk; {about}");
                let mut unsaved = self.unsaved();
                unsaved.retain(|(other, _)| {
                    !matches!((other, place), (Place::Heartbeat { .. }, Place::Heartbeat { .. }))
                });
                unsaved.push((place, signed.clone()));
            }
        }
        if !matches!(place, Place::Page { .. }) {
            self.keep(place, signed).await;
        }
        let accepted = self.archive().accept(facts, clock::now())?;
        self.tell(accepted).await;
        Ok(())
    }

    /// Wakes who waits, then deletes what nobody needs any more.
    pub(crate) async fn tell(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { news, dropped } = accepted;
        if news {
            let position = self.archive().position();
            self.head.send_replace(position);
        }
        if !dropped.is_empty() {
            let ring = self.clone();
            let _ = on_disk(move || {
                ring.disk.drop(&dropped);
                Ok(())
            })
            .await;
        }
    }

    /// Tries again to write what could not be written.
    pub(crate) async fn save(self: &Arc<Self>) {
        let unsaved = self.unsaved().clone();
        for (place, signed) in unsaved {
            let ring = self.clone();
            if on_disk(move || ring.disk.write(place, &signed)).await.is_err() {
                return;
            }
            self.unsaved().retain(|(other, _)| *other != place);
        }
    }

    async fn keep(&self, place: Place, signed: Signed) {
        let kept = self.kept.get(&place, (0, 0), |_, _| true, || async { Ok::<_, Damaged>(signed) });
        let _ = kept.await;
    }

    /// Nothing is served from disk that does not verify, and is not what was written there.
    async fn load(self: &Arc<Self>, place: Place, facts: Facts) -> Result<Signed, Damaged> {
        let unsaved =
            self.unsaved().iter().find(|(other, _)| *other == place).map(|(_, signed)| signed.clone());
        if let Some(signed) = unsaved {
            return Ok(signed);
        }
        let read = || async {
            let ring = self.clone();
            let signed = on_disk(move || ring.disk.read(place)).await?;
            let checked = check(&self.name, &self.trust, signed)?;
            if checked.facts == facts { Ok(checked.signed) } else { Err(Damaged::Other) }
        };
        self.kept.get(&place, (0, 0), |_, _| true, read).await
    }

    /// The relay was told that it is behind itself, by way of others: the ring can come from nowhere.
    pub(crate) fn found_in_a_circle(&self) {
        let mut said = self.circle_said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|said| said.elapsed() < SAY_AGAIN) {
            return;
        }
        *said = Some(Instant::now());
        let name = &self.name;
        error!(
            ring = name,
            "Ring {name} goes in a circle: a relay that asks this one is its upstream. Give one of them a control \
             plane as --upstream"
        );
    }

    fn found_damaged(&self, place: Place, error: &Damaged) {
        let mut archive = self.archive();
        // A page that was replaced meanwhile is no longer there.
        let moved = match (place, archive.page_for(None, None, 0, Millis(0))) {
            (Place::Page { generation, .. }, Ok((Place::Page { generation: now, .. }, ..))) => {
                now != generation
            }
            _ => false,
        };
        if moved {
            return;
        }
        let first = archive.damaged();
        drop(archive);
        // Every reader finds it until it is fetched anew, which may take as long as the upstream is away.
        let about = "A stored document is not what was written there; it is fetched anew";
        if first {
            error!(ring = self.name, ?place, %error, "{about}");
        } else {
            debug!(ring = self.name, ?place, %error, "{about}");
        }
    }

    fn unsaved(&self) -> MutexGuard<'_, Vec<(Place, Signed)>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what blocks on the disk where it holds nobody up.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}
